"""What the command returns, and how it tells what went wrong: in one line."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from gpu_npu import (
    BackendUnavailableError,
    CapacityError,
    DeviceMemoryError,
    EngineError,
    FileFormatError,
    KernelError,
    MissingPackageError,
    NetworkError,
    NeuronIndexError,
    NpuError,
    SumOverflowError,
)
from gpu_npu.errors import problem_of

from .terminal import shown

USAGE = 2
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
    EngineError: 15,
    MissingPackageError: 16,
    NpuError: 12,
    MemoryError: 13,
}
NOT_WORKING = 14
"""Of doctor: the best backend that is available does not work."""
INTERRUPTED = 130
"""128 + SIGINT; 143 after SIGTERM."""


def status_of(error: BaseException) -> int:
    """The exit status of an error; of one that is none of these, that of any other."""
    return next((status for kind, status in EXIT_STATUS.items() if isinstance(error, kind)), EXIT_STATUS[NpuError])


def program() -> str:
    """How to call this command again: its path where no search for gpu-npu would find it."""
    called = Path(sys.argv[0])
    if (called.parent.name, called.name) == ("gpu_npu", "__main__.py"):
        return "python -m gpu_npu"
    return str(called) if called.name == "gpu-npu" and shutil.which("gpu-npu") is None else "gpu-npu"


def statuses() -> str:
    """The exit statuses, for --help."""
    return (
        "Exit status: 0 done; 2 wrong usage; 3 a file that is corrupt or of another format; 4 a value that is not allowed; "
        "5 an id that is no neuron; 6 more than the capacity; 7 the synaptic input of a neuron could exceed 64 bits; "
        "8 the chosen backend cannot run here; 9 a kernel that does not compile or launch; 10 not enough memory on the device; "
        "11 a file that cannot be opened or written; 12 any other error of the package; 13 not enough memory on the host; "
        "14 doctor: the best available backend does not work; 15 serve: the engine failed; 16 an optional package is missing; "
        "130 interrupted (143: by SIGTERM), but serve and top: 0 by either."
    )


def told(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = problem_of(error) + (_way_out(error) if isinstance(error, NpuError) else "")
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{shown(first)} (see {error.ctx.command_path} --help)"
    return shown(first)


def _way_out(error: NpuError) -> str:
    """What the error says to a caller in Python, where that is an option here too: delays='one' is --delays one."""
    keyword = re.match(r"""(\w+)=['"]?([\w.-]+)['"]? (.+)""", error.python)
    return "" if keyword is None else f"; --{keyword[1].replace('_', '-')} {keyword[2]} {keyword[3]}"


def fail(error: BaseException, status: int) -> NoReturn:
    """Say it and end."""
    click.echo(f"Error: {told(error)}", err=True)
    raise SystemExit(status) from error


class _Interrupted(click.ClickException):
    """Ctrl-C where nothing else takes care of it."""


class OneLineErrors(click.Group):
    """A group whose errors, of usage too, are one line on stderr and the exit status of their kind."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted("interrupted") from error

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that knows no Greek is shown question marks
        try:
            status = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.ClickException as error:
            fail(error, INTERRUPTED if isinstance(error, _Interrupted) else USAGE)
        except (NpuError, OSError, MemoryError) as error:
            fail(error, status_of(error))
        raise SystemExit(status if isinstance(status, int) else 0)
