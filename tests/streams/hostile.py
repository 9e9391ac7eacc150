"""A peer at a port of 127.0.0.1 that wants to stop the bursts: `python hostile.py ROLE PORT`, until it is killed.

push: over ZeroMQ, frames of msgpack with 2 million empty lists. post: over HTTP, parameters that are wrong 2^17 times.
It prints a line each time that it was disconnected.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress

LISTS = 2**21
HELLO = b"\xff" + bytes(8) + b"\x7f\x03\0NULL" + bytes(48) + b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH"
FRAME = b"\xdd" + struct.pack(">I", LISTS) + b"\x90" * LISTS
BODY = b'{"name": "threshold", "neurons": [1], "values": [' + b'"a",' * (2**17 - 1) + b'"a"]}'
HEAD = b"POST /parameters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
SAID = {
    "push": HELLO + struct.pack(">BQ", 2, len(FRAME)) + FRAME,
    "post": HEAD % len(BODY) + BODY,
}


def main(role: str, port: int) -> None:
    while True:
        with socket.create_connection(("127.0.0.1", port)) as connection, suppress(ConnectionError):
            connection.sendall(SAID[role])
            while connection.recv(2**16):
                continue
        print(role, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
