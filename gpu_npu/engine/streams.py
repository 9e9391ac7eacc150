"""The sinks and sources of an engine, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from gpu_npu.checks import check_kind, shown
from gpu_npu.engine.calls import Injection
from gpu_npu.errors import NetworkError
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import described
from gpu_npu.streams.base import Sink, Source

S = TypeVar("S", Sink, Source)
Guard = Callable[[Callable[[], Any]], Any]
"""Calls, and returns None where that met the end of the engine."""


class Streams:
    """Both are replaced when they change, never changed in place, so the burst thread reads them without a lock."""

    def __init__(self, unless_ended: Guard) -> None:
        self.sinks: dict[str, Sink] = {}
        self.sources: dict[str, Source] = {}
        self._unless_ended = unless_ended

    def __repr__(self) -> str:
        return described(self, f"{len(self.sinks):,} sinks, {len(self.sources):,} sources")

    def add_sink(self, sink: Sink, name: str | None) -> None:
        """NetworkError where the name is taken, or it is no sink."""
        _check(sink, "sink", "publish", "statistics", "close")
        self.sinks = {**self.sinks, _free_name(self.sinks, sink, name): sink}

    def add_source(self, source: Source, name: str | None) -> None:
        """NetworkError where the name is taken, or it is no source."""
        _check(source, "source", "take", "statistics", "close")
        self.sources = {**self.sources, _free_name(self.sources, source, name): source}

    def remove(self, stream: Sink | Source) -> None:
        """Take one out; it stays open. NetworkError: it is none of these."""
        if not any(one is stream for one in (*self.sinks.values(), *self.sources.values())):
            raise NetworkError(f"{shown(stream)} is no sink or source of this engine")
        self.sinks = {name: sink for name, sink in self.sinks.items() if sink is not stream}
        self.sources = {name: source for name, source in self.sources.items() if source is not stream}

    def statistics(self) -> dict[str, dict[str, dict[str, int]]]:
        """As the fields `sinks` and `sources` of EngineStatus."""
        return {"sinks": _statistics(self.sinks), "sources": _statistics(self.sources)}

    def take(self) -> list[Injection]:
        """The sensory input of all sources."""
        taken = (self._unless_ended(source.take) or [] for source in self.sources.values())
        return [(stimulus.neurons, stimulus.potentials) for stimuli in taken for stimulus in stimuli]

    def publish(self, result: BurstResult) -> None:
        """Give a result to all sinks."""
        for sink in self.sinks.values():
            self._unless_ended(partial(sink.publish, result))

    def close(self, failed: Callable[[BaseException], object]) -> None:
        """Close all, and tell the errors of that."""
        streams: list[Sink | Source] = [*self.sinks.values(), *self.sources.values()]
        for stream in streams:
            try:
                self._unless_ended(stream.close)
            except BaseException as error:
                failed(error)


def _statistics(streams: Mapping[str, S]) -> dict[str, dict[str, int]]:
    return {name: dict(stream.statistics()) for name, stream in streams.items()}


def _check(stream: object, what: str, *methods: str) -> None:
    lost = [method for method in methods if not callable(getattr(stream, method, None))]
    if lost or isinstance(stream, type):
        raise NetworkError(f"{what}: {shown(stream)} is no {what}, which has {', '.join(methods)}")


def _free_name(taken: Mapping[str, object], stream: object, name: str | None) -> str:
    if name is None:
        kind = type(stream).__name__
        name = next(free for i in range(len(taken) + 1) if (free := f"{kind}-{i + 1}" if i else kind) not in taken)
    if check_kind(name, str, "name") in taken:
        raise NetworkError(f"name: {name!r} is already the name of such a stream; choose another")
    return name
