"""The command line: gpu-npu run NETWORK.

Exit status: 0 done, 2 wrong usage; each kind of error has its own (EXIT_STATUS) and is told in one line.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import gpu_npu
from gpu_npu import (
    NPU,
    BackendUnavailableError,
    CapacityError,
    Connectome,
    DeviceMemoryError,
    Digest,
    FileFormatError,
    KernelError,
    NetworkError,
    NeuronIndexError,
    NpuError,
    SumOverflowError,
)
from gpu_npu.connectome.generators import seed_example
from gpu_npu.io import load

EXAMPLES: dict[str, Callable[[], Connectome]] = {"seed": seed_example}
"""Networks that can be named instead of a file."""
EXIT_STATUS: dict[type[Exception], int] = {
    FileFormatError: 3,
    NetworkError: 4,
    NeuronIndexError: 5,
    CapacityError: 6,
    SumOverflowError: 7,
    BackendUnavailableError: 8,
    KernelError: 9,
    DeviceMemoryError: 10,
    OSError: 11,
    NpuError: 12,
}
PHASE_BURSTS = 100
"""Bursts of the separate stretch in which phases are timed."""
COUNTERS = ("sensory_injections", "power_injections", "synaptic_injections", "neurons_processed", "neurons_in_refractory")

F = TypeVar("F", bound=Callable[..., None])


def _readable_errors(command: F) -> F:
    """Errors of the package and of the system as one line on stderr and the exit status of their kind."""

    @functools.wraps(command)
    def run_command(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (NpuError, OSError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            click.echo(f"Error: {lines[0]}", err=True)
            raise SystemExit(next(status for kind, status in EXIT_STATUS.items() if isinstance(error, kind))) from error

    return run_command  # type: ignore[return-value]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gpu_npu.__version__, prog_name="gpu-npu")
def main() -> None:
    """A neural processing unit for large spiking connectomes."""


@main.command()
@click.argument("network")
@click.option("--bursts", type=click.IntRange(min=1), default=1000, show_default=True, help="Bursts to run.")
@click.option("--power", multiple=True, metavar="IDS|area:A", help="Power neurons: ids 1,2,3 or an area. May be repeated.")
@click.option(
    "--inject",
    multiple=True,
    metavar="IDS|area:A|FILE[:POTENTIAL]",
    help="Neurons to inject into: ids 1,2,3, an area, or an .npy or .npz file of ids (of an .npz its array `stim`, or its only one).",
)
@click.option("--potential", type=float, default=1.0, show_default=True, help="Potential injected where --inject names none.")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Inject before every K-th burst, from the first.")
@click.option("--threshold", type=float, help="Threshold of all neurons, in place of what the network says.")
@click.option("--backend", type=click.Choice(["auto", "reference", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--device", type=click.IntRange(min=0), help="Number of the GPU.")
@click.option("--ledger-window", type=click.IntRange(min=1), default=20, show_default=True, help="Bursts of history kept.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write what fired to this .npz file.")
@_readable_errors
def run(
    network: str,
    bursts: int,
    power: tuple[str, ...],
    inject: tuple[str, ...],
    potential: float,
    every: int,
    threshold: float | None,
    backend: str,
    device: int | None,
    ledger_window: int,
    out: Path | None,
) -> None:
    """Run NETWORK: a file of this project, a connectome in CSR (.npz with indptr, indices, count, sign), or "seed"."""
    if out is not None and not out.absolute().parent.is_dir():
        raise click.BadParameter(f"folder {out.absolute().parent} does not exist", param_hint="--out")
    connectome = _network(network)
    if threshold is not None:
        connectome.write("threshold", np.flatnonzero(connectome.neurons.valid), threshold)
    with NPU.from_connectome(connectome, fire_ledger_window=ledger_window, backend=backend, device=device) as npu:
        npu.set_power_neurons(_power_neurons(npu, power))
        stimuli = [_stimulus(npu, text, potential) for text in inject]

        def one_burst() -> gpu_npu.BurstResult:
            if npu.burst_count % every == 0:
                for neurons, amount in stimuli:
                    npu.inject(neurons, amount)
            return npu.process_burst()

        digest, fired = Digest(), []
        seconds, counters = np.zeros(bursts), np.zeros((bursts, len(COUNTERS)), np.int64)
        for i in range(bursts):
            start = time.perf_counter()
            result = one_burst()
            seconds[i] = time.perf_counter() - start
            digest.update(result.burst, result.fired_neurons)
            counters[i] = [getattr(result, name) for name in COUNTERS]
            fired.append(result.fired_neurons)
        offset = np.concatenate([[0], np.cumsum([len(ids) for ids in fired])]).astype(np.int64)
        if out is not None:
            with out.open("wb") as file:
                np.savez(file, offset=offset, fired=np.concatenate(fired), counters=counters, digest=np.array(digest.hexdigest()))

        memory = npu.memory()
        npu.time_phases(True)
        timed = min(bursts, PHASE_BURSTS)
        for _ in range(timed):
            one_burst()
        phases = npu.phase_seconds or {}

        synaptic = int(counters[:, COUNTERS.index("synaptic_injections")].sum())
        table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)  # 16 + 64 columns: the digest fits 80
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for row in (
            ("network", network),
            ("backend", f"{npu.backend} ({npu.backend_reason})"),
            ("neurons", f"{npu.get_neuron_count():,}"),
            ("synapses", f"{npu.get_synapse_count():,}"),
            ("bytes", f"{sum(memory.values()):,} ({', '.join(f'{piece} {count:,}' for piece, count in memory.items())})"),
            ("bursts", f"{bursts:,}"),
            ("fired", f"{offset[-1]:,} ({offset[-1] / bursts:,.1f} a burst)"),
            ("bursts/s", f"{bursts / seconds.sum():,.1f}"),
            ("µs a burst", f"p50 {np.percentile(seconds, 50) * 1e6:,.1f}, p99 {np.percentile(seconds, 99) * 1e6:,.1f}"),
            ("synaptic events", f"{synaptic:,} ({synaptic / seconds.sum():,.0f}/s)"),
            (
                "µs by phase",
                ", ".join(f"{phase} {total / timed * 1e6:,.1f}" for phase, total in phases.items())
                + f" (mean of {timed} further bursts, timed phase by phase)",
            ),
            ("digest", digest.hexdigest()),
        ):
            table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def _network(name: str) -> Connectome:
    if name in EXAMPLES:
        return EXAMPLES[name]()
    if not Path(name).exists():
        raise click.BadParameter(f"{name!r} is neither a file nor one of the examples: {', '.join(EXAMPLES)}", param_hint="NETWORK")
    return load(name)


def _power_neurons(npu: NPU, texts: tuple[str, ...]) -> NDArray[np.uint32]:
    parts = [_neurons(npu, text, "--power") for text in texts]
    return np.concatenate([np.zeros(0, np.uint32), *parts])


def _stimulus(npu: NPU, text: str, potential: float) -> tuple[NDArray[Any], float]:
    """Neurons and the potential for each, from `WHAT` or `WHAT:POTENTIAL`."""
    what, colon, number = text.rpartition(":")
    if colon and what != "area" and not Path(text).exists():
        try:
            return _neurons(npu, what, "--inject"), float(number)
        except ValueError as error:
            if isinstance(error, NpuError):
                raise
            raise click.BadParameter(f"{text!r}: {number!r} is not a potential", param_hint="--inject") from error
    return _neurons(npu, text, "--inject"), potential


def _neurons(npu: NPU, text: str, option: str) -> NDArray[Any]:
    """Ids from `1,2,3`, `area:A`, or the name of a file."""
    kind, _, area = text.partition(":")
    try:
        if kind == "area":
            neurons = npu.neurons_in_area(int(area))
            if not len(neurons):
                raise NetworkError(f"{option} {text}: no neuron is in area {area}")
            return neurons
        if Path(text).suffix in (".npy", ".npz"):
            return _ids_in_file(Path(text))
        return np.array([int(part) for part in text.split(",")])
    except ValueError as error:
        if isinstance(error, NpuError):
            raise
        raise click.BadParameter(f"{text!r} is neither ids like 1,2,3, nor area:A, nor an .npy or .npz file", param_hint=option) from error


def _ids_in_file(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            names = list(content)
            name = "stim" if "stim" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise FileFormatError(f"{path}: which array holds the ids? It has {', '.join(names)}, and none is named stim")
            return np.asarray(content[name])
    except (ValueError, EOFError) as error:
        if isinstance(error, NpuError):
            raise
        raise FileFormatError(f"{path}: not a readable array of ids: {error}") from error
