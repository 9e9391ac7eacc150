"""A port, its connections, and the event loop on a thread of their own that serves them; what all transports share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from gpu_npu.checks import check_integer
from gpu_npu.errors import FrameError, NetworkError
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import Unique, described
from gpu_npu.streams.base import Format, Stimulus
from gpu_npu.streams.connections import Connections

T = TypeVar("T")
L = TypeVar("L", bound="Listener")

LOOPBACK = "127.0.0.1"
LAST_WORDS = 1.0
"""Seconds that subscribers get, when a sink is closed, for what still waits for them."""
PATIENCE = 10.0
"""Seconds that a peer gets to say hello."""
MOST_WAITING = 2**22
"""Potentials that may wait in a source."""
_TURNS = 8
"""Of the event loop: more than it needs from accepting a connection to serving it."""
_AT_ONCE = 64
"""Bursts that are encoded before the event loop looks after something else."""
_BATCH = 2**18
"""Bytes that are handed to a subscriber's connection at once, or one frame."""


class Listener(Unique, ABC):
    """Listens as soon as it is made. OSError where the port cannot be had, naming it.

    Attributes
    ----------
    host, port : where it listens; port 0 was asked for any free one.
    """

    def __init__(self, host: str, port: int, connections: int) -> None:
        if not isinstance(host, str) or not host:
            raise NetworkError(f"host: {host!r} is no name or address; 0.0.0.0 means every interface")
        self._open = Connections(check_integer(connections, "connections", 1))
        self._refused = {"malformed": 0, "oversized": 0, "unknown": 0, "full": 0, "crowded": 0, "silent": 0}
        self._accepted = 0
        self._closed = False
        self._lock = threading.Lock()
        """Held where `_closed` must not change meanwhile, so that nothing is handed to a loop that has ended."""
        self._listening = listening = _listen(host, port)
        self.host, self.port = listening.getsockname()[:2]
        self._loop = asyncio.new_event_loop()
        self._peers: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"gpu-npu {type(self).__name__} {self.port}", daemon=True)
        self._thread.start()
        try:
            self._server = self._run(self._serve(listening))
        except BaseException:
            listening.close()
            self._end()
            raise

    @abstractmethod
    async def _serve(self, listening: socket.socket) -> Any:
        """Serve on this socket; returns an object with close()."""

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _admit(self, transport: asyncio.WriteTransport) -> bool:
        """Count a new connection; where there are too many, end the one that must go for it, or this one."""
        goes = self._open.admit(transport)
        if goes is not None:
            self._refused["crowded" if goes is transport else "silent"] += 1
            goes.abort()
        self._accepted += goes is not transport
        return goes is not transport

    @contextlib.asynccontextmanager
    async def _peer(self) -> AsyncIterator[None]:
        """Around what is done for a connection: counts what it is refused for."""
        task = asyncio.current_task()
        assert task is not None
        self._peers.add(task)
        try:
            yield
        except FrameError as error:
            self._refused[error.reason] += 1
        except asyncio.CancelledError:
            if not self._closed:
                raise
        finally:
            self._peers.discard(task)

    def _counters(self) -> dict[str, int]:
        refused = {f"refused_{reason}": count for reason, count in self._refused.items()}
        return {"connections": len(self._open), "accepted": self._accepted, **refused}

    def __repr__(self) -> str:
        return described(self, f"port {self.port} of {self.host}, {'closed' if self._closed else f'{len(self._open):,} connections'}")

    def __enter__(self: L) -> L:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end every connection. Closing twice is no error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._run(self._shut())
        self._end()

    async def _shut(self) -> None:
        """First accept nobody more, and let in who was accepted: a connection that is between the two would be forgotten."""
        self._loop.remove_reader(self._listening)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._finish()

    async def _finish(self) -> None:
        for task in self._peers:
            task.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)
        self._server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for other in rest:
            other.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for transport in self._open:
            transport.abort()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _listen(host: str, port: int) -> socket.socket:
    port = check_integer(port, "port", 0, 65535)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error


class Subscriber:
    """A connection that frames go to: a queue with a limit, read by the one task that sends."""

    def __repr__(self) -> str:
        return described(self, f"{self.waiting:,} frames wait")

    def __init__(self, frames: int, size: int) -> None:
        self._most_frames, self._most_bytes = frames, size
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self.idle = True
        """Nothing waits, and what was taken last is sent."""

    @property
    def waiting(self) -> int:
        """Frames in the queue."""
        return len(self._frames)

    def offer(self, frame: bytes) -> bool:
        """Append a frame; False where the queue is full. A frame above the limit of bytes has room in an empty queue."""
        if self._frames and (len(self._frames) >= self._most_frames or self._bytes + len(frame) > self._most_bytes):
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        self.idle = False
        self._ready.set()
        return True

    async def take(self, most: int = _BATCH) -> list[bytes]:
        """The frames at the head of the queue, at least one, up to so many bytes."""
        while not self._frames:
            self.idle = True
            self._ready.clear()
            await self._ready.wait()
        taken = [self._frames.popleft()]
        size = len(taken[0])
        while self._frames and size + len(self._frames[0]) <= most:
            taken.append(self._frames.popleft())
            size += len(taken[-1])
        self._bytes -= size
        return taken


class ListeningSink(Listener):
    """Sends every burst to whoever is connected and subscribed; the `Sink` that the transports complete.

    Parameters
    ----------
    format : how bursts are written. Each is encoded once, on the event loop's thread, and only where there is a subscriber.
    host, port : where to listen; port 0 is any free one, `port` tells which.
    queue_frames, queue_bytes : what may wait for one subscriber. A frame that finds its queue full is dropped and counted.
    connections : how many there may be at a time.
    """

    def __init__(
        self,
        format: Format,
        host: str = LOOPBACK,
        port: int = 0,
        *,
        queue_frames: int = 1024,
        queue_bytes: int = 2**26,
        connections: int = 32,
    ) -> None:
        self.format = format
        self._queue_frames, self._queue_bytes = check_integer(queue_frames, "queue_frames", 1), check_integer(queue_bytes, "queue_bytes", 1)
        self._subscribers: dict[Subscriber, Callable[[bytes], bool]] = {}
        """Each with what says whether a frame is for it."""
        self._results: deque[BurstResult] = deque()
        self._awake = False
        """The event loop will look at `_results`."""
        self._published = self._skipped = self._sent = self._dropped = 0
        super().__init__(host, port, connections)

    def publish(self, result: BurstResult) -> None:
        """Hand over where there is a subscriber; the rest is done on the other thread."""
        if not self._subscribers:
            return
        if len(self._results) >= self._queue_frames:
            self._skipped += 1
            return
        self._results.append(result)
        if not self._awake:
            with self._lock:
                if not self._closed:
                    self._awake = True
                    self._loop.call_soon_threadsafe(self._deliver)

    def statistics(self) -> dict[str, int]:
        """Counters, and what is now.

        subscribers, connections : now; accepted : connections so far. published : bursts encoded for subscribers; skipped :
        bursts that no subscriber got, because encoding lagged. sent, dropped : frames, over all subscribers; waiting : those
        in their queues. left_out : of the format. refused_* : connections ended, by reason.
        """
        return {
            "subscribers": len(self._subscribers),
            "published": self._published,
            "skipped": self._skipped,
            "sent": self._sent,
            "dropped": self._dropped,
            "waiting": sum(one.waiting for one in list(self._subscribers)),
            "left_out": self.format.left_out,
            **self._counters(),
        }

    def _wire(self, frame: bytes) -> bytes:
        """The frame as it goes to every subscriber."""
        return frame

    def _deliver(self) -> None:
        self._awake = False
        for _ in range(_AT_ONCE):
            if not self._results:
                return
            result = self._results.popleft()
            if not self._subscribers:
                continue
            frame = self.format.encode(result)
            wire = self._wire(frame)
            self._published += 1
            for subscriber, wanted in self._subscribers.items():
                if wanted(frame) and not subscriber.offer(wire):
                    self._dropped += 1
        self._awake = True
        self._loop.call_soon(self._deliver)

    @contextlib.asynccontextmanager
    async def _subscribed(
        self, wanted: Callable[[bytes], bool], send: Callable[[list[bytes]], Coroutine[Any, Any, None]]
    ) -> AsyncIterator[None]:
        """Around a connection: frames go to `send` until it is left, or sending fails because the peer is gone."""
        subscriber = Subscriber(self._queue_frames, self._queue_bytes)
        self._subscribers[subscriber] = wanted

        async def sending() -> None:
            while True:
                frames = await subscriber.take()
                await send(frames)
                self._sent += len(frames)

        task = asyncio.create_task(sending())
        try:
            yield
        finally:
            del self._subscribers[subscriber]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def _finish(self) -> None:
        deadline = self._loop.time() + LAST_WORDS
        self._deliver()
        while self._loop.time() < deadline and (self._results or not all(one.idle for one in self._subscribers)):
            await asyncio.sleep(0.005)
        await super()._finish()


class ListeningSource(Listener):
    """Takes stimuli from whoever connects; the `Source` that the transports complete.

    Parameters
    ----------
    format : how stimuli are written; they are decoded and checked on the event loop's thread.
    host, port : where to listen; port 0 is any free one, `port` tells which.
    most_bytes : of a frame; a longer one is refused before it is read, and its connection ended.
    queue_frames : stimuli that may wait for the next burst, of at most MOST_WAITING potentials. What finds no room is refused.
    connections : how many there may be at a time; each may hold a frame of `most_bytes` in memory while it arrives.
    """

    def __init__(
        self,
        format: Format,
        host: str = LOOPBACK,
        port: int = 0,
        *,
        most_bytes: int = 2**24,
        queue_frames: int = 1024,
        connections: int = 32,
    ) -> None:
        self.format = format
        self._most_bytes, self._queue_frames = check_integer(most_bytes, "most_bytes", 1), check_integer(queue_frames, "queue_frames", 1)
        self._stimuli: deque[Stimulus] = deque()
        self._waiting = self._frames = 0
        super().__init__(host, port, connections)

    def take(self) -> list[Stimulus]:
        """What arrived since the last call, oldest first."""
        if not self._stimuli:
            return []
        with self._lock:
            if self._closed:
                return []
            taken = list(self._stimuli)
            self._stimuli.clear()
            self._waiting = 0
        return taken

    def statistics(self) -> dict[str, int]:
        """frames: stimuli that were accepted; waiting: those of them that were not taken yet. connections: now; accepted:
        so far. refused_*: frames refused, by reason: "malformed" and "oversized" end their connection."""
        return {"frames": self._frames, "waiting": len(self._stimuli), **self._counters()}

    def _receive(self, frame: bytes) -> None:
        """Decode a frame and let it wait; what is unknown or finds no room is counted. FrameError: it is malformed."""
        try:
            stimulus = self.format.decode(frame)
        except FrameError as error:
            if error.reason == "malformed":
                raise
            self._refused[error.reason] += 1
            return
        size = len(stimulus.neurons)
        with self._lock:
            room = len(self._stimuli) < self._queue_frames and (not self._stimuli or self._waiting + size <= MOST_WAITING)
            if room:
                self._stimuli.append(stimulus)
                self._waiting += size
                self._frames += 1
        if not room:
            self._refused["full"] += 1
