"""A paced engine keeps its deadlines beside peers that want to stop it, each in a process of its own."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from stream_tools import need, wait_for

from gpu_npu import NPU, BurstEngine
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.streams import zmtp

HERTZ, SECONDS = 100, 1.5


@contextmanager
def hostile(role: str, port: int) -> Iterator[None]:
    """The peer, when it has done its worst once."""
    command = [sys.executable, str(Path(__file__).with_name("hostile.py")), role, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().split() == [role.encode()]
            yield
        finally:
            process.kill()


def met(engine: BurstEngine) -> int:
    """Deadlines met in so many seconds: those that passed during a burst, or were skipped, are not."""
    before = engine.status()
    time.sleep(SECONDS)
    after = engine.status()
    return (after.bursts - before.bursts) - (after.overruns - before.overruns)


@pytest.mark.parametrize("role", ["push", "post"])
def test_deadlines_are_met_beside_one_who_wants_to_stop_it(role: str) -> None:
    need("msgpack", "fastapi", "prometheus_client")
    from gpu_npu.service.app import make_app
    from gpu_npu.service.server import Server
    from gpu_npu.service.service import Service
    from gpu_npu.streams.msgpack_format import MsgpackFormat
    from gpu_npu.streams.zeromq import ZeroMQSink, ZeroMQSource

    network = fixed_out_degree(100, 10, seed=1, threshold=5.0, leak_coefficient=0.1)
    with ExitStack() as stack:
        engine = stack.enter_context(BurstEngine(NPU.from_connectome(network, backend="reference"), HERTZ))
        sink, source = ZeroMQSink(MsgpackFormat(100)), ZeroMQSource(MsgpackFormat(100))
        engine.add_sink(sink)
        engine.add_source(source)
        server = stack.enter_context(Server(make_app(Service(engine, "random")), "127.0.0.1", 0))
        engine.start()
        alone = met(engine)
        stalls = stack.enter_context(socket.socket())
        stalls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalls.connect((sink.host, sink.port))
        stalls.sendall(zmtp.GREETING + zmtp.frame(b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB", zmtp.COMMAND))
        stalls.sendall(zmtp.frame(b"\1"))
        wait_for(lambda: sink.statistics()["subscribers"] == 1)
        with hostile(role, server.port if role == "post" else source.port):
            beside = met(engine)
        assert beside > alone / 2
        assert source.statistics()["refused_malformed"] > 0 or role != "push"
        engine.stop()
