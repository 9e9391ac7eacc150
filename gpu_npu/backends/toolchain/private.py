"""Folders and files that nobody but the user who runs this process can have written: what is loaded or compiled lies there.

A folder is opened, looked at, and held open: whatever is done in it goes by its descriptor, so it cannot be exchanged
between the check and the use. Works where POSIX does; elsewhere `Folder.open` raises OSError.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""Permission for others to write; an access list that gives it to anybody shows in the group's."""
DESCRIPTORS = Path("/proc/self/fd")


class Folder:
    """A folder, held open until `close` or the end of a `with`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """By `open` alone, which looks at it."""
        self.path, self._descriptor = path, descriptor

    @staticmethod
    def open(path: Path, *, inside: int | None = None) -> Folder:
        """A folder that is there; `inside`: `path` is a name in the folder with this descriptor. OSError where it cannot be
        opened, belongs to another user, or can be written by others."""
        if not hasattr(os, "geteuid"):
            raise OSError(errno.ENOTSUP, "whom a folder belongs to cannot be asked on this system")
        link = 0 if inside is None else os.O_NOFOLLOW
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | link, dir_fd=inside)
        try:
            _refuse(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return Folder(path, descriptor)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @property
    def place(self) -> str:
        """A path by which this process, and one that it starts, reaches this very folder while it is held open."""
        opened = DESCRIPTORS / str(self._descriptor)
        return str(opened if opened.exists() else self.path)

    def names(self) -> list[str]:
        """What is in it, in order."""
        return sorted(os.listdir(self._descriptor))

    def read(self, name: str) -> bytes:
        """A file's bytes. OSError where it is not a regular file, belongs to another user, or can be written by others."""
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._descriptor)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is not a regular file")
            _refuse(status)
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """A new file. FileExistsError where there is one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=self._descriptor), "wb") as file:
            file.write(data)

    def put(self, name: str, data: bytes) -> None:
        """A file that is there whole or not at all; several processes may put the same one."""
        unfinished = f"building-{secrets.token_hex(8)}"
        try:
            self.write(unfinished, data)
            os.replace(unfinished, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            self.remove(unfinished)
            raise

    def remove(self, name: str) -> None:
        """Remove a file, if it is there and can be."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def _tidy(self) -> None:
        """Remove what processes left that were killed while they built or wrote; nobody does either for an hour."""
        for name in self.names():
            if not name.startswith("building-"):
                continue
            with suppress(OSError):
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                if status.st_mtime > time.time() - 3600:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    with Folder.open(Path(name), inside=self._descriptor) as folder:
                        for file in folder.names():
                            folder.remove(file)
                    os.rmdir(name, dir_fd=self._descriptor)
                else:
                    os.unlink(name, dir_fd=self._descriptor)

    @contextmanager
    def workshop(self, files: Mapping[str, str]) -> Iterator[Folder]:
        """A new folder in this one, with these files (name -> text), for as long as the `with` lasts."""
        self._tidy()
        name = f"building-{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=self._descriptor)
        try:
            with Folder.open(Path(name), inside=self._descriptor) as folder:
                folder.path = self.path / name
                try:
                    for file, text in files.items():
                        folder.write(file, text.encode())
                    yield folder
                finally:
                    for file in folder.names():
                        folder.remove(file)
        finally:
            with suppress(OSError):
                os.rmdir(name, dir_fd=self._descriptor)


def _refuse(status: os.stat_result) -> None:
    """PermissionError where others than this process's user own it or may write it."""
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"belongs to user {status.st_uid}, and this process runs as {os.geteuid()}")
    if status.st_mode & OTHERS:
        raise PermissionError(errno.EPERM, f"can be written by others (mode {stat.S_IMODE(status.st_mode):o}; chmod go-w helps)")


def shown(path: str | Path) -> str:
    """A path or a command for people; bytes that are no UTF-8 as \\xff."""
    return str(path).encode("utf-8", "surrogateescape").decode(errors="backslashreplace")


def reason(problem: BaseException) -> str:
    """What the system says, without the file that the caller names: one line."""
    text = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return shown(text.splitlines()[0]) if text else type(problem).__name__
