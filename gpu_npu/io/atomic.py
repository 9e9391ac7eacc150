"""Files that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"
_NT = os.name == "nt"
"""Where an open file can be neither renamed nor removed, and has no lock to lose."""


class Unfinished:
    """A file that takes the place of what is at `path` when it is finished; `file` is open for writing and reading.

    Until then it is `.NAME.unfinished` beside it, and what is at `path` stays. A process that is killed leaves one behind,
    which the next for the same path takes over. OSError, with `path` in it: not writable, or another process writes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._beside = self.path.with_name(f".{self.path.name}{UNFINISHED}")
        try:
            self.file = _ours(self._beside)
        except OSError as error:
            raise _told(error, self.path) from error

    def finish(self) -> None:
        """Close it, once all of it and its name are on the disk. OSError: it is not finished; discard it."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            if _NT:
                self.file.close()
            os.replace(self._beside, self.path)
            self.file.close()
            _settle(self.path.parent)
        except OSError as error:
            raise _told(error, self.path) from error

    def discard(self) -> None:
        """Close it without a trace, unless it is closed."""
        if self.file.closed:
            return
        if not _NT:
            self._beside.unlink(missing_ok=True)
        with suppress(OSError):  # what is not written yet does not fit
            self.file.close()
        if _NT:
            self._beside.unlink(missing_ok=True)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """An `Unfinished` file to write to, finished when the block ends, discarded after an error.

    OSError, with `path` in it: not writable, the disk is full, or another process is writing the same file.
    """
    unfinished = Unfinished(path)
    try:
        yield unfinished.file
        unfinished.finish()
    except OSError as error:
        raise _told(error, unfinished.path) from error
    finally:
        unfinished.discard()


def _told(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path))


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
