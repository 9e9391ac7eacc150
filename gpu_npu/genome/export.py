"""FEAGI's own export of a running brain (`.connectome`): weights, psps and state as they were when it was saved.

Container, little endian: "FEAGI", u32 version; from version 2 u8 flags (bit 0: LZ4) and u64 raw size; in version 3 u32 length
and JSON of a manifest; u64 FNV-1a of the payload; the payload, in LZ4 one block. A vector of the payload is a u64 count and
the items. Nothing in a file is believed before it is held against the bytes that are there.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import sorted_unique
from gpu_npu.connectome import STATE_FIELDS, Area, Connectome, Rules
from gpu_npu.connectome.fields import MAX_NEURONS, NEURON_FIELDS
from gpu_npu.connectome.validation import check_field
from gpu_npu.errors import FileFormatError, NetworkError, NpuError
from gpu_npu.io.kinds import EXPORT, another
from gpu_npu.objects import OneLine

from .fnv import fnv1a64
from .network import build
from .report import Report
from .tables import NO_LIMIT, UNLIMITED_FIRES, NeuronTable, SynapseTable

Table = Mapping[str, NDArray[Any]]

MAGIC = b"FEAGI"
VERSIONS = (1, 2, 3)
LZ4 = 1
"""The flag of a compressed payload."""
LZ4_RATIO = 255
"""A byte of an LZ4 block gives at most so many."""
LZ4_LARGEST = 0x7E000000
"""Bytes that one LZ4 block can hold."""
LARGEST_MANIFEST = 2**20
LARGEST_GENOME = 2**24
INT8_CEILING = 255.0
"""Where FEAGI ran in its int8 mode, no potential is above this, and it stands for NO_LIMIT as threshold_limit."""
LARGEST_COUNT = 65535
"""The largest weight or psp of a network."""
MEMORY_IDS = range(50_000_000, 100_000_000)
"""Ids of FEAGI's long-term memory neurons, which are no neurons of the network."""
POWER_IDS = ("X19fcG93ZXI=", "___power", "_power", "___pwr")

NEURON_VECTORS: dict[str, str] = {
    "membrane_potential": "<f4",
    "threshold": "<f4",
    "leak_coefficient": "<f4",
    "resting_potential": "<f4",
    "neuron_type": "<i4",
    "refractory_period": "<u2",
    "refractory_countdown": "<u2",
    "excitability": "<f4",
    "cortical_area": "<u4",
    "coordinates": "<u4",  # x, y, z of each
    "valid": "|u1",
}
LATER_NEURON_VECTORS: dict[str, str] = {  # of version 3; any may be empty
    "threshold_limit": "<f4",
    "consecutive_fire_count": "<u2",
    "consecutive_fire_limit": "<u2",
    "snooze_period": "<u2",
    "mp_charge_accumulation": "|u1",
}


@dataclass(frozen=True, repr=False)
class ExportedArea(OneLine):
    """A cortical area of an export."""

    index: int
    """Id of the area in the network: FEAGI's own."""
    id: str
    """As in the file: 12 characters of base64, or an older text."""
    name: str
    """From the genome that the file carries; where there is none, the id as text."""


@dataclass(repr=False)
class ImportReport(Report):
    """What the network cannot hold as the file has it: `warnings` in words, the rest in numbers."""

    counts: dict[str, int] = field(default_factory=dict)
    """What was looked for beside what `Report` has -> how many there were."""

    def note(self, key: str, count: int, text: str) -> None:
        """Keep a count, and a line of text unless it is 0."""
        self.counts[key] = count
        if count:
            self.warn(f"{count:,} {text}")


@dataclass(frozen=True, eq=False, repr=False)
class Imported(OneLine):
    """A brain as it was read."""

    connectome: Connectome
    """Neurons have FEAGI's ids, removed ones are deleted; synapses are the valid ones, in FEAGI's order."""
    neurons: Table
    """As stored, float32, one row a neuron; names as in `gpu_npu.NEURON_FIELDS`, with resting_potential, neuron_type, valid."""
    synapses: Table
    """As stored, one row a slot: source, target, weight, psp, type, delay, valid; edge_flags and eligibility if not empty."""
    areas: tuple[ExportedArea, ...]
    """Ascending by index."""
    manifest: Mapping[str, Any]
    genome: str | None
    """JSON of the genome that the brain was grown from, with its plasticity and morphologies."""
    burst: int
    """Bursts that FEAGI had run."""
    report: ImportReport


def read_export(
    path: str | os.PathLike[str], *, fractions: str = "scale", delays: str = "one", rules: str = "feagi-2.6"
) -> Imported:
    """Read a `.connectome` file of version 1, 2 or 3.

    fractions: for weights and psps that are no whole numbers up to 65,535: "scale" (one unit for all, exact where there is
    such a unit), "round" or "refuse"; see `pack_synapses`.
    delays: "one" takes delays above one burst as one; "refuse" raises NetworkError.
    rules: preset of the network's rules.

    FileFormatError: truncated, corrupt, another format or version, or contents that are no network; also for a compressed
    file where the package lz4 is missing. NetworkError: an option that is none, or what an option refuses. OSError.
    """
    if fractions not in ("scale", "round", "refuse"):
        raise NetworkError(f"fractions: {fractions!r} is not one of 'scale', 'round', 'refuse'")
    if delays not in ("one", "refuse"):
        raise NetworkError(f"delays: {delays!r} is neither 'one' nor 'refuse'")
    Rules.preset(rules)
    path = Path(path)
    version, manifest, payload = _open(path)
    snapshot = _Snapshot.read(_Reader(path, payload, "payload"), version)
    if manifest.get("connectome_schema_version", snapshot.version) != snapshot.version:
        raise FileFormatError(
            f"{path}: the manifest says schema version {manifest['connectome_schema_version']!r}, the payload is of {snapshot.version}"
        )
    report = ImportReport()
    try:
        areas, flags = _areas(snapshot, report)
        fields = _fields(snapshot.neurons, report)
        wired = _wired(snapshot.synapses, len(snapshot.neurons["valid"]), report)
    except NpuError as error:
        raise FileFormatError(f"{path}: {error.problem}") from error
    _note_left_out(snapshot, wired, report)
    try:
        tables = _neuron_table(fields), _synapse_table(wired, report)
        network = build(*tables, flags, report, rules=rules, fractions=fractions, delays=delays)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error.problem}", python=error.python) from error
    except NpuError as error:
        raise FileFormatError(f"{path}: {error.problem}") from error
    try:
        network.set_settings(replace(network.settings, power_amount=snapshot.power_amount))
        everything = np.arange(len(snapshot.neurons["valid"]))
        for name in STATE_FIELDS:
            if name in fields:
                network.write(name, everything, fields[name])
        network.delete_neurons(np.flatnonzero(snapshot.neurons["valid"] == 0))
        network.validate()
    except NpuError as error:
        raise FileFormatError(f"{path}: {error.problem}") from error
    return Imported(network, snapshot.neurons, snapshot.synapses, areas, manifest, snapshot.genome, snapshot.burst, report)


# -- the container -------------------------------------------------------------------------------------------------
def _open(path: Path) -> tuple[int, dict[str, Any], bytes | memoryview]:
    """(version, manifest, payload), the checksum verified and the payload decompressed."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
        if head != MAGIC:
            raise another(path, EXPORT, f"begins with {head!r}, not with {MAGIC!r}")
        reader = _Reader(path, file.read(), "file")
    version = reader.integer("I", "version")
    if version not in VERSIONS:
        raise FileFormatError(f"{path}: its container is of version {version}, and this release reads {', '.join(map(str, VERSIONS))}")
    flags, size = (reader.integer("B", "flags"), reader.integer("Q", "raw size")) if version >= 2 else (0, 0)
    if flags & ~LZ4:
        raise FileFormatError(f"{path}: its flags are {flags:#04x}, and this release knows only bit 0, LZ4")
    manifest: Any = {}
    if version >= 3:
        length = reader.integer("I", "length of the manifest")
        if length > LARGEST_MANIFEST:
            raise FileFormatError(f"{path}: a manifest of {length:,} bytes; {LARGEST_MANIFEST:,} are the most")
        manifest = _json(path, reader.take(length, "manifest"), "manifest")
        if manifest.get("container_format_version", version) != version:
            raise FileFormatError(f"{path}: the manifest says container {manifest['container_format_version']!r}, the file is of {version}")
    checksum = reader.integer("Q", "checksum")
    payload = reader.rest()
    if fnv1a64(payload) != checksum:
        raise FileFormatError(f"{path}: the checksum of its {len(payload):,} bytes of payload is wrong: truncated or corrupt")
    return version, manifest, _decompressed(path, payload, size) if flags & LZ4 else payload


def _decompressed(path: Path, payload: memoryview, size: int) -> bytes:
    most = min(LZ4_RATIO * len(payload), LZ4_LARGEST)
    if size > most:
        raise FileFormatError(f"{path}: a raw size of {size:,} bytes, where {len(payload):,} bytes of LZ4 hold at most {most:,}")
    try:
        import lz4.block
    except ImportError as error:
        raise FileFormatError(f"{path}: its payload is compressed; reading it needs lz4: pip install gpu-npu[feagi]") from error
    try:
        raw: bytes = lz4.block.decompress(payload, uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise FileFormatError(f"{path}: the payload is no LZ4 block of {size:,} bytes: {error}") from error
    if len(raw) != size:
        raise FileFormatError(f"{path}: the payload gives {len(raw):,} bytes, where the header says {size:,}")
    return raw


def _json(path: Path, text: bytes | memoryview, what: str) -> dict[str, Any]:
    try:
        value = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: the {what} is no JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: the {what} is {type(value).__name__}, not an object")
    return value


class _Reader:
    """Bytes taken from the front; whatever asks for more than there are is an error before anything is made for it."""

    def __init__(self, path: Path, data: bytes | memoryview, where: str) -> None:
        self.path = path
        self._data = memoryview(data)
        self._at = 0
        self._where = where

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def error(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: {what}")

    def need(self, size: int, what: str) -> None:
        """FileFormatError unless `size` bytes are left."""
        if size > self.left:
            raise self.error(f"{what} needs {size:,} bytes, and {self.left:,} are left of the {self._where}: truncated or corrupt")

    def take(self, size: int, what: str) -> memoryview:
        self.need(size, what)
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> memoryview:
        return self.take(self.left, "")

    def integer(self, form: str, what: str) -> int:
        """One of struct's B, I, Q."""
        return int(struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))[0])

    def real(self, what: str) -> float:
        """A float32."""
        return float(struct.unpack("<f", self.take(4, what))[0])

    def entries(self, size: int, what: str) -> int:
        """A count of things of at least `size` bytes each."""
        count = self.integer("Q", f"count of {what}")
        self.need(count * size, f"{what} ({count:,} of them)")
        return count

    def vector(self, dtype: str, what: str) -> NDArray[Any]:
        """A view of the items; nothing is copied."""
        count = self.entries(np.dtype(dtype).itemsize, what)
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize, what), dtype)

    def flags(self, what: str) -> NDArray[Any]:
        """A vector of bools, as bytes seen to be 0 or 1."""
        return self.bools(self.vector("|u1", what), what)

    def bools(self, array: NDArray[Any], what: str) -> NDArray[Any]:
        """`array` seen to hold 0 and 1 alone."""
        bad = np.flatnonzero(array > 1)
        if bad.size:
            raise self.error(f"{what}[{bad[0]}]: {array[bad[0]]} where 0 or 1 is needed")
        return array

    def text(self, what: str, most: int | None = None) -> str:
        size = self.entries(1, what)
        if most is not None and size > most:
            raise self.error(f"{what}: {size:,} bytes; {most:,} are the most")
        try:
            return str(self.take(size, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is no text: {error}") from error


# -- the payload ---------------------------------------------------------------------------------------------------
@dataclass
class _Snapshot:
    """The payload as it is in the file."""

    version: int
    neurons: dict[str, NDArray[Any]]
    synapses: dict[str, NDArray[Any]]
    area_ids: dict[int, str]
    burst: int
    power_amount: float
    genome: str | None = None
    blueprint: dict[str, Any] | None = None
    plastic_mappings: int = 0
    memory_neurons: int = 0

    @classmethod
    def read(cls, reader: _Reader, container: int) -> _Snapshot:
        version = reader.integer("I", "version of the payload")
        known = (1,) if container >= 3 else (1, 2)
        if version not in known:
            raise reader.error(f"version {version} of the payload; this release reads {' and '.join(map(str, known))} in such a container")
        later = container >= 3
        neurons = _neuron_vectors(reader, later)
        synapses = _synapse_vectors(reader, later)
        area_ids: dict[int, str] = {}
        for _ in range(reader.entries(12, "names of areas")):
            index = reader.integer("I", "index of an area")
            if index in area_ids:
                raise reader.error(f"area {index} is named twice: {area_ids[index]!r} and {reader.text('name of an area')!r}")
            area_ids[index] = reader.text("name of an area")
        snapshot = cls(version, neurons, synapses, area_ids, reader.integer("Q", "burst count"), reader.real("power amount"))
        reader.take(8, "fire ledger window")
        reader.take(8, "time stamp")
        for what in ("description", "source"):
            reader.text(what)
        for _ in range(reader.entries(16, "tags")):
            reader.text("name of a tag")
            reader.text("tag")
        if later:
            snapshot._read_later(reader)
        return snapshot

    def _read_later(self, reader: _Reader) -> None:
        """What version 3 adds: how much was saved, the genome, and lists of what is memory and what is plastic."""
        mode = reader.integer("I", "persist mode")
        if mode == 1:
            raise reader.error("a 'lite' export, which holds only what differs from its genome; let FEAGI save the whole connectome (full)")
        if mode:
            raise reader.error(f"persist mode {mode} is neither full (0) nor lite (1)")
        if reader.bools(np.frombuffer(reader.take(1, "mark of a genome"), np.uint8), "mark of a genome")[0]:
            self.genome = reader.text("genome", LARGEST_GENOME)
            self.blueprint = _json(reader.path, self.genome.encode(), "genome").get("blueprint")
            if not isinstance(self.blueprint, dict):
                raise reader.error(f"the genome's 'blueprint' is {type(self.blueprint).__name__}, not an object")
        for _ in range(reader.entries(8, "memory areas")):
            reader.text("memory area")
        self.plastic_mappings = reader.entries(16, "plastic mappings")
        for _ in range(2 * self.plastic_mappings):
            reader.text("area of a plastic mapping")
        for _ in range(reader.entries(8, "brain regions")):
            reader.text("brain region")
        self.memory_neurons = reader.entries(1, "long-term memory neurons")
        # They, their replay frames and what newer releases may add end the file; the network has no place for them.


def _neuron_vectors(reader: _Reader, later: bool) -> dict[str, NDArray[Any]]:
    count, capacity = reader.integer("Q", "count of neurons"), reader.integer("Q", "capacity of neurons")
    if count > MAX_NEURONS:
        raise reader.error(f"{count:,} neurons are more than {MAX_NEURONS:,}, the most that a network can have")
    vectors = {name: reader.vector(dtype, f"neurons' {name}") for name, dtype in NEURON_VECTORS.items()}
    if later:
        found = {name: reader.vector(dtype, f"neurons' {name}") for name, dtype in LATER_NEURON_VECTORS.items()}
        vectors |= {name: vector for name, vector in found.items() if len(vector) or not count}
    _check_lengths(reader, vectors, count, capacity, "neurons'")
    vectors["coordinates"] = vectors["coordinates"].reshape(-1, 3)
    for name in {"valid", "mp_charge_accumulation"} & vectors.keys():
        reader.bools(vectors[name], f"neurons' {name}")
    return {name: vector[:count] for name, vector in vectors.items()}


def _synapse_vectors(reader: _Reader, later: bool) -> dict[str, NDArray[Any]]:
    count, capacity = reader.integer("Q", "count of synapses"), reader.integer("Q", "capacity of synapses")
    amount = "<f4" if later else "|u1"
    vectors = {name: reader.vector("<u4", f"synapses' {name}") for name in ("source", "target")}
    vectors |= {name: reader.vector(amount, f"synapses' {name}") for name in ("weight", "psp")}
    vectors["type"] = reader.vector("|u1", "synapses' type")
    delay = reader.vector("|u1", "synapses' delay") if later else np.zeros(0, np.uint8)
    vectors["valid"] = reader.flags("synapses' valid")
    for i in range(reader.entries(12, "index entries")):  # source -> slots: what the vectors say already
        reader.take(4, "source of an index entry")
        reader.take(8 * reader.entries(8, f"index entry {i:,}"), "index entry")
    optional = {"delay": delay}
    if later:
        optional["edge_flags"] = reader.vector("|u1", "synapses' edge flags")
        optional["eligibility"] = reader.vector("<f4", "synapses' eligibility traces")
    vectors |= {name: vector for name, vector in optional.items() if len(vector)}
    _check_lengths(reader, vectors, count, capacity, "synapses'")
    vectors = {name: vector[:count] for name, vector in vectors.items()}
    return {"delay": np.ones(count, np.uint8), **vectors}


def _check_lengths(reader: _Reader, vectors: Table, count: int, capacity: int, whose: str) -> None:
    """One length for all, that of what is used or of all that was reserved."""
    length = len(vectors["valid"])
    if not count <= length or capacity < count:
        raise reader.error(f"{whose} vectors have {length:,} items and a capacity of {capacity:,} for a count of {count:,}")
    for name, vector in vectors.items():
        wanted = 3 * length if name == "coordinates" else length
        if len(vector) != wanted:
            raise reader.error(f"{whose} {name} has {len(vector):,} items, where {wanted:,} are needed for {length:,} of 'valid'")


# -- areas ---------------------------------------------------------------------------------------------------------
_FLAT = {"__name-t": "cortical_name", "pspuni-b": "psp_uniform_distribution", "mp_psp-b": "mp_driven_psp"}


def _areas(snapshot: _Snapshot, report: ImportReport) -> tuple[tuple[ExportedArea, ...], dict[int, Area]]:
    """Areas, and their flags by index; those that neurons lie in and the file does not name are there too, nameless."""
    used = sorted_unique(snapshot.neurons["cortical_area"][snapshot.neurons["valid"] == 1]).tolist()
    properties, report.foreign_keys = _properties(snapshot.blueprint or {})
    areas: list[ExportedArea] = []
    flags: dict[int, Area] = {}
    for index in sorted({*used, *snapshot.area_ids}):
        identity = snapshot.area_ids.get(index, "")
        own = properties.get(identity, {})
        name = _typed(own, "cortical_name", _readable(identity), identity)
        flags[index] = Area(
            name,
            psp_uniform=_typed(own, "psp_uniform_distribution", False, identity),
            mp_driven_psp=_typed(own, "mp_driven_psp", False, identity),
            power=identity in POWER_IDS,
        )
        areas.append(ExportedArea(index, identity, name))
    if report.foreign_keys:
        report.warn(f"{report.foreign_keys:,} keys of the genome's blueprint belong to no cortical area; they have no effect")
    report.note("areas_unnamed", sum(not area.id for area in areas), "areas have neurons and no name in the file")
    report.note(
        "areas_without_flags",
        sum(area.id not in properties for area in areas),
        "areas are in no genome that the file carries: psp_uniform and mp_driven_psp are taken as False, FEAGI's defaults",
    )
    return tuple(areas), flags


def _properties(blueprint: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], int]:
    """Area id -> its properties by their long names, from either form of a blueprint; and how many keys are of no area."""
    found: dict[str, dict[str, Any]] = {}
    foreign = 0
    for key, value in blueprint.items():
        parts = key.split("-", 3)
        if len(parts) == 4 and key.startswith("_____10c-"):
            found.setdefault(parts[1], {})[_FLAT.get(parts[3], parts[3])] = value
        elif isinstance(value, dict):
            found[key] = value
        else:
            foreign += 1
    return found, foreign


def _typed(own: Mapping[str, Any], key: str, default: Any, area: str) -> Any:
    value = own.get(key)
    if value is None:
        return default
    if type(value) is not type(default):
        raise FileFormatError(f"genome, area {area!r}, {key}: {value!r:.60} where a {type(default).__name__} is needed")
    return value


def _readable(identity: str) -> str:
    """The text in 12 characters of base64; what is none of that stays as it is."""
    try:
        found = base64.b64decode(identity, validate=True) if len(identity) == 12 else b""
    except (binascii.Error, ValueError):
        found = b""
    return repr(found)[2:-1] if len(found) == 8 else identity


# -- neurons and synapses ------------------------------------------------------------------------------------------
def _fields(table: Table, report: ImportReport) -> dict[str, NDArray[Any]]:
    """The network's fields, checked; deleted neurons, of which a file may say anything, have the defaults."""
    valid = table["valid"] == 1
    fields = {name: table[name] for name in NEURON_FIELDS if name in table}
    for name, values in fields.items():
        default = np.asarray(NEURON_FIELDS[name].default, values.dtype)
        kept = np.where(valid if values.ndim == 1 else valid[:, None], values, default)
        # `build` brings these two into their range, and counts what it changes
        fields[name] = kept if name in ("leak_coefficient", "excitability") else check_field(name, kept, len(valid))
    for name in ("leak_coefficient", "excitability", "resting_potential"):
        bad = np.flatnonzero(~np.isfinite(table[name]) & valid)
        if bad.size:
            raise FileFormatError(f"{name}[{bad[0]}]: {table[name][bad[0]]} is not a finite number")
    if "threshold_limit" in fields:
        fields["threshold_limit"] = _limits(fields["threshold_limit"], valid, report)
    for name in ("resting_potential", "neuron_type"):
        report.note(name, int(np.count_nonzero((table[name] != 0) & valid)), f"neurons have a {name} other than 0, which is left out")
    absent = [name for name in LATER_NEURON_VECTORS if name not in table]
    report.note("fields_absent", len(absent), f"fields of neurons are not in the file and have their defaults: {', '.join(absent)}")
    return fields


def _limits(limit: NDArray[Any], valid: NDArray[Any], report: ImportReport) -> NDArray[Any]:
    """The core areas have no limit: where no neuron is above 255, FEAGI ran in its int8 mode and 255 means none."""
    used = limit[valid]
    int8 = bool(used.size) and float(used.max()) == INT8_CEILING
    report.counts["int8_mode"] = int(int8)
    return np.where(limit >= INT8_CEILING, NO_LIMIT, limit) if int8 else limit


def _neuron_table(fields: Mapping[str, NDArray[Any]]) -> NeuronTable:
    n = len(fields["threshold"])
    x, y, z = fields["coordinates"].T
    return NeuronTable(
        area=fields["cortical_area"],
        x=x,
        y=y,
        z=z,
        k=np.zeros(n, np.uint16),
        threshold=fields["threshold"],
        threshold_limit=fields.get("threshold_limit", np.full(n, NO_LIMIT, np.float32)),
        leak_coefficient=fields["leak_coefficient"],
        refractory_period=fields["refractory_period"],
        excitability=fields["excitability"],
        consecutive_fire_limit=fields.get("consecutive_fire_limit", np.full(n, UNLIMITED_FIRES, np.uint16)),
        snooze_period=fields.get("snooze_period", np.zeros(n, np.uint16)),
        mp_charge_accumulation=fields.get("mp_charge_accumulation", np.ones(n, np.bool_)),
    )


def _wired(table: Table, n: int, report: ImportReport) -> dict[str, NDArray[Any]]:
    """The valid synapses between neurons, checked; those of memory neurons are counted and left out."""
    kept = {name: column[table["valid"] == 1] for name, column in table.items()}
    memory = np.zeros(len(kept["source"]), np.bool_)
    for end in ("source", "target"):
        memory |= (kept[end] >= max(n, MEMORY_IDS.start)) & (kept[end] < MEMORY_IDS.stop)
    report.note("memory_synapses", int(np.count_nonzero(memory)), "synapses end at FEAGI's long-term memory neurons and are left out")
    kept = {name: column[~memory] for name, column in kept.items()}
    troubles = {
        f"its source is not one of the {n:,} neurons": kept["source"] >= n,
        f"its target is not one of the {n:,} neurons": kept["target"] >= n,
        "its type is neither 0 (excitatory) nor 1 (inhibitory)": kept["type"] > 1,
        "its weight is not a finite number": ~np.isfinite(kept["weight"]),
        "its psp is not a finite number": ~np.isfinite(kept["psp"]),
    }
    for trouble, where in troubles.items():
        if where.any():
            i = int(np.argmax(where))
            values = ", ".join(f"{name} {kept[name][i]}" for name in ("type", "weight", "psp"))
            raise FileFormatError(f"synapse {kept['source'][i]} -> {kept['target'][i]} ({values}): {trouble}")
    return kept


def _synapse_table(wired: Table, report: ImportReport) -> SynapseTable:
    weight, psp = wired["weight"].astype(np.float32), wired["psp"].astype(np.float32)
    for name, values in (("weight", weight), ("psp", psp)):  # what becomes of these, `build` says
        report.counts[f"fractional_{name}"] = int(np.count_nonzero(values != np.floor(values)))
        report.counts[f"{name}_over"] = int(np.count_nonzero(np.abs(values) > LARGEST_COUNT))
    report.note("negative_weight", int(np.count_nonzero(weight < 0)), "synapses have a negative weight: their type is turned")
    return SynapseTable(wired["source"], wired["target"], weight, psp, wired["type"] == 1, wired["delay"])


def _note_left_out(snapshot: _Snapshot, table: Table, report: ImportReport) -> None:
    nothing = np.zeros(0)
    edges, traces = table.get("edge_flags", nothing), table.get("eligibility", nothing)
    report.note("edge_flags", int(np.count_nonzero(edges)), "synapses have FEAGI's edge flags, which are left out")
    report.note("eligibility", int(np.count_nonzero(traces)), "synapses have an eligibility trace, which is left out")
    report.note("plastic_mappings", snapshot.plastic_mappings, "mappings are plastic in FEAGI; here their synapses stay as they are")
    report.note("memory_neurons", snapshot.memory_neurons, "long-term memory neurons are left out")
