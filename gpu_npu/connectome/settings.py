"""Areas, rules and settings of a network: small frozen values, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from gpu_npu.checks import check_choice, check_flag, check_integer, check_single
from gpu_npu.errors import NetworkError
from gpu_npu.objects import OneLine

INFINITY = math.inf


@dataclass(frozen=True, repr=False)
class Area(OneLine):
    """Name and flags of a cortical area; psp_uniform and mp_driven_psp act on the synapses that leave its neurons
    (docs/glossary.md)."""

    name: str = ""
    psp_uniform: bool = True
    """Every synapse delivers its whole psp; False: the psp is divided among the synapses that leave the neuron."""
    mp_driven_psp: bool = False
    """The psp is the potential at which the source fired, clamped to 0..255, and rounded unless a rule says otherwise."""
    power: bool = False
    """Its neurons are power neurons."""
    degeneration: float = 0.0
    """The psps of a neuron fall by so much, to 0 at the least, once the burst after a spike of it has delivered, whatever the delays;
    psps must be float32."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise NetworkError(f"name of an area: {self.name!r} is not a string")
        try:
            self.name.encode()
        except UnicodeEncodeError as error:
            raise NetworkError(f"name of an area: {self.name!r} has a lone surrogate character, which UTF-8 cannot encode") from error
        for flag in ("psp_uniform", "mp_driven_psp", "power"):
            object.__setattr__(self, flag, check_flag(getattr(self, flag), flag))
        object.__setattr__(self, "degeneration", check_single(self.degeneration, "degeneration"))
        if self.degeneration < 0:
            raise NetworkError(f"degeneration: {self.degeneration:g} is below 0")


@dataclass(frozen=True)
class Rules:
    """The switches of the neuron model, stored with the network."""

    refractory_clock: str = "candidate"
    """"candidate": a countdown falls in bursts in which its neuron is a candidate; "burst": in every burst."""
    rectify_input: bool = False
    """Neurons with mp_charge_accumulation take no negative input."""
    potential_floor: float = -INFINITY
    potential_ceiling: float = INFINITY
    """Bounds of the potential after the input was added; floor <= ceiling."""
    reset: str = "all"
    """Neurons without mp_charge_accumulation that did not fire in the last burst start from 0: "all" of them, or those alone that
    were "candidates" in it."""
    mp_driven_rounding: bool = True
    """The potential that an mp-driven neuron delivers is rounded to a whole number."""

    def __post_init__(self) -> None:
        check_choice(self.refractory_clock, "refractory_clock", "candidate", "burst")
        check_choice(self.reset, "reset", "all", "candidates")
        for flag in ("rectify_input", "mp_driven_rounding"):
            object.__setattr__(self, flag, check_flag(getattr(self, flag), flag))
        object.__setattr__(self, "potential_floor", check_single(self.potential_floor, "potential_floor", -INFINITY))
        object.__setattr__(self, "potential_ceiling", check_single(self.potential_ceiling, "potential_ceiling", INFINITY))
        if self.potential_floor > self.potential_ceiling:
            raise NetworkError(f"potential_floor {self.potential_floor} is above potential_ceiling {self.potential_ceiling}")

    @classmethod
    def preset(cls, name: str) -> Rules:
        """"seed" (the defaults), "feagi-2.6" or "feagi-2.6-fp32"."""
        if check_choice(name, "rules preset", "seed", "feagi-2.6", "feagi-2.6-fp32") == "seed":
            return cls()
        fp32 = cls(refractory_clock="burst", rectify_input=True, reset="candidates", mp_driven_rounding=False)
        if name == "feagi-2.6":
            return replace(fp32, potential_floor=0.0, potential_ceiling=255.0)
        if name == "feagi-2.6-fp32":
            return fp32
        raise NetworkError(f'rules preset {name!r} is not one of "seed", "feagi-2.6", "feagi-2.6-fp32"')


@dataclass(frozen=True)
class Settings:
    """What holds for the whole network; the reals are float32 values."""

    rules: Rules = field(default_factory=Rules)
    contribution_scale: float = 1.0
    """Potential of one unit of weight * psp."""
    power_amount: float = 1.0
    """Potential that every power neuron receives in each burst."""
    random_seed: int = 0
    """uint32; seeds the draws of neurons with excitability below 1."""

    def __post_init__(self) -> None:
        if not isinstance(self.rules, Rules):
            raise NetworkError(f"rules: {self.rules!r} is not a Rules")
        object.__setattr__(self, "contribution_scale", check_single(self.contribution_scale, "contribution_scale"))
        object.__setattr__(self, "power_amount", check_single(self.power_amount, "power_amount"))
        object.__setattr__(self, "random_seed", check_integer(self.random_seed, "random_seed", 0, 2**32 - 1))
