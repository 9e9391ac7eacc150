"""The project's own file of a network: a .npz of plain arrays, and JSON text for areas, settings and plasticity.

`format`, `version`, `neuron_capacity`, `synapse_capacity`; `neuron_<field>`, `neuron_valid`, `neuron_created` for all
reserved ids; `synapse_source`, `_target`, `_weight`, `_psp`, `_inhibitory`, `_valid` for all slots used, `_delay` likewise or one
value for all (files of version 2 have none, and every delay is 1); `areas`, `settings`; `plasticity`: a list of rules, each an
object of its parameters and `rule`, its name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import Counts, is_spread, spread
from gpu_npu.checks import check_flag, check_kind, check_path
from gpu_npu.connectome import NEURON_FIELDS, SYNAPSE_FIELDS, Area, Connectome, PlasticityRule, Rules, Settings, SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import CountType, DelayType
from gpu_npu.connectome.plasticity import RULES
from gpu_npu.connectome.synapses import NO_DELAYS, SYNAPSES_AT_A_TIME
from gpu_npu.errors import NetworkError, NpuError

from .annotations import annotation_arrays, annotation_values, read_annotations
from .archive import Archive, Column, has_array
from .atomic import replacing
from .formats import Fields, Format, Given, Reading
from .sealed import Sealed
from .strict_json import parse_json

FORMAT = "gpu_npu network"
VERSION = 3
READS = (2, 3)
"""Versions. In version 2 there are no delays."""
MOST_SYNAPSES = 2**44
SLOT_BYTES = 20
"""Memory of a slot that is reserved for a synapse, at most."""


def save(connectome: Connectome, path: str | os.PathLike[str], *, compressed: bool = False) -> None:
    """Write a network so that `load` gives it back exactly: arrays, areas, settings, plasticity rules, dtypes, capacities,
    removed synapses.

    The file appears at `path` whole or not at all. The network is validated first, with the errors of
    `Connectome.validate`: what could not be loaded is not written. OSError: not writable.
    """
    check_kind(connectome, Connectome, "connectome").validate()
    check_flag(compressed, "compressed"), check_path(path)
    arrays: dict[str, Any] = {"format": FORMAT, "version": VERSION, **network_values(connectome), **network_arrays(connectome)}
    with replacing(path) as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def network_values(connectome: Connectome) -> dict[str, int | str]:
    """What of a network is a number or a text, by its name in a file."""
    return {
        "neuron_capacity": connectome.neuron_capacity,
        "synapse_capacity": connectome.synapse_capacity,
        "areas": json.dumps({str(area): asdict(flags) for area, flags in connectome.areas.items()}),
        "settings": _settings_text(connectome.settings),
        "plasticity": json.dumps([{"rule": rule.name, **rule.parameters} for rule in connectome.plasticity], allow_nan=False),
        **annotation_values(connectome.annotations),
    }


def network_arrays(connectome: Connectome) -> dict[str, NDArray[Any]]:
    """What of a network is an array."""
    neurons, synapses = connectome.neurons, connectome.synapses
    return {
        **{f"neuron_{name}": neurons[name] for name in (*NEURON_FIELDS, "valid", "created")},
        **{f"synapse_{name}": getattr(synapses, name) for name in (*SYNAPSE_FIELDS, "valid")},
        "synapse_delay": synapses.delay[:1] if synapses.has_one_delay else synapses.delay,
        **annotation_arrays(connectome.annotations),
    }


def _load(given: Given, reading: Reading) -> Connectome:
    """What `save` wrote."""
    with Archive(given.path, reading.memory_limit) as archive:
        return read_network(archive, _check_format(archive, reading.fields))


def _check_format(archive: Archive, fields: Fields) -> int:
    """The version."""
    if fields:
        given = ", ".join(fields)
        raise NetworkError(f"{archive.path} holds the fields of its neurons, so {given} cannot be given", python="use write()")
    form = archive.text("format")
    if form != FORMAT:
        raise archive.error(f"format {form!r} is not {FORMAT!r}")
    version = archive.integer("version")
    if version not in READS:
        raise archive.error(f"it is of version {version} of the format, and this release reads versions {READS[0]} and {READS[1]}")
    return version


def read_network(archive: Archive | Sealed, version: int) -> Connectome:
    """The network of `network_values` and `network_arrays`, checked as `Connectome.validate` does. version: of the file."""
    capacity = archive.integer("synapse_capacity")
    slots = archive.array("synapse_source", dtype=np.uint32).shape
    if capacity > MOST_SYNAPSES:
        raise archive.error(f"'synapse_capacity' {capacity} is more than {MOST_SYNAPSES:,}, which no machine holds")
    if slots[0] > capacity:
        raise archive.error(f"{slots[0]} synapses are more than 'synapse_capacity' {capacity}")
    columns = {name: archive.array(f"synapse_{name}", slots, field.dtype) for name, field in SYNAPSE_FIELDS.items() if name != "delay"}
    batch = SynapseBatch(**columns, delay=_delays(archive, slots[0], version))
    valid = archive.array("synapse_valid", slots, np.bool_)
    network = _without_synapses(archive, batch.weight.dtype, batch.psp.dtype, batch.delay.dtype)
    archive.budget.take(capacity * SLOT_BYTES, f"room for {capacity:,} synapses")
    archive.budget.take_network(0, slots[0])
    try:
        network.reserve(synapses=capacity)
        network.synapses.append(batch)
        network.synapses.valid[...] = valid
        network.validate()
    except NpuError as error:
        raise archive.error(error) from error
    return network


def _delays(archive: Archive | Sealed, slots: int, version: int) -> Counts:
    if version < 3:
        return spread(1, slots, np.uint8)
    delay = archive.array("synapse_delay")
    if len(delay) == 1:
        return spread(delay[0], slots, delay.dtype)
    if len(delay) != slots:
        raise archive.error(f"array 'synapse_delay' has shape {delay.shape}, not {(slots,)} or (1,)")
    return delay


def _without_synapses(archive: Archive | Sealed, weight_dtype: Any, psp_dtype: Any, delay_dtype: Any) -> Connectome:
    """The neurons, areas, settings and rules, not yet validated."""
    n = archive.integer("neuron_capacity")
    columns = {
        name: archive.array(f"neuron_{name}", (n,) if field.width == 1 else (n, field.width), field.dtype)
        for name, field in NEURON_FIELDS.items()
    }
    columns["valid"] = archive.array("neuron_valid", (n,), np.bool_)
    columns["created"] = archive.array("neuron_created", (n,), np.bool_)
    archive.budget.take_network(n, 0)
    try:
        network = Connectome(
            n,
            weight_dtype=weight_dtype,
            psp_dtype=psp_dtype,
            delay_dtype=delay_dtype,
            settings=_settings(archive.text("settings")),
            areas=_areas(archive.text("areas")),
            plasticity=_plasticity(archive.text("plasticity")),
        )
        network.set_annotations(read_annotations(archive))
    except NpuError as error:
        raise archive.error(error) from error
    for name, column in columns.items():
        network.neurons[name][...] = column
    return network


def _stream(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    """What `save` wrote: the network without its synapses, and those that are not removed, as a source."""
    with Archive(given.path, reading.memory_limit) as archive:
        return _streamed(archive, _check_format(archive, reading.fields))


def _streamed(archive: Archive, version: int) -> tuple[Connectome, SynapseSource]:
    weight, psp = (archive.column(f"synapse_{name}") for name in ("weight", "psp"))
    delays = _DelayColumn(archive, weight.length, version)
    network = _without_synapses(archive, weight.dtype, psp.dtype, delays.dtype)
    try:
        network.validate()
    except NpuError as error:
        raise archive.error(error) from error
    valid = archive.column("synapse_valid", weight.length, np.bool_)
    total, (shortest, longest) = 0, NO_DELAYS
    for count in _pieces(valid.length):
        keep, delay = valid.read(count), delays.read(count)
        total += int(np.count_nonzero(keep))
        kept = delay[:1] if is_spread(delay) else delay[keep]
        if len(kept):
            shortest, longest = min(shortest, int(kept.min())), max(longest, int(kept.max()))
    if shortest < 1:
        raise archive.error("a delay of 0, where 1 is the shortest")
    return network, ProjectSynapses(archive.path, version, valid.length, total, network, (shortest, longest))


class _DelayColumn:
    """The delays of a file, piece by piece, wherever one value serves all of them."""

    def __init__(self, archive: Archive, slots: int, version: int) -> None:
        self._column, self._one, self.dtype = None, np.array(1, np.uint8), np.dtype(np.uint8)
        if version < 3:
            return
        column = archive.column("synapse_delay")
        self.dtype = column.dtype
        if column.length == 1:
            self._one = column.read(1)[0]
        elif column.length == slots:
            self._column = column
        else:
            raise archive.error(f"array 'synapse_delay' has shape {(column.length,)}, not {(slots,)} or (1,)")

    def read(self, count: int) -> Counts:
        """The next `count` of them."""
        return spread(self._one, count, self.dtype) if self._column is None else self._column.read(count)


class ProjectSynapses(SynapseSource):
    """The synapses of a project's file, read anew each time. FileFormatError: damage.

    network : says the dtypes.
    """

    def __init__(self, path: Path, version: int, slots: int, total: int, network: Connectome, delay_range: tuple[int, int]) -> None:
        self._path, self._version, self._slots, self._total = path, version, slots, total
        self._dtypes, self._delay_range = (network.weight_dtype, network.psp_dtype, network.delay_dtype), delay_range

    @property
    def total(self) -> int:
        return self._total

    @property
    def weight_dtype(self) -> CountType:
        return self._dtypes[0]

    @property
    def psp_dtype(self) -> CountType:
        return self._dtypes[1]

    @property
    def delay_dtype(self) -> DelayType:
        return self._dtypes[2]

    @property
    def delay_range(self) -> tuple[int, int]:
        return self._delay_range

    def __iter__(self) -> Iterator[SynapseBatch]:
        with Archive(self._path) as archive:
            names = {name: dtype for name, dtype in self.dtypes.items() if name != "delay"}
            columns: list[Column | _DelayColumn] = [archive.column(f"synapse_{name}", self._slots, dtype) for name, dtype in names.items()]
            columns.append(_DelayColumn(archive, self._slots, self._version))  # the last of SYNAPSE_FIELDS
            valid = archive.column("synapse_valid", self._slots, np.bool_)
            for count in _pieces(self._slots):
                keep, batch = valid.read(count), SynapseBatch(*(column.read(count) for column in columns))
                yield batch if keep.all() else batch.take(keep)


def _pieces(slots: int) -> Iterator[int]:
    for first in range(0, slots, SYNAPSES_AT_A_TIME):
        yield min(SYNAPSES_AT_A_TIME, slots - first)


def _settings_text(settings: Settings) -> str:
    """JSON has no infinity: a bound that is none is null."""
    values = asdict(settings)
    for bound in ("potential_floor", "potential_ceiling"):
        if math.isinf(values["rules"][bound]):
            values["rules"][bound] = None
    return json.dumps(values, allow_nan=False)


def _settings(text: str) -> Settings:
    try:
        values = parse_json(text)
        rules = {name: value for name, value in values.pop("rules").items() if value is not None}
        return Settings(rules=Rules(**rules), **values)
    except NetworkError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise NetworkError(f"'settings' cannot be read: {error!r:.200} in {text!r:.200}") from error


def _areas(text: str) -> dict[int, Area]:
    try:
        return {int(area): Area(**flags) for area, flags in parse_json(text).items()}
    except NetworkError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise NetworkError(f"'areas' cannot be read: {error!r:.200} in {text!r:.200}") from error


def _plasticity(text: str) -> list[PlasticityRule]:
    try:
        rules: list[PlasticityRule] = []
        for values in parse_json(text):
            name = values.pop("rule")
            if name not in RULES:
                raise NetworkError(f"'plasticity': {name!r} is not one of {', '.join(RULES)}")
            rules.append(RULES[name](**values))
        return rules
    except NetworkError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise NetworkError(f"'plasticity' cannot be read: {error!r:.200} in {text!r:.200}") from error


PROJECT = Format(
    "a network saved by this package (array 'format')", lambda given: has_array(given, "format"), _stream, _load, writes={".npz": save}
)
