"""What a command writes is checked before it begins: no output destroys an input or another output."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .atomic import Unfinished, unfinished_names

Named = tuple[str, Path]
"""A file, and what its user knows it as: the option, or the argument."""


def check_outputs(outputs: Iterable[Named], inputs: Iterable[Named] = ()) -> None:
    """OSError where an output of a command is one of its inputs or another output of it, by whatever name or link, or cannot
    be written. Standard input, output and error count where they are files. Nothing that is there is changed."""
    outputs, taken = list(outputs), {key: name for name, path in inputs for key in _identity(path)} | _standard()
    for option, path in outputs:
        target = Path(os.path.realpath(path))
        clash = next((taken[key] for file in (path, *unfinished_names(target)) for key in _identity(file) if key in taken), None)
        if clash is not None:
            raise OSError(errno.EINVAL, f"{option} would write over {clash}; name another file", str(path))
        taken |= dict.fromkeys(_identity(path), option)
    for _, path in outputs:
        Unfinished(path).discard()


def _identity(path: Path) -> list[object]:
    """What tells a file from others: the path that it leads to, and, where it is there, its device and inode."""
    try:
        there = os.stat(path)
        return [os.path.realpath(path), (there.st_dev, there.st_ino)]
    except OSError:
        return [os.path.realpath(path)]


def _standard() -> dict[object, str]:
    """Device and inode of standard input, output and error, where they are regular files."""
    found: dict[object, str] = {}
    for number, name in enumerate(("standard input", "standard output", "standard error")):
        with suppress(OSError):  # it is closed
            there = os.fstat(number)
            if stat.S_ISREG(there.st_mode):
                found[there.st_dev, there.st_ino] = name
    return found
