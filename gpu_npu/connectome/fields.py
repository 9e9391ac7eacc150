"""Every field of a neuron, every field of a synapse and every counter of a burst, once, with dtypes, defaults and ranges.

Arrays, checks, device layout, files and checkpoints are made from these tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CountType = type[np.uint8] | type[np.uint16] | type[np.float32]
"""Of weights and psps: what the network says."""
COUNT_TYPES: tuple[CountType, ...] = (np.uint8, np.uint16, np.float32)
DelayType = type[np.uint8] | type[np.uint16]
"""Of delays: what the network says."""
LONGEST_DELAY = 65535
"""Bursts."""
INFINITY = float("inf")
MAX_NEURONS = 2**30
"""Ids stay below 2**30: a synapse keeps two flags (inhibitory, removed) in the upper bits of its 32-bit target."""
POTENTIAL_OF_FORCED = np.float32(100)
"""Firing potential of a neuron that fires because it was forced to."""


@dataclass(frozen=True)
class Field:
    """One field of a neuron: an array of shape (n,) or, where width is 3, (n, 3)."""

    name: str
    dtype: type[np.generic]
    default: float
    minimum: float
    maximum: float
    seed_name: str
    doc: str
    width: int = 1


NEURON_FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("membrane_potential", np.float32, 0.0, -INFINITY, INFINITY, "membrane_potentials", "potential between bursts; finite"),
        Field("threshold", np.float32, 1.0, -INFINITY, INFINITY, "thresholds", "lowest potential that fires; finite"),
        Field("threshold_limit", np.float32, INFINITY, -INFINITY, INFINITY, "threshold_limits", "highest potential that fires; may be inf"),
        Field("leak_coefficient", np.float32, 0.0, 0.0, 1.0, "leak_rates", "share of the potential lost in a burst that does not fire"),
        Field("refractory_period", np.uint16, 0, 0, 65535, "refractory_periods", "bursts blocked after firing"),
        Field("refractory_countdown", np.uint16, 0, 0, 65535, "refractory_countdowns", "blocked bursts still to come"),
        Field("excitability", np.float32, 1.0, 0.0, 1.0, "excitabilities", "probability of firing at threshold"),
        Field("consecutive_fire_limit", np.uint16, 0, 0, 65535, "consecutive_fire_limits", "fires in a row; 0 and 65535: unlimited"),
        Field("consecutive_fire_count", np.uint16, 0, 0, 65535, "consecutive_fire_counts", "fires in a row so far"),
        Field("snooze_period", np.uint16, 0, 0, 65535, "snooze_periods", "extra blocked bursts once the limit is reached"),
        Field("mp_charge_accumulation", np.bool_, True, 0, 1, "mp_charge_accumulations", "potential is kept from burst to burst"),
        Field("cortical_area", np.uint32, 0, 0, 2**32 - 1, "cortical_areas", "id of the area"),
        Field("coordinates", np.uint32, 0, 0, 2**32 - 1, "coordinates", "x, y, z inside the area", width=3),
    )
}

STATE_FIELDS = ("membrane_potential", "refractory_countdown", "consecutive_fire_count")
"""The fields that a burst changes; reset() puts them back."""


@dataclass(frozen=True)
class SynapseField:
    """One field of a synapse: an array of shape (n,)."""

    name: str
    dtype: type[np.generic] | None
    """None: as the network says with its `<name>_dtype`, one of COUNT_TYPES; delays are uint8 or uint16."""
    default: int | None
    """Of synapses that do not say it; None: they must."""
    seed_name: str
    doc: str


SYNAPSE_FIELDS: dict[str, SynapseField] = {
    field.name: field
    for field in (
        SynapseField("source", np.uint32, None, "source_neurons", "id of the neuron that the synapse leaves"),
        SynapseField("target", np.uint32, None, "target_neurons", "id of the neuron that it ends in"),
        SynapseField("weight", None, None, "weights", "multiplies the psp"),
        SynapseField("psp", None, None, "conductances", "postsynaptic potential; weight * psp is delivered"),
        SynapseField("inhibitory", np.bool_, 0, "types", "the sign of what is delivered"),
        SynapseField("delay", None, 1, "delays", "bursts from the source's spike to its delivery, at least 1"),
    )
}


def largest_count(dtype: CountType) -> int:
    """The largest weight or psp of this dtype."""
    return {np.uint8: 2**8 - 1, np.uint16: 2**16 - 1, np.float32: 2**128 - 2**104}[dtype]


def synapse_dtypes(weight_dtype: CountType, psp_dtype: CountType, delay_dtype: DelayType = np.uint8) -> dict[str, type[np.generic]]:
    """The dtype of every field of a synapse in a network with these dtypes."""
    chosen: dict[str, type[np.generic]] = {"weight": weight_dtype, "psp": psp_dtype, "delay": delay_dtype}
    return {name: field.dtype or chosen[name] for name, field in SYNAPSE_FIELDS.items()}


COUNTERS: dict[str, str] = {
    "sensory_injections": "external potentials that valid neurons accepted",
    "power_injections": "potentials that power neurons received",
    "synaptic_injections": "terms that synapses delivered to valid neurons",
    "neurons_processed": "candidates",
    "neurons_in_refractory": "candidates that the countdown stopped",
}
"""What every burst counts, in the order in which kernels and recordings keep it."""
