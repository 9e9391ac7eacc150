"""gpu-npu grow: a FEAGI genome becomes a network file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from gpu_npu.genome import Grown, NetworkOptions
from gpu_npu.genome import grow as grow_genome
from gpu_npu.io import save
from gpu_npu.io.outputs import check_outputs

from .networks import REPLACED, tell
from .progress import Bar
from .reading import memory_limit_option
from .status import program


@click.command(short_help="Grow a FEAGI genome into a network file.")
@click.argument("genome")
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=f"File to write; {REPLACED}."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of mappings that make only a random share of their synapses.",
)
@click.option("--rules", type=click.Choice(["feagi-2.6", "feagi-2.6-fp32"]), default="feagi-2.6", show_default=True)
@click.option(
    "--bad-rules",
    type=click.Choice(["abandon", "skip"]),
    default="abandon",
    show_default=True,
    help="If a mapping rule cannot be applied: abandon the rest of its area's rules too, as FEAGI does, or skip only that rule.",
)
@click.option(
    "--delays",
    type=click.Choice(["keep", "one"]),
    default="keep",
    show_default=True,
    help="If synapses have delays above one burst: keep them, or make every delay one burst, which all backends run.",
)
@memory_limit_option
def grow(genome: str, out: Path, seed: int, rules: str, bad_rules: str, delays: str, memory_limit: int | None) -> None:
    """Grow GENOME (a JSON file of FEAGI) and write the network, with its areas and their names, to a file for run and info."""
    check_outputs([("--out", out)], [("GENOME", Path(genome))])
    with Bar() as bar:
        bar.step(f"growing {genome}")

        def progress(what: str, done: int, total: int) -> None:
            if done == 0:
                bar.step(f"growing {what}", total)
            bar.at(done)

        options = NetworkOptions(rules, delays)
        grown = grow_genome(genome, options, seed=seed, bad_rules=bad_rules, memory_limit=memory_limit, progress=progress)
        bar.step(f"writing {out}")
        save(grown.connectome, out)
    tell([*grown.report.warnings, *_without_effect(grown, seed)])
    network = grown.connectome
    click.echo(
        f"{out}: {network.neuron_count:,} neurons in {len(grown.areas):,} areas, {network.synapse_count:,} synapses "
        f"by {len(grown.mappings):,} mappings; try: {program()} run {out}"
    )


def _without_effect(grown: Grown, seed: int) -> list[str]:
    """What was grown, or given, and does nothing."""
    found = []
    if seed and all(rule.attractivity == 100 for area in grown.areas for rule in area.rules):
        found.append("--seed has no effect: no mapping of this genome draws a share")
    power = [row for row, area in enumerate(grown.areas) if area.is_power]
    if not np.isin(grown.neurons.area[grown.synapses.source], power).any():
        found.append("nothing drives this network: no synapse leaves its power area; run it with --power, --rate or --inject")
    return found
