"""gpu-npu experiment: neurons activated at a rate, others silenced, trial after trial."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from gpu_npu import Connectome
from gpu_npu.io.atomic import replacing
from gpu_npu.io.outputs import check_outputs
from gpu_npu.session import Experiment, Place, Trials
from gpu_npu.session import experiment as run_experiment

from .networks import REPLACED, backend_options, file_of, network
from .progress import Bar
from .reading import files_read, reading_options
from .stimulus import activated, files_named, neurons

SHOWN = 20
"""Neurons in the table, those that fired most first."""


@click.command(short_help="Activate and silence neurons, trial after trial.")
@click.argument("network_name", metavar="NETWORK")
@click.option("--activate", multiple=True, metavar="WHAT:HZ", help="Each neuron receives the potential as a Poisson process of this rate.")
@click.option("--silence", multiple=True, metavar="WHAT", help="The synapses that leave these neurons deliver nothing.")
@click.option("--trials", type=click.IntRange(min=1), default=1, show_default=True, help="Each draws anew, from the seed + its number.")
@click.option("--bursts", type=click.IntRange(min=1), default=1000, show_default=True, help="Of a trial.")
@click.option("--ms", type=float, default=1.0, show_default=True, help="Duration of a burst, by which rates and times are told.")
@click.option("--potential", type=float, default=1.0, show_default=True, help="What an impulse of --activate brings.")
@click.option("--threshold", type=float, help="Threshold of all neurons, in place of what the network says.")
@click.option("--name", default="experiment", show_default=True, help="Of the experiment, in its files.")
@click.option("--spikes", type=click.Path(path_type=Path), metavar="FILE", help=f"All spikes: .parquet, .csv or .h5; {REPLACED}.")
@click.option("--rates", type=click.Path(path_type=Path), metavar="FILE", help=f"CSV of the rate of each neuron that fired; {REPLACED}.")
@click.option("--by", metavar="COLUMN", help="Show mean rates by a column of the annotations.")
@reading_options
@backend_options
def experiment(**values: Any) -> None:
    """Run NETWORK (as for run) trial after trial, and say how often neurons fire. WHAT is as for run."""
    name, reading = values["network_name"], values["reading"]
    outputs = [(f"--{option}", values[option]) for option in ("spikes", "rates") if values[option] is not None]
    named = [one for option in ("activate", "silence") for one in files_named(values[option], f"--{option}")]
    with Bar() as bar:
        bar.step(f"reading {name}")
        check_outputs(outputs, [*file_of(name), *files_read(reading), *named])
        connectome = network(name, reading)
        if values["threshold"] is not None:
            connectome.write("threshold", np.flatnonzero(connectome.neurons.valid), values["threshold"])
        plan = _plan(values, connectome)
        bar.step(f"running {plan.trials:,} trials")
        found = run_experiment(connectome, plan, Place(values["backend"], values["device"]))
        if values["spikes"] is not None:
            found.spikes.write(values["spikes"])
        if values["rates"] is not None:
            _write_rates(found, values["rates"])
    _print(found, values["by"])


def _plan(values: dict[str, Any], connectome: Connectome) -> Experiment:
    return Experiment(
        tuple(activated(text, connectome) for text in values["activate"]),
        tuple(neurons(text, "--silence", connectome) for text in values["silence"]),
        values["bursts"],
        values["trials"],
        values["ms"],
        values["potential"],
        values["name"],
    )


def _ranked(found: Trials) -> list[tuple[str, float]]:
    """Label and rate of the neurons that fired, the highest rate first."""
    order = np.argsort(-found.rates, kind="stable")
    return [(found.spikes.annotations.name(int(neuron)), float(found.rates[neuron])) for neuron in order if found.rates[neuron] > 0]


def _write_rates(found: Trials, path: Path) -> None:
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("flywire_id", "rate_hz"))
        writer.writerows(_ranked(found))
        text.detach()


def _print(found: Trials, by: str | None) -> None:
    plan, ranked = found.experiment, _ranked(found)
    click.echo(
        f"{plan.name}: {plan.trials:,} trials of {plan.bursts:,} bursts of {plan.ms:g} ms on {found.backend}:"
        f" {len(found.spikes):,} spikes of {len(ranked):,} neurons"
    )
    rows = sorted(found.rate_by(by).items(), key=lambda row: -row[1]) if by is not None else ranked
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(by or "neuron")
    table.add_column("Hz", justify="right")
    for name, rate in rows[:SHOWN]:
        table.add_row(name or "(nothing)", f"{rate:,.3f}")
    Console(highlight=False, markup=False).print(table)
    if len(rows) > SHOWN:
        click.echo(f"and {len(rows) - SHOWN:,} more (--rates FILE has all neurons)")
