"""NVTX: what an NPU is doing, as ranges in the timeline of a profiler (Nsight Systems, Nsight Compute).

All ranges are in the domain "gpu_npu", pushed and popped, with a burst number as payload:

    build                       a backend opened, its kernels compiled or taken from the cache
    load                        the network put there
    burst                       one burst, around its phases, and at its end a mark "fired" with how many as payload
      injection, propagation, dynamics, archival, transfer
    chunk                       bursts that the device computed on its own, waited for; the number is that of the first
    edit NAME, transfer NAME    a method of the NPU that changes the network, or fetches from the backend

Nobody pays for this who has not asked: an NPU without annotation has no Ranges at all.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeVar, cast

from gpu_npu.errors import BackendUnavailableError
from gpu_npu.extras import install_packages
from gpu_npu.objects import Unique, described

DOMAIN = "gpu_npu"
M = TypeVar("M", bound=Callable[..., Any])


class Ranges(Unique):
    """The ranges of one NPU. BackendUnavailableError where the package nvtx is not installed."""

    def __init__(self) -> None:
        try:
            import nvtx
        except ImportError as problem:
            way_out = f"{install_packages('nvtx>=0.2.13')}, or leave annotation off"
            raise BackendUnavailableError(f"annotation needs nvtx, which cannot be imported ({problem}): {way_out}") from problem
        self._domain: Any = nvtx.get_domain(DOMAIN)

    def __repr__(self) -> str:
        return described(self, f"NVTX, domain {DOMAIN}")

    @contextmanager
    def range(self, name: str, burst: int) -> Iterator[None]:
        """What is done inside, whether it ends well or not."""
        self._domain.push_range(self._event(name, burst))
        try:
            yield
        finally:
            self._domain.pop_range()

    def mark(self, name: str, value: int) -> None:
        """A moment with a number."""
        self._domain.mark(self._event(name, value))

    def _event(self, message: str, payload: int) -> Any:
        return self._domain.get_event_attributes(message=message, payload=payload)


class Annotated:
    """Something that shows what it does where that was asked for."""

    _ranges: Ranges | None

    @property
    @abstractmethod
    def burst_count(self) -> int: ...

    def _range(self, name: str) -> AbstractContextManager[None]:
        """A range of the profiler's, the last burst its number, where annotation is on."""
        return nullcontext() if self._ranges is None else self._ranges.range(name, self.burst_count)


def annotated(kind: Literal["edit", "transfer"]) -> Callable[[M], M]:
    """A method that edits the network, or fetches from the backend: a range of the profiler's where annotation is on."""

    def decorate(method: M) -> M:
        name = f"{kind} {method.__name__.removeprefix('_')}"

        @functools.wraps(method)
        def call(shown: Annotated, /, *args: Any, **kwargs: Any) -> Any:
            if shown._ranges is None:
                return method(shown, *args, **kwargs)
            with shown._range(name):
                return method(shown, *args, **kwargs)

        return cast(M, call)

    return decorate
