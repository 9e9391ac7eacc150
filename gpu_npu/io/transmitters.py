"""The sign of synapses by their transmitter: a table that can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpu_npu.arrays import Flags
from gpu_npu.errors import NetworkError
from gpu_npu.objects import described

from .columns import plain
from .formats import Reading
from .tables import Words

DEFAULT: Mapping[str, int] = {
    "gaba": -1,
    "glut": -1,
    "glutamate": -1,
    "ach": 1,
    "acetylcholine": 1,
    "da": 1,
    "dopamine": 1,
    "oct": 1,
    "octopamine": 1,
    "ser": 1,
    "serotonin": 1,
}
SOURCE = "GABA and glutamate inhibit, all others excite, as in the whole-brain model of the fly (Shiu et al. 2024)"


class Signs:
    """A table of transmitters, and which of those that were met are not in it."""

    def __init__(self, table: Mapping[str, int], source: str) -> None:
        self._table = {plain(name): sign for name, sign in table.items()}
        self._source, self._used = source, False
        self._unknown: set[str] = set()

    def __repr__(self) -> str:
        return described(self, self._source)

    @classmethod
    def of(cls, reading: Reading) -> Signs:
        """The table of a reading, or the default one. NetworkError: a sign that is neither 1 nor -1."""
        given: Any = reading.transmitters
        if given is None:
            return cls(DEFAULT, SOURCE)
        for name, sign in given.items():
            if sign not in (-1, 1):
                raise NetworkError(f"transmitter {name!r}: {sign!r} is no sign; 1 excites, -1 inhibits")
        return cls(given, "by the table that was given: " + ", ".join(f"{name} {sign:+d}" for name, sign in given.items()))

    def inhibitory(self, words: Words) -> Flags:
        """Which of these inhibit."""
        self._used = True
        self._unknown |= {text for text in words.texts if plain(text) not in self._table}
        flags: Flags = np.array([self._table.get(plain(text), 1) < 0 for text in words.texts] or [False], np.bool_)
        return flags[words.codes]

    def tell(self, tell: Callable[[str], object], name: str) -> None:
        """Say which table was used, and what is not in it."""
        if self._used:
            unknown = ", ".join(repr(one) for one in sorted(self._unknown)[:12])
            tell(f"{name}: signs by transmitter: {self._source}" + (f"; not in the table, so they excite: {unknown}" if unknown else ""))
