"""FEAGI's exports: the real one against what FEAGI grew and ran, others written byte by byte, and damaged ones."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import shared_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_npu import NPU, STATE_FIELDS, Area, CapacityError, FileFormatError, MissingPackageError, NetworkError, Rules
from gpu_npu.cli import main
from gpu_npu.genome import NetworkOptions, grow
from gpu_npu.genome.export import Imported, read_export
from gpu_npu.genome.fnv import BLOCK, LANES, OFFSET, PRIME, fnv1a64

NAN, INF = float("nan"), float("inf")


def need_lz4() -> None:
    """Skips where the optional package lz4 is not; in CI (the variable is set) it fails."""
    if importlib.util.find_spec("lz4") is None:
        if os.environ.get("CI"):
            pytest.fail("the package lz4 is not installed")
        pytest.skip("the package lz4 is not installed: pip install --editable '.[feagi]'")


# -- a writer, from the description of the format --------------------------------------------------------------------
def plain_fnv(data: bytes) -> int:
    """One byte after the other, as it is defined."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def vector(form: str, values: Any) -> bytes:
    return u64(len(values)) + struct.pack(f"<{len(values)}{form}", *values)


def text(value: str) -> bytes:
    return u64(len(value.encode())) + value.encode()


def stored(data: bytes) -> bytes:
    """`data` as an LZ4 block of literals alone."""
    length = len(data)
    if length < 15:
        return bytes([length << 4]) + data
    return bytes([0xF0]) + b"\xff" * ((length - 15) // 255) + bytes([(length - 15) % 255]) + data


GENOME = {
    "blueprint": {
        "X19fcG93ZXI=": {"cortical_name": "Brain_Power", "psp_uniform_distribution": True, "mp_driven_psp": False},
        "Y1JTTW90X18=": {"cortical_name": "M1 vorwärts", "psp_uniform_distribution": True, "mp_driven_psp": False},
    }
}


@dataclass
class File:
    """Five neurons of two areas, id 3 deleted; four synapses, slot 2 removed. What a test may want to be different is a field."""

    version: int = 3
    payload_version: int = 1
    compressed: bool = False
    flags: int | None = None
    raw_size: int | None = None
    neurons: dict[str, Any] = field(default_factory=dict)
    synapses: dict[str, Any] = field(default_factory=dict)
    neuron_count: int = 5
    neuron_capacity: int = 8
    synapse_count: int = 4
    synapse_capacity: int = 10
    areas: tuple[tuple[int, str], ...] = ((1, "X19fcG93ZXI="), (7, "Y1JTTW90X18="))
    power_amount: float = 1.5
    mode: int = 0
    genome: Any = field(default_factory=lambda: GENOME)
    plastic: tuple[tuple[str, str], ...] = ()
    memory_neurons: bytes = u64(0)
    manifest: Any = field(default_factory=lambda: {"container_format_version": 3, "connectome_schema_version": 1})
    payload: bytes | None = None
    checksum: int | None = None

    def columns(self) -> tuple[dict[str, Any], dict[str, Any]]:
        neurons = {
            "membrane_potential": [0, 1.5, 0, NAN, -2],
            "threshold": [0.1, 1, 2, INF, 4],
            "leak_coefficient": [0, 0.5, 1, 7, 0.25],
            "resting_potential": [0] * 5,
            "neuron_type": [0, 0, 0, -1, 0],
            "refractory_period": [0, 1, 2, 9, 65535],
            "refractory_countdown": [0, 1, 0, 9, 3],
            "excitability": [1, 0.5, 100, NAN, 0],
            "cortical_area": [1, 7, 7, 9, 7],
            "coordinates": [0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 5, 5, 0, 70000, 2],
            "valid": [1, 1, 1, 0, 1],
            "threshold_limit": [3.4028235e38, 3.4028235e38, 10, NAN, 255],
            "fire_count": [0, 1, 2, 9, 4],
            "fire_limit": [65535, 0, 3, 9, 5],
            "snooze": [0, 1, 2, 9, 4],
            "accumulation": [0, 1, 0, 1, 1],
        } | self.neurons
        synapses = {
            "source": [0, 1, 3, 4],
            "target": [1, 2, 99, 4],
            "weight": [1, 200, 9, 255],
            "psp": [20, 3, 9, 5],
            "type": [0, 1, 9, 0],
            "delay": [1, 1, 9, 1],
            "valid": [1, 1, 0, 1],
            "edge_flags": [0, 0, 0, 0],
            "eligibility": [0, 0, 0, 0],
        } | self.synapses
        return neurons, synapses

    def body(self) -> bytes:
        """The payload, from u32 version to its last byte."""
        if self.payload is not None:
            return self.payload
        new = self.version >= 3
        n, s = self.columns()
        out = struct.pack("<I", self.payload_version) + u64(self.neuron_count) + u64(self.neuron_capacity)
        for name in ("membrane_potential", "threshold", "leak_coefficient", "resting_potential"):
            out += vector("f", n[name])
        out += vector("i", n["neuron_type"]) + vector("H", n["refractory_period"]) + vector("H", n["refractory_countdown"])
        out += vector("f", n["excitability"]) + vector("I", n["cortical_area"]) + vector("I", n["coordinates"]) + vector("B", n["valid"])
        if new:
            out += vector("f", n["threshold_limit"]) + vector("H", n["fire_count"]) + vector("H", n["fire_limit"])
            out += vector("H", n["snooze"]) + vector("B", n["accumulation"])
        out += u64(self.synapse_count) + u64(self.synapse_capacity)
        out += vector("I", s["source"]) + vector("I", s["target"])
        out += vector("f" if new else "B", s["weight"]) + vector("f" if new else "B", s["psp"]) + vector("B", s["type"])
        out += vector("B", s["delay"]) if new else b""
        out += vector("B", s["valid"])
        out += u64(2) + struct.pack("<I", 0) + vector("Q", [0]) + struct.pack("<I", 1) + vector("Q", [1, 3])
        if new:
            out += vector("B", s["edge_flags"]) + vector("f", s["eligibility"])
        out += u64(len(self.areas)) + b"".join(struct.pack("<I", index) + text(name) for index, name in self.areas)
        out += u64(2915) + struct.pack("<f", self.power_amount) + u64(20)
        out += u64(1_790_000_000) + text("") + text("unknown") + u64(1) + text("key") + text("value")
        if new:
            out += struct.pack("<I", self.mode)
            out += b"\0" if self.genome is None else b"\1" + text(self.genome if isinstance(self.genome, str) else json.dumps(self.genome))
            out += u64(0) + u64(len(self.plastic)) + b"".join(text(a) + text(b) for a, b in self.plastic)
            out += u64(1) + text("region") + self.memory_neurons
            out += u64(0) + u64(0) if self.memory_neurons == u64(0) else b""
        return out

    def bytes(self) -> bytes:
        body = self.body()
        packed = stored(body) if self.compressed else body
        out = b"FEAGI" + struct.pack("<I", self.version)
        if self.version >= 2:
            out += struct.pack("<B", int(self.compressed) if self.flags is None else self.flags)
            out += u64((len(body) if self.compressed else 0) if self.raw_size is None else self.raw_size)
        if self.version >= 3:
            manifest = self.manifest if isinstance(self.manifest, bytes) else json.dumps(self.manifest).encode()
            out += struct.pack("<I", len(manifest)) + manifest
        checksum = fnv1a64 if len(packed) > 100_000 else plain_fnv
        return out + u64(checksum(packed) if self.checksum is None else self.checksum) + packed

    def write(self, folder: Path) -> Path:
        path = folder / "brain.connectome"
        path.write_bytes(self.bytes())
        return path


def read(folder: Path, **changes: Any) -> Imported:
    return read_export(File(**changes).write(folder))


# -- the checksum ----------------------------------------------------------------------------------------------------
def test_fnv_known_answers() -> None:
    """From the reference page of the FNV hash."""
    assert fnv1a64(b"") == OFFSET == 0xCBF29CE484222325 and PRIME == 0x100000001B3
    assert fnv1a64(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a64(b"foobar") == 0x85944171F73967E8


@pytest.mark.parametrize("length", [1, LANES - 1, LANES, LANES + 1, 5 * LANES + 3, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 3 * LANES + 7])
def test_fnv_is_that_of_the_plain_loop(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert fnv1a64(data) == plain_fnv(data)
    assert fnv1a64(memoryview(b"\xff" * length)) == plain_fnv(b"\xff" * length)


# -- the real one ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def reference() -> Path:
    need_lz4()
    return shared_data() / "feagi_reference"


@pytest.fixture(scope="module")
def essential(reference: Path) -> Imported:
    return read_export(reference / "essential.connectome", NetworkOptions(rules="feagi-2.6-fp32"))


@pytest.fixture(scope="module")
def grown(reference: Path) -> dict[str, Any]:
    with np.load(reference / "essential_genome.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def canonical(brain: Imported) -> np.ndarray[Any, Any]:
    """FEAGI's ids in the order (area's base64 id, x, y, z, k)."""
    names = {area.index: area.id for area in brain.areas}
    area = np.array([names[index] for index in brain.neurons["cortical_area"].tolist()])
    x, y, z = brain.neurons["coordinates"].T
    return np.lexsort((np.arange(len(area)), z, y, x, area))


def test_neurons_are_those_that_grew(essential: Imported, grown: dict[str, Any]) -> None:
    order = canonical(essential)
    index = {area.id: area.index for area in essential.areas}
    area = np.array([index[name] for name in grown["a_id"]])[grown["n_area"]]
    columns = {
        "threshold": "threshold",
        "leak": "leak_coefficient",
        "resting": "resting_potential",
        "type": "neuron_type",
        "refractory": "refractory_period",
        "excitability": "excitability",
        "cfc_limit": "consecutive_fire_limit",
        "snooze": "snooze_period",
        "mp_acc": "mp_charge_accumulation",
    }
    assert np.array_equal(essential.neurons["cortical_area"][order], area)
    assert np.array_equal(essential.neurons["coordinates"][order], np.stack([grown[f"n_{axis}"] for axis in "xyz"], axis=1))
    for theirs, ours in columns.items():
        assert np.array_equal(essential.neurons[ours][order], grown[f"n_{theirs}"]), ours
    # The one difference: the export is from the int8 mode, where 255 stands for no limit.
    assert (grown["n_threshold_limit"] == np.finfo(np.float32).max).all() and essential.report.counts["int8_mode"] == 1
    assert (essential.neurons["threshold_limit"] == 255).all() and np.isinf(essential.connectome.neurons.threshold_limit).all()


def test_synapses_are_those_that_grew(essential: Imported, grown: dict[str, Any]) -> None:
    """Psps: here those at the start and those after burst 1 are the same, nothing being plastic."""
    row = np.argsort(canonical(essential))
    table = essential.synapses
    source, target = row[table["source"]], row[table["target"]]
    order = np.lexsort((table["weight"], table["psp"], table["type"], target, source))
    assert np.array_equal(source[order], grown["s_src"]) and np.array_equal(target[order], grown["s_dst"])
    for theirs, ours in {"weight": "weight", "psp": "psp", "psp0": "psp", "type": "type", "delay": "delay"}.items():
        assert np.array_equal(table[ours][order], grown[f"s_{theirs}"]), ours
    assert table["weight"].dtype == table["psp"].dtype == np.float32 and table["valid"].all()


def test_the_network_is_the_one_that_we_grow(essential: Imported) -> None:
    ours = grow(shared_data() / "genomes" / "essential_genome.json", NetworkOptions(rules="feagi-2.6-fp32")).connectome
    brain = essential.connectome
    order = canonical(essential)
    row = np.argsort(order).astype(np.uint32)
    index = {flags.name: area for area, flags in ours.areas.items()}
    translate = {area.index: index[area.name] for area in essential.areas}
    assert {translate[area]: flags for area, flags in brain.areas.items()} == dict(ours.areas)
    assert brain.settings == ours.settings
    for name in ("threshold", "threshold_limit", "leak_coefficient", "refractory_period", "excitability", "coordinates"):
        assert np.array_equal(brain.neurons[name][order], ours.neurons[name]), name
    for name in ("consecutive_fire_limit", "snooze_period", "mp_charge_accumulation", "valid", "created"):
        assert np.array_equal(brain.neurons[name][order], ours.neurons[name]), name
    assert [translate[area] for area in brain.neurons.cortical_area[order].tolist()] == ours.neurons.cortical_area.tolist()

    def edges(synapses: Any, to_row: Any) -> list[tuple[int, ...]]:
        columns = (to_row[synapses.source], to_row[synapses.target], synapses.weight, synapses.psp, synapses.inhibitory)
        return sorted(zip(*(column.tolist() for column in columns), strict=True))

    assert edges(brain.synapses, row) == edges(ours.synapses, np.arange(ours.neuron_capacity))
    assert (brain.weight_dtype, brain.psp_dtype) == (ours.weight_dtype, ours.psp_dtype)


def test_the_recorded_run_from_the_import(reference: Path, essential: Imported) -> None:
    """61 bursts from zero state: fired ids, potentials and state of each as recorded, on the reference backend."""
    with np.load(reference / "essential_genome_run.npz", allow_pickle=False) as arrays:
        run = dict(arrays)
    order = canonical(essential)
    row = np.argsort(order)
    network = essential.connectome.copy()
    everything = np.arange(network.neuron_capacity)
    for name in STATE_FIELDS:
        network.write(name, everything, 0)
    fired = 0
    with NPU.from_connectome(network, backend="reference") as npu:
        for burst in range(1, int(run["first_burst"] + run["bursts"])):
            npu.force_fire(order[run["stim_neuron"][run["stim_burst"] == burst]])
            result = npu.process_burst()
            if burst < run["first_burst"]:
                continue
            now = run["fired_burst"] == burst
            ours = np.argsort(row[result.fired_neurons])
            assert np.array_equal(row[result.fired_neurons][ours], run["fired_neuron"][now]), burst
            assert np.array_equal(npu.fire_queue.potentials[ours], run["fired_mp"][now]), burst
            for key, name in {"mp": "membrane_potential", "cfc": "consecutive_fire_count", "refr": "refractory_countdown"}.items():
                state = npu.get_parameter(name)[order]
                then = run[f"{key}_burst"] == burst
                limited = state if key != "cfc" else np.where(npu.get_parameter("consecutive_fire_limit")[order] == 65535, 0, state)
                assert np.array_equal(np.flatnonzero(limited), run[f"{key}_neuron"][then]), (burst, name)
                assert np.array_equal(limited[limited != 0], run[f"{key}_value"][then]), (burst, name)
            fired += len(ours)
    assert fired == len(run["fired_neuron"]) > 500


def test_what_the_essential_export_says_besides(essential: Imported) -> None:
    assert essential.burst == 2915 and essential.connectome.settings.power_amount == 1
    assert essential.manifest["producer_version"] == "0.0.49"
    assert json.loads(essential.genome or "")["genome_title"] == "The Essential Genome"
    power = [area for area, flags in essential.connectome.areas.items() if flags.power]
    assert power == [1] and essential.connectome.areas[1] == Area("Brain_Power", psp_uniform=False, power=True)
    assert essential.connectome.neurons.consecutive_fire_count[0] == 2915  # the power neuron fired in every burst
    # what cannot be held: leaks of 10, and nothing else
    assert essential.report.leaks_clamped == 4 and len(essential.report.warnings) == 1
    assert {key for key, count in essential.report.counts.items() if count} == {"int8_mode"}


# -- versions 1, 2 and 3, written here -------------------------------------------------------------------------------
@pytest.mark.parametrize(("version", "compressed"), [(1, False), (2, False), (2, True), (3, False), (3, True)])
def test_every_version(tmp_path: Path, version: int, compressed: bool) -> None:
    if compressed:
        need_lz4()
    brain = read(tmp_path, version=version, payload_version={1: 1, 2: 2, 3: 1}[version], compressed=compressed)
    network, neurons = brain.connectome, brain.connectome.neurons
    assert network.neuron_capacity == 5 and neurons.valid.tolist() == [True, True, True, False, True] and neurons.created.all()
    live = [0, 1, 2, 4]
    assert neurons.membrane_potential[live].tolist() == [0, 1.5, 0, -2]
    assert neurons.threshold[live].tolist() == [np.float32(0.1), 1, 2, 4]
    assert neurons.leak_coefficient[live].tolist() == [0, 0.5, 1, 0.25]
    assert neurons.refractory_period[live].tolist() == [0, 1, 2, 65535]
    assert neurons.refractory_countdown[live].tolist() == [0, 1, 0, 3]
    assert neurons.excitability[live].tolist() == [1, 0.5, 1, 0]
    assert neurons.cortical_area[live].tolist() == [1, 7, 7, 7]
    assert neurons.coordinates[live].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 70000, 2]]
    synapses = network.synapses
    assert synapses.source.tolist() == [0, 1, 4] and synapses.target.tolist() == [1, 2, 4]
    assert synapses.weight.tolist() == [1, 200, 255] and synapses.psp.tolist() == [20, 3, 5]
    assert synapses.weight.dtype == synapses.psp.dtype == np.uint8 and synapses.inhibitory.tolist() == [False, True, False]
    assert brain.synapses["source"].tolist() == [0, 1, 3, 4] and brain.synapses["valid"].tolist() == [1, 1, 0, 1]
    assert network.settings.power_amount == 1.5 and network.settings.contribution_scale == 1 and brain.burst == 2915
    assert network.settings.rules == Rules.preset("feagi-2.6")
    if version == 3:
        assert neurons.threshold_limit[live].tolist() == [INF, INF, 10, 255] and brain.report.counts["int8_mode"] == 0
        assert neurons.consecutive_fire_count[live].tolist() == [0, 1, 2, 4]
        assert neurons.consecutive_fire_limit[live].tolist() == [65535, 0, 3, 5]
        assert neurons.snooze_period[live].tolist() == [0, 1, 2, 4]
        assert neurons.mp_charge_accumulation[live].tolist() == [False, True, False, True]
        assert network.areas == {1: Area("Brain_Power", power=True), 7: Area("M1 vorwärts")} and brain.report.warnings == []
    else:
        assert np.isinf(neurons.threshold_limit).all() and neurons.mp_charge_accumulation.all()
        assert (neurons.consecutive_fire_limit == 65535).all() and not neurons.snooze_period.any()
        assert network.areas == {1: Area("___power", psp_uniform=False, power=True), 7: Area("cRSMot__", psp_uniform=False)}
        assert brain.report.counts["areas_without_flags"] == 2 and brain.report.counts["fields_absent"] == 5
        assert brain.genome is None and brain.manifest == {}
    assert brain.neurons["membrane_potential"][1] == 1.5 and np.isnan(brain.neurons["membrane_potential"][3])


def test_arrays_as_long_as_what_was_reserved(tmp_path: Path) -> None:
    """Older exports hold whole buffers, of which `count` items are used."""
    neurons, synapses = File().columns()
    long = {name: [*values, *([9] * (9 if name == "coordinates" else 3))] for name, values in neurons.items()}
    long["valid"][5:], long["accumulation"][5:] = [0] * 3, [0] * 3
    brain = read(tmp_path, neurons=long, synapses={name: [*values, *([0] * 6)] for name, values in synapses.items()})
    assert brain.connectome.neuron_capacity == 5 and brain.connectome.synapse_count == 3
    assert brain.neurons["threshold"].shape == (5,) and brain.neurons["coordinates"].shape == (5, 3) and len(brain.synapses["source"]) == 4


def test_vectors_that_may_be_empty(tmp_path: Path) -> None:
    none = {name: [] for name in ("threshold_limit", "fire_count", "fire_limit", "snooze", "accumulation")}
    brain = read(tmp_path, neurons=none, synapses={name: [] for name in ("delay", "edge_flags", "eligibility")}, genome=None)
    assert brain.synapses["delay"].tolist() == [1, 1, 1, 1] and brain.connectome.neurons.mp_charge_accumulation.all()
    assert brain.report.counts["fields_absent"] == 5 and "mp_charge_accumulation" in " ".join(brain.report.warnings)


def test_no_neurons_at_all(tmp_path: Path) -> None:
    neurons, synapses = File().columns()
    nothing = dict.fromkeys(neurons, []), dict.fromkeys(synapses, [])
    brain = read(tmp_path, neurons=nothing[0], synapses=nothing[1], neuron_count=0, synapse_count=0)
    assert brain.connectome.neuron_capacity == brain.connectome.synapse_capacity == 0


def test_keys_of_no_cortical_area_are_counted(tmp_path: Path) -> None:
    odd = {"_____10b-_____s-__-__name-t": "smart_car", "x": 3, "Y1JTTW90X18=": {"cortical_name": None}}
    report = read(tmp_path, genome={"blueprint": odd}).report
    assert report.foreign_keys == 2
    assert any("2 keys of the genome's blueprint belong to no cortical area" in line for line in report.warnings)


def test_a_flat_blueprint(tmp_path: Path) -> None:
    flat = {
        "_____10c-Y1JTTW90X18=-cx-__name-t": "M1",
        "_____10c-Y1JTTW90X18=-cx-pspuni-b": False,
        "_____10c-Y1JTTW90X18=-cx-mp_psp-b": True,
        "_____10c-X19fcG93ZXI=-cx-pspuni-b": True,
    }
    areas = read(tmp_path, genome={"blueprint": flat}).connectome.areas
    assert areas == {1: Area("___power", power=True), 7: Area("M1", psp_uniform=False, mp_driven_psp=True)}


@pytest.mark.parametrize("identity", ["X19fcG93ZXI=", "_power", "___pwr"])
def test_the_power_area_is_known_by_its_id(tmp_path: Path, identity: str) -> None:
    areas = read(tmp_path, areas=((1, "Y1JTTW90X18="), (7, identity))).connectome.areas
    assert (areas[1].power, areas[7].power) == (False, True)


# -- what a network cannot hold --------------------------------------------------------------------------------------
def test_what_is_changed_or_left_out_is_counted(tmp_path: Path) -> None:
    brain = read(
        tmp_path,
        neurons={
            "leak_coefficient": [10, 2, -1, 5, 1],
            "resting_potential": [0, 1, -1, 5, 0],
            "neuron_type": [0, 0, 3, 5, 0],
            "cortical_area": [1, 7, 8, 9, 7],
        },
        synapses={
            "delay": [1, 3, 200, 255],
            "source": [0, 50_000_007, 3, 4],
            "psp": [-20, 3, 9, 5],
            "edge_flags": [0, 1, 1, 1],
            "eligibility": [0.5, 1, 1, 0],
        },
        plastic=(("a", "b"), ("b", "c")),
        memory_neurons=u64(3) + b"whatever they are",
    )
    report = brain.report
    expected = {
        "resting_potential": 2,
        "neuron_type": 1,
        "areas_unnamed": 1,
        "areas_without_flags": 1,
        "memory_synapses": 1,
        "edge_flags": 1,
        "eligibility": 1,
        "plastic_mappings": 2,
        "memory_neurons": 3,
    }
    assert {key: count for key, count in report.counts.items() if count} == expected
    assert (report.leaks_clamped, report.delayed_synapses, report.negative_psps) == (3, 1, 1)
    assert len(report.warnings) == len(expected) + 3  # leaks above and below, psps
    assert brain.connectome.neurons.leak_coefficient.tolist() == [1, 1, 0, 0, 1]
    assert brain.connectome.synapses.source.tolist() == [0, 4] and brain.connectome.synapses.inhibitory.tolist() == [True, False]
    assert brain.neurons["leak_coefficient"].tolist() == [10, 2, -1, 5, 1] and brain.synapses["psp"].tolist() == [-20, 3, 9, 5]


def test_fractions(tmp_path: Path) -> None:
    network = read_export(File(synapses={"weight": [0.5, 2.7, NAN, 3], "psp": [499.99, 500, 9, 1]}).write(tmp_path)).connectome
    assert network.synapses.weight.tolist() == np.float32([0.5, 2.7, 3]).tolist()
    assert network.synapses.psp.tolist() == np.float32([499.99, 500, 1]).tolist()
    assert network.settings.contribution_scale == 1


def test_delays(tmp_path: Path) -> None:
    path = File(synapses={"delay": [1, 3, 200, 255]}).write(tmp_path)
    kept, prompt = read_export(path), read_export(path, NetworkOptions(delays="one"))
    assert kept.report.delayed_synapses == prompt.report.delayed_synapses == 2
    assert kept.connectome.synapses.delay_range[1] == 255 and prompt.connectome.synapses.delay_range == (1, 1)
    assert "2 synapses have a delay above one burst, the longest 255; they are taken as one" in prompt.report.warnings


def test_rules(tmp_path: Path) -> None:
    network = read_export(File().write(tmp_path), NetworkOptions(rules="feagi-2.6-fp32")).connectome
    assert network.settings.rules == Rules.preset("feagi-2.6-fp32")


def test_int8_ceiling(tmp_path: Path) -> None:
    """No neuron above 255: saved by the int8 mode, where 255 is no limit. One above: 255 is a limit like any other."""
    brain = read(tmp_path, neurons={"threshold_limit": [255, 255, 10, 1e30, 255]})
    assert brain.connectome.neurons.threshold_limit[[0, 1, 2, 4]].tolist() == [INF, INF, 10, INF]
    assert brain.report.counts["int8_mode"] == 1


# -- damage ----------------------------------------------------------------------------------------------------------
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "version 0": ({"version": 0}, "container is of version 0"),
    "version 4": ({"version": 4}, "container is of version 4, and this release reads 1, 2, 3"),
    "version of the payload": ({"payload_version": 2}, "version 2 of the payload"),
    "version of an old payload": ({"version": 2, "payload_version": 3}, "version 3 of the payload"),
    "unknown flags": ({"flags": 2}, "its flags are 0x02"),
    "checksum": ({"checksum": 1}, "checksum"),
    "manifest no JSON": ({"manifest": b"{"}, "manifest is no JSON"),
    "manifest no UTF": ({"manifest": b"\xff\xfe\xfd"}, "manifest is no JSON"),
    "manifest no object": ({"manifest": [1]}, "manifest is list"),
    "manifest too long": ({"manifest": b" " * (2**20 + 1)}, "1,048,577 bytes"),
    "manifest 10,000 deep": ({"manifest": b"[" * 10_000 + b"]" * 10_000}, "manifest is no JSON"),
    "manifest of another container": ({"manifest": {"container_format_version": 2}}, "manifest says container 2"),
    "manifest of another schema": ({"manifest": {"connectome_schema_version": 9}}, "manifest says schema version 9"),
    "genome no JSON": ({"genome": "{"}, "genome is no JSON"),
    "genome 10,000 deep": ({"genome": '{"a":' * 10_000}, "genome is no JSON"),
    "genome too long": ({"genome": " " * (2**24 + 1)}, "16,777,217 bytes"),
    "genome without areas": ({"genome": {"blueprint": [1]}}, "'blueprint' is list"),
    "flag of a genome": (
        {"genome": {"blueprint": {"Y1JTTW90X18=": {"mp_driven_psp": 1}}}},
        "area 'Y1JTTW90X18=', mp_driven_psp: 1 where a bool",
    ),
    "name of a genome": ({"genome": {"blueprint": {"Y1JTTW90X18=": {"cortical_name": 3}}}}, "cortical_name: 3 where a str"),
    "lite": ({"mode": 1}, "'lite' export"),
    "mode 2": ({"mode": 2}, "persist mode 2"),
    "count above the vectors": ({"neuron_count": 6}, "neurons' vectors have 5 items.*count of 6"),
    "count above the capacity": ({"neuron_capacity": 4}, "capacity of 4 for a count of 5"),
    "count of synapses": ({"synapse_count": 5}, "synapses' vectors have 4 items"),
    "too many neurons": ({"neuron_count": 2**40, "neuron_capacity": 2**40}, "1,099,511,627,776 neurons"),
    "a short vector": ({"neurons": {"threshold": [1, 2, 3, 4]}}, "neurons' threshold has 4 items, where 5"),
    "a short later vector": ({"neurons": {"snooze": [1, 2, 3, 4]}}, "neurons' snooze_period has 4 items, where 5"),
    "short coordinates": ({"neurons": {"coordinates": [0] * 14}}, "neurons' coordinates has 14 items, where 15"),
    "a long synapse vector": ({"synapses": {"psp": [1, 2, 3, 4, 5]}}, "synapses' psp has 5 items, where 4"),
    "valid of 2": ({"neurons": {"valid": [1, 1, 1, 2, 1]}}, r"valid\[3\]: 2"),
    "valid synapse of 3": ({"synapses": {"valid": [1, 1, 3, 1]}}, r"valid\[2\]: 3"),
    "accumulation of 9": ({"neurons": {"accumulation": [0, 1, 0, 1, 9]}}, r"mp_charge_accumulation\[4\]: 9"),
    "threshold NaN": ({"neurons": {"threshold": [1, NAN, 1, 1, 1]}}, r"threshold\[1\]: nan"),
    "potential infinite": ({"neurons": {"membrane_potential": [0, 0, -INF, 0, 0]}}, r"membrane_potential\[2\]: -inf"),
    "limit NaN": ({"neurons": {"threshold_limit": [NAN, 1, 1, 1, 1]}}, r"threshold_limit\[0\]: nan"),
    "leak NaN": ({"neurons": {"leak_coefficient": [0, NAN, 0, 0, 0]}}, r"leak_coefficient\[1\]: nan"),
    "excitability infinite": ({"neurons": {"excitability": [0, INF, 0, 0, 0]}}, r"excitability\[1\]: inf"),
    "resting NaN": ({"neurons": {"resting_potential": [NAN, 0, 0, 0, 0]}}, r"resting_potential\[0\]: nan"),
    "source beyond": ({"synapses": {"source": [0, 1, 3, 5]}}, "synapse 5 -> 4.*source is not one of the 5"),
    "target beyond": ({"synapses": {"target": [0, 100_000_000, 3, 4]}}, "synapse 1 -> 100000000.*target is not one"),
    "type 2": ({"synapses": {"type": [0, 2, 0, 0]}}, r"synapse 1 -> 2 \(type 2.*neither 0"),
    "weight NaN": ({"synapses": {"weight": [NAN, 2, 0, 0]}}, "synapse 0 -> 1 .*weight is not a finite"),
    "psp infinite": ({"synapses": {"psp": [1, INF, 0, 0]}}, "synapse 1 -> 2 .*psp is not a finite"),
    "an area twice": ({"areas": ((1, "a"), (1, "b"))}, "area 1 is named twice: 'a' and 'b'"),
    "more memory neurons than bytes": ({"memory_neurons": u64(2**40)}, "long-term memory neurons .* needs 1,099,511,627,776 bytes"),
    "power amount": ({"power_amount": NAN}, "power_amount: nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(FileFormatError, match=rf"brain\.connectome: .*{message}"):
        read(tmp_path, **changes)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_cut_at_every_byte(tmp_path: Path, version: int) -> None:
    """Of the file, where the checksum tells; and of the payload with the checksum put right, where the counts must."""
    path = tmp_path / "cut.connectome"
    whole = File(version=version).bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match=r"cut\.connectome: (.*begins with|.* needs .* are left|the checksum)"):
            read_export(path)
    body = File(version=version).body()
    end = len(body) - (16 if version == 3 else 0)  # what follows the memory neurons is not read
    for size in range(end):
        path.write_bytes(File(version=version, payload=body[:size]).bytes())
        with pytest.raises(FileFormatError, match=r"cut\.connectome: .* needs [\d,]+ bytes, and [\d,]+ are left of the payload"):
            read_export(path)


@contextmanager
def limited(most: int = 4 * 2**20) -> Iterator[None]:
    """What is done inside takes no more bytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [2**31, pytest.param(2**61 + 1, marks=pytest.mark.long)])
def test_huge_counts_take_no_memory(tmp_path: Path, count: int) -> None:
    """At every place of the payload eight bytes become a huge number: an error, or another brain of the same size."""
    body = File(genome=None).body()
    path = tmp_path / "huge.connectome"
    errors = 0
    with limited():
        for at in range(len(body) - 7):
            path.write_bytes(File(payload=body[:at] + u64(count) + body[at + 8 :]).bytes())
            try:
                read_export(path)
            except (FileFormatError, NetworkError):
                errors += 1
    assert errors > len(body) // 2


def test_lz4_sizes(tmp_path: Path) -> None:
    need_lz4()
    size = len(File().body())
    for raw, message in (
        (0, "LZ4|gives"),
        (size - 1, "no LZ4 block"),
        (size + 1, "gives"),
        (2**31, "its payload, unpacked, takes about 2.0 GiB"),
        (2**64 - 1, "its payload, unpacked, takes about 17,179,869,184.0 GiB"),
    ):
        path = File(compressed=True, raw_size=raw).write(tmp_path)
        with pytest.raises((FileFormatError, CapacityError), match=message), limited():
            read_export(path)
    path = File(payload=b"\xff" * 100, flags=1, raw_size=500).write(tmp_path)
    with pytest.raises(FileFormatError, match="no LZ4 block"):
        read_export(path)


def test_without_lz4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    with pytest.raises(MissingPackageError, match=r"brain\.connectome: .*pip install --editable '?.*\[feagi\]'?"):
        read(tmp_path, compressed=True)
    told = CliRunner().invoke(main, ["info", str(tmp_path / "brain.connectome")])
    assert (told.exit_code, len(told.stderr.splitlines())) == (16, 1)
    assert read(tmp_path).connectome.neuron_count == 4
    subprocess.run([sys.executable, "-c", "import sys; sys.modules['lz4'] = None; import gpu_npu.genome.export"], check=True, timeout=120)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.connectome"
    for content in (b"", b"FEAG", b"PK\3\4" * 10, b"feagi" * 10):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="x.connectome: .*begins with"):
            read_export(path)
    with pytest.raises(FileNotFoundError):
        read_export(tmp_path / "absent.connectome")
    with pytest.raises(IsADirectoryError):
        read_export(tmp_path)


BODIES = {version: File(version=version).body() for version in (1, 2, 3)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from((1, 2, 3)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2**64 - 1)), max_size=2),
    st.none() | st.integers(0, 2000),
    st.booleans(),
)
def test_damage_never_crashes(
    tmp_path: Path, version: int, bytes_: list[tuple[int, int]], words: list[tuple[int, int]], cut: int | None, header: bool
) -> None:
    """Bytes, words and ends changed, in the payload with its checksum put right or anywhere in the file."""
    data = bytearray(File(version=version).bytes() if header else BODIES[version])
    for at, value in bytes_:
        data[at % len(data)] ^= value
    for at, value in words:
        at %= len(data) - 8
        data[at : at + 8] = u64(value)
    content = bytes(data[:cut])
    path = tmp_path / "damaged.connectome"
    path.write_bytes(content if header else File(version=version, payload=content).bytes())

    with limited():
        try:
            brain = read_export(path)
        except (FileFormatError, NetworkError) as error:
            assert "damaged.connectome: " in str(error)
        else:
            brain.connectome.validate()
