"""A connectome from whatever holds one as Python objects, as FEAGI's connectome manager does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from gpu_npu.checks import is_integer
from gpu_npu.connectome import NEURON_FIELDS, Connectome
from gpu_npu.errors import NetworkError

_SYNAPSE = (("source", "source_neuron"), ("target", "target_neuron"), ("weight",), ("conductance", "psp"))
_TYPE = ("type", "syn_type", "inhibitory")
_ABSENT = object()


class Manager(Protocol):
    """What is asked of it.

    neurons : id -> neuron. A neuron is an object or a mapping; it has any fields of NEURON_FIELDS, under these names or
        those of the first API (`leak_rate`, `cortical_area`, ...); those it has not are at their defaults.
    synapses : of tuples (source, target, weight, conductance[, type]), or of objects or mappings with these names; a
        mapping's values are taken. type 0 is excitatory, 1 inhibitory.
    neuron_count : ids that are reserved.
    synapse_capacity : synapses that are reserved.
    """

    @property
    def neurons(self) -> Mapping[int, Any]:
        """id -> neuron"""

    @property
    def synapses(self) -> Iterable[Any] | Mapping[Any, Any]:
        """All synapses."""

    @property
    def neuron_count(self) -> int:
        """Reserved ids."""

    @property
    def synapse_capacity(self) -> int:
        """Reserved synapses."""


def connectome_of(manager: Manager) -> Connectome:
    """The connectome that such an object holds. NetworkError and its like: an id, a value or a synapse that is not allowed,
    or an attribute that is missing."""
    missing = [name for name in ("neurons", "synapses", "neuron_count", "synapse_capacity") if not hasattr(manager, name)]
    if missing:
        raise NetworkError(f"a {type(manager).__name__} cannot be read as a network: it lacks the attributes {', '.join(missing)}")
    connectome = Connectome(manager.neuron_count, manager.synapse_capacity)
    neurons = manager.neurons
    for neuron in neurons:
        if not is_integer(neuron):
            raise NetworkError(f"neurons: {neuron!r} is not an integer id")
    fields: dict[str, list[Any]] = {}
    for name, field in NEURON_FIELDS.items():
        names = (name, field.seed_name, field.seed_name.removesuffix("s"))
        values = [_get(neuron, names, _ABSENT) for neuron in neurons.values()]
        if any(value is not _ABSENT for value in values):
            default = (field.default,) * field.width if field.width > 1 else field.default
            fields[name] = [default if value is _ABSENT else value for value in values]
    connectome.create_neurons(np.array(list(neurons), np.int64), **fields)
    synapses = manager.synapses
    for i, synapse in enumerate(synapses.values() if isinstance(synapses, Mapping) else synapses):
        source, target, weight, conductance, kind = _parts(synapse, i)
        connectome.add_synapse(source, target, weight, conductance, bool(kind) if kind in (0, 1) else kind)
    return connectome


def _parts(synapse: Any, i: int) -> tuple[Any, ...]:
    """(source, target, weight, conductance, type)"""
    if isinstance(synapse, (tuple, list)):
        if len(synapse) not in (4, 5):
            raise NetworkError(f"synapses[{i}]: {synapse!r} is not (source, target, weight, conductance, type)")
        return (*synapse, 0)[:5]
    found = [_get(synapse, names, _ABSENT) for names in _SYNAPSE]
    for names, value in zip(_SYNAPSE, found, strict=True):
        if value is _ABSENT:
            raise NetworkError(f"synapses[{i}]: this {type(synapse).__name__} has no {names[0]}")
    return (*found, _get(synapse, _TYPE, 0))


def _get(item: Any, names: Iterable[str], default: Any) -> Any:
    """The first of these that the object or mapping has."""
    for name in names:
        value = item.get(name, _ABSENT) if isinstance(item, Mapping) else getattr(item, name, _ABSENT)
        if value is not _ABSENT:
            return value
    return default
