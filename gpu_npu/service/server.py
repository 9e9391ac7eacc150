"""The service's socket, and uvicorn behind it on a thread of its own."""

from __future__ import annotations

import errno
import heapq
import ipaddress
import json
import logging
import os
import socket
import threading
import time
from asyncio import TimerHandle, Transport
from types import TracebackType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpu_npu import EngineError
from gpu_npu.streams.connections import ACCEPTED, Throttle, has_said

LAST_WORDS = 1
"""Seconds that open requests get at the end."""
MOST_CONNECTIONS = 64
MOST_BUSY = 4 * MOST_CONNECTIONS
"""Those too that have said something which is not answered yet."""
LOOKED_AT = 8
"""Idle connections, the oldest, that are looked at for one that may go."""
PATIENCE = 10.0
"""Seconds in which the head of a request must have arrived, and in which some of an answer must be taken."""


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """The one address that this name means here. OSError where it means none."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise OSError(errno.EADDRNOTAVAIL, getattr(error, "strerror", None) or str(error), host) from error
    return family, str(where[0])


def is_loopback(ip: str) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(ip.partition("%")[0]).is_loopback


class Connection(H11Protocol):
    """uvicorn's, with deadlines, and with a limit to how many there are: it limits requests, and lets silent sockets count.

    Where there are too many, the one that has waited longest for the head of a request is ended, so that those who say
    nothing keep nobody out. One that has said something, which is not read yet, stays: up to MOST_BUSY are admitted then.
    """

    _deadline: TimerHandle | None = None
    waits_since = 0.0
    """Of the event loop's clock, in seconds."""
    _untaken = 0
    """Bytes of answers that waited to be sent then."""

    @property
    def idle(self) -> bool:
        """No request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = logging.getLogger("gpu_npu.service")
        state = self.server_state.__dict__  # of one server, as its connections are
        self._throttle: Throttle = state.setdefault("throttle", Throttle())

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._throttle.pass_one()
        self._wait()
        if len(self.connections) <= MOST_CONNECTIONS:
            return
        idle = [one for one in self.connections if isinstance(one, Connection) and one.idle]  # this one is
        oldest = heapq.nsmallest(LOOKED_AT, idle, key=lambda one: one.waits_since)
        ended = [one for one in oldest if not has_said(one.transport)][: len(self.connections) - MOST_CONNECTIONS]
        if not ended and len(self.connections) > MOST_BUSY:
            ended = [self]
        for one in ended:
            self.connections.discard(one)  # at once: others may come before it is told
            one.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._throttle.pass_one()
        if self.cycle is not before and not self.flow.write_paused:  # a head has arrived, and no answer waits to be taken
            self._rest()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.idle:
            self._rest()

    def send_400_response(self, msg: str) -> None:
        """In JSON, as all that is refused."""
        body = json.dumps({"detail": msg}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _wait(self) -> None:
        self._rest()
        self.waits_since, self._untaken = self.loop.time(), self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(PATIENCE, self._expired)

    def _expired(self) -> None:
        if 0 < self.transport.get_write_buffer_size() < self._untaken:  # slow, but it reads
            self._wait()
        else:
            self.transport.abort()

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server:
    """Serves an application at one address, from construction until it is closed. OSError where that cannot be had."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        family, ip = resolve(host, port)
        try:
            self._socket = socket.create_server((ip, port), family=family)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), f"{ip} port {port}") from error
        self.port: int = self._socket.getsockname()[1]
        logging.getLogger("gpu_npu.service").setLevel(logging.ERROR)  # what strangers send wrong is answered; it fills no log
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            backlog=ACCEPTED,
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=LAST_WORDS,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="gpu-npu http", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                self._socket.close()
                raise EngineError("the HTTP server did not start")
            time.sleep(0.005)

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answer what is under way, for a second at most, and end."""
        self._server.should_exit = True
        self._thread.join(2 * LAST_WORDS)
        self._socket.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
