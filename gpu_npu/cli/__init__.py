"""The command line: gpu-npu run, experiment, serve, top, info, convert, grow, doctor, example; a file for each.

Every error is one line on stderr, and each kind has an exit status of its own (EXIT_STATUS).
"""

from __future__ import annotations

import click

import gpu_npu

from .convert import convert
from .doctor import doctor
from .example import example
from .experiment import experiment
from .grow import grow
from .info import info
from .run import run
from .serve import serve
from .status import EXIT_STATUS, OneLineErrors, statuses
from .top import top

__all__ = ["EXIT_STATUS", "main"]


@click.group(
    cls=OneLineErrors,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    commands=[run, experiment, serve, top, info, convert, grow, doctor, example],
    epilog=statuses(),
)
@click.version_option(gpu_npu.__version__, prog_name="gpu-npu")
@click.pass_context
def main(context: click.Context) -> None:
    """A neural processing unit for large spiking connectomes."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
