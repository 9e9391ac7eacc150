"""Rows on the device: bytes, edits that touch what they edit, compaction, growth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import DeviceFactory
from numpy.typing import NDArray

from gpu_npu import NPU
from gpu_npu.arrays import spread
from gpu_npu.backends.base import Backend
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform, Executor
from gpu_npu.backends.executor.rows import pair_order
from gpu_npu.backends.layout import ARRAYS
from gpu_npu.backends.memory import estimate_bytes
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Connectome, DeviceMemoryError, SynapseBatch


def random_network(
    neurons: int, degree: int, *, seed: int = 0, weight: Any = np.uint8, psp: Any = np.uint8, one_psp: bool = False
) -> Connectome:
    """Fixed out-degree, targets as they come, 20 % inhibitory; nothing fires by itself."""
    rng = np.random.default_rng(seed)
    connectome = Connectome(neurons, neurons * degree, weight_dtype=weight, psp_dtype=psp)
    connectome.add_neurons(neurons, threshold=1e9)
    source = np.repeat(np.arange(neurons, dtype=np.uint32), degree)
    count = len(source)
    psps = source % 250 + 1 if one_psp else rng.integers(0, np.iinfo(psp).max + 1, count)
    weights = rng.integers(0, np.iinfo(weight).max + 1, count)
    connectome.add_synapses(source, rng.integers(0, neurons, count), weights, psps, rng.random(count) < 0.2)
    return connectome


def loaded(connectome: Connectome, *, synapse_capacity: int | None = None, device: Any = None, window: int = 2) -> Executor:
    shape = NetworkShape.of(connectome, synapse_capacity=synapse_capacity or connectome.synapse_count, ledger_window=window)
    return DevicePlatform(device or CpuDevice(workers=1)).load(connectome, shape)


def random_batch(rng: np.random.Generator, neurons: int, count: int) -> SynapseBatch:
    source, target = (rng.integers(0, neurons, count, dtype=np.uint32) for _ in range(2))
    weight, psp = (rng.integers(0, 256, count, dtype=np.uint8) for _ in range(2))
    return SynapseBatch(source, target, weight, psp, rng.random(count) < 0.2, spread(1, count, np.uint8))


def synapses(backend: Any) -> list[NDArray[Any]]:
    batch = SynapseBatch.concatenate(backend.synapses_from())
    return list(batch.columns())


# Every degree near 100 meets the padding of the blocks at another place.
@pytest.mark.parametrize("degree", [100, 101, 102, 103, 105, 109, 130, 1000])
@pytest.mark.parametrize("one_psp", [False, True])
@pytest.mark.parametrize("weight", [np.uint8, np.uint16])
@pytest.mark.parametrize("psp", [np.uint8, np.uint16])
def test_bytes_after_a_load(degree: int, weight: Any, psp: Any, one_psp: bool) -> None:
    executor = loaded(random_network(300, degree, weight=weight, psp=psp, one_psp=one_psp))
    extra = np.dtype(weight).itemsize + np.dtype(psp).itemsize - 2
    allowed = 6.6 + extra - (np.dtype(psp).itemsize if one_psp else 0)
    assert executor.memory()["rows"] / executor.synapse_count <= allowed


def test_bytes_of_a_neuron_and_of_everything() -> None:
    device = CpuDevice(workers=1)
    executor = loaded(random_network(20_000, 5), device=device)
    memory = executor.memory()
    assert memory["neurons"] / 20_000 <= 96
    assert sum(memory.values()) == device.allocated
    kept = {array.group for array in ARRAYS}
    assert kept == {"neurons", "tasks", "ledger", "rows", "control"}


@pytest.mark.parametrize("degree", [1, 7, 100])
def test_the_estimate_before_loading_holds(degree: int) -> None:
    executor = loaded(random_network(5_000, degree))
    estimate = estimate_bytes(NetworkShape(5_000, 5_000 * degree, 2))
    memory = executor.memory()
    assert memory["rows"] + memory["neurons"] + memory["ledger"] <= estimate


def churn(executor: Executor, connectome: Connectome, pairs: int, batch: int, seed: int = 1) -> None:
    """Random pairs of a removal and an addition, the number of synapses staying the same."""
    rng = np.random.default_rng(seed)
    order, synapses = rng.permutation(connectome.synapse_count), connectome.synapses
    for begin in range(0, pairs, batch):
        chosen = order[begin : begin + batch]
        there = executor.remove_synapses(synapses.source[chosen], synapses.target[chosen])
        executor.add_synapses(random_batch(rng, connectome.neuron_capacity, int(there.sum())))


def test_bytes_after_many_edits(device_factory: DeviceFactory) -> None:
    """A tenth of all synapses replaced; a hundredth of the size of the long test below."""
    connectome = random_network(1_000, 100)
    executor = loaded(connectome, device=device_factory())
    churn(executor, connectome, 10_000, 500)
    assert executor.memory()["rows"] / executor.synapse_count <= 8
    statistics = executor.edit_statistics()
    assert statistics["compactions"] > 0
    assert statistics["rows_moved"] > 0


@pytest.mark.long
def test_bytes_after_a_million_edits() -> None:
    connectome = random_network(100_000, 100)
    executor = loaded(connectome)
    assert executor.memory()["rows"] / executor.synapse_count <= 6.6
    churn(executor, connectome, 1_000_000, 10_000)
    assert executor.memory()["rows"] / executor.synapse_count <= 8


def edit_a_thousand(executor: Executor, connectome: Connectome, rng: np.random.Generator) -> int:
    """A third each of removals, reweights and additions; returns the bytes of rows they touched."""
    synapses, before = connectome.synapses, executor.edit_statistics()["bytes_touched"]
    chosen = rng.choice(connectome.synapse_count, 668, replace=False)
    first, second = chosen[:334], chosen[334:]
    executor.remove_synapses(synapses.source[first], synapses.target[first])
    executor.reweight_synapses(synapses.source[second], synapses.target[second], np.full(len(second), 7, np.uint8))
    executor.add_synapses(random_batch(rng, connectome.neuron_capacity, 332))
    return executor.edit_statistics()["bytes_touched"] - before


@pytest.mark.parametrize("device_factory", ["cpu", "cuda"], indirect=True)  # emulated it takes too long
def test_edits_touch_the_rows_they_edit(device_factory: DeviceFactory) -> None:
    """The same edits cost the same bytes in a network ten times as large, and little more than their rows hold."""
    touched = {}
    for neurons in (2_000, 20_000):
        connectome = random_network(neurons, 100)
        executor = loaded(connectome, synapse_capacity=connectome.synapse_count * 11 // 10, device=device_factory())
        touched[neurons] = edit_a_thousand(executor, connectome, np.random.default_rng(2))
        assert executor.edit_statistics()["compactions"] == executor.edit_statistics()["growths"] == 0
    assert 0.8 < touched[20_000] / touched[2_000] < 1.25
    assert touched[20_000] < 1_000 * 3 * 600  # a moved row of 100 synapses is read and written once


def test_tails_are_merged_by_age(device_factory: DeviceFactory) -> None:
    """One row, edited into disorder and compacted, against the reference: parallel synapses keep their order."""
    rng = np.random.default_rng(3)
    connectome = Connectome(50, 3_000)
    connectome.add_neurons(50)
    reference = ReferencePlatform().load(connectome, NetworkShape.of(connectome))
    backends: list[Backend] = [loaded(connectome, device=device_factory()), reference]
    for _ in range(12):
        additions = random_batch(rng, 50, 100)
        additions = replace(additions, source=additions.source % 2, target=additions.target % 7)
        gone = random_batch(rng, 50, 40)
        answers = []
        for backend in backends:
            backend.add_synapses(additions)
            answers.append(backend.remove_synapses(gone.source % 2, gone.target % 9))
        np.testing.assert_array_equal(*answers)
        if rng.random() < 0.4:
            backends[0].compact()
        for ours, theirs in zip(*map(synapses, backends), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert isinstance(backends[0], Executor)
    rows = backends[0]._rows.read_all()
    backends[0].compact()
    after = backends[0]._rows.read_all()
    assert (rows["sorted"] < rows["length"]).any()  # there were tails to merge
    assert (after["sorted"] == after["length"]).all()
    assert (after["length"] == after["valid"]).all()


def test_compaction_through_a_small_scratch(device_factory: DeviceFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows slide over each other in many chunks, one row longer than a chunk among them."""
    monkeypatch.setattr("gpu_npu.backends.executor.blocks.SCRATCH_BYTES", 2_000)
    connectome = random_network(200, 30)
    hub = np.full(900, 17, np.uint32)
    connectome.reserve(synapses=10_000)
    connectome.add_synapses(hub, np.arange(900) % 200, np.full(900, 3, np.uint8), np.arange(900) % 256, False)
    executor = loaded(connectome, device=device_factory())
    churn(executor, connectome, 2_000, 400)
    before = synapses(executor)
    executor.compact()
    for ours, theirs in zip(before, synapses(executor), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_load_in_many_pieces_is_the_same(device_factory: DeviceFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    connectome = random_network(300, 40)
    whole = synapses(loaded(connectome))
    monkeypatch.setattr("gpu_npu.backends.executor.rows.RowStore.CHUNK", 1_000)
    for ours, theirs in zip(whole, synapses(loaded(connectome, device=device_factory())), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_memory_for_an_edit_changes_nothing() -> None:
    """Growth that the device refuses leaves network and bursts as they were."""
    connectome = random_network(200, 50)
    need = sum(loaded(connectome, device=EmulatedDevice()).memory().values())
    device = EmulatedDevice(memory_limit=need + 160_000)
    executor = loaded(connectome, device=device)
    before = synapses(executor)
    with pytest.raises(DeviceMemoryError, match=r"bytes needed, .* free"):
        executor.add_synapses(random_batch(np.random.default_rng(0), 200, 20_000))
    for ours, theirs in zip(before, synapses(executor), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert executor.synapse_count == connectome.synapse_count
    allocated = device.allocated
    with pytest.raises(DeviceMemoryError, match=r"bytes needed, .* free"):
        executor.reserve(neuron_capacity=5_000, synapse_capacity=connectome.synapse_count)
    assert device.allocated == allocated
    executor.add_synapses(random_batch(np.random.default_rng(0), 200, 10))
    assert executor.synapse_count == connectome.synapse_count + 10


def test_pair_order_is_stable() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 1_000):
        source, target = (rng.integers(0, 8, size, dtype=np.uint32) for _ in range(2))
        order = pair_order(source, target)
        expected = np.lexsort((target, source))
        np.testing.assert_array_equal(np.arange(size) if order is None else order, expected)


def test_in_degrees_beyond_the_packed_count(device_factory: DeviceFactory) -> None:
    """u16 x u16 leaves 15 bits for arrivals: at 32,768 synapses into one neuron they are counted apart, and no burst shows it."""
    connectome = Connectome(4, 40_000, weight_dtype=np.uint16, psp_dtype=np.uint16)
    connectome.add_neurons(4, threshold=1e30)
    first, second = 32_760, 20
    connectome.add_synapses(np.zeros(first, np.uint32), np.ones(first, np.uint32), np.full(first, 65_535), np.full(first, 65_535), False)
    executor = loaded(connectome, synapse_capacity=40_000, device=device_factory())
    reference = ReferencePlatform().load(connectome, NetworkShape.of(connectome))
    small = np.full(second, 9, np.uint16)
    ends = np.zeros(second, np.uint32), np.ones(second, np.uint32)
    more = SynapseBatch(*ends, small, small, np.ones(second, np.bool_), spread(1, second, np.uint8))
    bits = []
    for number in range(1, 7):
        if number in (3, 5):
            for backend in (executor, reference):
                backend.add_synapses(more) if number == 3 else backend.remove_synapses(more.source, more.target)
        for backend in (executor, reference):
            backend.force(np.zeros(1, np.uint32))
        ours, theirs = executor.burst(number), reference.burst(number)
        assert ours.counters[2] == theirs.counters[2] == (0 if number == 1 else first + (second if number in (3, 4) else 0))
        np.testing.assert_array_equal(executor.candidates()[1], reference.candidates()[1])
        bits.append(int(executor._state["arrival_bits"][0]))
    assert bits[:2] == [15, 15]
    assert bits[2:] == [0] * 4


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95])
def test_no_memory_for_a_load_names_what_is_needed_and_free(share: float) -> None:
    """Wherever the load stops, the error speaks of the whole network, and everything is given back."""
    connectome = random_network(500, 50)
    limit = int(share * sum(loaded(connectome, device=EmulatedDevice()).memory().values()))
    device = EmulatedDevice(memory_limit=limit)
    with pytest.raises(DeviceMemoryError, match=rf"the network needs about [\d,]+ bytes and {limit:,} are free"):
        DevicePlatform(device).load(connectome, NetworkShape.of(connectome, synapse_capacity=25_000, ledger_window=2))
    assert device.allocated == 0


def columns_of(executor: Executor) -> dict[int, list[int]]:
    """psp -> columns of every synapse that is not removed; psps are unique. Reads the blocks as rows.cuh says they lie."""
    rows, state = executor._rows, executor._state
    table, arena = rows.read_all(), executor._device.fetched(rows.arena, rows.arena.size)
    weight_bytes, psp_bytes = int(state["weight_bytes"][0]), int(state["psp_bytes"][0])
    assert psp_bytes > weight_bytes
    found = {}
    for row in table:
        block, capacity = arena[int(row["offset"]) * 16 :], int(row["capacity"])
        target = block[: 4 * capacity].view(np.uint32)
        column = block[4 * capacity :][: 2 * capacity * int(row["columns"])].view(np.uint16).reshape(-1, capacity)
        psp = block[(4 + 2 * int(row["columns"])) * capacity :][: 2 * capacity].view(np.uint16)
        for slot in range(int(row["length"])):
            if not target[slot] & 2**30:
                found[int(psp[slot])] = column[:, slot].tolist()
                assert row["psp"] == 2**32 - 1
    return found


def fill_columns(executor: Executor) -> None:
    """Column c of a synapse becomes its psp + c, everywhere."""
    rows = executor._rows
    table, arena = rows.read_all(), executor._device.fetched(rows.arena, rows.arena.size)
    for row in table:
        block, capacity, columns = arena[int(row["offset"]) * 16 :], int(row["capacity"]), int(row["columns"])
        column = block[4 * capacity :][: 2 * capacity * columns].view(np.uint16).reshape(-1, capacity)
        column[:] = block[(4 + 2 * columns) * capacity :][: 2 * capacity].view(np.uint16) + np.arange(columns, dtype=np.uint16)[:, None]
    executor._device.upload(rows.arena, arena)
    executor._device.wait()


def test_columns_follow_their_synapses(device_factory: DeviceFactory) -> None:
    rng = np.random.default_rng(4)
    n, count = 40, 2000
    connectome = Connectome(n, count + 600, psp_dtype=np.uint16)
    connectome.add_neurons(n)
    connectome.add_synapses(rng.integers(0, n, count), rng.integers(0, n, count), 1, np.arange(count))
    executor = loaded(connectome, synapse_capacity=count + 600, device=device_factory())
    executor._rows.set_columns(np.arange(0, n, 2, dtype=np.uint32), 2)
    executor._rows.set_columns(np.arange(n, dtype=np.uint32), 1)
    assert columns_of(executor) == {i: [0] for i in range(count)}
    fill_columns(executor)
    expected = {i: [i] for i in range(count)}

    source, target = connectome.synapses.source, connectome.synapses.target
    gone = rng.permutation(count)[:300]
    assert executor.remove_synapses(source[gone], target[gone]).all()
    for i in range(3):  # into room, squeezed in place, moved
        young = (count + 200 * i + np.arange(200)).astype(np.uint16)
        batch = random_batch(rng, n, 200)
        executor.add_synapses(replace(batch, psp=young))
        expected |= {psp: [0] for psp in young.tolist()}
    left = columns_of(executor)
    assert len(left) == count + 300
    assert left == {psp: expected[psp] for psp in left}
    executor.compact()
    assert columns_of(executor) == left
    before = synapses(executor)
    executor._rows.set_columns(np.arange(10, 30, dtype=np.uint32), 3)
    wide = columns_of(executor)
    assert {psp: column[:1] for psp, column in wide.items()} == left
    assert {len(column) for column in wide.values()} == {1, 3}
    assert all(not any(column[1:]) for column in wide.values())

    # What is reweighted forgets; the rest does not.
    executor.reweight_synapses(before[0][:50], before[1][:50], np.full(50, 9, np.uint8))
    changed = [column for psp, column in columns_of(executor).items() if column != wide[psp]]
    assert 0 < len(changed) <= 50
    assert not any(any(column) for column in changed)
    executor._rows.set_columns(np.arange(n, dtype=np.uint32), 0)
    assert not any(columns_of(executor).values())
    for now, then in zip(synapses(executor), before, strict=True):
        if now.dtype != np.uint8:  # weights were changed
            np.testing.assert_array_equal(now, then)


def test_a_long_row_is_sorted_before_much_is_looked_for_in_it() -> None:
    """Synapses that were added to one row and are removed in another order, in one call and one by one."""
    n = 30_000
    with NPU(n, n + 1, backend="cpu") as npu:
        npu.add_synapses(np.zeros(n, np.uint32), np.arange(n)[::-1], 1, 1)
        before = npu.statistics()["bytes_touched"]
        assert npu.remove_synapses(np.zeros(n // 2, np.uint32), np.arange(n // 2)).all()
        assert all(npu.remove_synapse(0, n - 1 - i) for i in range(50))
        assert not npu.remove_synapse(0, 5)
        touched = npu.statistics()["bytes_touched"] - before
        assert touched < 200 * n  # n * n * 4 bytes, were each looked for among all
        assert npu.outgoing_synapses([0]).target.tolist() == list(range(n // 2, n - 50))
