"""What a file is, told by how it begins and never by its name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gpu_npu.errors import FileFormatError


class Kind(NamedTuple):
    """A kind of file."""

    about: str
    """For messages: "a JSON file"."""
    way_out: str = ""
    """In Python, where something else was needed: who reads it."""


ARCHIVE = Kind("a .npz file", "gpu_npu.io.load reads networks")
GENOME = Kind("a JSON file", "gpu_npu.genome.grow reads FEAGI's genomes")
EXPORT = Kind("a connectome that FEAGI exported", "gpu_npu.genome.read_export reads it")
CHECKPOINT = Kind("a checkpoint of a run", "gpu_npu.Snapshot.read reads it")
ARRAY = Kind("one array in a .npy file", "gpu_npu.io.load reads a matrix")
HDF5 = Kind("an HDF5 file", "of SONATA's circuits gpu_npu.io.load reads the configuration, which is JSON")
EMPTY = Kind("an empty file")
UNKNOWN = Kind("a file of a kind that is not known here")
BEGINNINGS = {
    b"PK\x03\x04": ARCHIVE,
    b"PK\x05\x06": ARCHIVE,
    b"FEAGI": EXPORT,
    b"\x89GPUNPU\n": CHECKPOINT,
    b"\x93NUMPY": ARRAY,
    b"\x1f\x8b": Kind("a file compressed by gzip (unpack it first)"),
    b"\x04\x22\x4d\x18": Kind("a file compressed by lz4 (unpack it first)"),
    b"\x28\xb5\x2f\xfd": Kind("a file compressed by zstd (unpack it first)"),
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"PAR1": Kind("a Parquet file"),
    b"\xd0\xcf\x11\xe0": Kind("a file of Microsoft Office (save its sheet as CSV)"),
    b"BZh": Kind("a file compressed by bzip2 (unpack it first)"),
    b"\xfd7zXZ": Kind("a file compressed by xz (unpack it first)"),
}
BEFORE_JSON = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"
"""Byte order marks, the zeros of UTF-16 and UTF-32, white space: an object of JSON may stand behind them."""
LOOKED_AT = 4096
"""Bytes."""


def kind_of(path: Path) -> Kind:
    """What kind of file this is; UNKNOWN for what is no regular file, which could be read only once. OSError: not readable."""
    if not path.is_file() and path.exists() and not path.is_dir():
        return UNKNOWN
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
    if not head:
        return EMPTY
    found = next((kind for beginning, kind in BEGINNINGS.items() if head.startswith(beginning)), None)
    return found or (GENOME if head.lstrip(BEFORE_JSON).startswith(b"{") else UNKNOWN)


def another(path: Path, needed: Kind, found: object, error: type[FileFormatError] = FileFormatError) -> FileFormatError:
    """The error for a file that is not of the kind needed. found: what its reader met."""
    kind = kind_of(path)
    if kind in (needed, UNKNOWN):
        return error(f"{path}: not {needed.about}, or cut short: {found}")
    return error(f"{path}: {kind.about}, not {needed.about}: {found}", python=kind.way_out)
