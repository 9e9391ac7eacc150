"""ZeroMQ: a PUB socket for what fired, a PULL socket for sensory input; as in FEAGI, a message is one frame, without a topic."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import abstractmethod
from typing import Any

from gpu_npu.errors import FrameError
from gpu_npu.streams import zmtp
from gpu_npu.streams.listener import PATIENCE, Listener, ListeningSink, ListeningSource

TOPIC_BYTES = 256
TOPICS = 64
"""Subscriptions that one connection may have, and the bytes of each."""


async def _greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ours: bytes, theirs: tuple[bytes, ...]) -> bool:
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
    async def _serve(self, listening: socket.socket) -> Any:
        return await asyncio.start_server(self._connected, sock=listening)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._admit(writer.transport):
            return
        writer.transport.set_write_buffer_limits(0)  # what is drained is in the system's hands, and counts as sent
        try:
            async with self._peer():
                await self._talk(reader, writer)
        finally:
            writer.transport.abort()
            self._open.discard(writer.transport)

    @abstractmethod
    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until its end."""


class ZeroMQSink(ListeningSink, _ZeroMQ):
    """A PUB socket. Subscribers filter by the first bytes of a frame; an empty subscription gets everything."""

    def _wire(self, frame: bytes) -> bytes:
        return zmtp.frame(frame)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await _greeted(reader, writer, b"PUB", (b"SUB", b"XSUB")):
            return
        topics: list[bytes] = []

        async def send(frames: list[bytes]) -> None:
            writer.write(b"".join(frames))
            await writer.drain()

        async with contextlib.AsyncExitStack() as stack:
            subscribed = False
            while (found := await zmtp.read(reader, TOPIC_BYTES + 16)) is not None:
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

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await _greeted(reader, writer, b"PULL", (b"PUSH",)):
            return
        while (found := await zmtp.read(reader, self._most_bytes)) is not None:
            flags, body = found
            if flags & zmtp.COMMAND:
                answer = zmtp.pong(body)
                if answer and not await _answered(writer, answer):
                    return
            elif flags & zmtp.MORE:
                raise FrameError("malformed", "a message of several frames")
            else:
                self._receive(body)
