"""Plasticity rules as data: what acts on the synapses of a mapping, with its parameters. docs/plasticity.md has the formulas.

A rule belongs to a mapping: all synapses from a neuron that is in the source area to one that is in the target area, as
these are when a burst ends. Rules act after archival, in the order registered, each on what the one before left.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpu_npu.checks import check_area_id, check_choice, check_flag, check_integer, check_real, check_single
from gpu_npu.errors import NetworkError
from gpu_npu.objects import described

TRACE_BITS = 20
"""A trace of 2**20 is one spike of now."""
RESIDUE_BITS = 16
"""The residue of a synapse counts units of 2**-16 of its weight."""
MAX_TAU = 2000.0
"""Bursts; a neuron that fires in every burst then has a trace below 2**31."""
MIN_TAU = 0.1
MAX_STEP = 65535
"""Largest step of a rule, in units of weight."""


class PlasticityRule(ABC):
    """What acts on the synapses of one mapping. `WindowRule` and `PairRule` run on every backend, `CustomRule` on the reference."""

    name: ClassVar[str]
    """Of the kind of rule: what it is called in files, listings and kernels."""
    source_area: int
    target_area: int

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Any]:
        """Every parameter by name, the areas too."""

    @abstractmethod
    def reach(self, largest: int) -> int:
        """The largest weight that it can raise a synapse to (0: it raises none). `largest`: of the network's weight dtype."""

    def check(self, largest: int) -> None:
        """NetworkError where the rule does not fit a network with weights of 0..`largest`. Every rule does, where it does not say."""
        return None


@dataclass(frozen=True)
class WindowRule(PlasticityRule):
    """Potentiates what fires together through a whole window, depresses the rest of what fired. FEAGI's rule.

    After each burst t >= window, for the last `window` bursts, t included: neither end fired in them: no change. Both
    fired in all of them: weight + plus, at most the dtype's largest. Otherwise: weight - minus, at least 0.
    """

    name: ClassVar[str] = "window"
    source_area: int
    target_area: int
    window: int
    plus: int
    minus: int

    def __post_init__(self) -> None:
        _areas(self)
        object.__setattr__(self, "window", check_integer(self.window, "window", 1, 65535))
        object.__setattr__(self, "plus", check_integer(self.plus, "plus", 0, MAX_STEP))
        object.__setattr__(self, "minus", check_integer(self.minus, "minus", 0, MAX_STEP))

    @property
    def parameters(self) -> Mapping[str, Any]:
        return asdict(self)

    def reach(self, largest: int) -> int:
        return largest if self.plus else 0


@dataclass(frozen=True)
class PairRule(PlasticityRule):
    """Exponential STDP: source before target potentiates, target before source depresses; event by event.

    A pair of spikes n >= 1 bursts apart changes the weight by a_plus * exp(-n / tau_plus) or by
    -a_minus * exp(-n / tau_minus), in fixed point; two spikes of one burst are no pair.
    """

    name: ClassVar[str] = "pair"
    source_area: int
    target_area: int
    a_plus: float
    """In units of weight, 0 or 2**-16..65535; kept to 2**-16, see `plus`."""
    a_minus: float
    tau_plus: float
    """In bursts, 0.1..2000."""
    tau_minus: float
    pairing: str = "nearest"
    """"nearest": each spike pairs with the last one of the other end; "all": with all earlier ones."""
    bounds: str = "additive"
    """"additive": steps of one size, cut at the bounds; "multiplicative": steps in proportion to the distance from the bound."""
    w_min: int = 0
    w_max: int | None = None
    """None: the largest weight of the network's dtype. A weight that is outside the bounds is moved by no step away from
    them, and by others as if it were inside."""

    def __post_init__(self) -> None:
        _areas(self)
        for step in ("a_plus", "a_minus"):
            value = check_real(getattr(self, step), step, 0, MAX_STEP)
            if value > 0 and not _fixed(value):
                raise NetworkError(f"{step}: {value} is above 0 and below the resolution of a weight, 2**-16; take 0 or a larger step")
            object.__setattr__(self, step, value)
        for tau in ("tau_plus", "tau_minus"):
            object.__setattr__(self, tau, check_real(getattr(self, tau), tau, MIN_TAU, MAX_TAU))
        check_choice(self.pairing, "pairing", "nearest", "all")
        check_choice(self.bounds, "bounds", "additive", "multiplicative")
        object.__setattr__(self, "w_min", check_integer(self.w_min, "w_min", 0, MAX_STEP))
        if self.w_max is not None:
            object.__setattr__(self, "w_max", check_integer(self.w_max, "w_max", 0, MAX_STEP))
            if self.w_min >= self.w_max:
                raise NetworkError(f"w_min {self.w_min} is not below w_max {self.w_max}")

    @property
    def parameters(self) -> Mapping[str, Any]:
        return asdict(self)

    @property
    def plus(self) -> int:
        """a_plus in units of 2**-16."""
        return _fixed(self.a_plus)

    @property
    def minus(self) -> int:
        """a_minus in units of 2**-16."""
        return _fixed(self.a_minus)

    def top(self, largest: int) -> int:
        """w_max in a network with weights of 0..`largest`."""
        return largest if self.w_max is None else self.w_max

    def reach(self, largest: int) -> int:
        return self.top(largest) if self.plus else 0

    def check(self, largest: int) -> None:
        if self.top(largest) > largest:
            raise NetworkError(f"w_max: {self.w_max} is more than {largest}, the largest weight of this network")
        if self.w_min >= self.top(largest):
            raise NetworkError(f"w_min {self.w_min} is not below {self.top(largest)}, the largest weight of this network")


@dataclass(frozen=True)
class FeagiRule(PlasticityRule):
    """What fires within one window potentiates, what fires alone in it depresses: FEAGI 2.6.10.

    After each burst t >= window, for the last `window` bursts, t included: both ends fired in some of them: weight =
    min(max_weight, fl32(weight + up)). One of the ends did: weight = max(0, fl32(weight - down)). Neither: no change. The next
    burst delivers the weights from before; whatever reads or edits between the two sees the new ones.
    """

    name: ClassVar[str] = "feagi"
    source_area: int
    target_area: int
    window: int
    up: float
    """In units of weight, float32."""
    down: float
    max_weight: float | None = None
    """Bounds potentiation alone. None: the largest weight of a network of integer weights; one of float32 needs a bound."""
    keeps_sums: bool = False
    """The bound is none of the model's, but what sums have room for: runs tell when a weight reaches it."""

    def __post_init__(self) -> None:
        _areas(self)
        object.__setattr__(self, "window", check_integer(self.window, "window", 1, 65535))
        for step in ("up", "down"):
            object.__setattr__(self, step, _not_negative(getattr(self, step), step))
        if self.max_weight is not None:
            object.__setattr__(self, "max_weight", _not_negative(self.max_weight, "max_weight"))
        object.__setattr__(self, "keeps_sums", check_flag(self.keeps_sums, "keeps_sums"))

    @property
    def parameters(self) -> Mapping[str, Any]:
        return asdict(self)

    def top(self, largest: int) -> float:
        """The weight that potentiation ends at, in a network with weights of 0..`largest`."""
        return float(largest) if self.max_weight is None else min(self.max_weight, float(largest))

    def reach(self, largest: int) -> int:
        return math.ceil(self.top(largest)) if self.up else 0

    def check(self, largest: int) -> None:
        if largest > MAX_STEP:  # float32
            if self.max_weight is None and self.up:
                raise NetworkError("max_weight: none, and float32 has no largest weight that sums have room for; give one")
            return
        values = {"up": self.up, "down": self.down, "max_weight": self.top(largest)}
        for what, value in values.items():
            if value != int(value):
                raise NetworkError(f"{what}: {value:g} is no integer, and the weights of this network are")


class CustomRule(PlasticityRule):
    """A rule written in Python, for the reference backend; others refuse it. Derive from it and say `apply`.

    Whatever state it needs it keeps itself, so it is part of no file.
    """

    def __init__(self, source_area: int, target_area: int) -> None:
        self.source_area, self.target_area = check_area_id(source_area), check_area_id(target_area)

    def __repr__(self) -> str:
        return described(self, f"a rule in Python, from area {self.source_area} to {self.target_area}")

    @abstractmethod
    def apply(
        self, burst: int, synapses: NDArray[np.intp], weight: NDArray[Any], source_fired: NDArray[np.bool_], target_fired: NDArray[np.bool_]
    ) -> NDArray[Any]:
        """New weights of the mapping's synapses, once a burst: arrays of shape (n,), equal length in and out.

        synapses: a number that stays a synapse's own until the network is compacted. weight: of the network's dtype, as
        the rules before left it; what comes back is cut to the dtype's range. source_fired, target_fired: in this burst.
        """

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"source_area": self.source_area, "target_area": self.target_area}

    def reach(self, largest: int) -> int:
        return largest


RULES: Mapping[str, type[WindowRule] | type[PairRule] | type[FeagiRule]] = {rule.name: rule for rule in (WindowRule, PairRule, FeagiRule)}
"""The rules that are data, by name: what files can hold and every backend can run."""


def check_rules(rules: Iterable[PlasticityRule], largest: int) -> None:
    """NetworkError where these rules do not fit together, or one of them not a network with weights of 0..`largest`."""
    mappings: set[tuple[int, int]] = set()
    rules = tuple(rules)
    kinds = {isinstance(rule, FeagiRule) for rule in rules}
    if len(kinds) > 1:
        raise NetworkError("plasticity: FeagiRules change weights a burst later than other rules; give a network one or the other")
    for rule in rules:
        rule.check(largest)
        mapping = rule.source_area, rule.target_area
        if mapping in mappings and isinstance(rule, FeagiRule):
            raise NetworkError(f"plasticity: two FeagiRules act from area {mapping[0]} to {mapping[1]}; FEAGI has one a pair of areas")
        mappings.add(mapping)


def reaches(rules: Iterable[PlasticityRule], largest: int) -> dict[tuple[int, int], int]:
    """(source area, target area) -> the largest weight that these rules can raise a synapse of the mapping to."""
    found: dict[tuple[int, int], int] = {}
    for rule in rules:
        mapping = rule.source_area, rule.target_area
        found[mapping] = max(found.get(mapping, 0), rule.reach(largest))
    return found


@lru_cache(maxsize=64)
def decay_table(tau: float) -> NDArray[np.uint32]:
    """d[n] = exp(-n / tau) * 2**20 rounded to the nearest integer, n = 0 and on; beyond its end d is 0. uint32, read-only.

    Worked out in decimal numbers, correctly rounded: the same on every machine.
    """
    with localcontext(Context(prec=40)):
        exact, one = Decimal(tau), Decimal(1 << TRACE_BITS)
        count = math.ceil(tau * (TRACE_BITS + 1) * math.log(2)) + 1  # from here on below a half
        table = np.array([int((one * (-n / exact).exp()).to_integral_value()) for n in map(Decimal, range(count))], np.uint32)
    table = table[: int(np.count_nonzero(table))]
    table.flags.writeable = False
    return table


def _fixed(step: float) -> int:
    return math.floor(step * (1 << RESIDUE_BITS) + 0.5)


def _not_negative(value: object, what: str) -> float:
    """A number as float32, settled."""
    single = check_single(value, what)
    if single < 0:
        raise NetworkError(f"{what}: {single:g} is below 0")
    return single


def _areas(rule: PlasticityRule) -> None:
    for area in ("source_area", "target_area"):
        object.__setattr__(rule, area, check_area_id(getattr(rule, area)))
