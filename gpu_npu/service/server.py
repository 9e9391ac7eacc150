"""The service's socket, and uvicorn behind it on a thread of its own."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
import time
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from gpu_npu import EngineError

LAST_WORDS = 1
"""Seconds that open requests get at the end."""
MOST_CONNECTIONS = 64


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


class Server:
    """Serves an application at one address, from construction until it is closed. OSError where that cannot be had."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        family, ip = resolve(host, port)
        try:
            self._socket = socket.create_server((ip, port), family=family)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), f"{ip} port {port}") from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
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
