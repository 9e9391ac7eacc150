"""Labels and columns of neurons in the package's own files: numbers, and texts as UTF-8 with a 0 between them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U8
from gpu_npu.connectome import Annotations
from gpu_npu.errors import NetworkError

from .archive import Archive
from .sealed import Sealed
from .strict_json import parse_json


def annotation_values(annotations: Annotations) -> dict[str, int | str]:
    """The names of the columns, and of what kind the labels are; nothing where neurons have neither."""
    if not annotations:
        return {}
    labels = None if annotations.labels is None else "text" if annotations.labels.dtype.kind == "U" else "numbers"
    return {"annotations": json.dumps({"count": len(annotations), "labels": labels, "columns": list(annotations.columns)})}


def annotation_arrays(annotations: Annotations) -> dict[str, NDArray[Any]]:
    """What annotations hold, as plain arrays by name."""
    arrays = {f"annotation_{i}": _packed(values) for i, values in enumerate(annotations.columns.values())}
    labels = annotations.labels
    return arrays if labels is None else {"label": _packed(labels) if labels.dtype.kind == "U" else labels, **arrays}


def read_annotations(archive: Archive | Sealed) -> Annotations:
    """What was written. FileFormatError: something else."""
    if "annotations" not in archive:
        return Annotations()
    text = archive.text("annotations")
    try:
        said = parse_json(text)
        count, kind, names = int(said["count"]), said["labels"], [str(name) for name in said["columns"]]
    except (ValueError, TypeError, KeyError) as error:
        raise archive.error(f"'annotations' cannot be read: {error!r} in {text!r:.80}") from error
    labels: NDArray[Any] | None = None
    if kind == "text":
        labels = _unpacked(archive, "label", count)
    elif kind is not None:
        labels = archive.array("label", (count,), np.uint64)
    columns = {name: _unpacked(archive, f"annotation_{i}", count) for i, name in enumerate(names)}
    try:
        return Annotations(labels, columns)
    except NetworkError as error:
        raise archive.error(error) from error


def _packed(values: NDArray[Any]) -> U8:
    return np.frombuffer("\0".join(values.tolist()).encode(), np.uint8)


def _unpacked(archive: Archive | Sealed, name: str, count: int) -> NDArray[Any]:
    try:
        texts = archive.array(name, dtype=np.uint8).tobytes().decode().split("\0")
    except UnicodeDecodeError as error:
        raise archive.error(f"array {name!r} is no text: {error}") from error
    if len(texts) != count and (count or texts != [""]):
        raise archive.error(f"array {name!r} has {len(texts):,} texts for {count:,} neurons")
    return np.array(texts[:count], np.str_)
