"""What a call of an NPU is: one at a time, whatever the threads, and shown to a profiler where that was asked for.

A call of another thread waits until the one at hand is over; who waits comes next, however fast the other calls again.
A call from within a call of the same thread (a watch, a plasticity rule, a signal handler) is an error, except where the
outer one hands the NPU out (`Guard.hand_out`), as `NPU.run` does to its callback.

A signal may come at any moment. So locks are taken by `with` alone, and nothing is called between a lock that is taken and the
mark of who took it: CPython handles signals after calls and at jumps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, Literal, TypeVar, cast

from gpu_npu.errors import NetworkError

T = TypeVar("T")
M = TypeVar("M", bound=Callable[..., Any])


class Guard:
    """Who is in a call of one object."""

    __slots__ = ("_door", "_handed_out", "lock", "owner", "wanted")

    def __init__(self) -> None:
        self.lock = RLock()
        """Held during a call. Re-entrant, as is the door, for signal handlers that call while this thread waits."""
        self.owner: int | None = None
        """The thread in a call."""
        self.wanted = False
        """Whether a thread stands at the door, so that no other may pass it by."""
        self._door = RLock()
        self._handed_out = False

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """function(...) when it is this thread's turn. NetworkError from within a call of the same thread."""
        me = get_ident()
        if self.owner == me:
            return self._inner(function, *args, **kwargs)
        if self.owner is None and not self.wanted:
            return self._alone(me, function, *args, **kwargs)
        with self._door:
            self.wanted = True
            return self._alone(me, function, *args, **kwargs)

    def _alone(self, me: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self.lock:
            try:
                self.owner, self.wanted = me, False
                return function(*args, **kwargs)
            finally:
                self.owner = None

    def _inner(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if not self._handed_out:
            raise NetworkError(
                "this NPU is in the middle of a call of this thread, where no watch, plasticity rule or signal handler can touch it",
                python="pass run() a callback to touch it between bursts",
            )
        try:
            self._handed_out = False
            return function(*args, **kwargs)
        finally:
            self._handed_out = True

    def hand_out(self, function: Callable[..., object], *args: Any) -> None:
        """function(...), which may make calls of its own: from within a call that is between two bursts."""
        try:
            self._handed_out = True
            function(*args)
        finally:
            self._handed_out = False


def guarded(method: M) -> M:
    """A method of a `Part` that is a call of its own."""

    @functools.wraps(method)
    def call(this: Any, /, *args: Any, **kwargs: Any) -> Any:
        guard, me = this._resident.guard, get_ident()
        if guard.owner is None and not guard.wanted:  # as Guard.call, without its frames
            with guard.lock:
                try:
                    guard.owner = me
                    return method(this, *args, **kwargs)
                finally:
                    guard.owner = None
        return guard.call(method, this, *args, **kwargs)

    return cast(M, call)


def annotated(kind: Literal["edit", "transfer"]) -> Callable[[M], M]:
    """A method of a `Part`, or of the Resident, that edits the network or fetches from the backend: a range of the profiler's where
    annotation is on."""

    def decorate(method: M) -> M:
        name = f"{kind} {method.__name__.removeprefix('_')}"

        @functools.wraps(method)
        def call(this: Any, /, *args: Any, **kwargs: Any) -> Any:
            resident = getattr(this, "_resident", this)
            if resident.ranges is None:
                return method(this, *args, **kwargs)
            with resident.range(name):
                return method(this, *args, **kwargs)

        return cast(M, call)

    return decorate
