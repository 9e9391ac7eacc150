"""A sealed file: values and plain arrays under one SHA-256, so that one changed, missing or added byte is noticed.

docs/checkpoints.md has it byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpu_npu.checks import check_path, is_integer
from gpu_npu.errors import CheckpointError, problem_of

from .atomic import replacing
from .budget import Budget
from .kinds import CHECKPOINT, another
from .strict_json import parse_json

MAGIC = b"\x89GPUNPU\n"
VERSION = 3
READS = (2, 3)
"""Versions. In version 2 there are no delays."""
START = struct.Struct("<8sIIQ")
"""Magic, version, bytes of the header, bytes of the file."""
SEAL = hashlib.sha256().digest_size
ALIGNMENT = 64
"""Bytes: an array starts at a multiple of this."""
CHUNK = 2**20
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8")


def write_sealed(path: str | os.PathLike[str], values: Mapping[str, int | str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Values and arrays to a file, which appears whole or not at all, with the errors of `replacing`."""
    places, at = {}, 0
    for name, array in arrays.items():
        places[name] = [array.dtype.newbyteorder("<").str, list(array.shape), at]
        at += _aligned(array.nbytes)
    header = json.dumps({"values": values, "arrays": places}, separators=(",", ":")).encode()
    start = _aligned(START.size + len(header))
    with replacing(path) as file:
        seal = hashlib.sha256()

        def put(data: Any, nbytes: int, room: int) -> None:
            for part in (data, bytes(room - nbytes)):
                file.write(part)
                seal.update(part)

        put(START.pack(MAGIC, VERSION, len(header), start + at + SEAL) + header, START.size + len(header), start)
        for array in arrays.values():
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            put(little.reshape(-1).view(np.uint8).data, little.nbytes, _aligned(little.nbytes))
        file.write(seal.digest())


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Sealed:
    """What `write_sealed` wrote, checked as a whole before any of it is believed; the arrays are read when asked for.

    memory_limit: as of `Budget.of`. CheckpointError: not such a file, of another version, truncated or changed. CapacityError:
    it takes more memory than that. OSError: not readable.
    """

    def __init__(self, path: str | os.PathLike[str], memory_limit: int | None = None) -> None:
        self.path = check_path(path)
        self.budget = Budget.of(self.path, memory_limit)
        self._file = self.path.open("rb")
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        header = self._check(self._file)
        try:
            self.budget.take_json(len(header), "its header")
            content = parse_json(header)
            self._values: dict[str, Any] = dict(content["values"])
            self._places = {name: (str(code), tuple(map(int, shape)), int(at)) for name, (code, shape, at) in content["arrays"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self.error(f"its header cannot be read: {error!r}") from error
        self._start = _aligned(START.size + len(header))

    def __enter__(self) -> Sealed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def error(self, what: object) -> CheckpointError:
        """A CheckpointError that names the file."""
        return CheckpointError(f"{self.path}: {problem_of(what) if isinstance(what, BaseException) else what}")

    def _check(self, file: BinaryIO) -> bytes:
        """The header of a file that is what was written."""
        size = os.fstat(file.fileno()).st_size
        first = file.read(START.size)
        if first[: len(MAGIC)] != MAGIC[: len(first)] or not first:
            raise another(self.path, CHECKPOINT, f"begins with {first[: len(MAGIC)]!r}", CheckpointError)
        if len(first) < START.size:
            raise self.error(f"truncated: it ends after {size} bytes")
        _, version, length, whole = START.unpack(first)
        if version not in READS:
            raise self.error(f"it is of version {version} of the format, and this release reads versions {READS[0]} and {READS[1]}")
        self.version = version
        if size != whole:
            raise self.error(
                f"{'truncated' if size < whole else 'not what was written'}: it has {size:,} bytes, where its header says {whole:,}"
            )
        if whole < _aligned(START.size + length) + SEAL:
            raise self.error(f"corrupt: {whole:,} bytes do not hold its header of {length:,}")
        seal, left = hashlib.sha256(first), whole - START.size - SEAL
        while left:
            part = file.read(min(CHUNK, left))
            if not part:
                raise self.error(f"truncated: it ended while it was read, {left + SEAL:,} bytes early")
            seal.update(part)
            left -= len(part)
        if file.read(SEAL) != seal.digest():
            raise self.error("corrupt: its SHA-256 is not that of its contents; take an older checkpoint")
        file.seek(START.size)
        self._end = whole - SEAL
        return file.read(length)

    def __contains__(self, name: str) -> bool:
        return name in self._places or name in self._values

    def text(self, name: str) -> str:
        """A string."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self.error(f"{name!r} is {value!r:.60}, not a string")
        self.budget.take_json(len(value), repr(name))
        return value

    def integer(self, name: str) -> int:
        """An integer of 0 or more."""
        value = self._value(name)
        if not is_integer(value) or value < 0:
            raise self.error(f"{name!r} is {value!r:.60}, not an integer of 0 or more")
        return value

    def _value(self, name: str) -> Any:
        if name not in self._values:
            raise self.error(f"value {name!r} is missing")
        return self._values[name]

    def array(self, name: str, shape: tuple[int, ...] | None = None, dtype: Any = None) -> NDArray[Any]:
        """An array, of this shape and dtype where they are given; of any shape of one dimension where no shape is."""
        if name not in self._places:
            raise self.error(f"array {name!r} is missing")
        code, found, at = self._places[name]
        if code not in DTYPES or (dtype is not None and np.dtype(code) != np.dtype(dtype)):
            raise self.error(f"array {name!r} has dtype {code}, not {DTYPES if dtype is None else np.dtype(dtype)}")
        if (len(found) != 1) if shape is None else (found != shape):
            raise self.error(f"array {name!r} has shape {found}, not {'one dimension' if shape is None else shape}")
        count = math.prod(found)
        if min(found, default=0) < 0 or at < 0 or self._start + at + count * np.dtype(code).itemsize > self._end:
            raise self.error(f"array {name!r} of shape {found} at {at} reaches beyond the file")
        self.budget.take(count * np.dtype(code).itemsize, f"array {name!r} of shape {found}")
        self._file.seek(self._start + at)
        array = np.fromfile(self._file, code, count)
        return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(found)

    def names(self, beginning: str) -> list[str]:
        """The arrays whose names begin so."""
        return [name for name in self._places if name.startswith(beginning)]
