"""Cortical areas and mapping rules as a genome gives them, and the one table of the keys that it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_npu.checks import is_real
from gpu_npu.objects import OneLine

from .ids import KINDS, POWER, base64_id, readable_id

REAL_LIMIT = float(np.finfo(np.float32).max)


class Refused(Exception):
    """A value that its key cannot have; the text says what is needed. The reader adds key, area and value."""


# -- values --------------------------------------------------------------------------------------------------------
def real(value: Any) -> float:
    """A number that float32 can hold."""
    if not is_real(value) or not abs(value) <= REAL_LIMIT:
        raise Refused("a finite number is needed")
    return float(value)


def count(value: Any) -> int:
    """An integer of 0 to 4294967295."""
    if not is_real(value) or not 0 <= value < 2**32 or value != int(value):
        raise Refused("an integer of 0 to 4294967295 is needed")
    return int(value)


def coordinate(value: Any) -> int:
    """A number, for display: its integer part."""
    return int(real(value))


def truncated(value: Any) -> int:
    """The integer part of a number of 0 to 4294967295."""
    if not is_real(value) or not 0 <= value < 2**32:
        raise Refused("a number of 0 to 4294967295 is needed")
    return int(value)


def not_negative(value: Any) -> float:
    """A number that float32 can hold, 0 or above."""
    if real(value) < 0:
        raise Refused("a finite number of 0 or above is needed")
    return float(value)


def at_least_one(value: Any) -> int:
    """As `count`, 0 meaning 1."""
    return count(value) or 1


def flag(value: Any) -> bool:
    """true or false."""
    if value is not True and value is not False:
        raise Refused("true or false is needed")
    return bool(value)


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise Refused("a string is needed")
    return value


def table(value: Any) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Refused("an object is needed")
    return value


def anything(value: Any) -> None:
    """What neither neurons nor synapses depend on."""


# -- keys ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class Key(OneLine):
    """One key of an area: the last fields of the flat key, the long name, and what is made of the value."""

    flat: str
    long: str
    read: Callable[[Any], Any]
    attribute: str = ""
    """Of CorticalArea; empty: the value is looked at by nobody."""
    axis: int | None = None
    """Place in the list that the long name holds, or in the attribute."""


def _axes(flat: str, long: str, read: Callable[[Any], Any], attribute: str, axes: str = "xyz") -> list[Key]:
    return [Key(flat.format(axis), long, read, attribute, i) for i, axis in enumerate(axes)]


KEYS = (
    Key("__name-t", "cortical_name", text, "name"),
    Key("_group-t", "group_id", text, "group"),
    *_axes("___bb{}-i", "block_boundaries", at_least_one, "dimensions"),
    *_axes("rcord{}-i", "relative_coordinate", coordinate, "position"),
    Key("_n_cnt-i", "per_voxel_neuron_cnt", at_least_one, "neurons_per_voxel"),
    Key("fire_t-f", "firing_threshold", real, "threshold"),
    *(
        Key(f"ftinc{axis}-f", f"firing_threshold_increment_{axis}", real, "threshold_increment", i)
        for i, axis in enumerate("xyz")
    ),
    Key("fthlim-f", "firing_threshold_limit", real, "threshold_limit"),
    Key("refrac-i", "refractory_period", count, "refractory_period"),
    Key("leak_c-f", "leak_coefficient", real, "leak_coefficient"),
    Key("c_fr_c-i", "consecutive_fire_cnt_max", count, "consecutive_fire_limit"),
    Key("snooze-f", "snooze_length", count, "snooze_period"),
    Key("excite-f", "neuron_excitability", real, "excitability"),
    Key("pstcr_-f", "postsynaptic_current", real, "psp"),
    Key("pspuni-b", "psp_uniform_distribution", flag, "psp_uniform"),
    Key("mp_psp-b", "mp_driven_psp", flag, "mp_driven_psp"),
    Key("mp_acc-b", "mp_charge_accumulation", flag, "mp_charge_accumulation"),
    Key("memory-b", "is_mem_type", flag, "memory"),
    Key("de_gen-f", "degeneration", real, "degeneration"),
    Key("mem__t-i", "longterm_mem_threshold", real, "longterm_threshold"),
    Key("mem_gr-i", "lifespan_growth_rate", real, "lifespan_growth"),
    Key("mem_ls-i", "init_lifespan", real, "initial_lifespan"),
    Key("tmpdpt-i", "temporal_depth", count, "temporal_depth"),
    Key("dstmap-d", "cortical_mapping_dst", table, "destinations"),
    # Nothing that grows depends on these.
    Key("subgrp-t", "sub_group_id", anything),
    Key("devcnt-i", "dev_count", anything),
    Key("gd_vis-b", "visualization", anything),
    *_axes("2dcor{}-i", "2d_coordinate", anything, "", "xy"),
    Key("synatt-f", "synapse_attractivity", anything),
    Key("__rand-b", "location_generation_type", anything),
    Key("leak_v-f", "leak_variability", anything),
    Key("pstcrm-f", "postsynaptic_current_max", anything),
    Key("", "cortical_group", anything),
    Key("", "cortical_type", anything),
    Key("", "cortical_dimensions", anything),
    Key("", "coordinates_3d", anything),
)
FLAT = {key.flat: key for key in KEYS if key.flat}
AXES_OF = {key.long: [other for other in KEYS if other.long == key.long] for key in KEYS}
"""Long name -> its keys, more than one where it holds a list."""
_KINDS_OF_GROUPS = {"CORE": "core", "IPU": "sensory", "OPU": "motor", "MEMORY": "memory", "CUSTOM": "custom"}
OLD_SPELLINGS = frozenset({"excite-i", "fthlim-i", "synatt-i", "snooze-i", "plst_c-f", "plasticity_constant"})
"""Keys that FEAGI 2.6 passes over; `snooze-i` it reads again from version 3 on."""


# -- what a genome says --------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class Rule(OneLine):
    """One mapping rule from an area to another."""

    target: bytes | None
    """Id of the target area; None: a text that is no id."""
    target_text: str
    index: int
    """Among the rules to this target."""
    morphology: str
    psc: float
    """postSynapticCurrent_multiplier: weight, and inhibition where it is negative."""
    plastic: bool
    constant: float = 0.0
    ltp: float = 0.0
    ltd: float = 0.0
    window: int = 0
    eta: float = 1.0
    """plasticity_eta."""
    max_weight: float | None = None
    frozen: bool = False
    mode: str = "stdp"
    """plasticity_mode."""
    fault: str = ""
    """Why FEAGI cannot apply it, where its plasticity is at fault."""
    delay: int = 1
    """1..255; 0 is an error when the rule is applied."""
    attractivity: float = 100.0
    """Percentage of the pairs that become synapses."""
    scalar: Any = None
    """morphology_scalar; without effect."""


@dataclass(frozen=True, repr=False)
class CorticalArea(OneLine):
    """A cortical area: parameters in FEAGI's units, defaults as for a key that is absent."""

    id: bytes
    genome_id: str = ""
    """The id as the genome writes it; empty for a core area that it does not name."""
    name: str = ""
    group: str = ""
    dimensions: tuple[int, int, int] = (1, 1, 1)
    position: tuple[int, int, int] = (0, 0, 0)
    neurons_per_voxel: int = 1
    threshold: float = 1.0
    threshold_increment: tuple[float, float, float] = (0.0, 0.0, 0.0)
    threshold_limit: float = 0.0
    """0: none."""
    refractory_period: int = 0
    leak_coefficient: float = 0.0
    consecutive_fire_limit: int = 0
    """0: none."""
    snooze_period: int = 0
    excitability: float = 1.0
    """0..1; above 1: as 1."""
    psp: float = 1.0
    psp_uniform: bool = False
    mp_driven_psp: bool = False
    mp_charge_accumulation: bool = False
    degeneration: float = 0.0
    """de_gen-f: how much the psps of its neurons fall as they fire, in FEAGI."""
    memory: bool = False
    longterm_threshold: float = 100.0
    lifespan_growth: float = 1.0
    initial_lifespan: float = 9.0
    temporal_depth: int = 1
    rules: tuple[Rule, ...] = field(default=(), repr=False)
    """In the order in which they are applied."""

    @property
    def base64(self) -> str:
        """The id as FEAGI prints it."""
        return base64_id(self.id)

    @property
    def text(self) -> str:
        """The id as text; bytes that are no characters are escaped."""
        return readable_id(self.id)

    @property
    def kind(self) -> str:
        """core, sensory, motor, custom or memory: by its group, else by its id."""
        return _KINDS_OF_GROUPS.get(self.group) or KINDS[chr(self.id[0])]

    @property
    def is_power(self) -> bool:
        """Its neurons fire by themselves."""
        return self.id == POWER

    @property
    def voxels(self) -> int:
        """Of the whole block."""
        x, y, z = self.dimensions
        return x * y * z

    @property
    def neuron_count(self) -> int:
        """Voxels times neurons per voxel."""
        return self.voxels * self.neurons_per_voxel

    @property
    def title(self) -> str:
        """Genome's id and name, for messages."""
        identity = f"{self.genome_id or self.text:.40}"
        return f"{identity} ({self.name:.60})" if self.name else identity
