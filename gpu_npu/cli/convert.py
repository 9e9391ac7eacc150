"""gpu-npu convert: a network from any file that is read to one that is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpu_npu.io import writer_of
from gpu_npu.io.outputs import check_outputs
from gpu_npu.io.sonata_write import files_written

from .networks import REPLACED, file_of, network, tell
from .progress import Bar
from .reading import files_read, reading_options


@click.command(short_help="Write a network to a file of another format.")
@click.argument("network_name", metavar="NETWORK")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help=f"Where to; {REPLACED}.")
@reading_options
def convert(network_name: str, output: Path, reading: dict[str, Any]) -> None:
    """Read NETWORK (as for run) and write it to FILE, in the format that the end of its name says: .npz keeps everything; .csv,
    .parquet and .feather are edge lists; .json is a circuit of SONATA, whose other files are written beside it."""
    with Bar() as bar:
        writer, circuit = writer_of(output), output.suffix.lower() == ".json"
        check_outputs(
            [("--output", file) for file in (files_written(output) if circuit else [output])],
            [*file_of(network_name), *files_read(reading)],
        )
        bar.step(f"reading {network_name}")
        connectome = network(network_name, reading)
        if circuit:
            tell([f"{output} and the files beside it hold no thresholds or other fields of neurons"])
        elif output.suffix.lower() != ".npz":
            tell([f"{output} holds synapses alone: no thresholds or other fields of neurons, and no neurons that have none"])
        bar.step(f"writing {output}")
        writer(connectome, output)
    click.echo(f"{output}: {connectome.neuron_count:,} neurons, {connectome.synapse_count:,} synapses")
