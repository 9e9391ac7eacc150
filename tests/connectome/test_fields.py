"""The tables of fields and counters: what is made from them has all of them, so that a new one is a line of its table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_npu import COUNTERS, NPU, SYNAPSE_FIELDS, BurstResult, Connectome, Snapshot, SynapseBatch
from gpu_npu.backends.base import BurstOutput
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.connectome import SynapseArray, SynapseChain
from gpu_npu.connectome.fields import synapse_dtypes
from gpu_npu.connectome.generators import RandomSynapses
from gpu_npu.connectome.validation import check_synapses
from gpu_npu.io import load, save, stream
from gpu_npu.npu.admission import PendingSynapses

DTYPES = synapse_dtypes(np.uint8, np.uint16)


def distinct(n: int = 6, *, delays: bool = True) -> SynapseBatch:
    """n synapses between n neurons, of which every field differs from neighbour to neighbour; delays, where they are not wanted, are 1."""
    values = {name: (np.arange(n) + place + 1) % (2 if DTYPES[name] is np.bool_ else n) for place, name in enumerate(SYNAPSE_FIELDS)}
    values["delay"] = values["delay"] + 1 if delays else np.ones(n, np.int64)
    return SynapseBatch(**{name: column.astype(DTYPES[name]) for name, column in values.items()})


def assert_all(batch: SynapseBatch, expected: SynapseBatch) -> None:
    for name in SYNAPSE_FIELDS:
        ours, theirs = getattr(batch, name), getattr(expected, name)
        assert (ours.dtype, ours.tolist()) == (theirs.dtype, theirs.tolist()), name


def network(*, delays: bool = True) -> Connectome:
    connectome = Connectome(6, 6, psp_dtype=np.uint16)
    connectome.add_neurons(6)
    connectome.add_synapses(*distinct(delays=delays).columns())
    return connectome


def test_a_batch_has_the_fields_of_the_table() -> None:
    assert [field.name for field in dataclasses.fields(SynapseBatch)] == list(SYNAPSE_FIELDS)
    named = [name for name in SynapseArray.__annotations__ if name not in ("count", "neuron_capacity")]
    assert named == [*SYNAPSE_FIELDS, "valid"]


def test_what_copies_a_batch_keeps_every_field() -> None:
    whole, connectome = distinct(), network()
    assert_all(SynapseBatch.concatenate([whole.take(slice(0, 2)), SynapseBatch.empty(np.uint8, np.uint16), whole.take(slice(2, 6))]), whole)
    assert_all(whole.take(np.arange(5, -1, -1)).take(np.arange(5, -1, -1)), whole)
    assert_all(check_synapses({name: getattr(whole, name) for name in SYNAPSE_FIELDS}, 6, DTYPES), whole)
    synapses = connectome.synapses
    for batch in (synapses.batch(), *synapses, synapses.with_capacity(9, 6).batch(), connectome.copy().synapses.batch()):
        assert_all(batch, whole)
    for source in (SynapseChain(synapses), synapses.within(6)):
        assert_all(SynapseBatch.concatenate(source), whole)
    connectome.remove_synapses(*(getattr(whole, name)[2] for name in ("source", "target")))
    connectome.compact()
    assert_all(connectome.synapses.batch(), whole.take(np.array([0, 1, 3, 4, 5])))
    pending = PendingSynapses(np.uint8, np.uint16)
    for values in zip(*(column.tolist() for column in whole.columns()), strict=True):
        pending.append(*values)
    assert_all(pending.batch(), whole)


def test_files_keep_every_field(tmp_path: Path) -> None:
    save(network(), tmp_path / "network.npz")
    assert_all(load(tmp_path / "network.npz").synapses.batch(), distinct())
    assert_all(SynapseBatch.concatenate(stream(tmp_path / "network.npz")[1]), distinct())


def test_backends_keep_every_field(backend_factory: Any, tmp_path: Path) -> None:
    delays = isinstance(backend_factory(), ReferencePlatform)
    whole = distinct(delays=delays)
    by_source = whole.take(np.lexsort((whole.target, whole.source)))
    with NPU.from_connectome(network(delays=delays), backend=backend_factory, synapse_capacity=20) as npu:
        assert_all(npu.outgoing_synapses(np.arange(6)), by_source)
        assert_all(npu.incoming_synapses(np.arange(6)), by_source)
        assert_all(npu.to_connectome().synapses.batch(), by_source)
        npu.snapshot().write(tmp_path / "run")
        npu.remove_synapses(whole.source, whole.target)
        for values in zip(*(column.tolist() for column in whole.columns()), strict=True):
            npu.add_synapse(*values)
        assert_all(npu.outgoing_synapses(np.arange(6)), by_source)
    with NPU.from_snapshot(Snapshot.read(tmp_path / "run"), backend=backend_factory) as npu:
        assert_all(npu.outgoing_synapses(np.arange(6)), by_source)


def test_what_a_batch_leaves_out_has_its_default() -> None:
    source = np.arange(3, dtype=np.uint32)
    given = {name: source.astype(DTYPES[name]) for name, field in SYNAPSE_FIELDS.items() if field.default is None}
    batch = SynapseBatch.of(**given)
    for name, field in SYNAPSE_FIELDS.items():
        column = getattr(batch, name)
        assert column.dtype == DTYPES[name] and (field.default is None or (column == field.default).all())
    with pytest.raises(TypeError, match="weight"):
        SynapseBatch.of(source=source, target=source, psp=source)


def test_a_source_says_the_dtypes_of_its_batches() -> None:
    source = RandomSynapses(20, 5, seed=1, psp=(1, 300))
    assert source.dtypes == DTYPES
    assert {name: getattr(source.batch(0, 9), name).dtype.type for name in SYNAPSE_FIELDS} == DTYPES


def test_counters_have_one_order() -> None:
    names = [field.name for field in dataclasses.fields(BurstResult)]
    assert set(COUNTERS) == set(names) - {"burst", "fired_neurons", "neuron_count"}
    with NPU(3, backend="reference") as npu:
        npu.add_neurons(3, refractory_countdown=[2, 0, 0])
        npu.inject([0, 1, 1, 2], [9.0] * 4)
        result = npu.process_burst()
    assert {name: getattr(result, name) for name in COUNTERS} == dict(zip(COUNTERS, (4, 0, 0, 3, 1), strict=True))
    assert [field.name for field in dataclasses.fields(BurstOutput)] == ["fired", "counters", "clock"]
