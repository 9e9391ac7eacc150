"""Compiled kernels on disk.

An entry is one file, `<key>-<sha256 of its bytes><suffix>`: the key names everything the compiler saw, and the name says
what the bytes must be. It appears by an atomic rename, so several processes may build the same one; one whose bytes do
not fit its name is removed and counts as not there.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from gpu_npu.errors import BackendUnavailableError


def folder() -> Path:
    """The user's cache folder for this package, or a private temporary one (gone at exit) where that cannot be written."""
    try:
        path = _base() / "gpu-npu"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except (OSError, RuntimeError):  # RuntimeError: a user without a home folder
        return Path(_private_folder().name)


def _base() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="gpu-npu-")
    except OSError as problem:
        way_out = "name one that can be written in XDG_CACHE_HOME or TMPDIR"
        raise BackendUnavailableError(f"there is no folder for compiled kernels ({problem}): {way_out}") from problem


def digest(*parts: str | bytes) -> str:
    """SHA-256 (hex) of these parts; no two lists of parts read the same."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()


def name_of(key: str, suffix: str, data: bytes) -> str:
    """The name of the entry of this key that holds these bytes."""
    return f"{key}-{hashlib.sha256(data).hexdigest()}{suffix}"


def is_sound(path: Path, key: str, suffix: str) -> bool:
    """Whether this entry holds the bytes that its name says. OSError where it cannot be read."""
    return path.name == name_of(key, suffix, path.read_bytes())


def find(key: str, suffix: str) -> Path | None:
    """The entry of this key, if there is a sound one."""
    for path in sorted(folder().glob(f"{key}-*{suffix}")):
        try:
            if is_sound(path, key, suffix):
                return path
        except OSError:
            continue
        discard(path)
    return None


def store(key: str, suffix: str, data: bytes) -> Path:
    """Keep these bytes as the entry of this key."""
    path = folder() / name_of(key, suffix, data)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix="building-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        discard(Path(name))
        raise
    return path


def discard(path: Path) -> None:
    """Remove an entry; another process may have done so already."""
    path.unlink(missing_ok=True)
