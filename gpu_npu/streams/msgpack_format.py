"""Frames of msgpack: one map each; see docs/streams.md for the keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_npu.checks import check_integer, is_real
from gpu_npu.connectome import COUNTERS
from gpu_npu.errors import FrameError, MissingPackageError
from gpu_npu.extras import install_command
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import described
from gpu_npu.streams.base import Stimulus

_MAP_OF_TWO = (b"\x82", b"\xde\x00\x02", b"\xdf\x00\x00\x00\x02")
"""How such a map begins."""


class MsgpackFormat:
    """Bursts and stimuli as msgpack. neuron_capacity: ids that a stimulus may name are below it."""

    left_out = 0
    """Every fired neuron has an id, so none is ever left out."""

    def __init__(self, neuron_capacity: int) -> None:
        self.neuron_capacity = check_integer(neuron_capacity, "neuron_capacity")
        try:
            import msgpack
        except ImportError as error:
            raise MissingPackageError(f"frames of msgpack need the package msgpack: {install_command('stream')}") from error
        self._msgpack: Any = msgpack

    def __repr__(self) -> str:
        return described(self, f"ids below {self.neuron_capacity:,}")

    def encode(self, result: BurstResult) -> bytes:
        """What fired in a burst, and its counters."""
        ids = np.ascontiguousarray(result.fired_neurons, "<u4").tobytes()
        frame: bytes = self._msgpack.packb({"burst": result.burst, "ids": ids, **{name: getattr(result, name) for name in COUNTERS}})
        return frame

    def decode(self, frame: bytes) -> Stimulus:
        """The stimulus in a frame. FrameError where it is not one, or names ids that are not reserved."""
        found = self._pairs(frame)
        ids, potentials = found["ids"], found["potentials"]
        if not isinstance(ids, bytes) or len(ids) % 4:
            raise FrameError("malformed", "ids: bytes of u32 are needed")
        neurons = np.frombuffer(ids, "<u4")
        if is_real(potentials):
            with np.errstate(over="ignore"):
                values = np.full(len(neurons), float(potentials), np.float32)
        elif isinstance(potentials, bytes) and len(potentials) == len(ids):
            values = np.frombuffer(potentials, "<f4").astype(np.float32)
        else:
            raise FrameError("malformed", "potentials: a number, or bytes of as many f32 as there are ids, is needed")
        if not np.isfinite(values).all():
            raise FrameError("malformed", "a potential is not finite")
        if len(neurons) and neurons.max() >= self.neuron_capacity:
            raise FrameError("unknown", f"neuron {neurons.max()} is not below the capacity, {self.neuron_capacity}")
        return Stimulus(neurons.astype(np.uint32), values)

    def _pairs(self, frame: bytes) -> dict[str, Any]:
        """The map that a frame is. Keys and values are read one by one, and hold nothing themselves: in 16 MiB there is
        room for millions of containers, which would take seconds, Python's lock and a gigabyte."""
        head = next((head for head in _MAP_OF_TWO if frame.startswith(head)), None)
        if head is None:
            raise FrameError("malformed", "a map of `ids` and `potentials` is needed")
        unpacker = self._msgpack.Unpacker(max_buffer_size=len(frame), max_array_len=0, max_map_len=0, max_ext_len=0)
        unpacker.feed(memoryview(frame)[len(head) :])
        try:
            first, its_value, second, value = (unpacker.unpack() for _ in range(4))
        except (ValueError, self._msgpack.UnpackException) as error:
            raise FrameError("malformed", f"no msgpack: {error}") from error
        if [first, second] not in (["ids", "potentials"], ["potentials", "ids"]):
            raise FrameError("malformed", "a map of `ids` and `potentials` is needed")
        if len(head) + unpacker.tell() != len(frame):
            raise FrameError("malformed", f"{len(frame) - len(head) - unpacker.tell()} bytes after the map")
        return {first: its_value, second: value}
