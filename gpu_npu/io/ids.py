"""Neuron ids from text and from files."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32
from gpu_npu.checks import check_ids
from gpu_npu.errors import FileFormatError, NetworkError, NeuronIndexError

from .archive import Archive

_BETWEEN = re.compile(r"[\s,;\[\]]+")
_RANGE = re.compile(r"(\d{1,20})-(\d{1,20})")


def parse_ids(text: str, capacity: int, what: str = "ids") -> U32:
    """Ids written as 1,2,5-8, in the order written; a range has both its ends in it.

    NetworkError: something that is no id and no range. NeuronIndexError: an id that is not below `capacity`.
    """
    found = array("I")
    _append(found, map(str.strip, text.split(",")), capacity, what)
    return np.array(found, np.uint32)


def each_once(ids: U32, what: str) -> U32:
    """`ids` themselves. NetworkError: one of them is there twice."""
    ordered = np.sort(ids)
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if again.size:
        neuron = ordered[again[0]]
        raise NetworkError(
            f"{what}: neuron {neuron} is named {np.count_nonzero(ids == neuron):,} times; a list of ids names each neuron once,"
            f" and these {len(ids):,} values name {len(ids) - again.size:,}, as codes of classes or types do"
        )
    return ids


def read_ids(path: str | os.PathLike[str], capacity: int, key: str | None = None) -> U32:
    """The ids in a file, whose kind its content tells.

    - .npy: an array of ids, or a mask of `capacity` booleans.
    - .npz: the array `key` of it, by default the one named `stim`, or the only one.
    - text: ids and ranges (5-8) with commas, spaces or ends of lines between them; what follows a # is a comment.

    FileFormatError: none of these. NetworkError: an id is there twice, as in a column that has a class for each neuron.
    NetworkError, NeuronIndexError: as of `check_ids`. OSError: not readable.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(6)
        if key is not None and not head.startswith(b"PK"):
            raise FileFormatError(f"{path}: it is no .npz file, so it has no array {key!r}")
        if head == np.lib.format.MAGIC_PREFIX:
            file.seek(0)
            try:
                values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            except (ValueError, EOFError, OverflowError) as error:
                raise FileFormatError(f"{path}: not a readable array of ids: {error}") from error
            return each_once(check_ids(values, capacity, str(path)), str(path))
    if head.startswith(b"PK") or path.suffix == ".npz":
        with Archive(path) as archive:
            names = archive.names.split(", ")
            name = key or ("stim" if "stim" in names else names[0] if len(names) == 1 else None)
            if name is None:
                raise FileFormatError(f"{path}: which array holds the ids? It has {archive.names}; name one: {path}:NAME")
            return each_once(check_ids(archive.array(name), capacity, f"{path}: {name}"), f"{path}: {name}")
    return _read_text(path, capacity)


def _read_text(path: Path, capacity: int) -> U32:
    found = array("I")
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                _append(found, filter(None, _BETWEEN.split(line.partition("#")[0])), capacity, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: not a file of ids: neither .npy, .npz nor text") from error
    except NetworkError as error:
        raise FileFormatError(f"{error.problem}; a file of ids is .npy, .npz, or text with an id or a range on a line") from error
    return each_once(np.array(found, np.uint32), str(path))


def _append(found: array[int], items: Iterable[str], capacity: int, what: str) -> None:
    """Add the ids that these items of a list mean."""
    for item in items:
        first, last = _span(item, what)
        if not 0 <= first <= last < capacity:
            raise NeuronIndexError.outside(what, min(first, last, 0) or max(first, last), capacity)
        found.extend(range(first, last + 1))


def _span(item: str, what: str) -> tuple[int, int]:
    """The first and the last id of an id or a range."""
    ends = _RANGE.fullmatch(item)
    if ends is None:
        number = _whole(item, what)
        return number, number
    first, last = int(ends[1]), int(ends[2])
    if first > last:
        raise NetworkError(f"{what}: the range {item:.40} goes down; write {last}-{first}")
    return first, last


def _whole(item: str, what: str) -> int:
    """An integer, perhaps written as a real number, as NumPy writes them to text: 3, 3.0, 3e0."""
    try:
        return int(item)
    except ValueError:
        pass
    try:
        value = float(item)
        if value.is_integer():
            return int(value)
    except ValueError:
        pass
    raise NetworkError(f"{what}: {item!r:.40} is no id")
