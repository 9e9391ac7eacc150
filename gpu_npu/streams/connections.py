"""The connections of a listener, and which of them may stay: the longest silent makes room for a new one."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Iterator

from gpu_npu.objects import Unique, described

PING_EVERY = 10.0
"""Seconds of silence after which a peer is asked whether it is there, where its protocol has a question for that."""
QUIET = 2.5 * PING_EVERY
"""Seconds of silence after which a peer makes room for a new one: two questions were not answered, or none was possible."""
SILENT = 60.0
"""Seconds after which one that answers no question is ended, also where there is room. A frame must arrive in them."""
RATE, AT_ONCE, LONGEST_SLEEP = 200, 100, 0.005
"""Connections or requests a second that are served without delay, how many of them may come at once, and seconds."""
ACCEPTED = 8
"""Connections that are taken before the event loop looks after those that are there."""
_PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": int(1000 * SILENT)}
"""Of the system, where it has them, in seconds and (the last) ms: a host that has vanished is found out."""


class Throttle(Unique):
    """Holds the event loop up where connections or requests come faster than RATE: it sleeps, and leaves Python's lock and the
    processor to bursts. Those that come meanwhile wait in the system's queue."""

    def __init__(self) -> None:
        self._due = 0.0

    def __repr__(self) -> str:
        return described(self, f"{RATE:,} a second")

    def pass_one(self) -> None:
        """On the event loop's thread: one more has come."""
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now - AT_ONCE / RATE) + 1 / RATE
        if self._due > now:
            time.sleep(min(self._due - now, LONGEST_SLEEP))


class Connections(Unique):
    """Open connections, each with the moment in which it was heard last. On the event loop's thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._throttle = Throttle()
        self._heard: dict[asyncio.WriteTransport, float] = {}
        self._greeted: set[asyncio.WriteTransport] = set()

    def __repr__(self) -> str:
        return described(self, f"{len(self):,} of {self._most:,}")

    def __len__(self) -> int:
        return len(self._heard)

    def __iter__(self) -> Iterator[asyncio.WriteTransport]:
        return iter(list(self._heard))

    def admit(self, transport: asyncio.WriteTransport) -> asyncio.WriteTransport | None:
        """Take a new one in. Returns the one that must go for it, which is no longer among these: the longest silent of
        those that have not greeted, else of those that are QUIET, else the new one; None: there was room."""
        self._throttle.pass_one()
        goes = None
        if len(self) >= self._most:
            goes = self._longest_silent()
            if goes is None:
                return transport
            self.forget(goes)
        _probe(transport)
        self._heard[transport] = asyncio.get_running_loop().time()
        return goes

    def _longest_silent(self) -> asyncio.WriteTransport | None:
        strangers = [one for one in self if one not in self._greeted]
        silent = strangers or [one for one in self if self.silence(one) > QUIET]
        return next((one for one in sorted(silent, key=self._heard.__getitem__) if not has_said(one)), None)

    def hear(self, transport: asyncio.WriteTransport) -> None:
        """A peer has greeted, or said something after that."""
        if transport in self._heard:
            self._greeted.add(transport)
            self._heard[transport] = asyncio.get_running_loop().time()

    def silence(self, transport: asyncio.WriteTransport) -> float:
        """Seconds since a connection was heard; 0 for one that is not among these."""
        now = asyncio.get_running_loop().time()
        return now - self._heard.get(transport, now)

    def forget(self, transport: asyncio.BaseTransport) -> None:
        """It has ended."""
        self._heard.pop(transport, None)  # type: ignore[call-overload]
        self._greeted.discard(transport)


def has_said(transport: asyncio.BaseTransport) -> bool:
    """Whether something that a peer said waits to be read: it came when the event loop was busy with others."""
    number = transport.get_extra_info("socket").fileno()
    if number < 0:
        return False
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def _probe(transport: asyncio.WriteTransport) -> None:
    plain = transport.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
