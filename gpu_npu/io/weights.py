"""Weights as people have them (counts, signed numbers, fractions) become integers with a unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import Counts
from gpu_npu.connectome.fields import CountType, largest_count
from gpu_npu.errors import NetworkError
from gpu_npu.objects import described, one_line

from .formats import Reading

LARGEST = 65535
"""Of a weight of 16 bits."""
SMALLEST_UNIT, LARGEST_UNIT = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
DECIMALS = 4
"""Fractions with no more of them are exact in units of 1, 0.1, ..., where those fit."""


class Scale(NamedTuple):
    """The weight of one unit, and the dtype that the units of all weights fit."""

    unit: float
    dtype: CountType
    clip: bool = False

    def __repr__(self) -> str:
        return one_line(self)

    def units(self, weights: NDArray[Any]) -> Counts:
        """Magnitudes in units, rounded to the nearest."""
        magnitudes = np.abs(weights)
        if self.unit != 1 or weights.dtype.kind == "f":
            magnitudes = np.rint(magnitudes / self.unit)
        units: Counts = np.minimum(magnitudes, largest_count(self.dtype)).astype(self.dtype)
        return units


class Survey:
    """What is known of weights after all of them were seen, batch by batch; they are finite."""

    def __init__(self) -> None:
        self.largest, self.count, self.negative, self.zero = 0.0, 0, 0, 0
        self._decimals: int | None = 0

    def __repr__(self) -> str:
        return described(self, f"{self.count:,} weights up to {self.largest:g}")

    def add(self, weights: NDArray[Any]) -> None:
        """See more of them."""
        if not len(weights):
            return
        self.largest = max(self.largest, abs(float(weights.max())), abs(float(weights.min())))
        self.count += len(weights)
        self.negative += int(np.count_nonzero(weights < 0))
        self.zero += int(np.count_nonzero(weights == 0))
        while weights.dtype.kind == "f" and self._decimals is not None and not _whole(weights, self._decimals):
            self._decimals = self._decimals + 1 if self._decimals < DECIMALS else None

    def scale(self, reading: Reading, name: str) -> Scale:
        """The unit that was asked for, or 1 for integers, or the finest for fractions. NetworkError: weights that do not fit."""
        if self.largest and not SMALLEST_UNIT <= self.largest / LARGEST <= LARGEST_UNIT:
            raise NetworkError(f"{name}: weights up to {self.largest:g} are beyond float32, in which potentials are; scale them")
        unit = self._unit() if reading.unit is None else reading.unit
        if not SMALLEST_UNIT <= unit <= LARGEST_UNIT:
            raise NetworkError(f"the unit {unit!r} is no weight above 0 that float32 has")
        most = self.largest / unit
        if round(most) > LARGEST and not reading.clip:
            raise NetworkError(
                f"{name}: the largest weight is {self.largest:g}, that is {most:,.6g} units of {unit:g}, and {LARGEST:,} fit;"
                f" --unit {_round_up(self.largest / LARGEST):g} makes them fit by rounding, --clip cuts them to {LARGEST * unit:g}",
                python="load(..., unit=...) or load(..., clip=True)",
            )
        return Scale(unit, np.uint8 if round(most) <= 255 else np.uint16, reading.clip)

    def _unit(self) -> float:
        if self._decimals is not None and (self._decimals == 0 or self.largest * 10**self._decimals <= LARGEST):
            return float(10.0**-self._decimals)
        return self.largest / LARGEST or 1.0


class Rounding:
    """What turning weights into units did to them."""

    def __init__(self, scale: Scale) -> None:
        self._scale, self._error, self._lost, self._cut = scale, 0.0, 0, 0

    def __repr__(self) -> str:
        return described(self, f"an error of {self._error:g} at most")

    def add(self, weights: NDArray[Any]) -> None:
        """See more of them."""
        unit, most = self._scale.unit, largest_count(self._scale.dtype)
        if not len(weights):
            return
        magnitudes, units = np.abs(weights), self._scale.units(weights)
        fits = np.rint(magnitudes / unit) <= most
        self._error = max(self._error, float(np.abs(units * unit - magnitudes)[fits].max(initial=0)))
        self._lost += int(np.count_nonzero((units == 0) & (magnitudes > 0)))
        self._cut += int(np.count_nonzero(~fits))

    def tell(self, tell: Callable[[str], object], name: str) -> None:
        """Say it, before the network runs."""
        unit = self._scale.unit
        exact = self._error <= 1e-9 * unit
        tell(
            f"{name}: weights are integers of {np.dtype(self._scale.dtype)} in units of {unit:.9g}, "
            + ("exactly" if exact else f"the largest rounding error is {self._error:.3g}")
            + (f"; {self._lost:,} became 0" if self._lost else "")
            + (f"; {self._cut:,} were cut to {LARGEST * unit:g}" if self._cut else "")
        )


def _whole(weights: NDArray[Any], decimals: int) -> bool:
    scaled = weights * 10.0**decimals
    return bool((np.abs(scaled - np.rint(scaled)) <= 1e-9 * np.abs(scaled)).all())


def _round_up(value: float) -> float:
    return float(np.ceil(value * 1000) / 1000) if value > 0.001 else value * 1.001
