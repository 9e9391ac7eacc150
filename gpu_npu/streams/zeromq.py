"""ZeroMQ: a PUB socket for what fired, a PULL socket for sensory input; as in FEAGI, a message is one frame, without a topic."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import abstractmethod
from typing import Any

from gpu_npu.errors import FrameError
from gpu_npu.streams import connections, zmtp
from gpu_npu.streams.listener import PATIENCE, Listener, ListeningSink, ListeningSource

TOPIC_BYTES = 256
TOPICS = 64
"""Subscriptions that one connection may have, and the bytes of each."""


async def _greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ours: bytes, theirs: tuple[bytes, ...]) -> int | None:
    try:
        return await asyncio.wait_for(zmtp.hello(reader, writer, ours, theirs), PATIENCE)
    except asyncio.TimeoutError as error:
        raise FrameError("malformed", f"no greeting within {PATIENCE:g} s") from error


async def _answered(writer: asyncio.StreamWriter, answer: bytes) -> bool:
    """Send, and read nothing more of a peer that takes nothing: else its answers would pile up. False: it is gone."""
    writer.write(answer)
    try:
        await writer.drain()
    except ConnectionError:
        return False
    return True


class _ZeroMQ(Listener):
    _types: tuple[bytes, tuple[bytes, ...]]
    """Our type of socket, and those that it talks to."""

    async def _serve(self, listening: socket.socket) -> Any:
        return await asyncio.start_server(self._connected, sock=listening, backlog=connections.ACCEPTED)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._admit(writer.transport):
            return
        writer.transport.set_write_buffer_limits(0)  # what is drained is in the system's hands, and counts as sent
        try:
            async with self._peer():
                version = await _greeted(reader, writer, *self._types)
                if version is None:
                    return
                self._open.hear(writer.transport)
                asking = asyncio.create_task(self._ask(writer)) if version >= zmtp.WITH_PINGS else None
                try:
                    await self._talk(reader, writer)
                finally:
                    if asking is not None:
                        asking.cancel()
        finally:
            writer.transport.abort()
            self._open.forget(writer.transport)

    async def _ask(self, writer: asyncio.StreamWriter) -> None:
        """Send pings to one that is silent, and end it where it stays so. Whether one that takes nothing is there is for the
        system to find out."""
        while True:
            await asyncio.sleep(connections.PING_EVERY)
            silence = self._open.silence(writer.transport)
            if writer.transport.get_write_buffer_size():
                continue
            if silence > connections.SILENT:
                self._refused["silent"] += 1
                writer.transport.abort()
            elif silence > connections.PING_EVERY / 2:
                writer.write(zmtp.PING)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most_bytes: int) -> tuple[int, bytes] | None:
        found = await zmtp.read(reader, most_bytes)
        self._open.hear(writer.transport)
        return found

    @abstractmethod
    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until its end."""


class ZeroMQSink(ListeningSink, _ZeroMQ):
    """A PUB socket. Subscribers filter by the first bytes of a frame; an empty subscription gets everything."""

    _types = (b"PUB", (b"SUB", b"XSUB"))

    def _wire(self, frame: bytes) -> bytes:
        return zmtp.frame(frame)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        topics: list[bytes] = []

        async def send(frames: list[bytes]) -> None:
            writer.write(b"".join(frames))
            await writer.drain()

        async with contextlib.AsyncExitStack() as stack:
            subscribed = False
            while (found := await self._read(reader, writer, TOPIC_BYTES + 16)) is not None:
                answer = _subscribe(topics, *found)
                if answer and not await _answered(writer, answer):
                    return
                if topics and not subscribed:
                    await stack.enter_async_context(self._subscribed(lambda frame: frame.startswith(tuple(topics)), send))
                    subscribed = True
                elif subscribed and not topics:
                    await stack.aclose()
                    subscribed = False


def _subscribe(topics: list[bytes], flags: int, body: bytes) -> bytes | None:
    """Change the subscriptions as a frame says; returns what is to be answered."""
    if flags & zmtp.COMMAND:
        if body.startswith(b"\x09SUBSCRIBE"):
            body = b"\1" + body[10:]
        elif body.startswith(b"\x06CANCEL"):
            body = b"\0" + body[7:]
        else:
            return zmtp.pong(body)
    if flags & zmtp.MORE or body[:1] not in (b"\0", b"\1"):
        raise FrameError("malformed", "a subscriber sent what is no subscription")
    topic = body[1:]
    if body[0]:
        if len(topics) >= TOPICS:
            raise FrameError("oversized", f"more than {TOPICS} subscriptions")
        topics.append(topic)
    elif topic in topics:
        topics.remove(topic)
    return None


class ZeroMQSource(ListeningSource, _ZeroMQ):
    """A PULL socket. A message of several frames is malformed."""

    _types = (b"PULL", (b"PUSH",))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (found := await self._read(reader, writer, self._most_bytes)) is not None:
            flags, body = found
            if flags & zmtp.COMMAND:
                answer = zmtp.pong(body)
                if answer and not await _answered(writer, answer):
                    return
            elif flags & zmtp.MORE:
                raise FrameError("malformed", "a message of several frames")
            else:
                self._receive(body)
