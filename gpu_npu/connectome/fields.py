"""Every neuron field of the semantics, once: name, dtype, default, range, and its name in the first API.

All tables of the package (arrays, validation, device layout, files) are made from this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
