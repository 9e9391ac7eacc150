"""Where neurons are in FEAGI's terms: the id of a cortical area, 8 bytes, and coordinates in it; and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, U64, sorted_unique
from gpu_npu.connectome import Connectome
from gpu_npu.errors import FrameError, NetworkError
from gpu_npu.genome import Grown, Imported
from gpu_npu.genome.ids import area_id
from gpu_npu.npu import NPU
from gpu_npu.objects import described

_OWN_IDS = 10**7


class _Neurons(Protocol):
    """What is looked at of the neurons of a network, one entry for each id."""

    @property
    def valid(self) -> NDArray[np.bool_]: ...
    @property
    def cortical_area(self) -> U32: ...
    @property
    def coordinates(self) -> U32: ...


def cortical_ids(network: Grown | Imported | Connectome | NPU) -> dict[int, bytes]:
    """Number of every area -> its cortical id: FEAGI's own where a genome or an export was read, else see `own_id`."""
    if isinstance(network, Grown):
        return {number: area.id for number, area in enumerate(network.areas)}
    if isinstance(network, Imported):
        return {area.index: area_id(area.id) or own_id(area.index) for area in network.areas}
    neurons = network.neuron_array if isinstance(network, NPU) else network.neurons
    return {int(number): own_id(int(number)) for number in sorted_unique(neurons.cortical_area[neurons.valid])}


def own_id(number: int) -> bytes:
    """The id of an area that FEAGI gave none: a custom area, "c" and seven digits. NetworkError from 10,000,000 on."""
    if not 0 <= number < _OWN_IDS:
        raise NetworkError(
            f"area {number} has no cortical id, and only numbers below {_OWN_IDS:,} are made into one; give it an id or a lower number"
        )
    return b"c%07d" % number


class Places:
    """A snapshot of where the neurons are. Make a new one when neurons came, went or moved.

    Parameters
    ----------
    ids : number of an area -> its cortical id; areas that are not in it have none, and two may not share one.
    neurons : their `valid`, `cortical_area` and `coordinates`; of a Connectome or an NPU.
    """

    def __init__(self, ids: Mapping[int, bytes], neurons: _Neurons) -> None:
        for number, text in ids.items():
            if not isinstance(text, bytes) or len(text) != 8:
                raise NetworkError(f"area {number}: {text!r} is no cortical id; 8 bytes are needed")
        self.ids = tuple(sorted(set(ids.values())))
        if len(self.ids) < len(ids):
            raise NetworkError(f"{len(ids) - len(self.ids)} areas share their cortical id with another; every area needs its own")
        if len(self.ids) > 0xFFFF:
            raise NetworkError(f"{len(self.ids):,} areas are more than FEAGI's format can name in a frame, 65,535")
        valid, numbers = neurons.valid, neurons.cortical_area
        self.coordinates: U32 = np.ascontiguousarray(neurons.coordinates, np.uint32)
        self._row = {text: row for row, text in enumerate(self.ids)}
        rows_of = {number: self._row[text] for number, text in ids.items()}
        known, inverse = np.unique(numbers, return_inverse=True)
        self.rows: NDArray[np.int32] = np.array([rows_of.get(int(number), -1) for number in known], np.int32)[inverse.reshape(-1)]
        self.rows[~valid] = -1
        """Place of the neuron's area in `ids`; -1 where it has none, or the neuron does not exist."""
        there = np.flatnonzero(self.rows >= 0).astype(np.uint32)
        columns, planes = _keys(self.rows[there], self.coordinates[there])
        self._columns, column = np.unique(columns, return_inverse=True)
        self._planes, plane = np.unique(planes, return_inverse=True)
        keys = column.astype(np.uint64) * np.uint64(len(self._planes)) + plane.astype(np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys, self._neurons = keys[order], there[order]

    def __repr__(self) -> str:
        return described(self, f"{len(self._neurons):,} neurons in {len(self.ids):,} areas")

    @classmethod
    def of(cls, network: Connectome | NPU, ids: Mapping[int, bytes] | None = None) -> Places:
        """Of a network as it is now; ids: those of `cortical_ids(network)` where none are given."""
        return cls(cortical_ids(network) if ids is None else ids, network.neuron_array if isinstance(network, NPU) else network.neurons)

    def find(self, voxels: Iterable[tuple[bytes, U32]]) -> U32:
        """The neurons at places: for each area its id and coordinates (n, 3), one after the other.

        Where several neurons share a place, the highest id, as in FEAGI. FrameError ("unknown") for an area or a place
        without a neuron.
        """
        rows, places = [np.zeros(0, np.int32)], [np.zeros((0, 3), np.uint32)]
        for text, coordinates in voxels:
            row = self._row.get(text)
            if row is None:
                raise FrameError("unknown", f"area {text!r} is not in this network")
            rows.append(np.full(len(coordinates), row, np.int32))
            places.append(coordinates)
        columns, planes = _keys(np.concatenate(rows), np.concatenate(places))
        column, known = _last(self._columns, columns)
        plane, found = _last(self._planes, planes)
        at, there = _last(self._keys, column.astype(np.uint64) * np.uint64(len(self._planes)) + plane.astype(np.uint64))
        there &= known & found
        if not there.all():
            raise FrameError("unknown", f"{np.count_nonzero(~there):,} of {len(there):,} voxels have no neuron")
        return self._neurons[at]


def _keys(rows: NDArray[np.int32], coordinates: U32) -> tuple[U64, U64]:
    """Area and x, y and z, as numbers."""
    high = np.uint64(2**32)
    x, y, z = coordinates.astype(np.uint64).T
    return rows.astype(np.uint64) * high + x, y * high + z


def _last(values: U64, wanted: U64) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each wanted value stands last among ascending values, and whether it is there."""
    at = np.searchsorted(values, wanted, side="right") - 1
    there = at >= 0
    there[there] = values[at[there]] == wanted[there]
    return np.maximum(at, 0), there
