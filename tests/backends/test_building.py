"""Networks built on the device, from synapses in any order: the same rows as the reference holds, whatever the chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import EMULATED, BackendFactory
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_npu import NPU
from gpu_npu.arrays import spread
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform, Tuning
from gpu_npu.connectome import (
    SYNAPSE_FIELDS,
    Area,
    CapacityError,
    Connectome,
    NetworkError,
    NeuronIndexError,
    SumOverflowError,
    SynapseBatch,
    SynapseSource,
)
from gpu_npu.connectome.generators import RandomSynapses


class Listed(SynapseSource):
    """These batches; `changed`: what is given from the second time on."""

    def __init__(self, *batches: SynapseBatch, total: int | None = None, changed: tuple[SynapseBatch, ...] | None = None) -> None:
        self._batches, self._changed = batches, changed
        self._total = sum(map(len, batches)) if total is None else total
        self.iterated = 0

    @property
    def total(self) -> int:
        return self._total

    @property
    def weight_dtype(self) -> Any:
        return self._batches[0].weight.dtype.type

    @property
    def psp_dtype(self) -> Any:
        return self._batches[0].psp.dtype.type

    def __iter__(self) -> Iterator[SynapseBatch]:
        self.iterated += 1
        return iter(self._batches if self._changed is None or self.iterated == 1 else self._changed)


def edges(
    rng: np.random.Generator, neurons: int, count: int, *, weight: Any = np.uint8, psp: Any = np.uint8, few: int = 2**30
) -> SynapseBatch:
    """Anything to anything; `few` bounds the targets, so that there are parallel synapses. Some sources have one psp."""
    source = rng.integers(0, neurons, count, dtype=np.uint32)
    psps = np.where(source % 3 == 0, source % 7, rng.integers(0, np.iinfo(psp).max + 1, count)).astype(psp)
    weights = rng.integers(0, np.iinfo(weight).max + 1, count).astype(weight)
    target = rng.integers(0, min(neurons, few), count, dtype=np.uint32)
    return SynapseBatch(source, target, weights, psps, rng.random(count) < 0.3, spread(1, count, np.uint8))


def cut(batch: SynapseBatch, *places: int) -> list[SynapseBatch]:
    arrays = [np.split(array, places) for array in batch.columns()]
    return [SynapseBatch(*parts) for parts in zip(*arrays, strict=True)]


def listed(npu: NPU) -> list[NDArray[Any]]:
    batch = npu.outgoing_synapses(np.arange(npu.neuron_capacity))
    return list(batch.columns())


def bare(neurons: int, like: SynapseSource, **options: Any) -> Connectome:
    connectome = Connectome(neurons, weight_dtype=like.weight_dtype, psp_dtype=like.psp_dtype, **options)
    connectome.add_neurons(neurons, threshold=20.0)
    return connectome


def assert_same(ours: list[NDArray[Any]], theirs: list[NDArray[Any]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("weight", [np.uint8, np.uint16])
@pytest.mark.parametrize("psp", [np.uint8, np.uint16])
def test_an_unsorted_edge_list(weight: Any, psp: Any, backend_factory: BackendFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches smaller and larger than a chunk of the device, some of them empty, beside synapses of the connectome itself."""
    monkeypatch.setattr("gpu_npu.backends.executor.rows.RowStore.CHUNK", 300)
    rng = np.random.default_rng(1)
    everything = edges(rng, 40, 2_000, weight=weight, psp=psp, few=9)
    source = Listed(*cut(everything, 0, 3, 700, 700, 1_000))
    own = cut(edges(rng, 40, 100, weight=weight, psp=psp, few=9), 50)
    built = []
    for make in (backend_factory, "reference"):
        connectome = bare(40, source)
        connectome.reserve(synapses=100)
        for part in own:
            connectome.add_synapses(*part.columns())
        connectome.remove_synapses(own[0].source[:20], own[0].target[:20])
        with NPU.from_connectome(connectome, synapses=source, backend=make) as npu:
            assert npu.get_synapse_count() == 2_080
            built.append(listed(npu))
            npu.force_fire(np.arange(0, 40, 3))
            built[-1].append(npu.run(3).fired_counts)
    assert_same(*built)
    # By source, then target, then age; the reference holds them in order of age.
    order = np.lexsort((np.arange(2_080), built[1][1], built[1][0]))
    np.testing.assert_array_equal(order, np.arange(2_080))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 400), st.integers(1, 500), st.sampled_from(sorted(EMULATED)))
def test_any_edge_list_in_any_chunks(seed: int, neurons: int, count: int, chunk: int, device: str) -> None:
    """Rows to the byte: what lies in every row of the arena is in order, and in the order of the reference."""
    everything = edges(np.random.default_rng(seed), neurons, count, few=5)
    source, rows = Listed(everything), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpu_npu.backends.executor.rows.RowStore.CHUNK", chunk)
        options, executor_options = EMULATED[device]
        for backend in (DevicePlatform(EmulatedDevice(**options), Tuning(**executor_options)), DevicePlatform(CpuDevice(workers=2))):
            with NPU.from_connectome(bare(neurons, source), synapses=source, backend=backend) as npu:
                order = np.lexsort((everything.target, everything.source))
                assert_same(listed(npu), list(everything.take(order).columns()))
                rows.append(npu._resident.open()._rows.read_all())
    np.testing.assert_array_equal(*rows)
    degree = np.bincount(everything.source, minlength=neurons)
    for name in ("length", "sorted", "valid"):
        np.testing.assert_array_equal(rows[0][name], degree)
    one_psp = [len(np.unique(everything.psp[everything.source == i])) == 1 for i in range(neurons)]
    np.testing.assert_array_equal((rows[0]["psp"] != 0xFFFFFFFF)[degree > 0], np.array(one_psp)[degree > 0])


def test_a_hub_that_fills_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_npu.backends.executor.rows.RowStore.CHUNK", 1_000)
    monkeypatch.setattr("gpu_npu.backends.executor.blocks.SCRATCH_BYTES", 3_000)
    rng = np.random.default_rng(2)
    everything = edges(rng, 30, 5_000)
    everything.source[rng.random(5_000) < 0.8] = 7
    source, built = Listed(everything), []
    for backend in (DevicePlatform(EmulatedDevice(block=96, seed=5)), DevicePlatform(CpuDevice()), "reference"):
        with NPU.from_connectome(bare(30, source), synapses=source, backend=backend) as npu:
            built.append(listed(npu))
    assert_same(built[0], built[2])
    assert_same(built[1], built[2])


@pytest.mark.parametrize("incoming", [False, True])
@pytest.mark.parametrize(("weight", "psp"), [(1, (0, 255)), ((3, 300), 2), ((0, 65535), (65535, 65535))])
def test_generated_on_the_device(
    incoming: bool, weight: Any, psp: Any, backend_factory: BackendFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No host sees them, and they are what the host would have made."""
    monkeypatch.setattr("gpu_npu.backends.executor.rows.RowStore.CHUNK", 400)
    source = RandomSynapses(90, 20, seed=3, incoming=incoming, weight=weight, psp=psp)
    with NPU.from_connectome(bare(90, source), synapses=source, backend=backend_factory) as npu:
        ours, backend = listed(npu), npu.backend
        batch = SynapseBatch.concatenate(source)
        order = np.lexsort((batch.target, batch.source))
        assert_same(ours, [getattr(batch, name)[order] for name in SYNAPSE_FIELDS])
        if backend != "reference":
            monkeypatch.setattr(RandomSynapses, "__iter__", lambda self: pytest.fail("the host made them"))
            npu.reset(network=True)
            assert_same(listed(npu), ours)


def test_reset_goes_back_to_the_source(backend_factory: BackendFactory) -> None:
    source = RandomSynapses(50, 10, seed=1)
    with NPU.from_connectome(bare(50, source), synapses=source, synapse_capacity=600, backend=backend_factory) as npu:
        before = listed(npu)
        npu.add_synapses([1, 2], [3, 4], 5, 6)
        assert npu.get_synapse_count() == 502
        npu.reset(network=True)
        assert_same(listed(npu), before)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "target": (lambda b: Listed(replace(b, target=b.target + 50)), NeuronIndexError, r"target of synapse 0: 5\d is not"),
    "source": (lambda b: Listed(b, replace(b, source=b.source + 60)), NeuronIndexError, r"source of synapse 100: \d+ .* are 0 to 9"),
    "dtype": (lambda b: Listed(b, replace(b, weight=b.weight.astype(np.uint16))), NetworkError, "weight of a batch: uint16 of shape"),
    "too few": (lambda b: Listed(b, total=101), NetworkError, "has a total of 101 and gave 100"),
    "too many": (lambda b: Listed(b, total=99), NetworkError, "has a total of 99 and gave more"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_source_that_breaks_its_word(name: str, backend_factory: BackendFactory) -> None:
    make, error, message = BAD[name]
    source = make(edges(np.random.default_rng(0), 10, 100))
    with pytest.raises(error, match=message):
        NPU.from_connectome(bare(10, source), synapses=source, backend=backend_factory)


def test_a_source_that_changes_between_the_passes() -> None:
    """Another source of a synapse, another psp where a row had one: seen, before a burst could read what is not there."""
    one = edges(np.random.default_rng(0), 10, 100)
    other_row, other_psp = replace(one, source=one.source.copy()), replace(one, psp=one.psp.copy())
    other_row.source[0] = (one.source[0] + 1) % 10
    other_psp.psp[np.flatnonzero(one.source == 3)[-1]] += 1
    for changed in (other_row, other_psp):
        for device in (CpuDevice(), EmulatedDevice(block=64, seed=1)):
            source = Listed(one, changed=(changed,))
            with pytest.raises(NetworkError, match="gave other synapses when it was read again"):
                NPU.from_connectome(bare(10, source), synapses=source, backend=DevicePlatform(device))


def test_dtypes_and_sizes_of_a_source_are_those_of_the_connectome() -> None:
    source = RandomSynapses(10, 2, seed=0, weight=300)
    with pytest.raises(NetworkError, match=r"weight_dtype is uint16, the connectome's uint8; .* weight_dtype=.uint16."):
        NPU.from_connectome(Connectome(10), synapses=source, backend="reference")
    with pytest.raises(CapacityError, match="synapses between 10 neurons, where 9 ids are reserved"):
        NPU.from_connectome(Connectome(9, weight_dtype=np.uint16), synapses=source, backend="reference")
    with pytest.raises(CapacityError, match="synapse_capacity: 19 is less than the 20"):
        NPU.from_connectome(Connectome(10, weight_dtype=np.uint16), synapses=source, synapse_capacity=19, backend="reference")


def test_sums_of_a_source_are_proven_batch_by_batch(backend_factory: BackendFactory) -> None:
    """In a network in fixed point: twice through the source for the proof, and refused where they cannot fit."""
    areas = {0: Area(psp_uniform=False), 1: Area()}
    ends, strong = np.full(100, 1, np.uint32), np.full(100, 40_000, np.uint16)
    large = SynapseBatch(ends, ends + 1, strong, strong, np.zeros(100, np.bool_), spread(1, 100, np.uint8))
    for area, fits in ((0, True), (1, False)):
        source = Listed(*cut(large, 30, 60))
        connectome = Connectome(10, areas=areas, weight_dtype=np.uint16, psp_dtype=np.uint16)
        connectome.add_neurons(10, cortical_area=area)
        if not fits:
            with pytest.raises(SumOverflowError, match="neuron 2: "):
                NPU.from_connectome(connectome, synapses=source, backend=backend_factory)
            assert source.iterated == 2
            continue
        with NPU.from_connectome(connectome, synapses=source, backend=backend_factory) as npu:
            npu.force_fire([1])
            npu.run(2)
            assert npu.fire_candidate_list.potentials.tolist() == [1.6e9]
