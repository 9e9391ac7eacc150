"""The container of FEAGI's exports (`.connectome`).

Little endian: "FEAGI", u32 version; from version 2 u8 flags (bit 0: LZ4) and u64 raw size; in version 3 u32 length and JSON
of a manifest; u64 FNV-1a of the payload; the payload, in LZ4 one block. Nothing in a file is believed before it is held
against the bytes that are there.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.errors import FileFormatError, MissingPackageError
from gpu_npu.extras import install_command
from gpu_npu.io.budget import Budget
from gpu_npu.io.kinds import EXPORT, another
from gpu_npu.io.strict_json import parse_json

from .fnv import fnv1a64

MAGIC = b"FEAGI"
VERSIONS = (1, 2, 3)
LZ4 = 1
"""The flag of a compressed payload."""
LZ4_RATIO = 255
"""A byte of an LZ4 block gives at most so many."""
LZ4_LARGEST = 0x7E000000
"""Bytes that one LZ4 block can hold."""
LARGEST_MANIFEST = 2**20


def open_container(path: Path, budget: Budget) -> tuple[int, dict[str, Any], bytes | memoryview]:
    """(version, manifest, payload), the checksum verified and the payload decompressed."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
        if head != MAGIC:
            raise another(path, EXPORT, f"begins with {head!r}, not with {MAGIC!r}")
        reader = Reader(path, budget.read(file, "the export"), "file")
    version = reader.integer("I", "version")
    if version not in VERSIONS:
        raise FileFormatError(f"{path}: its container is of version {version}, and this release reads {', '.join(map(str, VERSIONS))}")
    flags, size = (reader.integer("B", "flags"), reader.integer("Q", "raw size")) if version >= 2 else (0, 0)
    if flags & ~LZ4:
        raise FileFormatError(f"{path}: its flags are {flags:#04x}, and this release knows only bit 0, LZ4")
    manifest: Any = {}
    if version >= 3:
        length = reader.integer("I", "length of the manifest")
        if length > LARGEST_MANIFEST:
            raise FileFormatError(f"{path}: a manifest of {length:,} bytes; {LARGEST_MANIFEST:,} are the most")
        manifest = json_object(path, reader.take(length, "manifest"), "manifest")
        if manifest.get("container_format_version", version) != version:
            raise FileFormatError(f"{path}: the manifest says container {manifest['container_format_version']!r}, the file is of {version}")
    checksum = reader.integer("Q", "checksum")
    payload = reader.rest()
    if fnv1a64(payload) != checksum:
        raise FileFormatError(f"{path}: the checksum of its {len(payload):,} bytes of payload is wrong: truncated or corrupt")
    if not flags & LZ4:
        return version, manifest, payload
    budget.take(size, "its payload, unpacked,")
    return version, manifest, _decompressed(path, payload, size)


def _decompressed(path: Path, payload: memoryview, size: int) -> bytes:
    most = min(LZ4_RATIO * len(payload), LZ4_LARGEST)
    if size > most:
        raise FileFormatError(f"{path}: a raw size of {size:,} bytes, where {len(payload):,} bytes of LZ4 hold at most {most:,}")
    try:
        import lz4.block
    except ImportError as error:
        needed = f"{path}: its payload is compressed; reading it needs the package lz4: {install_command('feagi')}"
        raise MissingPackageError(needed) from error
    try:
        raw: bytes = lz4.block.decompress(payload, uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise FileFormatError(f"{path}: the payload is no LZ4 block of {size:,} bytes: {error}") from error
    if len(raw) != size:
        raise FileFormatError(f"{path}: the payload gives {len(raw):,} bytes, where the header says {size:,}")
    return raw


def json_object(path: Path, text: bytes | memoryview, what: str) -> dict[str, Any]:
    try:
        value = parse_json(bytes(text))
    except ValueError as error:
        raise FileFormatError(f"{path}: the {what} is no JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: the {what} is {type(value).__name__}, not an object")
    return value


class Reader:
    """Bytes taken from the front; whatever asks for more than there are is an error before anything is made for it."""

    def __init__(self, path: Path, data: bytes | memoryview, where: str) -> None:
        self.path = path
        self._data = memoryview(data)
        self._at = 0
        self._where = where

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def error(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: {what}")

    def need(self, size: int, what: str) -> None:
        """FileFormatError unless `size` bytes are left."""
        if size > self.left:
            raise self.error(f"{what} needs {size:,} bytes, and {self.left:,} are left of the {self._where}: truncated or corrupt")

    def take(self, size: int, what: str) -> memoryview:
        self.need(size, what)
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> memoryview:
        return self.take(self.left, "")

    def integer(self, form: str, what: str) -> int:
        """One of struct's B, I, Q."""
        return int(struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))[0])

    def real(self, what: str) -> float:
        """A float32."""
        return float(struct.unpack("<f", self.take(4, what))[0])

    def entries(self, size: int, what: str) -> int:
        """A count of things of at least `size` bytes each."""
        count = self.integer("Q", f"count of {what}")
        self.need(count * size, f"{what} ({count:,} of them)")
        return count

    def vector(self, dtype: str, what: str) -> NDArray[Any]:
        """A view of the items; nothing is copied."""
        count = self.entries(np.dtype(dtype).itemsize, what)
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize, what), dtype)

    def flags(self, what: str) -> NDArray[Any]:
        """A vector of bools, as bytes seen to be 0 or 1."""
        return self.bools(self.vector("|u1", what), what)

    def bools(self, array: NDArray[Any], what: str) -> NDArray[Any]:
        """`array` seen to hold 0 and 1 alone."""
        bad = np.flatnonzero(array > 1)
        if bad.size:
            raise self.error(f"{what}[{bad[0]}]: {array[bad[0]]} where 0 or 1 is needed")
        return array

    def text(self, what: str, most: int | None = None) -> str:
        size = self.entries(1, what)
        if most is not None and size > most:
            raise self.error(f"{what}: {size:,} bytes; {most:,} are the most")
        try:
            return str(self.take(size, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is no text: {error}") from error
