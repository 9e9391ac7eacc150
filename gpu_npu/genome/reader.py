"""Reading a genome: JSON, flat (2.x, and 3.0 as FEAGI saves it) or hierarchical, into typed areas, rules and morphologies."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_npu.checks import check_path, is_integer, is_real
from gpu_npu.errors import FileFormatError
from gpu_npu.io.budget import Budget
from gpu_npu.io.kinds import GENOME, another
from gpu_npu.io.strict_json import parse_json
from gpu_npu.objects import OneLine

from . import areas as read
from .areas import AXES_OF, FLAT, OLD_SPELLINGS, CorticalArea, Key, Refused, Rule
from .ids import CORE_AREAS, POWER, area_id, base64_id
from .morphologies import RENAMED, Morphology, read_morphology
from .report import Report

PREFIX = "_____10c-"
"""How the flat key of a cortical area begins."""
FLAT_BEGINNING = "_____10"
"""How every flat key begins."""
MAX_DEPTH = 128
"""Levels of nesting; no genome has ten."""
MAX_UINT16 = 65535
DEFAULT_TIMESTEP = 0.025
"""Seconds of a burst, where a genome does not say."""
_RULE_ARRAY = (
    "morphology_id",
    "morphology_scalar",
    "postSynapticCurrent_multiplier",
    "plasticity_flag",
    "plasticity_constant",
    "ltp_multiplier",
    "ltd_multiplier",
    "plasticity_window",
    "synaptic_delay_bursts",
)
"""What the places of a rule given as an array mean."""
_RULE_NEEDS = ("morphology_id", "postSynapticCurrent_multiplier", "plasticity_flag")
_PLASTIC_NEEDS = ("plasticity_constant", "ltp_multiplier", "ltd_multiplier", "plasticity_window")
_RULE_KEYS = frozenset(
    (*_RULE_ARRAY, "synapse_attractivity", "plasticity_mode", "plasticity_eta", "max_weight", "plasticity_frozen")
)
MULTIPLIERS = range(-128, 128)
"""What FEAGI keeps the integer parts of ltp_multiplier and ltd_multiplier in."""
MOST_WINDOW, MOST_ETA = 65535, 2.0**120
"""Of a plastic mapping rule: bursts that a FeagiRule can count, and what 255 steps of weight can be multiplied by in float32."""
_CORE_DEFAULTS: dict[str, Any] = {"threshold": 0.1, "psp": 500.0, "psp_uniform": True, "group": "CORE"}
"""Of a core area that the genome does not name."""


@dataclass(frozen=True, repr=False)
class Genome(OneLine):
    """A genome, read and checked."""

    title: str
    version: str
    timestep: float
    """Seconds of a burst."""
    areas: tuple[CorticalArea, ...]
    """In the order of their base64 ids, core areas included."""
    morphologies: Mapping[str, Morphology]


def read_genome(source: str | os.PathLike[str] | Mapping[str, Any], report: Report, memory_limit: int | None = None) -> Genome:
    """A genome from a JSON file, or from the object that such a file holds.

    memory_limit: as of `Budget.of`. FileFormatError: no JSON, cut short, another version, or a value that its key cannot have.
    CapacityError: too large a file. OSError: not readable.
    """
    root, where = (source, "genome") if isinstance(source, Mapping) else (_parse(check_path(source, "genome"), memory_limit), str(source))
    try:
        return _genome(root, report)
    except FileFormatError as error:
        raise FileFormatError(f"{where}: {error}") from error


def shown(value: object) -> str:
    """A value for a message, however large or deep it is."""
    try:
        return reprlib.repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        return f"a {type(value).__name__}"


# -- the file ------------------------------------------------------------------------------------------------------
def _parse(path: Path, memory_limit: int | None) -> Any:
    budget = Budget.of(path, memory_limit)
    with path.open("rb") as file:
        text = budget.read(file, "the genome")
    budget.take_json(len(text), "the genome")
    try:
        return parse_json(text)
    except ValueError as error:
        raise another(path, GENOME, error) from error


def _check_depth(root: object) -> None:
    """Level by level, each container once a level: neither depth nor cycles of an object made in Python can hurt."""
    level: list[object] = [root]
    for _ in range(MAX_DEPTH):
        below = {}
        for value in level:
            parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
            below.update({id(part): part for part in parts if isinstance(part, (Mapping, list, tuple))})
        if not below:
            return
        level = list(below.values())
    raise FileFormatError(f"nested deeper than {MAX_DEPTH} levels, or in itself")


def _section(root: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = root.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FileFormatError(f"{name}: {shown(value)} is not an object")
    return value


def _genome(root: Any, report: Report) -> Genome:
    if not isinstance(root, Mapping):
        raise FileFormatError(f"{shown(root)} is not a genome: an object with a blueprint is needed")
    _check_depth(root)
    version = _version(root)
    if root.get("blueprint") is None:
        raise FileFormatError(f"no blueprint; the file has: {', '.join(map(str, root)) or 'nothing'}")
    _check_regions(_section(root, "brain_regions"))
    morphologies = _morphologies(_section(root, "neuron_morphologies"))
    found = _areas(_section(root, "blueprint"), version, report)
    for core in CORE_AREAS:
        if core.id not in found:
            found[core.id] = CorticalArea(core.id, name=core.name, position=core.position, **_CORE_DEFAULTS)
    return Genome(
        title=str(root.get("genome_title") or ""),
        version=version,
        timestep=_timestep(root.get("physiology"), report),
        areas=tuple(sorted(found.values(), key=lambda area: base64_id(area.id))),
        morphologies=morphologies,
    )


def _version(root: Mapping[str, Any]) -> str:
    version = root.get("version")
    if version is None:
        schema = root.get("genome_schema_version")
        if schema is None:
            raise FileFormatError("neither version nor genome_schema_version: not a genome, or one that FEAGI refuses too")
        if not is_integer(schema) or not 2 <= schema <= 7:
            raise FileFormatError(f"genome_schema_version: {shown(schema)} is not one of 2 to 7")
        return "3.0" if schema == 7 else "2.0"
    if not (isinstance(version, str) or is_real(version)) or str(version).split(".")[0] not in ("2", "3"):
        raise FileFormatError(f"version: {shown(version)} is not 2.0, 2.1 or 3.0, which this release reads")
    return str(version)


def _timestep(physiology: Any, report: Report) -> float:
    """Seconds of a burst. What is no number is passed over, as FEAGI does: no neuron and no synapse depends on it."""
    if physiology is not None and not isinstance(physiology, Mapping):
        report.warn(f"physiology: passed over, as FEAGI does: {shown(physiology)} is no object")
        physiology = None
    for key in ("simulation_timestep", "burst_delay"):
        value = (physiology or {}).get(key)
        if value is None:
            continue
        try:
            seconds = read.real(value)
        except Refused as refused:
            report.warn(f"physiology, {key}: passed over, as FEAGI does: {shown(value)}, where {refused}")
            continue
        if seconds <= 0:
            raise FileFormatError(f"physiology, {key}: {shown(value)} is not a number of seconds above 0")
        return seconds
    return DEFAULT_TIMESTEP


def _check_regions(regions: Mapping[str, Any]) -> None:
    """Regions group areas for display; they must be a forest all the same."""
    parents: dict[str, str] = {}
    for name, region in regions.items():
        if not isinstance(region, Mapping):
            raise FileFormatError(f"brain_regions, {shown(name)}: {shown(region)} is not an object")
        if isinstance(region.get("parent_region_id"), str):
            parents[name] = region["parent_region_id"]
        inside = region.get("regions")
        for child in inside if isinstance(inside, (list, tuple)) else ():
            if isinstance(child, str):
                parents.setdefault(child, name)
    _check_chains(parents, "brain_regions")


def _check_chains(following: Mapping[str, str], what: str) -> None:
    """FileFormatError naming a cycle among name -> the one that it refers to."""
    done: set[str] = set()
    for start in following:
        path: dict[str, None] = {}
        at: str | None = start
        while at is not None and at not in done:
            if at in path:
                names = list(path)
                cycle = [*names[names.index(at) :], at]
                raise FileFormatError(f"{what}: {' -> '.join(map(shown, cycle[:8]))} is a cycle of {len(cycle) - 1:,}")
            path[at] = None
            at = following.get(at)
        done.update(path)


# -- morphologies --------------------------------------------------------------------------------------------------
def _morphologies(section: Mapping[str, Any]) -> dict[str, Morphology]:
    found = {str(name): read_morphology(definition) for name, definition in section.items()}
    mappers = {name: one.mapper for name, one in found.items() if one.mapper is not None}
    _check_chains(mappers, "neuron_morphologies, mapper_morphology")
    return {RENAMED.get(name, name): one for name, one in found.items()}


# -- areas ---------------------------------------------------------------------------------------------------------
Raw = dict[str, list[tuple[str, Key, Any]]]
"""Area as the genome writes it -> (key as written, its meaning, value) of all that it says."""


def _areas(blueprint: Mapping[str, Any], version: str, report: Report) -> dict[bytes, CorticalArea]:
    flat = any(str(key).startswith(FLAT_BEGINNING) for key in blueprint)
    if flat:
        blueprint = _cortical(blueprint, report)
    raw: Raw = {}
    for area, key, name, value in _flat(blueprint) if flat else _hierarchical(blueprint):
        entries = raw.setdefault(area, [])
        if name is None or (name.flat == "snooze-f" and key.endswith("snooze-i") and not version.startswith("3")):
            short = _short(key)
            counts = report.ignored_keys if short in OLD_SPELLINGS else report.unknown_keys
            counts[short] = counts.get(short, 0) + 1
        elif value is None:
            if name.attribute:
                report.warn(f"area {shown(area)}, {key}: null, taken as if the key were absent")
        else:
            entries.append((key, name, value))
    odd_keys = ((report.unknown_keys, "is not a key of an area"), (report.ignored_keys, "is an old key that FEAGI 2.6 passes over"))
    for counted, said in odd_keys:
        for short, areas in counted.items():
            report.warn(f"{short} ({areas:,} areas) {said}; it has no effect")
    found: dict[bytes, CorticalArea] = {}
    for text, entries in raw.items():
        identity = area_id(text)
        if identity is None:
            report.warn(f"area {shown(text)} is left out: its id has neither 6 nor 8 letters, nor 12 of base64")
        elif identity in found:
            raise FileFormatError(f"areas {found[identity].genome_id!r} and {text!r} are one and the same: {base64_id(identity)}")
        else:
            found[identity] = _area(identity, text, entries, report)
    return found


def _cortical(blueprint: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """The keys of cortical areas in a flat blueprint; FEAGI passes the others over (`_____10b-...` names the species)."""
    kept = {key: value for key, value in blueprint.items() if str(key).startswith(PREFIX)}
    report.foreign_keys = len(blueprint) - len(kept)
    if report.foreign_keys:
        first = next(key for key in blueprint if key not in kept)
        report.warn(
            f"{report.foreign_keys:,} keys of the blueprint do not begin with {PREFIX} and so belong to no cortical area,"
            f" the first is {shown(first)}; they have no effect"
        )
    return kept


def _short(key: str) -> str:
    """The part of a key that names the property; in a flat key a field cx or nx, which means nothing, may stand before it."""
    if not key.startswith(PREFIX):
        return key
    parts = key.split("-", 3)[2:]
    return parts[-1] if parts[:1] in (["cx"], ["nx"]) else "-".join(parts)


def _flat(blueprint: Mapping[str, Any]) -> Iterator[tuple[str, str, Key | None, Any]]:
    """(area, key, meaning, value)"""
    for key, value in blueprint.items():
        area, short = key.split("-")[1], _short(key)
        yield area, key, FLAT.get("snooze-f" if short == "snooze-i" else short), value


def _hierarchical(blueprint: Mapping[str, Any]) -> Iterator[tuple[str, str, Key | None, Any]]:
    for area, properties in blueprint.items():
        if not isinstance(area, str) or not isinstance(properties, Mapping):
            raise FileFormatError(f"blueprint, area {shown(area)}: {shown(properties)} is not an object of properties")
        for key, value in properties.items():
            axes = AXES_OF.get(key, [])
            if len(axes) <= 1:
                yield area, str(key), axes[0] if axes else FLAT.get("snooze-f") if key == "snooze-i" else None, value
                continue
            if value is None or not any(axis.attribute for axis in axes):
                yield area, key, axes[0], None if axes[0].attribute else value
                continue
            if not isinstance(value, (list, tuple)) or len(value) != len(axes):
                raise FileFormatError(f"area {area!r}, {key}: {shown(value)}, where a list of {len(axes)} is needed")
            for axis, part in zip(axes, value, strict=True):
                yield area, key, axis, part


def _area(identity: bytes, text: str, entries: list[tuple[str, Key, Any]], report: Report) -> CorticalArea:
    core = identity[:1] == b"_"
    fields: dict[str, Any] = {"group": "CORE" if core else "CUSTOM", "psp_uniform": identity == POWER}
    rules: tuple[Rule, ...] = ()
    for key, name, value in entries:
        if name.attribute == "destinations" and not isinstance(value, Mapping):
            report.warn(f"area {shown(text)}, {key}: passed over, as FEAGI does: {shown(value)} is no object of mappings")
            report.dropped_rules += 1
            continue
        try:
            got = name.read(value)
        except Refused as refused:
            raise FileFormatError(f"area {shown(text)}, {key}: {shown(value)}, where {refused}") from None
        if name.attribute == "destinations":
            rules = tuple(_rules(text, key, got, report))
        elif name.axis is not None and name.attribute:
            parts = fields.setdefault(name.attribute, list(getattr(CorticalArea, name.attribute)))
            parts[name.axis] = got
        elif name.attribute:
            if name.attribute in ("refractory_period", "consecutive_fire_limit", "snooze_period") and got > MAX_UINT16:
                report.warn(f"area {shown(text)}, {key}: {got} is {got % (MAX_UINT16 + 1)}, as FEAGI keeps 16 bits of it")
                got %= MAX_UINT16 + 1
            fields[name.attribute] = got
    settled: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return CorticalArea(identity, text, rules=rules, **settled)


# -- rules ---------------------------------------------------------------------------------------------------------
def _rules(area: str, key: str, destinations: Mapping[str, Any], report: Report) -> list[Rule]:
    """All rules of an area in the order in which they are applied: targets in the order of their base64 ids."""
    found: list[tuple[str, list[Rule]]] = []
    for text, listed in destinations.items():
        try:
            target = area_id(text)
        except FileFormatError:
            target = None
        where = f"area {shown(area)}, {key}, to {shown(text)}"
        if not isinstance(listed, (list, tuple)):
            report.warn(f"{where}: passed over, as FEAGI does: {shown(listed)} is no list of rules")
            report.dropped_rules += 1
            continue
        rules: list[Rule] = []
        for place, given in enumerate(listed):
            rule = _rule(f"{where}, rule {place}", given, target, text, len(rules), report)
            if rule is None:
                report.dropped_rules += 1
            else:
                rules.append(rule)
        found.append((base64_id(target) if target is not None else text, rules))
    found.sort(key=lambda item: item[0])
    return [rule for _, rules in found for rule in rules]


def _rule(where: str, given: Any, target: bytes | None, text: str, index: int, report: Report) -> Rule | None:
    """None for a rule that FEAGI drops, with a warning that says why."""
    if isinstance(given, Mapping):
        rule = given
        plastic = rule.get("plasticity_flag") is True and rule.get("plasticity_mode") != "off"
        needed = _RULE_NEEDS + _PLASTIC_NEEDS if plastic else _RULE_NEEDS
        for name in rule:
            if name not in _RULE_KEYS:
                report.warn(f"{where}: {shown(name)} is not a key of a rule; it has no effect")
    elif isinstance(given, (list, tuple)):
        if len(given) < 4:
            report.warn(f"{where} is dropped, as FEAGI does: {len(given)} values where at least 4 are needed: {shown(given)}")
            return None
        if len(given) > len(_RULE_ARRAY):
            report.warn(f"{where}: {len(given)} values; those after the {len(_RULE_ARRAY)}th have no effect")
        rule = dict(zip(_RULE_ARRAY, given, strict=False))
        needed = _RULE_NEEDS
    else:
        report.warn(f"{where} is dropped, as FEAGI does: {shown(given)} is neither an object nor an array")
        return None
    missing = [name for name in needed if rule.get(name) is None]
    if missing:
        report.warn(f"{where} is dropped, as FEAGI does: it has no {', no '.join(missing)}")
        return None

    def get(name: str, as_type: Any, default: Any) -> Any:
        value = rule.get(name)
        if value is None:
            return default
        try:
            return as_type(value)
        except Refused as refused:
            raise FileFormatError(f"{where}, {name}: {shown(value)}, where {refused}") from None

    delay = get("synaptic_delay_bursts", read.count, 1)
    if delay > 255:
        report.warn(f"{where}, synaptic_delay_bursts: {delay} is 1, as FEAGI takes delays above 255")
        delay = 1
    attractivity = get("synapse_attractivity", read.real, 100.0)
    if not 0 <= attractivity <= 100:
        raise FileFormatError(f"{where}, synapse_attractivity: {attractivity:g} is outside 0..100")
    morphology: str = get("morphology_id", read.text, "")
    mode: str = get("plasticity_mode", read.text, "stdp")
    plastic = get("plasticity_flag", read.flag, False) and mode != "off"
    constant = rule.get("plasticity_constant")
    ltp, ltd = (get(name, read.real, 0.0) for name in ("ltp_multiplier", "ltd_multiplier"))
    fault = ""
    if plastic and constant is not None and not is_real(constant):
        fault, constant = f"it is plastic and its plasticity_constant {shown(constant)} is no number", None
    for what, multiplier in (("ltp_multiplier", ltp), ("ltd_multiplier", ltd)):
        if plastic and int(multiplier) not in MULTIPLIERS:
            fault = fault or f"it is plastic and its {what} {multiplier:g} is outside -128..127"
    window, eta = get("plasticity_window", read.truncated, 0), get("plasticity_eta", read.not_negative, 1.0)
    for what, value, most in (("plasticity_window", window, MOST_WINDOW), ("plasticity_eta", eta, MOST_ETA)):
        if plastic and value > most:
            raise FileFormatError(f"{where}, {what}: {value:g} is more than {most:g}, the most that is computed here")
    return Rule(
        target=target,
        target_text=text,
        index=index,
        morphology=RENAMED.get(morphology, morphology),
        psc=get("postSynapticCurrent_multiplier", read.real, 0.0),
        plastic=plastic,
        constant=0.0 if constant is None else get("plasticity_constant", read.real, 0.0),
        ltp=ltp,
        ltd=ltd,
        window=window,
        eta=eta,
        max_weight=get("max_weight", read.not_negative, None),
        frozen=get("plasticity_frozen", read.flag, False),
        mode=mode,
        fault=fault,
        delay=delay,
        attractivity=attractivity,
        scalar=rule.get("morphology_scalar"),
    )
