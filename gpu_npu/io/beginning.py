"""How a file begins, unpacked where it is compressed: enough to tell what it is."""

from __future__ import annotations

import os
import zlib

from gpu_npu.checks import check_path

from .formats import Given, missing

LOOKED_AT = 2**16
"""Bytes."""
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def look(path: str | os.PathLike[str]) -> Given:
    """A file as it is to be read. OSError: not readable. FileFormatError: it cannot be unpacked."""
    with check_path(path).open("rb") as file:
        head = file.read(LOOKED_AT)
    if head.startswith(GZIP):
        try:
            return Given(path, zlib.decompressobj(31).decompress(head, LOOKED_AT), "gzip")
        except zlib.error as error:
            raise Given(path).error(f"damaged, as gzip says: {error}") from error
    if head.startswith(ZSTD):
        return Given(path, _zstd(path), "zstd")
    return Given(path, head)


def _zstd(path: str | os.PathLike[str]) -> bytes:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise missing(error, f"unpacking {path}") from error
    try:
        with pa.input_stream(str(path), compression="zstd") as file:
            return bytes(file.read(LOOKED_AT))
    except (pa.ArrowException, OSError) as error:
        raise Given(path).error(f"damaged, as zstd says: {error}") from error
