"""What a BurstEngine and the streams agree on: sinks take what fired, sources give sensory input.

The engine calls `Source.take` of every source before a burst and `Sink.publish` of every sink after it, from its own
thread. Neither may wait for anything, and neither raises: a subscriber or a sender never slows a burst or stops it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gpu_npu.arrays import F32, U32
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import OneLine


@dataclass(frozen=True, repr=False)
class Stimulus(OneLine):
    """Sensory input of one message: potentials (float32) added to `neurons` (uint32, same length), for `NPU.inject`.

    Ids are within the capacity that the source was told; the potentials are finite.
    """

    neurons: U32
    potentials: F32


class Format(Protocol):
    """How bursts and stimuli are written in the frames of a stream."""

    left_out: int
    """Fired neurons that the format could not name, over all frames."""

    def encode(self, result: BurstResult) -> bytes:
        """The frame of a burst."""

    def decode(self, frame: bytes) -> Stimulus:
        """The stimulus in a frame. FrameError where it is not one, or names what is not in this network."""


class Sink(Protocol):
    """Where the results of bursts go."""

    def publish(self, result: BurstResult) -> None:
        """Take the result of a burst. Returns at once; what there is no room for is dropped and counted."""

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start, by name; may be called from any thread."""

    def close(self) -> None:
        """Stop threads, close sockets. Closing twice is no error, and publishing afterwards does nothing."""


class Source(Protocol):
    """Where sensory input comes from."""

    def take(self) -> list[Stimulus]:
        """What arrived since the last call, oldest first, possibly nothing. Returns at once.

        Bounded: what arrives when the source holds its limit is refused and counted.
        """

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start, by name; may be called from any thread."""

    def close(self) -> None:
        """Stop threads, close sockets. Closing twice is no error, and taking afterwards gives nothing more."""
