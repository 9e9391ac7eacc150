"""ZMTP 3.1, the protocol of ZeroMQ sockets (https://rfc.zeromq.org/spec/37), as far as a PUB and a PULL socket need it.

Written out because libzmq does not say whose queue was full and what it threw away, nor why it closed a connection; here
every drop and every refusal is counted, and a length is judged before memory is taken for it.
"""

from __future__ import annotations

import asyncio
import struct

from gpu_npu.errors import FrameError

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
_READY = b"\x05READY"
_HELLO_BYTES = 512
WITH_PINGS = 0x0301
"""The first version whose peers answer pings."""


async def _exactly(reader: asyncio.StreamReader, size: int, what: str) -> bytes:
    try:
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise FrameError("malformed", f"the connection ended within {what}") from error


async def read(reader: asyncio.StreamReader, most_bytes: int) -> tuple[int, bytes] | None:
    """The next frame, (flags, body), or None where the peer is gone. FrameError: longer than that, or no frame."""
    try:
        flags = (await reader.readexactly(1))[0]
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    if flags & ~(MORE | LONG | COMMAND) or flags & MORE and flags & COMMAND:
        raise FrameError("malformed", f"flags {flags:#04x}")
    head = await _exactly(reader, 8 if flags & LONG else 1, "the length of a frame")
    size = int.from_bytes(head, "big")
    if size > most_bytes:
        raise FrameError("oversized", f"a frame of {size} bytes; {most_bytes} are the most")
    return flags, await _exactly(reader, size, "a frame")


def frame(body: bytes, flags: int = 0) -> bytes:
    """A frame as it is sent."""
    head = struct.pack(">BB", flags, len(body)) if len(body) < 256 else struct.pack(">BQ", flags | LONG, len(body))
    return head + body


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ours: bytes, theirs: tuple[bytes, ...]) -> int | None:
    """Greetings and READY, both ways; `ours` is our type of socket, `theirs` those that it talks to.

    Returns the version of the peer, 0x0301 for 3.1; None where it left without a word. FrameError: not ZMTP 3 without
    security, or another type.
    """
    writer.write(GREETING)
    try:
        greeting = await reader.readexactly(1)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    greeting += await _exactly(reader, len(GREETING) - 1, "the greeting")
    if greeting[0] != 0xFF or greeting[9] != 0x7F or greeting[10] < 3 or greeting[12:32].rstrip(b"\0") != b"NULL":
        raise FrameError("malformed", "the greeting is not that of ZMTP 3 with the mechanism NULL")
    writer.write(frame(_READY + _property(b"Socket-Type", ours), COMMAND))
    found = await read(reader, _HELLO_BYTES)
    if found is None:
        raise FrameError("malformed", "the connection ended before READY")
    flags, body = found
    if not flags & COMMAND or not body.startswith(_READY):
        raise FrameError("malformed", "READY is due")
    kind = _properties(body[len(_READY) :]).get(b"socket-type")
    if kind not in theirs:
        raise FrameError("malformed", f"a socket of type {kind!r} does not go with one of type {ours!r}")
    return int.from_bytes(greeting[10:12], "big")


PING = frame(b"\x04PING\0\0", COMMAND)
"""Without a time to live: what becomes of us is for the peer to judge."""


def _property(name: bytes, value: bytes) -> bytes:
    return struct.pack(">B", len(name)) + name + struct.pack(">I", len(value)) + value


def _properties(data: bytes) -> dict[bytes, bytes]:
    found = {}
    while data:
        name_end = 1 + data[0]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(data[name_end:value_at], "big")
        if value_end > len(data):
            raise FrameError("malformed", "the properties in READY are cut off")
        found[data[1:name_end].lower()] = data[value_at:value_end]
        data = data[value_end:]
    return found


def pong(body: bytes) -> bytes | None:
    """The answer to a command, where it is a PING; None where it is a PONG. FrameError: it is neither."""
    if body.startswith(b"\x04PING") and len(body) >= 7:
        return frame(b"\x04PONG" + body[7:23], COMMAND)
    if body.startswith(b"\x04PONG"):
        return None
    raise FrameError("malformed", f"a command that is not known here: {body[:16]!r}")
