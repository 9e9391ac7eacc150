"""Neuron ids from text and from files."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32
from gpu_npu.checks import Find, check_ids, check_integer, check_kind, check_path
from gpu_npu.connectome import Annotations
from gpu_npu.errors import FileFormatError, NetworkError, NeuronIndexError

from .archive import Archive, read_npy

_BETWEEN = re.compile(r"[\s,;\[\]]+")
SPARE = 2**20
"""Ids that a list may name beside each one twice."""
_RANGE = re.compile(r"(\d{1,20})-(\d{1,20})")


def parse_ids(text: str, capacity: int, what: str = "ids", labels: Annotations | None = None) -> U32:
    """Ids written as 1,2,5-8, in the order written; a range has both its ends in it. Where neurons have labels, these are meant.

    NetworkError: something that is no id and no range. NeuronIndexError: an id that is not below `capacity`.
    """
    check_kind(text, str, what), _finder(labels)
    found = array("I")
    items = list(map(str.strip, text.split(",")))
    if labels is not None and labels.labels is not None:
        if labels.labels.dtype.kind == "U" and labels.positions(np.array([text.strip()])) >= 0:
            items = [text.strip()]  # a label that has a comma in it
        return _labelled(items, labels, lambda i: what)
    _append(found, items, check_integer(capacity, "capacity"), what)
    return np.array(found, np.uint32)


def each_once(ids: U32, what: str) -> U32:
    """`ids` themselves. NetworkError: one of them is there twice."""
    ids = check_ids(ids, 2**32, what)
    ordered = np.sort(ids)
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if again.size:
        neuron = ordered[again[0]]
        raise NetworkError(
            f"{what}: neuron {neuron} is named {np.count_nonzero(ids == neuron):,} times; a list of ids names each neuron once,"
            f" and these {len(ids):,} values name {len(ids) - again.size:,}, as codes of classes or types do"
        )
    return ids


def read_ids(path: str | os.PathLike[str], capacity: int, key: str | None = None, labels: Annotations | None = None) -> U32:
    """The ids in a file, whose kind its content tells.

    - .npy: an array of ids, or a mask of `capacity` booleans.
    - .npz: the array `key` of it, by default the one named `stim`, or the only one.
    - text: ids and ranges (5-8) with commas, spaces or ends of lines between them; what follows a # is a comment.

    Where neurons have labels, text names those, each on a line of its own where some have spaces in them; an array does where
    one of it is too large for an id.

    FileFormatError: none of these. NetworkError: an id is there twice, as in a column that has a class for each neuron.
    NetworkError, NeuronIndexError: as of `check_ids`. OSError: not readable.
    """
    path, find = check_path(path), _finder(labels)
    capacity = check_integer(capacity, "capacity")
    with path.open("rb") as file:
        head = file.read(6)
        if key is not None and not head.startswith(b"PK"):
            raise FileFormatError(f"{path}: it is no .npz file, so it has no array {key!r}")
        if head == np.lib.format.MAGIC_PREFIX:
            values = read_npy(path, what="array of ids")
            return each_once(check_ids(values, capacity, str(path), find), str(path))
    if head.startswith(b"PK") or path.suffix == ".npz":
        with Archive(path) as archive:
            names = archive.array_names
            name = key or ("stim" if "stim" in names else names[0] if len(names) == 1 else None)
            if name is None:
                raise FileFormatError(f"{path}: which array holds the ids? It has {archive.names}; name one: {path}:NAME")
            return each_once(check_ids(archive.array(name), capacity, f"{path}: {name}", find), f"{path}: {name}")
    return _read_text(path, capacity, labels)


def _finder(labels: Annotations | None) -> Find | None:
    return None if labels is None else check_kind(labels, Annotations, "labels").finder


def _read_text(path: Path, capacity: int, labels: Annotations | None) -> U32:
    found, names, lines = array("I"), list[str](), list[int]()
    named = labels is not None and labels.labels is not None
    whole = labels is not None and _has_spaces(labels)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                items = filter(None, [line.strip()] if whole else _BETWEEN.split(line.partition("#")[0]))
                if named:
                    before = len(names)
                    names.extend(items)
                    lines.extend([number] * (len(names) - before))
                    _check_count(len(names), names[-1:], capacity, f"{path}, line {number}")
                else:
                    _append(found, items, capacity, f"{path}, line {number}")
        ids = np.array(found, np.uint32) if labels is None or not named else _labelled(names, labels, lambda i: f"{path}, line {lines[i]}")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: not a file of ids: neither .npy, .npz nor text") from error
    except NetworkError as error:
        raise FileFormatError(f"{error.problem}; a file of ids is .npy, .npz, or text with an id or a range on a line") from error
    return each_once(ids, str(path))


def _has_spaces(labels: Annotations) -> bool:
    """Whether a label has something in it that stands between the ids of a list, so that each has a line of its own."""
    known = labels.labels
    return known is not None and known.dtype.kind == "U" and any(_BETWEEN.search(label) or "#" in label for label in known.tolist())


def _append(found: array[int], items: Iterable[str], capacity: int, what: str) -> None:
    """Add the ids that these items of a list mean."""
    for item in items:
        first, last = _span(item, what)
        if not 0 <= first <= last < capacity:
            raise NeuronIndexError.outside(what, min(first, last, 0) or max(first, last), capacity)
        _check_count(len(found) + last - first + 1, [item], capacity, what)
        found.extend(range(first, last + 1))


def _check_count(count: int, last: list[str], capacity: int, what: str) -> None:
    """NetworkError: more ids than any list needs."""
    if count > 2 * capacity + SPARE:
        raise NetworkError(f"{what}: with {last[0]:.40} more than {2 * capacity + SPARE:,} ids, in a network that has {capacity:,}")


def _labelled(names: list[str], labels: Annotations, what: Callable[[int], str]) -> U32:
    """The ids of neurons by their labels. what(i): where the i-th stands. NetworkError: a label that no neuron has."""
    numbers = labels.labels is not None and labels.labels.dtype.kind == "u"
    for i, name in enumerate(names if numbers else ()):
        if not (name.isdecimal() and int(name) < 2**64):
            raise NetworkError(f"{what(i)}: {name!r:.40} is no label of this network: those are numbers (index:0-9 names neurons by place)")
    wanted: NDArray[Any] = np.array([int(name) for name in names], np.uint64) if numbers else np.array(names, np.str_)
    found = labels.positions(wanted)
    lost = np.flatnonzero(found < 0)
    return labels.find(wanted[lost[:1]], what(int(lost[0]))) if lost.size else found.astype(np.uint32)


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
