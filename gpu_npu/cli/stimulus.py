"""What is injected, from the command line: WHAT is ids 1,2,5-8, an area by id or name (area:A), all, or a file of ids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from gpu_npu import Connectome, NetworkError
from gpu_npu.arrays import F32, U32
from gpu_npu.checks import check_ids, check_potentials
from gpu_npu.io import parse_ids, read_ids
from gpu_npu.io.archive import Archive

MOST_IMPULSES = 1000
"""Highest mean of --poisson."""
WHAT = "ids like 1,2,5-8, area:A, all, or a file of ids (.npy, .npz or text)"


@dataclass(frozen=True)
class Constant:
    """The same before every K-th burst, from the first."""

    neurons: U32
    potential: F32
    every: int

    def before(self, burst: int) -> tuple[U32, F32]:
        """What to inject before this burst: ids, and a potential for each."""
        count = len(self.neurons) if (burst - 1) % self.every == 0 else 0
        return self.neurons[:count], np.broadcast_to(self.potential, count)


@dataclass(frozen=True)
class Random:
    """Impulses drawn anew for every burst and neuron.

    What is drawn is a function of (seed, number of the stimulus, burst, position in the list) alone: uniform numbers u of
    the Philox generator, 53 bits each, against the cumulative distribution of the number of impulses.
    """

    neurons: U32
    potential: F32
    cumulative: NDArray[np.float64]
    seed: int
    number: int

    def before(self, burst: int) -> tuple[U32, F32]:
        """What to inject before this burst: ids, and a potential for each."""
        raw = np.random.Philox(key=(self.seed, self.number), counter=(0, 0, burst, 0)).random_raw(len(self.neurons))
        u = (raw >> np.uint64(11)) * 2.0**-53
        hit = np.flatnonzero(u >= self.cumulative[0])
        impulses = np.searchsorted(self.cumulative, u[hit], side="right")
        return self.neurons[hit], impulses.astype(np.float32) * self.potential


@dataclass(frozen=True)
class Schedule:
    """What a file says, by burst."""

    bursts: NDArray[np.int64]
    neurons: U32
    potentials: F32

    def before(self, burst: int) -> tuple[U32, F32]:
        """What to inject before this burst: ids, and a potential for each."""
        span = slice(*np.searchsorted(self.bursts, (burst, burst + 1)))
        return self.neurons[span], self.potentials[span]


KINDS: dict[str, type[Constant] | type[Random] | type[Schedule]] = {"constant": Constant, "random": Random, "schedule": Schedule}


class Stimuli:
    """All of a run, read and checked before the network is loaded."""

    def __init__(self, connectome: Connectome, potential: float) -> None:
        self._connectome, self._potential = connectome, potential
        self._all: list[Constant | Random | Schedule] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def before(self, burst: int) -> Iterator[tuple[U32, F32]]:
        """What to inject before this burst, in the order of the options."""
        for stimulus in self._all:
            neurons, potentials = stimulus.before(burst)
            if len(neurons):
                yield neurons, potentials

    def written(self) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
        """All that they are: what JSON can say, and arrays."""
        notes, arrays = [], {}
        for number, stimulus in enumerate(self._all):
            note: dict[str, Any] = {"kind": next(kind for kind, made in KINDS.items() if type(stimulus) is made)}
            for name, value in vars(stimulus).items():
                if isinstance(value, np.ndarray):
                    arrays[f"{number}_{name}"] = value
                else:
                    note[name] = value
            notes.append(note)
        return notes, arrays

    def read(self, notes: list[dict[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> None:
        """What was written."""
        for number, note in enumerate(notes):
            values = {name: value for name, value in note.items() if name != "kind"}
            values |= {name.removeprefix(f"{number}_"): array for name, array in arrays.items() if name.startswith(f"{number}_")}
            self._all.append(KINDS[note["kind"]](**values))

    def constant(self, text: str, every: int) -> None:
        """--inject WHAT[:POTENTIAL]"""
        neurons, numbers = self._parse(text, "--inject", ("POTENTIAL",), needed=0)
        self._all.append(Constant(neurons, self._amount(numbers), every))

    def rate(self, text: str, seed: int) -> None:
        """--rate WHAT:P[:POTENTIAL]"""
        neurons, (p, *rest) = self._parse(text, "--rate", ("P", "POTENTIAL"), needed=1)
        if not 0 <= p <= 1:
            raise click.BadParameter(f"{text!r}: the probability {p:g} is outside 0..1; --poisson takes means above 1", param_hint="--rate")
        self._random(neurons, rest, np.array([1 - p, np.inf]), seed)

    def poisson(self, text: str, seed: int) -> None:
        """--poisson WHAT:MEAN[:POTENTIAL]"""
        neurons, (mean, *rest) = self._parse(text, "--poisson", ("MEAN", "POTENTIAL"), needed=1)
        if not 0 <= mean <= MOST_IMPULSES:
            raise click.BadParameter(f"{text!r}: the mean {mean:g} is outside 0..{MOST_IMPULSES}", param_hint="--poisson")
        most = math.ceil(mean + 20 * math.sqrt(mean)) + 20
        logs = (k * math.log(mean) - mean - math.lgamma(k + 1) if mean else (-math.inf if k else 0.0) for k in range(most))
        cumulative = np.cumsum([math.exp(log) for log in logs])
        self._random(neurons, rest, np.append(np.minimum(cumulative, 1), np.inf), seed)

    def _random(self, neurons: U32, rest: list[float], cumulative: NDArray[np.float64], seed: int) -> None:
        self._all.append(Random(neurons, self._amount(rest), cumulative, seed, len(self._all)))

    def schedule(self, path: Path) -> None:
        """--schedule FILE"""
        with Archive(path) as archive:
            bursts = archive.array("burst")
            if bursts.dtype.kind not in "iu":
                raise archive.error(f"array 'burst' has dtype {bursts.dtype}, not integers")
            if bursts.size and not (int(bursts.min()) >= 1 and int(bursts.max()) < 2**63 - 1):
                at = int(bursts.argmin() if bursts.min() < 1 else bursts.argmax())
                raise archive.error(f"burst[{at}] = {bursts[at]}; bursts are counted from 1")
            neurons = archive.array("neuron", bursts.shape)
            if neurons.dtype.kind == "b":
                raise archive.error("array 'neuron' is a mask; an id for each of 'burst' is needed")
            potentials: Any = archive.array("potential", bursts.shape) if "potential" in archive else self._potential
        ids = check_ids(neurons, self._connectome.neuron_capacity, f"{path}: neuron")
        amounts = check_potentials(potentials, len(ids), f"{path}: potential")
        order = np.argsort(bursts, kind="stable")
        self._all.append(Schedule(bursts.astype(np.int64)[order], ids[order], np.broadcast_to(amounts, len(ids))[order]))

    def neurons(self, text: str, option: str) -> U32:
        """WHAT alone."""
        return self._parse(text, option, (), needed=0)[0]

    def _amount(self, numbers: list[float]) -> F32:
        return check_potentials(numbers[0] if numbers else self._potential, 1, "potential")

    def _parse(self, text: str, option: str, names: tuple[str, ...], needed: int) -> tuple[U32, list[float]]:
        """Ids from WHAT, and the numbers after it."""

        def wrong(why: str) -> click.BadParameter:
            return click.BadParameter(f"{text!r}: {why}", param_hint=option)

        parts = text.split(":")
        capacity = self._connectome.neuron_capacity
        if parts[0] == "all":
            ids, rest = np.flatnonzero(self._connectome.neurons.valid).astype(np.uint32), parts[1:]
        elif parts[0] == "area":
            if len(parts) < 2:
                raise wrong(f"it is none of: {WHAT}")
            ids, rest = self._area(parts[1], text, option), parts[2:]
        else:
            end = _end_of_path(parts)
            what, rest = ":".join(parts[: end or 1]), parts[end or 1 :]
            if end or Path(what).suffix in (".npy", ".npz", ".txt", ".csv"):
                key = rest.pop(0) if rest and not _is_number(rest[0]) else None
                ids = read_ids(what, capacity, key)
            else:
                try:
                    ids = parse_ids(what, capacity, option)
                except NetworkError as error:
                    raise wrong(f"{error.problem.removeprefix(f'{option}: ')}; WHAT is {WHAT}") from error
        if not needed <= len(rest) <= len(names):
            form = "WHAT" + "".join(f":{name}" if i < needed else f"[:{name}]" for i, name in enumerate(names))
            raise wrong(f"{form} is expected")
        for name, number in zip(names, rest, strict=False):
            if not _is_number(number):
                raise wrong(f"{number!r} is not a {'potential' if name == 'POTENTIAL' else 'number'}")
        return ids, [float(number) for number in rest]

    def _area(self, name: str, text: str, option: str) -> U32:
        named = [area for area, flags in self._connectome.areas.items() if flags.name == name]
        if not named and not name.isdecimal():
            known = ", ".join(flags.name for flags in self._connectome.areas.values() if flags.name) or "no area has a name"
            raise click.BadParameter(f"{text!r}: {name!r} is neither the id nor the name of an area ({known})", param_hint=option)
        areas = named or [int(name)]
        neurons = self._connectome.neurons
        ids = np.flatnonzero(np.isin(neurons.cortical_area, areas) & neurons.valid).astype(np.uint32)
        if not len(ids):
            raise NetworkError(f"{option} {text}: no neuron is in area {name}")
        return ids


def files_named(texts: Iterable[str], option: str) -> list[tuple[str, Path]]:
    """The files among the WHATs of an option, with the name of the option."""
    found = []
    for text in texts:
        parts = text.split(":")
        if parts[0] not in ("all", "area") and (end := _end_of_path(parts)):
            found.append((option, Path(":".join(parts[:end]))))
    return found


def _end_of_path(parts: list[str]) -> int:
    """How many of the parts of a WHAT are the path of a file: the most that are one, for paths may have colons in them."""
    return next((end for end in range(len(parts), 0, -1) if Path(":".join(parts[:end])).is_file()), 0)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
