"""Which neurons are meant: all, an area, ids, a mask, or a file of ids."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from gpu_npu import Connectome
from gpu_npu.arrays import U32
from gpu_npu.checks import check_ids, check_kind
from gpu_npu.errors import NetworkError
from gpu_npu.io import each_once, parse_ids, read_ids
from gpu_npu.objects import OneLine

Target = str | os.PathLike[str] | ArrayLike
"""Text as `Named.parse` takes it, the path of a file of ids, or ids or a mask as NumPy takes them."""
FORMS = "ids or labels like 1,2,5-8, COLUMN=VALUE, area:A, all, index:0-9, or a file of ids (.npy, .npz or text)"
_SUFFIXES = (".npy", ".npz", ".txt", ".csv")


@dataclass(frozen=True, repr=False)
class Named(OneLine):
    """Neurons named by a text: "all", "area:7", "area:cortex", "1,2,5-8" (labels, where the network has them), "index:0-9",
    "cell_type=DNp01", "side=left&cell_type=A,B", "ids.npy", "ids.npz:array"."""

    kind: Literal["all", "area", "file", "ids", "index", "columns"]
    text: str = ""
    """The area's id or name, the path, or the ids as written."""
    key: str | None = None
    """Name of the array in a .npz file."""

    @staticmethod
    def parse(text: str) -> tuple[Named, list[str]]:
        """What a text names, and the fields after it, which are separated by colons. NetworkError: no such text."""
        first, *rest = parts = text.split(":")
        if first == "all":
            return Named("all"), rest
        if first == "area":
            if not rest:
                raise NetworkError(f"{text!r}: it is none of: {FORMS}")
            return Named("area", rest[0]), rest[1:]
        if first == "index" and rest:
            return Named("index", rest[0]), rest[1:]
        # The longest beginning that is a file, for paths may have colons in them.
        end = next((end for end in range(len(parts), 0, -1) if Path(":".join(parts[:end])).is_file()), 0)
        what, rest = ":".join(parts[: end or 1]), parts[end or 1 :]
        if not end and "=" in what:
            while rest and not is_number(rest[0]):  # values may have colons in them
                what = f"{what}:{rest.pop(0)}"
            return Named("columns", what), rest
        if not end and Path(what).suffix not in _SUFFIXES:
            return Named("ids", what), rest
        key = rest.pop(0) if rest and not is_number(rest[0]) else None
        return Named("file", what, key), rest

    def find(self, network: Connectome, what: str) -> U32:
        """The ids in this network; what: whose target it is, for messages.

        NetworkError: neither ids nor an area of the network, an area without neurons, or a file that names an id twice.
        NeuronIndexError: an id outside the network. FileFormatError, OSError: of a file.
        """
        if self.kind == "all":
            return np.flatnonzero(network.neurons.valid).astype(np.uint32)
        if self.kind == "area":
            return self._in_area(network, what)
        if self.kind == "file":
            return read_ids(self.text, network.neuron_capacity, self.key, network.annotations)
        try:
            if self.kind == "columns":
                return self._selected(network)
            return parse_ids(self.text, network.neuron_capacity, what, network.annotations if self.kind == "ids" else None)
        except NetworkError as error:
            raise NetworkError(f"{self.text!r}: {error.problem.removeprefix(f'{what}: ')}; WHAT is {FORMS}") from error

    def _selected(self, network: Connectome) -> U32:
        """Neurons whose columns have these values, all of them where several columns are named."""
        found = np.ones(len(network.annotations), np.bool_)
        for part in self.text.split("&"):
            column, _, values = part.partition("=")
            ids = network.annotations.select(column.strip(), tuple(value.strip() for value in values.split(",")))
            found &= np.isin(np.arange(len(found)), ids)
        ids = np.flatnonzero(found).astype(np.uint32)
        there = network.neurons.valid[ids]
        if not there.any():
            raise NetworkError("no neuron has all of these")
        return ids[there]

    @property
    def area_by_name(self) -> bool:
        """Whether it is an area that is named by something other than digits."""
        return self.kind == "area" and not self.text.isdecimal()

    def _in_area(self, network: Connectome, what: str) -> U32:
        named = [area for area, flags in network.areas.items() if flags.name == self.text]
        if not named and self.area_by_name:
            known = ", ".join(flags.name for flags in network.areas.values() if flags.name) or "no area has a name"
            raise NetworkError(f"'area:{self.text}': {self.text!r} is neither the id nor the name of an area ({known})")
        ids = np.flatnonzero(np.isin(network.neurons.cortical_area, named or [int(self.text)]) & network.neurons.valid).astype(np.uint32)
        if not len(ids):
            raise NetworkError(f"{what} area:{self.text}: no neuron is in area {self.text}")
        return ids


def neurons_of(network: Connectome, target: Target, what: str = "neurons") -> U32:
    """The ids that a target means in this network, in its order. NetworkError: an array with a value for each neuron, as of
    its class, some of them the same. Other errors: those of `Named.find` and of `check_ids`."""
    check_kind(network, Connectome, "network")
    if isinstance(target, os.PathLike):
        return Named("file", os.fspath(target)).find(network, what)
    if not isinstance(target, str):
        ids = check_ids(target, network.neuron_capacity, what, network.annotations.finder)
        return each_once(ids, what) if len(ids) == network.neuron_capacity else ids  # a value for each neuron is no list of ids
    named, rest = Named.parse(target)
    if rest:
        raise NetworkError(f"{what}: {target!r} has {':'.join(rest)!r} after {FORMS}")
    return named.find(network, what)


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
