"""Frames of msgpack: one map each; see docs/streams.md for the keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_npu.connectome import FrameError, MissingPackageError, NetworkError
from gpu_npu.fire import BurstResult
from gpu_npu.streams.base import Stimulus

COUNTERS = ("power_injections", "sensory_injections", "synaptic_injections", "neurons_processed", "neurons_in_refractory")


class MsgpackFormat:
    """Bursts and stimuli as msgpack. neuron_capacity: ids that a stimulus may name are below it."""

    left_out = 0
    """Every fired neuron has an id, so none is ever left out."""

    def __init__(self, neuron_capacity: int) -> None:
        if isinstance(neuron_capacity, bool) or not isinstance(neuron_capacity, int) or neuron_capacity < 0:
            raise NetworkError(f"neuron_capacity: {neuron_capacity!r} is not an integer of 0 or more")
        self.neuron_capacity = neuron_capacity
        try:
            import msgpack
        except ImportError as error:
            raise MissingPackageError("frames of msgpack need the package msgpack: pip install gpu-npu[stream]") from error
        self._msgpack: Any = msgpack

    def encode(self, result: BurstResult) -> bytes:
        """What fired in a burst, and its counters."""
        ids = np.ascontiguousarray(result.fired_neurons, "<u4").tobytes()
        frame: bytes = self._msgpack.packb({"burst": result.burst, "ids": ids, **{name: getattr(result, name) for name in COUNTERS}})
        return frame

    def decode(self, frame: bytes) -> Stimulus:
        """The stimulus in a frame. FrameError where it is not one, or names ids that are not reserved."""
        try:
            found = self._msgpack.unpackb(frame)
        except (ValueError, self._msgpack.UnpackException) as error:
            raise FrameError("malformed", f"no msgpack: {error}") from error
        if not isinstance(found, dict) or found.keys() != {"ids", "potentials"}:
            raise FrameError("malformed", "a map of `ids` and `potentials` is needed")
        ids, potentials = found["ids"], found["potentials"]
        if not isinstance(ids, bytes) or len(ids) % 4:
            raise FrameError("malformed", "ids: bytes of u32 are needed")
        neurons = np.frombuffer(ids, "<u4")
        if isinstance(potentials, (int, float)) and not isinstance(potentials, bool):
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
