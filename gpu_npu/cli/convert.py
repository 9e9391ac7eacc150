"""gpu-npu convert: a network from any file that is read to one that is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpu_npu.io import writer_of
from gpu_npu.io.outputs import check_outputs

from .networks import REPLACED, file_of, network, tell
from .progress import Bar
from .reading import files_read, reading_options


@click.command(short_help="Write a network to a file of another format.")
@click.argument("network_name", metavar="NETWORK")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help=f"Where to; {REPLACED}.")
@reading_options
def convert(network_name: str, output: Path, reading: dict[str, Any]) -> None:
    """Read NETWORK (as for run) and write it to FILE, in the format that the end of its name says: .npz keeps everything; .csv,
    .parquet and .feather are edge lists."""
    with Bar() as bar:
        writer = writer_of(output)
        check_outputs([("--output", output)], [*file_of(network_name), *files_read(reading)])
        bar.step(f"reading {network_name}")
        connectome = network(network_name, reading)
        if output.suffix.lower() != ".npz":
            tell([f"{output} holds synapses alone: no thresholds or other fields of neurons, and no neurons that have none"])
        bar.step(f"writing {output}")
        writer(connectome, output)
    click.echo(f"{output}: {connectome.neuron_count:,} neurons, {connectome.synapse_count:,} synapses")
