"""Beyond 2**31 synapses: offsets, numbers and counts of 64 bits, shown with memory that is reserved and hardly touched."""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, CapacityError, Connectome, SynapseBatch
from gpu_npu.arrays import spread
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.executor.rows import MAX_ROW, RowStore, check_degrees
from gpu_npu.backends.layout import BLOCK_ALIGNMENT, PSP_EACH, ROW_DTYPE
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome.generators import RandomSynapses
from gpu_npu.limits import host_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is reserved without being there as Linux does it")
MAP_NORESERVE = 0x4000
"""Of Linux; Python's mmap names it from 3.13 on."""
FAR = 2**31 + 5
"""Units of 16 bytes: where the 32-bit number of a unit, taken as signed, ends; and 32 GiB into the arena."""


class SparseDevice(CpuDevice):
    """Large arrays are address space; pages come into being where they are touched."""

    def free_and_total(self) -> tuple[int, int]:
        return 2**45, 2**45

    def _alloc(self, count: int, dtype: np.dtype[Any]) -> Any:
        nbytes = count * dtype.itemsize
        if nbytes < 2**30:
            return super()._alloc(count, dtype)
        space = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        array = np.frombuffer(space, dtype, count)
        self._live[id(array)] = array
        return array


def random_batch(rng: np.random.Generator, neurons: int, count: int) -> SynapseBatch:
    source, target = (rng.integers(0, neurons, count, dtype=np.uint32) for _ in range(2))
    weight, psp = (rng.integers(0, 256, count, dtype=np.uint8) for _ in range(2))
    return SynapseBatch(source, target, weight, psp, rng.random(count) < 0.2, spread(1, count, np.uint8))


def listed(npu: NPU) -> list[bytes]:
    batch = npu.outgoing_synapses(np.arange(npu.neuron_capacity))
    return [array.tobytes() for array in batch.columns()]


def test_rows_beyond_32_gigabytes_of_arena() -> None:
    """Added, edited, delivered, listed, moved and compacted like any others."""
    connectome = Connectome(200, 2_000)
    connectome.add_neurons(200, threshold=3000.0, leak_coefficient=0.5)
    first = random_batch(np.random.default_rng(0), 200, 2_000)
    connectome.add_synapses(*first.columns())
    with (
        NPU.from_connectome(connectome, backend=DevicePlatform(SparseDevice()), synapse_capacity=2**33) as far,
        NPU.from_connectome(connectome, backend="reference", synapse_capacity=20_000) as reference,
    ):
        rows = far._resident.open()._rows
        assert far.memory()["rows"] > 2**35
        rng = np.random.default_rng(1)
        for end in (FAR, 2**32 // BLOCK_ALIGNMENT - 3, FAR + 2**28):  # across 4 GiB, and beyond 32
            rows._end = end
            more, gone = random_batch(rng, 200, 900), random_batch(rng, 200, 500)
            for npu in (far, reference):
                npu.add_synapses(*more.columns())
                npu.remove_synapses(gone.source, gone.target)
                npu.update_weight(int(more.source[0]), int(more.target[0]), 7)
                npu.force_fire(np.arange(0, 200, 7))
            assert int(rows.read_all()["offset"].max()) >= end
            assert far.run(3, digest=True).digest == reference.run(3, digest=True).digest
            np.testing.assert_array_equal(far.fire_candidate_list.potentials, reference.fire_candidate_list.potentials)
            assert listed(far) == listed(reference)
        assert int(rows.read_all()["offset"].max()) * BLOCK_ALIGNMENT > 2**35
        far.rebuild_indexes()
        assert int(rows.read_all()["offset"].max()) * BLOCK_ALIGNMENT < 2**20
        assert listed(far) == listed(reference)


def test_rows_of_two_thousand_million_slots() -> None:
    """Three rows as long as rows may be: blocks are placed, and their last slots filled, where they are."""
    device = SparseDevice()
    context = Context(device)
    context.state["weight_bytes"], context.state["psp_bytes"] = 1, 1
    rows = RowStore(context, NetworkShape(3, 0), 0, device.alloc(1, np.uint64))
    counted = np.zeros(3, ROW_DTYPE)
    counted["capacity"] = MAX_ROW  # as count_synapses leaves it
    counted["psp"], counted["delay"] = (PSP_EACH, 8, PSP_EACH), 1
    rows.place(counted)
    table = rows.read_all()
    units = [-(-MAX_ROW * slot // BLOCK_ALIGNMENT) for slot in (6, 5, 6)]
    assert table["offset"].tolist() == [0, units[0], units[0] + units[1]]
    assert rows.nbytes == sum(units) * BLOCK_ALIGNMENT + 3 * ROW_DTYPE.itemsize > 2**35
    assert table["psp"].tolist() == [PSP_EACH, 7, PSP_EACH]

    table["length"] = table["valid"] = MAX_ROW - 2
    device.upload(rows.table, table)
    with device.scratch() as scratch:
        source, target = (scratch.uploaded(np.array(ids, np.uint32)) for ids in ([2, 0, 1, 2, 1, 0], [1, 2, 0, 0, 1, 1]))
        weight, psp = (scratch.uploaded(np.array(values, np.uint8)) for values in ([10, 11, 12, 13, 14, 15], [5, 6, 7, 8, 7, 9]))
        wrong = scratch.alloc(1, np.uint32)
        context.launch("claim_slots", n=6, source=source)
        context.launch("fill_rows", target=target, weight=weight, psp=psp, others=wrong)
        assert device.fetched(wrong, 1)[0] == 0
    assert rows.read_all()["valid"].tolist() == [MAX_ROW] * 3
    arena, capacity = rows.arena, table["capacity"].astype(np.int64)
    for row, (targets, weights, psps) in enumerate((([2, 1], [11, 15], [6, 9]), ([0, 1], [12, 14], None), ([1, 0], [10, 13], [5, 8]))):
        block = int(table["offset"][row]) * BLOCK_ALIGNMENT
        end = block + 4 * int(capacity[row])
        assert arena[block + 4 * (MAX_ROW - 2) :][:8].view(np.uint32).tolist() == targets
        assert arena[end + MAX_ROW - 2 :][:2].tolist() == weights
        if psps is not None:
            assert arena[end + int(capacity[row]) + MAX_ROW - 2 :][:2].tolist() == psps


@pytest.mark.parametrize("make", [CpuDevice, lambda: EmulatedDevice(block=64, seed=1)])
@pytest.mark.parametrize("incoming", [False, True])
def test_synapses_whose_numbers_need_50_bits(make: Any, incoming: bool) -> None:
    source = RandomSynapses(2**30, 2**20, seed=9, incoming=incoming, weight=(0, 65535), psp=(3, 9))
    assert source.total == 2**50
    device = make()
    context = Context(device)
    context.state["weight_bytes"], context.state["psp_bytes"] = 2, 1
    kinds = {"source": np.uint32, "target": np.uint32, "weight": np.uint16, "psp": np.uint8}
    chunk = {name: device.alloc(500, dtype) for name, dtype in kinds.items()}
    for first in (2**31 - 250, 2**32 - 250, 2**49 + 2**33 - 1, 2**50 - 500):
        context.launch("generate_synapses", first=first, n=500, **source.procedure().arguments, **chunk)
        batch = source.batch(first, 500)
        expected = (batch.source, batch.target | batch.inhibitory.astype(np.uint32) << np.uint32(31), batch.weight, batch.psp)
        for ours, theirs in zip(chunk.values(), expected, strict=True):
            np.testing.assert_array_equal(device.fetched(ours, 500), theirs)
    assert len(np.unique(batch.source if incoming else batch.target)) > 490
    device.close()


def test_degrees_that_32_bits_cannot_count() -> None:
    fine = np.array([MAX_ROW, 5], np.int64)
    check_degrees(fine, np.array([5, MAX_ROW], np.uint32), MAX_ROW + 5)
    with pytest.raises(CapacityError, match=r"neuron 1: 2,147,483,648 synapses would leave it, and at most 2,147,483,647 can"):
        check_degrees(np.array([0, 2**31]), np.array([2**31, 0], np.uint32), 2**31)
    # Device counts have 32 bits: those of 2**32 + 3 synapses wrap to 3.
    with pytest.raises(CapacityError, match=r"more than 4,294,967,295 synapses leave one neuron"):
        check_degrees(np.array([3, 0]), np.array([2**31, 2**31 + 3], np.uint32), 2**32 + 3)
    with pytest.raises(CapacityError, match=r"more than 4,294,967,295 synapses end in one neuron"):
        check_degrees(np.array([2**31 - 1, 2**31 - 1, 5]), np.array([3], np.uint32), 2**32 + 3)


def test_a_row_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits that a test can reach: at a load, and by an edit, which changes nothing."""
    monkeypatch.setattr("gpu_npu.backends.executor.rows.MAX_ROW", 50)
    monkeypatch.setattr("gpu_npu.backends.executor.accumulators.MAX_IN_DEGREE", 300)
    monkeypatch.setattr("gpu_npu.backends.executor.accumulators.count_bits", lambda shape: 6)
    connectome = Connectome(20, 400)
    connectome.add_neurons(20)
    connectome.add_synapses(np.arange(200) % 4, np.arange(200) % 20, 1, 1)
    for device in (CpuDevice(), EmulatedDevice(block=32)):
        with NPU.from_connectome(connectome, backend=DevicePlatform(device)) as npu:
            before = listed(npu)
            with pytest.raises(CapacityError, match="neuron 2: 60 synapses would leave it"):
                npu.add_synapses([2] * 10, np.arange(10), 1, 1)
            npu.reserve(synapses=600)
            with pytest.raises(CapacityError, match="310 synapses would end in one neuron, at most 300 can"):
                npu.add_synapses(np.arange(300) % 20, 1, 1, 1)
            assert listed(npu) == before
            npu.add_synapses(np.arange(16) + 4, 1, 1, 1)
    longer = connectome.copy()
    longer.add_synapses(0, 1, 1, 1)
    with pytest.raises(CapacityError, match="neuron 0: 51 synapses would leave it"):
        NPU.from_connectome(longer, backend=DevicePlatform(CpuDevice()))


@pytest.mark.long
def test_more_than_two_thousand_million_synapses() -> None:
    """2,151,677,952 generated on the device: rows and a burst are what the host makes of the same numbers. Takes 12 GB."""
    free, neurons, degree = host_memory()[0], 2**22, 513
    if free < 14 * 2**30:
        pytest.skip(f"{free:,} bytes are free, 14 GiB are needed")
    source = RandomSynapses(neurons, degree, seed=1, weight=(1, 255))
    connectome = Connectome(neurons)
    connectome.add_neurons(neurons, threshold=1e9)
    with NPU.from_connectome(connectome, synapses=source, backend="cpu") as npu:
        assert npu.get_synapse_count() == source.total == neurons * degree > 2**31
        for neuron in (0, 1, neurons // 2, neurons - 1):
            ours, theirs = npu.outgoing_synapses([neuron]), source.batch(neuron * degree, degree)
            order = np.argsort(theirs.target, kind="stable")
            np.testing.assert_array_equal(ours.target, theirs.target[order])
            np.testing.assert_array_equal(ours.weight, theirs.weight[order])
        npu.force_fire(np.arange(neurons - 1000, neurons))
        npu.process_burst()
        assert npu.process_burst().synaptic_injections == 1000 * degree
        last = source.batch((neurons - 1000) * degree, 1000 * degree)
        sums = np.bincount(last.target, np.where(last.inhibitory, -1.0, 1.0) * last.weight, neurons)
        candidates = npu.fire_candidate_list
        np.testing.assert_array_equal(candidates.potentials, sums[candidates.neurons])
