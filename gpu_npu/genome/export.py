"""FEAGI's own export of a running brain (`.connectome`) as a network: weights, psps and state as they were when it was saved.

`container.py` opens the file, `payload.py` reads what is in it; here it becomes a network.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import sorted_unique
from gpu_npu.checks import check_path
from gpu_npu.connectome import STATE_FIELDS, Area, Connectome
from gpu_npu.connectome.fields import NEURON_FIELDS
from gpu_npu.connectome.validation import check_field
from gpu_npu.errors import FileFormatError, NetworkError, NpuError
from gpu_npu.io.budget import Budget
from gpu_npu.objects import OneLine

from .container import Reader, open_container
from .network import DEFAULTS, NetworkOptions, build
from .payload import LATER_NEURON_VECTORS, Payload, Table
from .report import Report
from .tables import NO_LIMIT, UNLIMITED_FIRES, NeuronTable, SynapseTable

INT8_CEILING = 255.0
"""Where FEAGI ran in its int8 mode, no potential is above this, and it stands for NO_LIMIT as threshold_limit."""
LARGEST_COUNT = 65535
"""The largest weight or psp of a network."""
MEMORY_IDS = range(50_000_000, 100_000_000)
"""Ids of FEAGI's long-term memory neurons, which are no neurons of the network."""
POWER_IDS = ("X19fcG93ZXI=", "___power", "_power", "___pwr")


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
    path: str | os.PathLike[str], options: NetworkOptions = DEFAULTS, *, memory_limit: int | None = None
) -> Imported:
    """Read a `.connectome` file of version 1, 2 or 3.

    memory_limit: as of `Budget.of`. CapacityError: it takes more.
    FileFormatError: truncated, corrupt, another format or version, or contents that are no network.
    MissingPackageError: it is compressed, and the package lz4 is missing. NetworkError: what an option refuses.
    OSError: the file cannot be read.
    """
    path = check_path(path)
    budget = Budget.of(path, memory_limit)
    version, manifest, data = open_container(path, budget)
    payload = Payload.read(Reader(path, data, "payload"), version)
    budget.take_network(len(payload.neurons["valid"]), len(payload.synapses["valid"]))
    if manifest.get("connectome_schema_version", payload.version) != payload.version:
        raise FileFormatError(
            f"{path}: the manifest says schema version {manifest['connectome_schema_version']!r}, the payload is of {payload.version}"
        )
    report = ImportReport()
    try:
        areas, flags = _areas(payload, report)
        fields = _fields(payload.neurons, report)
        wired = _wired(payload.synapses, len(payload.neurons["valid"]), report)
    except NpuError as error:
        raise FileFormatError(f"{path}: {error.problem}") from error
    _note_left_out(payload, wired, report)
    try:
        tables = _neuron_table(fields), _synapse_table(wired, report)
        network = build(*tables, flags, report, options)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error.problem}", python=error.python) from error
    except NpuError as error:
        raise FileFormatError(f"{path}: {error.problem}") from error
    try:
        network.set_settings(replace(network.settings, power_amount=payload.power_amount))
        everything = np.arange(len(payload.neurons["valid"]))
        for name in STATE_FIELDS:
            if name in fields:
                network.write(name, everything, fields[name])
        network.delete_neurons(np.flatnonzero(payload.neurons["valid"] == 0))
        network.validate()
    except NpuError as error:
        raise FileFormatError(f"{path}: {error.problem}") from error
    return Imported(network, payload.neurons, payload.synapses, areas, manifest, payload.genome, payload.burst, report)


# -- areas ---------------------------------------------------------------------------------------------------------
_FLAT = {"__name-t": "cortical_name", "pspuni-b": "psp_uniform_distribution", "mp_psp-b": "mp_driven_psp"}


def _areas(payload: Payload, report: ImportReport) -> tuple[tuple[ExportedArea, ...], dict[int, Area]]:
    """Areas, and their flags by index; those that neurons lie in and the file does not name are there too, nameless."""
    used = sorted_unique(payload.neurons["cortical_area"][payload.neurons["valid"] == 1]).tolist()
    properties, report.foreign_keys = _properties(payload.blueprint or {})
    areas: list[ExportedArea] = []
    flags: dict[int, Area] = {}
    for index in sorted({*used, *payload.area_ids}):
        identity = payload.area_ids.get(index, "")
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


def _note_left_out(payload: Payload, table: Table, report: ImportReport) -> None:
    nothing = np.zeros(0)
    edges, traces = table.get("edge_flags", nothing), table.get("eligibility", nothing)
    report.note("edge_flags", int(np.count_nonzero(edges)), "synapses have FEAGI's edge flags, which are left out")
    report.note("eligibility", int(np.count_nonzero(traces)), "synapses have an eligibility trace, which is left out")
    report.note("plastic_mappings", payload.plastic_mappings, "mappings are plastic in FEAGI; here their synapses stay as they are")
    report.note("memory_neurons", payload.memory_neurons, "long-term memory neurons are left out")
