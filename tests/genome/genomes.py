"""Small genomes for tests."""

from __future__ import annotations

from typing import Any

LONG = {
    "__name-t": "cortical_name",
    "_group-t": "group_id",
    "_n_cnt-i": "per_voxel_neuron_cnt",
    "fire_t-f": "firing_threshold",
    "leak_c-f": "leak_coefficient",
    "refrac-i": "refractory_period",
    "pstcr_-f": "postsynaptic_current",
    "pspuni-b": "psp_uniform_distribution",
    "mp_psp-b": "mp_driven_psp",
    "mp_acc-b": "mp_charge_accumulation",
    "dstmap-d": "cortical_mapping_dst",
}


def rule(morphology: str = "projector", psc: Any = 1, **more: Any) -> dict[str, Any]:
    """A mapping rule."""
    return {"morphology_id": morphology, "postSynapticCurrent_multiplier": psc, "plasticity_flag": False, **more}


def area(dimensions: tuple[Any, ...] = (2, 2, 2), to: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    """Properties by the last part of their flat keys."""
    boundaries = {f"___bb{axis}-i": size for axis, size in zip("xyz", dimensions, strict=True)}
    return {**boundaries, "dstmap-d": to or {}, **{KEYS.get(key, key): value for key, value in properties.items()}}


KEYS = {
    "name": "__name-t",
    "per_voxel": "_n_cnt-i",
    "threshold": "fire_t-f",
    "psp": "pstcr_-f",
    "uniform": "pspuni-b",
    "driven": "mp_psp-b",
    "accumulates": "mp_acc-b",
    "leak": "leak_c-f",
    "refractory": "refrac-i",
}


def genome(areas: dict[str, dict[str, Any]], morphologies: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """A flat genome of these areas."""
    blueprint = {f"_____10c-{name}-cx-{key}": value for name, properties in areas.items() for key, value in properties.items()}
    return {"version": "2.0", "blueprint": blueprint, "neuron_morphologies": morphologies or {}, **top}


def hierarchical(flat: dict[str, Any], version: str = "3.0") -> dict[str, Any]:
    """The same genome in the other form."""
    areas: dict[str, dict[str, Any]] = {}
    for key, value in flat["blueprint"].items():
        _, name, _, short = key.split("-", 3)
        properties = areas.setdefault(name, {})
        if short.startswith("___bb"):
            properties.setdefault("block_boundaries", [1, 1, 1])["xyz".index(short[5])] = value
        else:
            properties[LONG[short]] = value
    return {**flat, "version": version, "blueprint": areas}
