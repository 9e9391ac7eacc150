"""Stimuli from the command line: WHAT is ids 1,2,5-8, an area by id or name (area:A), all, or a file of ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import click

from gpu_npu import Connectome, NetworkError
from gpu_npu.arrays import U32
from gpu_npu.io.kinds import HDF5, kind_of
from gpu_npu.objects import OneLine
from gpu_npu.session import Inject, Poisson, Power, Rate, Schedule, Stimulus
from gpu_npu.session.targets import Named, is_number


@dataclass(frozen=True, repr=False)
class StimulusOptions(OneLine):
    """The options of stimuli, as they are given."""

    power: tuple[str, ...]
    inject: tuple[str, ...] = ()
    every: int = 1
    rate: tuple[str, ...] = ()
    poisson: tuple[str, ...] = ()
    schedule: tuple[Path, ...] = ()
    potential: float = 1.0
    ms: float = 1.0
    population: str | None = None

    def files(self) -> list[tuple[str, Path]]:
        """The files that they name, with the options."""
        found = [("--schedule", path) for path in self.schedule]
        for option, texts in (("--power", self.power), ("--inject", self.inject), ("--rate", self.rate), ("--poisson", self.poisson)):
            found += files_named(texts, option)
        return found

    def read(self, network: Connectome) -> list[Stimulus]:
        """The stimuli, in the order of the options' help. UsageError, and the errors of `Named.find` and `Schedule.read`."""
        found: list[Stimulus] = [Power(neurons(text, "--power", network)) for text in self.power]
        for text in self.inject:
            ids, potential = _parse(text, "--inject", network, ("POTENTIAL",), needed=0)
            found.append(Inject(ids, (potential or [self.potential])[0], self.every))
        for text in self.rate:
            ids, (p, *potential) = _parse(text, "--rate", network, ("P", "POTENTIAL"), needed=1)
            with _usage(text, "--rate"):
                found.append(Rate(ids, p, (potential or [self.potential])[0]))
        for text in self.poisson:
            ids, (mean, *potential) = _parse(text, "--poisson", network, ("MEAN", "POTENTIAL"), needed=1)
            with _usage(text, "--poisson"):
                found.append(Poisson(ids, mean, (potential or [self.potential])[0]))
        return [*found, *map(self._schedule, self.schedule)]

    def _schedule(self, path: Path) -> Schedule:
        """Of a .npz, or of spikes of SONATA."""
        if kind_of(path) is HDF5:
            return Schedule.sonata(path, self.potential, self.ms, self.population)
        return Schedule.read(path, self.potential)

    @property
    def take_potential(self) -> bool:
        """Whether any of them may take its potential from --potential."""
        numbers = [(text, 1) for text in self.inject] + [(text, 2) for text in (*self.rate, *self.poisson)]
        return bool(self.schedule) or any(len(Named.parse(text)[1]) < most for text, most in numbers)


def neurons(text: str, option: str, network: Connectome) -> U32:
    """WHAT alone."""
    return _parse(text, option, network, (), needed=0)[0]


def activated(text: str, network: Connectome) -> tuple[U32, float]:
    """WHAT:HZ."""
    ids, (hertz,) = _parse(text, "--activate", network, ("HZ",), needed=1)
    if hertz < 0:
        raise click.BadParameter(f"{text!r}: {hertz:g} Hz is no rate", param_hint="--activate")
    return ids, hertz


def files_named(texts: Iterable[str], option: str) -> list[tuple[str, Path]]:
    """The files among the WHATs of an option, with the name of the option."""
    found = []
    for text in texts:
        with _usage(text, option):
            named, _ = Named.parse(text)
        if named.kind == "file":
            found.append((option, Path(named.text)))
    return found


@contextmanager
def _usage(text: str, option: str) -> Iterator[None]:
    """A value that is not allowed is wrong usage of the option that has this text."""
    try:
        yield
    except NetworkError as error:
        shown = error.problem if error.problem.startswith(repr(text)) else f"{text!r}: {error.problem}"
        raise click.BadParameter(shown, param_hint=option) from error


def _parse(text: str, option: str, network: Connectome, names: tuple[str, ...], needed: int) -> tuple[U32, list[float]]:
    """Ids from WHAT, and the numbers after it."""
    with _usage(text, option):
        named, rest = Named.parse(text)
    with _usage(text, option) if named.kind in ("ids", "index", "columns") or named.area_by_name else nullcontext():
        ids = named.find(network, option)
    if not needed <= len(rest) <= len(names):
        form = "WHAT" + "".join(f":{name}" if i < needed else f"[:{name}]" for i, name in enumerate(names))
        raise click.BadParameter(f"{text!r}: {form} is expected", param_hint=option)
    for name, number in zip(names, rest, strict=False):
        if not is_number(number):
            what = "potential" if name == "POTENTIAL" else "number"
            raise click.BadParameter(f"{text!r}: {number!r} is not a {what}", param_hint=option)
    return ids, [float(number) for number in rest]
