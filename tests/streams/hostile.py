"""A peer at a port of 127.0.0.1 that wants to stop the bursts: `python hostile.py ROLE PORT`, until it is killed.

push: over ZeroMQ, frames of msgpack with 2 million empty lists. post: over HTTP, parameters that are wrong 2^17 times; lists: a
body of 4 MiB of lists; leave: 1,000 bursts, and it leaves at once; status: how it goes, over and over; garbage: no HTTP.
silent: it holds 100 connections and says nothing. It prints a line each time that it was disconnected.

burn: it connects to nothing, and takes PORT thousandths of a processor.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from contextlib import suppress

LISTS = 2**21
HELLO = b"\xff" + bytes(8) + b"\x7f\x03\0NULL" + bytes(48) + b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH"
FRAME = b"\xdd" + struct.pack(">I", LISTS) + b"\x90" * LISTS
BODY = b'{"name": "threshold", "neurons": [1], "values": [' + b'"a",' * (2**17 - 1) + b'"a"]}'
HEAD = b"POST /parameters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
SAID = {
    "push": HELLO + struct.pack(">BQ", 2, len(FRAME)) + FRAME,
    "post": HEAD % len(BODY) + BODY,
    "lists": (HEAD % (2**22 - 1)).replace(b"parameters", b"inject") + b'{"neurons":[' + b"[]," * ((2**22 - 18) // 3) + b"[]]}",
    "leave": (HEAD % 11).replace(b"parameters", b"step") + b'{"n": 1000}',
    "status": b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "garbage": b"\x16\x03\x01" + bytes(range(256)) * 16,
}


def burn(share: float) -> None:
    """Take so much of a processor."""
    began = time.monotonic()
    while True:
        if time.process_time() > share * (time.monotonic() - began):
            time.sleep(0.002)


def keep_silent(port: int) -> None:
    """Hold connections; one that is ended is opened again."""
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    while True:
        for at, one in enumerate(held):
            one.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                one.recv(1)
                one.close()
                held[at] = socket.create_connection(("127.0.0.1", port))
        time.sleep(0.05)


def main(role: str, port: int) -> None:
    if role == "burn":
        burn(port / 1000)
    if role == "silent":
        keep_silent(port)
    while True:
        with socket.create_connection(("127.0.0.1", port)) as connection, suppress(ConnectionError):
            connection.sendall(SAID[role])
            while role != "leave" and connection.recv(2**16):
                continue
        print(role, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
