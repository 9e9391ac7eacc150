"""WebSocket: servers that send what fired, and take sensory input. A message is one frame, binary.

A browser tells the site that its page came from; connections with such an `Origin` are refused unless it is allowed, so
that no page from elsewhere reads or drives a brain through the browser of whoever runs it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpu_npu.errors import FrameError, MissingPackageError
from gpu_npu.extras import install_command
from gpu_npu.streams.base import Format
from gpu_npu.streams.connections import ACCEPTED
from gpu_npu.streams.listener import LAST_WORDS, LOOPBACK, PATIENCE, Listener, ListeningSink, ListeningSource

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

_NOT_TAKEN = 1008
"""Close code of RFC 6455 for a message that breaks the rules of this server."""
MOST_UNREAD = 2**16
"""Bytes of answers to pings that may wait for a peer which takes nothing."""


def _websockets() -> Any:
    try:
        import websockets.asyncio.server
    except ImportError as error:
        raise MissingPackageError(f"WebSocket streams need the package websockets: {install_command('stream')}") from error
    return websockets


class _WebSocket(Listener):
    _most_bytes: int
    _origins: Sequence[str]

    async def _serve(self, listening: socket.socket) -> Any:
        websockets = _websockets()
        admit, streams, refused = self._admit, self._open, self._refused

        class Connection(websockets.asyncio.server.ServerConnection):  # type: ignore[name-defined, misc]
            """Counts the connections from the first byte on, and those that say something and never open a WebSocket."""

            said = opened = False
            unread = 0
            """Bytes of answers that were added to what waits, since nothing waited. The library sets them no limit."""

            def connection_made(self, transport: Any) -> None:
                admit(transport)
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                self.said = True
                if self.opened:
                    streams.hear(self.transport)
                before = self.transport.get_write_buffer_size()
                super().data_received(data)
                self.unread += max(0, self.transport.get_write_buffer_size() - before)
                if self.unread > MOST_UNREAD:
                    self.transport.abort()

            def resume_writing(self) -> None:
                self.unread = 0
                super().resume_writing()

            def connection_lost(self, exc: Exception | None) -> None:
                streams.forget(self.transport)
                refused["malformed"] += self.said and not self.opened
                super().connection_lost(exc)

        async def connected(connection: Connection) -> None:
            connection.opened = True
            streams.hear(connection.transport)
            await self._connected(connection)

        logger = logging.getLogger("gpu_npu.streams.websocket")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())  # what strangers send is counted, and told to those who ask for this log
        return await websockets.asyncio.server.serve(
            connected,
            sock=listening,
            backlog=ACCEPTED,
            origins=[None, *self._origins],
            compression=None,
            server_header=None,
            open_timeout=PATIENCE,
            close_timeout=1,
            max_size=self._most_bytes,
            max_queue=1,
            write_limit=0,
            logger=logger,
            create_connection=Connection,
        )

    async def _connected(self, connection: ServerConnection) -> None:
        try:
            async with self._peer():
                try:
                    await self._talk(connection)
                except FrameError as error:
                    await connection.close(_NOT_TAKEN, str(error)[:100])
                    raise
                except _websockets().exceptions.ConnectionClosed:
                    self._look_back(connection)
        finally:
            connection.transport.abort()

    async def _finish(self) -> None:
        self._server.close()  # in a task: says goodbye to all
        await asyncio.sleep(0)
        if self._peers:
            await asyncio.wait(set(self._peers), timeout=LAST_WORDS)
        await super()._finish()

    @abstractmethod
    async def _talk(self, connection: ServerConnection) -> None:
        """Serve a connection until its end."""

    @staticmethod
    def _look_back(connection: ServerConnection) -> None:
        """FrameError where a connection ended because of what the peer sent."""
        if connection.unread > MOST_UNREAD:
            raise FrameError("oversized", f"pings whose answers, {connection.unread:,} bytes, it does not read")
        error = connection.protocol.parser_exc
        if isinstance(error, _websockets().exceptions.PayloadTooBig):
            raise FrameError("oversized", str(error))
        if isinstance(error, EOFError) and not str(error).startswith("stream ends after"):
            return  # gone without a goodbye, and between two frames
        if error is not None:
            raise FrameError("malformed", str(error))


class WebSocketSink(ListeningSink, _WebSocket):
    """Sends every burst to every connection; see ListeningSink. Whoever sends something here is refused.

    origins : of browsers' pages that may connect, as "https://example.org"; other programs send none.
    """

    _most_bytes = 2**10

    def __init__(self, format: Format, host: str = LOOPBACK, port: int = 0, *, origins: Sequence[str] = (), **limits: int) -> None:
        _websockets()
        self._origins = tuple(origins)
        super().__init__(format, host, port, **limits)

    async def _talk(self, connection: ServerConnection) -> None:
        async def send(frames: list[bytes]) -> None:
            for frame in frames:
                await connection.send(frame)

        async with self._subscribed(lambda frame: True, send):
            await connection.recv()
            raise FrameError("malformed", "this is a stream to listen to")


class WebSocketSource(ListeningSource, _WebSocket):
    """Takes stimuli, a binary message each; see ListeningSource. origins: as for WebSocketSink."""

    def __init__(self, format: Format, host: str = LOOPBACK, port: int = 0, *, origins: Sequence[str] = (), **limits: int) -> None:
        _websockets()
        self._origins = tuple(origins)
        super().__init__(format, host, port, **limits)

    async def _talk(self, connection: ServerConnection) -> None:
        while True:
            message = await connection.recv()
            if isinstance(message, str):
                raise FrameError("malformed", "a text message; frames are binary")
            self._receive(message)
