"""gpu-npu example: the built-in networks."""

from __future__ import annotations

from pathlib import Path

import click

from gpu_npu.io import save
from gpu_npu.io.outputs import check_outputs

from .networks import EXAMPLES, REPLACED
from .progress import Bar
from .status import program


@click.command(short_help="List the built-in networks, or write one to a file.")
@click.argument("name", required=False)
@click.option("-o", "--out", "out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=f"File to write; {REPLACED}.")
def example(name: str | None, out: Path | None) -> None:
    """Write the built-in network NAME to a file that `gpu-npu run` reads; without a NAME, list them."""
    if name is None:
        if out is not None:
            raise click.UsageError(f"-o needs the NAME of an example: {', '.join(EXAMPLES)}", click.get_current_context())
        width = max(map(len, EXAMPLES))
        for known, known_example in EXAMPLES.items():
            click.echo(f"{known:{width}}  {known_example.about}")
        return
    if name not in EXAMPLES:
        raise click.BadParameter(f"there is no example {name!r}; there are: {', '.join(EXAMPLES)}", param_hint="NAME")
    if out is None:
        raise click.UsageError(f"-o says where to: {program()} example {name} -o {name}.npz", click.get_current_context())
    check_outputs([("--out", out)])
    with Bar() as bar:
        bar.step(f"writing {out}")
        network = EXAMPLES[name].make()
        save(network, out)
    click.echo(f"{out}: {network.neuron_count:,} neurons, {network.synapse_count:,} synapses; try: {program()} run {out}")
