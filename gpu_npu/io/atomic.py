"""Files that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of what is at `path` once the block ends and all of it is on the disk.

    Until then it is `.NAME.unfinished` beside it, and what was at `path` stays; after an error it is removed. A process
    that is killed leaves one behind, which the next write to the same path takes over. OSError, with `path` in it: not
    writable, the disk is full, or another process is writing the same file.
    """
    final = Path(path)
    unfinished = final.with_name(f".{final.name}.unfinished")
    try:
        with _ours(unfinished) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(unfinished, final)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        _settle(final.parent)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(final)) from error


def _ours(path: Path) -> BinaryIO:
    """The file, empty, and locked until it is closed: nobody else writes to it."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            _lock(file)
            if _same(file, path):
                file.truncate()
                return file
        except BlockingIOError as error:
            file.close()
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from error
        except BaseException:
            file.close()
            raise
        file.close()  # it was finished by somebody else between the opening and the lock


def _lock(file: BinaryIO) -> None:
    """BlockingIOError where another process has it. Without POSIX they are not told apart."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _settle(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
