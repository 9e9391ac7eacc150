"""Compiled kernels on disk.

An entry is one file, `<key>-<sha256 of its bytes><suffix>`: the key names everything the compiler saw, and the name says
what the bytes must be. It appears by an atomic rename, so several processes may build the same one; one whose bytes do
not fit its name, or that others may have written, is removed and counts as not there.

There are two folders: the user's cache folder, and, where that cannot be used, a private temporary one of this process.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from gpu_npu.backends.toolchain.private import Folder, reason, shown

NAME = "gpu-npu"
"""Of the user's cache folder; one of a process has more letters."""
WAY_OUT = "name a folder of your own that has room, and from which programs may run, in XDG_CACHE_HOME or TMPDIR"


class Problems:
    """Why folders could not be used: one line for each."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def add(self, path: str | Path, problem: BaseException) -> None:
        """Of one path, the first problem counts."""
        self._told.setdefault(shown(path), reason(problem))

    def __str__(self) -> str:
        return "; ".join(f"{path}: {why}" for path, why in self._told.items())


def folders(problems: Problems) -> Iterator[Folder]:
    """The folders that can be used, the best one first, each open until the next one is asked for. `problems` gets the others."""
    for name, find in (("the user's cache folder", _of_the_user), ("the folder for temporary files", _of_this_process)):
        place: str | Path = name
        try:
            place = find()
            folder = Folder.open(place)
        except (OSError, RuntimeError) as problem:  # RuntimeError: a user without a home folder
            problems.add(getattr(problem, "filename", None) or place, problem)
            continue
        with folder:
            yield folder


def note(folder: Folder, problems: Problems) -> str:
    """For people: that a folder is not the user's cache folder, and why; nothing where it is."""
    if folder.path.name == NAME:
        return ""
    return f", for this process alone ({problems})" if str(problems) else ", for this process alone"


def where() -> str:
    """The folder that is used, for people, and why where it is not the user's cache folder."""
    problems = Problems()
    for folder in folders(problems):
        return shown(folder.path) + note(folder, problems)
    return f"none ({problems}): {WAY_OUT}"


def _of_the_user() -> Path:
    """Its path, made where it is missing."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"  # one that is not absolute is to be ignored
    if not base.is_absolute():
        raise RuntimeError(f"the home folder {shown(Path.home())!r} is not an absolute path")
    _make(base / NAME)
    return base / NAME


def _make(path: Path) -> None:
    """Make the folder where it is missing, but not in a folder of a user who is neither this one nor root."""
    if not os.path.isdir(path):
        there = next(parent for parent in path.parents if os.path.isdir(parent))
        owner = os.stat(there).st_uid
        if hasattr(os, "geteuid") and owner not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, f"belongs to user {owner}, and this process runs as {os.geteuid()}", str(there))
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Gone at exit."""
    return tempfile.TemporaryDirectory(prefix=f"{NAME}-")


def _of_this_process() -> Path:
    if not os.path.isdir(_temporary().name):  # whoever tidies the folder for temporary files may have removed it
        _temporary().cleanup()
        _temporary.cache_clear()
    return Path(_temporary().name)


def digest(*parts: str | bytes) -> str:
    """SHA-256 (hex) of these parts; no two lists of parts read the same."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()


def name_of(key: str, suffix: str, data: bytes) -> str:
    """The name of the entry of this key that holds these bytes."""
    return f"{key}-{hashlib.sha256(data).hexdigest()}{suffix}"


def is_sound(path: Path, key: str, suffix: str) -> bool:
    """Whether a file can be read and holds the bytes that its name says."""
    try:
        return path.name == name_of(key, suffix, path.read_bytes())
    except OSError:
        return False


def find(folder: Folder, key: str, suffix: str) -> str | None:
    """The name of the entry of this key, if there is a sound one that nobody else may have written; others are removed."""
    try:
        names = [name for name in folder.names() if name.startswith(f"{key}-") and name.endswith(suffix)]
    except OSError:
        return None
    for name in names:
        with suppress(OSError):
            if name == name_of(key, suffix, folder.read(name)):
                return name
        folder.remove(name)
    return None


def kept(key: str, suffix: str, make: Callable[[], bytes]) -> bytes:
    """The bytes of the entry of this key; where there is none they are made, and kept if a folder can keep them."""
    for folder in folders(Problems()):
        with suppress(OSError):
            if name := find(folder, key, suffix):
                return folder.read(name)
    data = make()
    for folder in folders(Problems()):
        with suppress(OSError):
            store(folder, key, suffix, data)
            break
    return data


def store(folder: Folder, key: str, suffix: str, data: bytes) -> str:
    """Keep these bytes as the entry of this key; its name."""
    name = name_of(key, suffix, data)
    folder.put(name, data)
    return name
