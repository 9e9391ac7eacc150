"""gpu-npu grow: a FEAGI genome becomes a network file."""

from __future__ import annotations

from pathlib import Path

import click

from gpu_npu.genome import NetworkOptions
from gpu_npu.genome import grow as grow_genome
from gpu_npu.io import save
from gpu_npu.io.outputs import check_outputs

from .networks import REPLACED, tell
from .progress import Bar


@click.command(short_help="Grow a FEAGI genome into a network file.")
@click.argument("genome")
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=f"File to write; {REPLACED}."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of mappings of which a share is drawn.")
@click.option("--rules", type=click.Choice(["feagi-2.6", "feagi-2.6-fp32"]), default="feagi-2.6", show_default=True)
@click.option(
    "--bad-rules",
    type=click.Choice(["abandon", "skip"]),
    default="abandon",
    show_default=True,
    help="A mapping rule that cannot be applied takes the rest of its area's with it, as in FEAGI, or only itself.",
)
@click.option(
    "--fractions",
    type=click.Choice(["scale", "round", "refuse"]),
    default="scale",
    show_default=True,
    help="Weights and psps that are no whole numbers: one common unit for all, rounding, or an error.",
)
@click.option("--delays", type=click.Choice(["one", "refuse"]), default="one", show_default=True, help="Delays above one burst.")
def grow(genome: str, out: Path, seed: int, rules: str, bad_rules: str, fractions: str, delays: str) -> None:
    """Grow GENOME (a .json file of FEAGI) and write the network, with its areas and their names, to a file for run and info."""
    check_outputs([("--out", out)], [("GENOME", Path(genome))])
    with Bar() as bar:
        bar.step(f"growing {genome}")

        def progress(what: str, done: int, total: int) -> None:
            if done == 0:
                bar.step(f"growing {what}", total)
            bar.at(done)

        options = NetworkOptions(rules, fractions, delays)
        grown = grow_genome(genome, options, seed=seed, bad_rules=bad_rules, progress=progress)
        bar.step(f"writing {out}")
        save(grown.connectome, out)
    tell(grown.report.warnings)
    network = grown.connectome
    click.echo(
        f"{out}: {network.neuron_count:,} neurons in {len(grown.areas):,} areas, {network.synapse_count:,} synapses "
        f"by {len(grown.mappings):,} mappings; try: gpu-npu run {out}"
    )
