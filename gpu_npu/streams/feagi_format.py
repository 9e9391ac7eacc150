"""Frames of FEAGI: its byte container with XYZP neuron structures, as `feagi_rust_py_libs` 0.0.120 reads and writes them.

The bytes are written and read here, without that library: on a damaged container it panics, and what comes from the
network may be damaged. Tests hold the two to each other. docs/streams.md has the layout.
"""

from __future__ import annotations

import struct

import numpy as np

from gpu_npu.arrays import F32, U32
from gpu_npu.errors import FrameError
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import described
from gpu_npu.streams.base import Stimulus
from gpu_npu.streams.places import Places

CONTAINER_VERSION, XYZP, XYZP_VERSION = 4, 11, 1
_HEAD = struct.Struct("<BHB48x")
"""Version, counter, number of structures, id of an agent."""
_LENGTH = struct.Struct("<I")
_STRUCTURE = struct.Struct("<BBH")
"""Type, version, number of areas."""
_AREA = np.dtype([("id", "S8"), ("at", "<u4"), ("size", "<u4")])
"""Cortical id, where its voxels begin in the structure, and their bytes."""
MOST_AREAS = 2**16 - 1
"""Of a frame, over all its structures: as many as one can hold. Each costs some microseconds, also where it is empty."""
_VOXEL = 16
_ONE = int(np.float32(1).view(np.uint32))
"""A potential of 1, as it is written."""

Voxels = tuple[bytes, U32, F32]
"""Of one area: its cortical id, coordinates (n, 3) and potentials (n,)."""


class FeagiFormat:
    """Bursts and stimuli as FEAGI's XYZP voxels. `places` may be replaced at any time, as when neurons came or moved."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.left_out = 0
        """Fired neurons that were in no frame, because `places` has no area for them."""

    def __repr__(self) -> str:
        return described(self, self.places)

    def encode(self, result: BurstResult) -> bytes:
        """What fired in a burst; the counter is the burst's number modulo 65,536, every potential 1."""
        places, fired = self.places, result.fired_neurons
        inside = fired[fired < len(places.rows)]
        rows = places.rows[inside]
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        first = int(np.searchsorted(rows, 0))
        self.left_out += len(fired) - (len(rows) - first)
        rows, neurons = rows[first:], inside[order[first:]]
        held, begins, counts = np.unique(rows, return_index=True, return_counts=True)
        areas = np.zeros(len(held), _AREA)
        areas["id"] = [places.ids[row] for row in held]
        areas["at"] = _STRUCTURE.size + _AREA.itemsize * len(held) + _VOXEL * begins
        areas["size"] = _VOXEL * counts
        words = np.empty(4 * len(rows), "<u4")
        count = np.repeat(counts, counts)
        x = np.arange(len(rows)) + 3 * np.repeat(begins, counts)  # each area has its x, then y, z and p
        for axis, values in enumerate((*places.coordinates[neurons].T, _ONE)):
            words[x + axis * count] = values
        structure = _STRUCTURE.pack(XYZP, XYZP_VERSION, len(held)) + areas.tobytes()
        head = _HEAD.pack(CONTAINER_VERSION, result.burst % 2**16, 1)
        return head + _LENGTH.pack(len(structure) + words.nbytes) + structure + words.tobytes()

    def decode(self, frame: bytes) -> Stimulus:
        """The stimulus in a frame. FrameError where it is not one, or names places without a neuron."""
        areas = unpack(frame)
        potentials = np.concatenate([area[2] for area in areas]) if areas else np.zeros(0, np.float32)
        if not np.isfinite(potentials).all():
            raise FrameError("malformed", "a potential is not finite")
        return Stimulus(self.places.find((text, coordinates) for text, coordinates, _ in areas), potentials)


def unpack(frame: bytes) -> list[Voxels]:
    """The areas of every structure in a container, in turn. FrameError where anything is not as it should be."""
    if len(frame) < _HEAD.size:
        raise FrameError("malformed", f"{len(frame)} bytes are less than the head of a container")
    version, _, structures = _HEAD.unpack_from(frame)
    if version != CONTAINER_VERSION:
        raise FrameError("malformed", f"a container of version {version}, not {CONTAINER_VERSION}")
    begin = _HEAD.size + _LENGTH.size * structures
    if len(frame) < begin:
        raise FrameError("malformed", f"{len(frame)} bytes are too few for {structures} structures")
    areas: list[Voxels] = []
    for (size,) in _LENGTH.iter_unpack(frame[_HEAD.size : begin]):
        if size > len(frame) - begin:
            raise FrameError("malformed", f"a structure of {size} bytes where {len(frame) - begin} are left")
        areas += _structure(memoryview(frame)[begin : begin + size], MOST_AREAS - len(areas))
        begin += size
    if begin != len(frame):
        raise FrameError("malformed", f"{len(frame) - begin} bytes after the last structure")
    return areas


def _structure(data: memoryview, most_areas: int) -> list[Voxels]:
    if len(data) < _STRUCTURE.size:
        raise FrameError("malformed", f"{len(data)} bytes are less than the head of a structure")
    kind, version, count = _STRUCTURE.unpack_from(data)
    if (kind, version) != (XYZP, XYZP_VERSION):
        raise FrameError("malformed", f"a structure of type {kind}, version {version}; XYZP voxels are {XYZP}, {XYZP_VERSION}")
    if count > most_areas:
        raise FrameError("malformed", f"more than {MOST_AREAS:,} areas in a frame")
    begin = _STRUCTURE.size + _AREA.itemsize * count
    if len(data) < begin:
        raise FrameError("malformed", f"{len(data)} bytes are too few for {count} areas")
    areas: list[Voxels] = []
    for text, at, size in struct.iter_unpack("<8sII", data[_STRUCTURE.size : begin]):
        # One area after the other, as they are written: what overlaps could say the same voxels 65,535 times.
        if at != begin or size % _VOXEL or size > len(data) - at:
            raise FrameError("malformed", f"area {text!r}: {size} bytes at {at}, where {begin} is due and {len(data)} is the end")
        number = size // _VOXEL
        coordinates = np.frombuffer(data, "<u4", 3 * number, at).reshape(3, number).T.astype(np.uint32)
        areas.append((text, coordinates, np.frombuffer(data, "<f4", number, at + 12 * number).astype(np.float32)))
        begin += size
    if begin != len(data):
        raise FrameError("malformed", f"{len(data) - begin} bytes after the last area")
    return areas
