"""Every file that this package writes is opened here: it appears whole, where its path leads, or not at all.

One rule for all outputs: a regular file that is there already and may be written to is replaced, and keeps its mode, and its
owner and group where the system allows that. Symbolic links are followed. Anything else at the path (a folder, a named pipe,
a device) is an error. New files get the mode that the umask leaves.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

UNFINISHED = ".unfinished"
_NT = os.name == "nt"
"""Where an open file can be neither renamed nor removed, and has no lock to lose."""
_SAFELY = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
"""How files are opened: through no symbolic link, without waiting for the other end of a pipe."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems answer that cannot lock, or bring a file to the disk."""
_NO_FOLDER_SYNC = (*_NO_SYNC, errno.EBADF, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR)
"""The same for a folder, which may also be one that cannot be opened for reading."""
_MOUNTED = (errno.EBUSY, errno.EXDEV)
"""What renaming onto a mount point answers."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unfinished:
    """A file that takes the place of what is at `path` when it is finished; `file` is open for writing and reading.

    Until then it is `.NAME.unfinished`, beside the file that the path leads to, and what is at `path` stays. A process that
    is killed leaves one behind, which the next for the same path removes. A file of that name that belongs to somebody else,
    or is a link, stays as it is: another name is taken.

    OSError, with `path` in it: no regular file can be written there (see `destination`), or another process is writing it.
    On a file system without locks, the first of two processes that write the same file is told so when it finishes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._over = False
        with _naming(self.path):
            self._target, there = destination(self.path)
            self.file, self._beside = _opened(self._target, 0o666 if there is None else 0o600)

    def finish(self) -> None:
        """Close it, once all of it and its name are on the disk. OSError: it is not finished; discard it."""
        with _naming(self.path):
            self.file.flush()
            target, there = destination(self.path)
            if target != self._target or not _same(self.file.fileno(), self._beside):
                raise OSError(errno.EBUSY, "another process wrote it at the same time")
            if there is not None:
                _keep_mode(self.file.fileno(), there)
            with _tolerating(_NO_SYNC):
                os.fsync(self.file.fileno())
            if _NT:
                self.file.close()
            try:
                os.replace(self._beside, self._target)
            except OSError as error:
                if error.errno not in _MOUNTED or there is None:
                    raise
                self._copy()
            self._over = True
            self.file.close()
            _sync_folder(self._target.parent)

    def _copy(self) -> None:
        """Write over a file that is mounted by itself, as into a container: it cannot be replaced."""
        self.file.seek(0)
        with os.fdopen(os.open(self._target, os.O_WRONLY | _SAFELY), "wb") as target:
            shutil.copyfileobj(self.file, target)
            target.truncate()
            with _tolerating(_NO_SYNC):
                os.fsync(target.fileno())
        self._beside.unlink(missing_ok=True)

    def discard(self) -> None:
        """Close it without a trace, unless it is finished."""
        if self._over:
            return
        self._over = True
        if not _NT and _same(self.file.fileno(), self._beside):
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
        with _naming(unfinished.path):
            yield unfinished.file
        unfinished.finish()
    finally:
        unfinished.discard()


def scratch(path: Path) -> IO[bytes]:
    """A file without a name and without a buffer, in the folder of the file that `path` leads to. OSError: no room for it."""
    return tempfile.TemporaryFile(buffering=0, dir=Path(os.path.realpath(path)).parent)


def destination(path: Path) -> tuple[Path, os.stat_result | None]:
    """Where a path leads through symbolic links, and what is there: a regular file that may be replaced, or nothing (None).

    OSError: something else is there, the file may not be written to, or the path cannot be followed.
    """
    try:
        target = Path(os.path.realpath(path))
        there = os.stat(path)
    except FileNotFoundError:
        return target, None
    except ValueError as error:  # a null byte
        raise OSError(errno.EINVAL, str(error)) from error
    if not stat.S_ISREG(there.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(there.st_mode) else errno.EINVAL
        kind = _KINDS.get(stat.S_IFMT(there.st_mode), "something else")
        raise OSError(number, f"this is {kind}, not a file that could be replaced; name another")
    with os.fdopen(os.open(target, os.O_WRONLY | _SAFELY), "wb") as file:  # may it be written to? Modes and mounts say no here
        if not os.path.samestat(there, os.fstat(file.fileno())):
            raise OSError(errno.EINVAL, "this leads to a file that has no name; name another")
    folder = os.stat(target.parent)
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, there.st_uid):
        raise OSError(errno.EPERM, "the file is another user's, and in this folder only its owner may replace it")
    return target, there


def unfinished_names(target: Path) -> tuple[Path, Path]:
    """What the unfinished file of this one is called, and what where that would be too long a name."""
    short = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".{target.name}{UNFINISHED}"), target.with_name(f".{short}{UNFINISHED}")


def _opened(target: Path, mode: int) -> tuple[BinaryIO, Path]:
    """A new file beside its target, locked until it is closed, and its path."""
    path, short = unfinished_names(target)
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, mode), "w+b")
        except FileExistsError:
            if not _removed(path):
                path = target.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG or path == short:
                raise
            path = short
            continue
        try:
            _lock(file.fileno())
            if _same(file.fileno(), path):
                return file, path
        except BaseException:
            with file:
                if _same(file.fileno(), path):
                    path.unlink(missing_ok=True)
            raise
        file.close()  # somebody took it for one that was left behind


def _removed(path: Path) -> bool:
    """Remove what a process that was killed left behind. False: it is not such a file, but a link or another user's.
    OSError: another process is writing it."""
    try:
        descriptor = os.open(path, os.O_RDWR | _SAFELY)
    except OSError:
        return not os.path.lexists(path)
    try:
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode) or there.st_nlink != 1 or (not _NT and there.st_uid != os.geteuid()):
            return False
        _lock(descriptor)
        if not _NT and _same(descriptor, path):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    if _NT:
        path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def _lock(descriptor: int) -> None:
    """OSError where another process has locked it. Where there are no locks, nothing happens."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        with _tolerating(_NO_LOCKS):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(errno.EBUSY, "another process is writing it") from error


def _same(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _keep_mode(descriptor: int, there: os.stat_result) -> None:
    """Give a file the owner, group and mode of the one that it replaces, as far as the system allows it. Where the group
    cannot be kept, another group gets no more rights than everybody has."""
    if _NT:
        return
    mode = there.st_mode & 0o777
    for owner in (there.st_uid, -1):
        with suppress(OSError):
            os.fchown(descriptor, owner, there.st_gid)
            break
    if os.fstat(descriptor).st_gid != there.st_gid:
        mode = mode & ~0o070 | (mode & 0o007) << 3
    with suppress(OSError):
        os.fchmod(descriptor, mode)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    if _NT:  # folders cannot be opened there
        return
    with _tolerating(_NO_FOLDER_SYNC):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _tolerating(numbers: tuple[int, ...]) -> Iterator[None]:
    """Pass over an OSError with one of these numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An OSError names the path that was asked for, not that of an unfinished file."""
    try:
        yield
    except OSError as error:
        text = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
        raise OSError(error.errno, text, str(path)) from error
