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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu_npu.errors import BackendUnavailableError
from gpu_npu.extras import install_packages
from gpu_npu.objects import Unique, described

DOMAIN = "gpu_npu"


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
