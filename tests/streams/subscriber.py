"""A subscriber or sender in a process of its own: python subscriber.py TRANSPORT PORT ROLE

Roles: "keep" prints the number of every burst as it arrives; "stall" reads one burst, then nothing until a line comes on
stdin, then goes on as "keep". Both end after burst LAST. "send" sends every line of stdin, hex, as a frame.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgpack

LAST = 2**40


def receiver(transport: str, port: int, stack: ExitStack) -> Callable[[], bytes]:
    """Little is held on the way here, so that a stall is felt soon."""
    if transport == "zeromq":
        import zmq

        context = stack.enter_context(zmq.Context())
        subscriber = stack.enter_context(context.socket(zmq.SUB))
        subscriber.setsockopt(zmq.RCVHWM, 1)
        subscriber.setsockopt(zmq.RCVBUF, 2**14)
        subscriber.connect(f"tcp://127.0.0.1:{port}")
        subscriber.subscribe(b"")
        return lambda: bytes(subscriber.recv())
    from websockets.sync.client import connect

    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    plain.connect(("127.0.0.1", port))
    connection: Any = stack.enter_context(connect(f"ws://127.0.0.1:{port}", sock=plain, max_size=None, max_queue=1))
    return lambda: bytes(connection.recv())


def sender(transport: str, port: int, stack: ExitStack) -> Callable[[bytes], object]:
    if transport == "zeromq":
        import zmq

        context = stack.enter_context(zmq.Context())
        pusher = stack.enter_context(context.socket(zmq.PUSH))
        pusher.connect(f"tcp://127.0.0.1:{port}")
        return pusher.send
    from websockets.sync.client import connect

    return stack.enter_context(connect(f"ws://127.0.0.1:{port}")).send


def main() -> None:
    transport, port, role = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with ExitStack() as stack:
        if role == "send":
            send = sender(transport, port, stack)
            for line in sys.stdin:
                send(bytes.fromhex(line))
            return
        receive = receiver(transport, port, stack)
        burst = -1
        while burst != LAST:
            burst = msgpack.unpackb(receive())["burst"]
            print(burst, flush=True)
            if role == "stall":
                role = "keep"
                sys.stdin.readline()


if __name__ == "__main__":
    main()
