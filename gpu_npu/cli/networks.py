"""Networks by name or by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from gpu_npu import Area, Connectome, SynapseBatch
from gpu_npu.connectome import SynapseSource, SynapseWrapper
from gpu_npu.connectome.generators import fixed_out_degree, seed_example
from gpu_npu.genome import Grown, Imported, grow, read_export
from gpu_npu.io import load, load_small
from gpu_npu.io.beginning import look
from gpu_npu.io.kinds import CHECKPOINT, EMPTY, EXPORT, GENOME, UNKNOWN, kind_of
from gpu_npu.io.sonata import SONATA

from .progress import Bar
from .terminal import shown

REPLACED = "a file that is there is replaced"
"""For --help: the one rule of all outputs (gpu_npu.io.atomic)."""
MOST_IN_MEMORY = 2**22
"""Synapses of a list that is read whole; longer ones are read batch by batch, so that their length takes no memory."""


@dataclass(frozen=True)
class Example:
    """A network that can be named instead of a file."""

    make: Callable[[], Connectome]
    about: str


def _driven(neurons: int, degree: int, power: int, threshold: float) -> Connectome:
    """A random network whose first `power` neurons are driven and keep the others going."""
    return fixed_out_degree(
        neurons,
        degree,
        seed=0,
        weight=(1, 20),
        areas={0: Area("cortex"), 1: Area("power", power=True)},
        threshold=np.where(np.arange(neurons) < power, 4.0, threshold),
        leak_coefficient=0.1,
        refractory_period=2,
        cortical_area=(np.arange(neurons) < power).astype(np.uint32),
    )


EXAMPLES = {
    "seed": Example(seed_example, "22,590 neurons, 500,000 synapses, driven by a power area: the network the project began with"),
    "small": Example(lambda: _driven(1_000, 20, 50, 60.0), "1,000 neurons, 20,000 synapses, driven by a power area: a first look"),
    "random-1m": Example(
        lambda: _driven(1_000_000, 10, 10_000, 30.0), "1,000,000 neurons, 10,000,000 synapses, driven by a power area: a load for a GPU"
    ),
}


def read(name: str, reading: Mapping[str, Any] | None = None) -> Connectome | Grown | Imported:
    """The built-in example of this name, or what is in this file: a network, an edge list, a matrix, a FEAGI genome,
    which is grown, or a connectome that FEAGI exported, whatever the file is called.

    What was taken for what, and what could not be taken as it is, is told on stderr.

    reading: keyword arguments of `gpu_npu.io.load`."""
    made = _made(name, reading)
    return load(name, tell=lambda text: tell([text]), **(reading or {})) if made is None else made


def _made(name: str, reading: Mapping[str, Any] | None) -> Connectome | Grown | Imported | None:
    """An example, or what FEAGI's files hold; None: it is a file for `gpu_npu.io.load`."""
    if name in EXAMPLES:
        return EXAMPLES[name].make()
    if not Path(name).exists():
        raise click.BadParameter(f"{name!r} is neither a file nor one of the examples: {', '.join(EXAMPLES)}", param_hint="NETWORK")
    kind = kind_of(Path(name))
    if kind in (EMPTY, UNKNOWN):  # its reader says what is wrong with it
        kind = {".json": GENOME, ".connectome": EXPORT}.get(Path(name).suffix.lower(), kind)
    if kind is CHECKPOINT:
        raise click.BadParameter(f"{name} is a checkpoint of a run; --resume {name} goes on from it", param_hint="NETWORK")
    made: Grown | Imported
    limit = (reading or {}).get("memory_limit")
    if kind is GENOME and not SONATA.recognises(look(name)):
        made = grow(name, memory_limit=limit)
    elif kind is EXPORT:
        made = read_export(name, memory_limit=limit)
    else:
        return None
    tell(made.report.warnings)
    return made


def file_of(name: str | None, argument: str = "NETWORK") -> list[tuple[str, Path]]:
    """The file that a network of this name is read from, with the name of the argument; none where it is an example."""
    return [] if name is None or name in EXAMPLES else [(argument, Path(name))]


def network(name: str, reading: Mapping[str, Any] | None = None) -> Connectome:
    """The connectome alone of what `read` returns."""
    return _alone(read(name, reading))


def _alone(made: Connectome | Grown | Imported) -> Connectome:
    return made if isinstance(made, Connectome) else made.connectome


def small_or_streamed(name: str, reading: Mapping[str, Any], bar: Bar) -> tuple[Connectome, SynapseSource | None]:
    """The network whole, or, of a list of more than MOST_IN_MEMORY synapses, without them, and a source that reads them."""
    made = _made(name, reading)
    if made is not None:
        return _alone(made), None
    network, more = load_small(name, MOST_IN_MEMORY, tell=lambda text: tell([text]), watch=bar.at, **reading)
    return network, None if more is None else Watched(more, bar)


class Watched(SynapseWrapper):
    """A source, whose reader is shown how far it is."""

    def __init__(self, source: SynapseSource, bar: Bar) -> None:
        super().__init__(source)
        self._bar = bar

    def __iter__(self) -> Iterator[SynapseBatch]:
        done = 0
        for batch in self._source:
            yield batch
            done += len(batch)
            self._bar.at(done, self.total)


def tell(warnings: Iterable[str]) -> None:
    """What a user should know, a line each on stderr."""
    for warning in warnings:
        click.echo(f"Note: {shown(warning)}", err=True)


def backend_options(command: Callable[..., None]) -> Callable[..., None]:
    """--backend, --device, --ledger-window."""
    for option in (
        click.option("--ledger-window", type=click.IntRange(min=1), default=20, show_default=True, help="Bursts of history kept."),
        click.option("--device", type=click.IntRange(min=0), help="Number of the GPU."),
        click.option("--backend", type=click.Choice(["auto", "reference", "cpu", "cuda"]), default="auto", show_default=True),
    ):
        command = option(command)
    return command
