"""Real subscribers and senders in other processes, and strangers at the ports."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from stream_tools import Peer, burst, need, wait_for
from subscriber import LAST

from gpu_npu import NPU, Connectome, NetworkError
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.engine import BurstEngine
from gpu_npu.npu.results import Digest
from gpu_npu.streams import connections, listener, zmtp
from gpu_npu.streams.msgpack_format import MsgpackFormat

TRANSPORTS = ("zeromq", "websocket")
PENDING = 64
"""Frames that wait for a subscriber in these tests, and bursts that one that keeps up may be behind."""
BIG = np.arange(20_000, dtype=np.uint32)
"""Of what fires here; some frames of it are more than the system holds for a connection."""
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    need("zmq", "msgpack", "websockets")
    return str(request.param)


def sink_of(transport: str, **options: Any) -> listener.ListeningSink:
    from gpu_npu.streams.websocket import WebSocketSink
    from gpu_npu.streams.zeromq import ZeroMQSink

    return {"zeromq": ZeroMQSink, "websocket": WebSocketSink}[transport](MsgpackFormat(100), **options)


def source_of(transport: str, **options: Any) -> listener.ListeningSource:
    from gpu_npu.streams.websocket import WebSocketSource
    from gpu_npu.streams.zeromq import ZeroMQSource

    return {"zeromq": ZeroMQSource, "websocket": WebSocketSource}[transport](MsgpackFormat(100), **options)


@pytest.fixture
def sink(transport: str) -> Iterator[listener.ListeningSink]:
    made = sink_of(transport, queue_frames=PENDING)
    yield made
    made.close()


@pytest.fixture
def source(transport: str) -> Iterator[listener.ListeningSource]:
    made = source_of(transport, most_bytes=2**16)
    yield made
    made.close()


def refused(stream: Any) -> dict[str, int]:
    """What was refused so far, by reason; what is 0 left out."""
    return {name.removeprefix("refused_"): count for name, count in stream.statistics().items() if name.startswith("refused_") and count}


def subscribers(sink: listener.ListeningSink) -> int:
    return sink.statistics()["subscribers"]


def frame(ids: list[int], potential: float) -> bytes:
    import msgpack

    return bytes(msgpack.packb({"ids": struct.pack(f"<{len(ids)}I", *ids), "potentials": potential}))


# -- what fired ------------------------------------------------------------------------------------------------------
def test_one_that_keeps_up_gets_every_burst_of_an_engine(transport: str) -> None:
    network = fixed_out_degree(100, 10, seed=1, threshold=5.0, leak_coefficient=0.1)
    engine = BurstEngine(NPU.from_connectome(network, backend="reference"))
    with sink_of(transport, queue_frames=2**16) as sink, Peer(transport, sink.port, "keep") as peer:
        engine.add_sink(sink)
        wait_for(lambda: subscribers(sink))
        first = engine.step().burst
        engine.step(999)
        sink.publish(burst(LAST))
        assert peer.finish() == [*range(first, first + 1000), LAST]
        assert (sink.statistics()["dropped"], sink.statistics()["skipped"]) == (0, 0)
        engine.stop()


@pytest.mark.parametrize("seconds", [0.5, pytest.param(10.0, marks=pytest.mark.long)])
def test_one_that_stalls_loses_what_is_counted_and_nobody_else_anything(transport: str, seconds: float) -> None:
    with (
        sink_of(transport, queue_frames=PENDING) as sink,
        Peer(transport, sink.port, "keep") as keeps,
        Peer(transport, sink.port, "stall") as stalls,
    ):
        wait_for(lambda: subscribers(sink) == 2)
        number, calm, stalled = 0, [], []

        def publish(times: list[float]) -> None:
            nonlocal number
            wait_for(lambda: number - len(keeps.lines) < PENDING)
            begin = time.perf_counter()
            sink.publish(burst(number, BIG))
            times.append(time.perf_counter() - begin)
            number += 1

        publish(calm)
        wait_for(lambda: stalls.lines)
        for _ in range(PENDING // 2):  # all of it has room on the way
            publish(calm)
        end = time.monotonic() + seconds
        while time.monotonic() < end or sink.statistics()["dropped"] < 50:
            assert number < 1000 or time.monotonic() < end
            publish(stalled)
        stalls.say("go on")
        wait_for(lambda: sink.statistics()["waiting"] == 0)
        sink.publish(burst(LAST))
        assert keeps.finish() == [*range(number), LAST]
        got = stalls.finish()
        assert got == sorted(set(got)) and got[-1] == LAST
        assert len(got) + sink.statistics()["dropped"] == number + 1
        assert sink.statistics()["skipped"] == 0
        assert median(stalled) < 10 * median(calm)


def test_one_that_dies_is_forgotten(transport: str, sink: listener.ListeningSink) -> None:
    with Peer(transport, sink.port, "stall") as peer, Peer(transport, sink.port, "keep") as keeps:
        wait_for(lambda: subscribers(sink) == 2)
        sink.publish(burst(0, BIG))
        wait_for(lambda: peer.lines)
        for number in range(1, 200):
            wait_for(lambda number=number: number - len(keeps.lines) < PENDING)
            sink.publish(burst(number, BIG))
        peer.process.kill()
        wait_for(lambda: subscribers(sink) == 1)
        sink.publish(burst(LAST))
        assert keeps.finish() == [*range(200), LAST]
        wait_for(lambda: subscribers(sink) == 0)


def test_nothing_is_encoded_for_nobody_and_once_for_all(
    transport: str, sink: listener.ListeningSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    plain = sink.format.encode

    def encode(result: Any) -> bytes:
        encoded.append(result.burst)
        return plain(result)

    monkeypatch.setattr(sink.format, "encode", encode)
    sink.publish(burst(1))
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(transport, sink.port, "keep")) for _ in range(3)]
        wait_for(lambda: subscribers(sink) == 3)
        sink.publish(burst(2))
        sink.publish(burst(LAST))
        assert [peer.finish() for peer in peers] == [[2, LAST]] * 3
    wait_for(lambda: subscribers(sink) == 0)
    sink.publish(burst(3))
    assert encoded == [2, LAST]


def test_what_waits_is_sent_before_the_end(transport: str) -> None:
    sink = sink_of(transport)
    with Peer(transport, sink.port, "keep") as peer:
        wait_for(lambda: subscribers(sink))
        for number in (*range(300), LAST):
            sink.publish(burst(number))
        sink.close()
        assert peer.finish() == [*range(300), LAST]
    sink.publish(burst(1))
    sink.close()
    assert subscribers(sink) == 0


def test_an_end_does_not_wait_for_one_that_stalls(transport: str) -> None:
    sink = sink_of(transport)
    with Peer(transport, sink.port, "stall") as peer:
        wait_for(lambda: subscribers(sink))
        sink.publish(burst(0, BIG))
        wait_for(lambda: peer.lines)
        for number in range(500):
            sink.publish(burst(number, BIG))
        begin = time.monotonic()
        sink.close()
        assert time.monotonic() - begin < 10


def test_subscriptions_of_zeromq_filter_by_the_first_bytes() -> None:
    need("zmq", "msgpack")
    import zmq

    with sink_of("zeromq") as sink, zmq.Context() as context, context.socket(zmq.SUB) as all_, context.socket(zmq.SUB) as none:
        for subscriber in (all_, none):
            subscriber.setsockopt(zmq.RCVTIMEO, 30_000)
            subscriber.connect(f"tcp://127.0.0.1:{sink.port}")
        for topic in (b"\x87\xa5burst", b"other"):
            all_.subscribe(topic)
        none.subscribe(b"other")
        wait_for(lambda: subscribers(sink) == 2)
        sink.publish(burst(1))
        assert all_.recv()[:7] == b"\x87\xa5burst"
        none.unsubscribe(b"other")
        wait_for(lambda: subscribers(sink) == 1)
        assert (sink.statistics()["sent"], sink.statistics()["connections"]) == (1, 2)
        none.subscribe(b"")
        wait_for(lambda: subscribers(sink) == 2)
        sink.publish(burst(2))
        assert none.recv() == all_.recv()


# -- sensory input ---------------------------------------------------------------------------------------------------
def test_stimuli_arrive_in_order_and_reach_the_neurons(transport: str, source: listener.ListeningSource) -> None:
    frames = [([i % 7, 9], float(i)) for i in range(200)]
    with Peer(transport, source.port, "send") as peer:
        for ids, potential in frames:
            peer.say(frame(ids, potential).hex())
        peer.say(frame([100], 1.0).hex())  # beyond the capacity
        peer.finish()
    wait_for(lambda: source.statistics()["refused_unknown"])
    assert source.statistics()["frames"] == source.statistics()["waiting"] == 200
    taken = source.take()
    assert [(one.neurons.tolist(), one.potentials.tolist()) for one in taken] == [(ids, [p, p]) for ids, p in frames]
    assert source.take() == [] and source.statistics()["waiting"] == 0
    assert refused(source) == {"unknown": 1}


def test_an_engine_fed_over_a_stream_does_as_one_fed_directly(transport: str) -> None:
    network = fixed_out_degree(100, 10, seed=1, threshold=5.0, leak_coefficient=0.1)
    directly, over = NPU.from_connectome(network, backend="reference"), BurstEngine(NPU.from_connectome(network, backend="reference"))
    source = source_of(transport)
    over.add_source(source)
    with Peer(transport, source.port, "send") as peer:
        for ids, potential in (([1, 2, 3], 9.0), ([2, 50], 7.5)):
            peer.say(frame(ids, potential).hex())
            directly.inject(ids, potential)
        peer.finish()
        wait_for(lambda: source.statistics()["waiting"] == 2)
        for _ in range(20):
            assert over.step().fired_neurons.tolist() == directly.process_burst().fired_neurons.tolist()
        assert directly.fire_ledger[1].size
    over.stop()
    assert source.take() == []


def test_what_finds_no_room_is_refused(transport: str) -> None:
    with source_of(transport, queue_frames=3) as source, Peer(transport, source.port, "send") as peer:
        for i in range(10):
            peer.say(frame([i], 1.0).hex())
        peer.finish()
        wait_for(lambda: source.statistics()["refused_full"] == 7)
        assert [one.neurons.tolist() for one in source.take()] == [[0], [1], [2]]


# -- strangers -------------------------------------------------------------------------------------------------------
def opened(transport: str, stream: Any, receives: int | None = None, greeting: bytes = zmtp.GREETING) -> socket.socket:
    """A connection that has said a proper hello; receives: bytes that the system takes for it."""
    plain = socket.socket()
    plain.settimeout(30)
    if receives is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    plain.connect((stream.host, stream.port))
    if transport == "zeromq":
        ours = b"SUB" if isinstance(stream, listener.ListeningSink) else b"PUSH"
        plain.sendall(greeting + zmtp.frame(b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(ours)) + ours, zmtp.COMMAND))
        assert plain.recv(64, socket.MSG_WAITALL) == zmtp.GREETING
        assert b"Socket-Type" in plain.recv(100)
    else:
        plain.sendall(UPGRADE)
        assert b"101 Switching" in plain.recv(1000)
    return plain


def header(transport: str, size: int) -> bytes:
    """Of a frame so long; WebSocket's is masked with zeros."""
    return struct.pack(">BQ", zmtp.LONG, size) if transport == "zeromq" else struct.pack(">BBQI", 0x82, 0x80 | 127, size, 0)


def shown_the_door(plain: socket.socket) -> None:
    """Returns when the other side has ended the connection."""
    plain.settimeout(30)
    with suppress(ConnectionError):
        while plain.recv(1000):
            continue


def reset(plain: socket.socket) -> None:
    """Close without a goodbye of TCP."""
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.close()


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture(params=["sink", "source"])
def stream(request: pytest.FixtureRequest, transport: str) -> Iterator[Any]:
    made: Any = sink_of(transport) if request.param == "sink" else source_of(transport, most_bytes=2**16)
    with made:
        yield made
        still_serves(transport, made)


def still_serves(transport: str, stream: Any) -> None:
    """Whatever was sent: the next peer is served, and nothing reached a neuron before."""
    with opened(transport, stream) as plain:
        plain.settimeout(30)
        if isinstance(stream, listener.ListeningSink):
            if transport == "zeromq":
                plain.sendall(zmtp.frame(b"\1"))
            wait_for(lambda: subscribers(stream) == 1)
            stream.publish(burst(7))
            sent = stream.format.encode(burst(7))
            expected = zmtp.frame(sent) if transport == "zeromq" else struct.pack(">BBH", 0x82, 126, len(sent)) + sent
            assert plain.recv(len(expected), socket.MSG_WAITALL) == expected
            return
        assert isinstance(stream, listener.ListeningSource)
        assert stream.take() == []
        content = frame([3], 1.0)
        plain.sendall(header(transport, len(content)) + content)
        wait_for(lambda: stream.statistics()["waiting"])
        assert [one.neurons.tolist() for one in stream.take()] == [[3]]


def hello_then(stream: listener.Listener, said: bytes) -> None:
    """Of a peer over ZeroMQ."""
    with opened("zeromq", stream) as plain:
        plain.sendall(said)


def test_half_a_greeting(transport: str, stream: Any) -> None:
    words = zmtp.GREETING if transport == "zeromq" else UPGRADE
    for said in (words[:1], words[:30], words[:-1]):
        before = sum(refused(stream).values())
        with socket.create_connection((stream.host, stream.port)) as plain:
            plain.sendall(said)
            if transport == "zeromq":  # what was not read would turn the goodbye into a reset, which may overtake what was said
                plain.recv(64, socket.MSG_WAITALL)
        wait_for(lambda before=before: sum(refused(stream).values()) > before)
    assert refused(stream) == {"malformed": 3}


def test_one_that_says_nothing_is_no_offender(transport: str, stream: Any) -> None:
    socket.create_connection((stream.host, stream.port)).close()
    still_serves(transport, stream)
    assert refused(stream) == {}


def test_rubbish(transport: str, stream: Any) -> None:
    for _ in range(20):
        with socket.create_connection((stream.host, stream.port)) as plain:
            plain.sendall(b"\0" + secrets.token_bytes(200) + b"\r\n")
            shown_the_door(plain)
    wait_for(lambda: refused(stream) == {"malformed": 20})


def test_rubbish_after_a_proper_hello(transport: str, stream: Any) -> None:
    for _ in range(20):
        with opened(transport, stream) as plain:
            plain.sendall(b"\xf0\x85" + secrets.token_bytes(200))
            shown_the_door(plain)
    wait_for(lambda: refused(stream) == {"malformed": 20})


def test_lengths_of_two_gigabytes(transport: str, stream: Any) -> None:
    before = resident()
    for size in (2**31, 2**31 - 1, 2**63 - 1):
        with opened(transport, stream) as plain:
            plain.sendall(header(transport, size) + bytes(1000))
            shown_the_door(plain)
    wait_for(lambda: refused(stream) == {"oversized": 3})
    assert resident() - before < 2**27


def test_one_that_goes_in_the_middle_of_a_frame(transport: str, stream: Any) -> None:
    part = header(transport, 200) + bytes(100)
    for end in (socket.socket.close, reset):
        plain = opened(transport, stream)
        plain.sendall(part)
        time.sleep(0.05)
        end(plain)
    wait_for(lambda: stream.statistics()["connections"] == 0)
    assert set(refused(stream)) == {"malformed"}


def test_rubbish_in_proper_frames(transport: str, source: listener.ListeningSource) -> None:
    for content in (b"", b"\xc1", secrets.token_bytes(100), frame([1], float("nan"))):
        before = refused(source).get("malformed", 0)
        with opened(transport, source) as plain:
            plain.sendall(header(transport, len(content)) + content)
            plain.recv(1)
        wait_for(lambda before=before: refused(source).get("malformed", 0) > before)
    assert refused(source) == {"malformed": 4}
    still_serves(transport, source)


def test_a_frame_in_single_bytes_is_a_frame(transport: str, source: listener.ListeningSource) -> None:
    content = frame([1, 2], 3.0)
    with opened(transport, source) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header(transport, len(content)) + content:
            plain.sendall(bytes([byte]))
        wait_for(lambda: source.statistics()["waiting"] == 1)
    assert source.take()[0].neurons.tolist() == [1, 2]
    assert refused(source) == {}


@pytest.mark.parametrize("kind", ["sink", "source"])
def test_no_more_than_so_many_connections(transport: str, kind: str) -> None:
    make = sink_of if kind == "sink" else source_of
    stream: Any = make(transport, connections=2)
    with stream, opened(transport, stream), opened(transport, stream):
        wait_for(lambda: len(stream._open._greeted) == 2)
        with socket.create_connection((stream.host, stream.port), timeout=30) as third:
            shown_the_door(third)
        wait_for(lambda: refused(stream) == {"crowded": 1})
        assert stream.statistics()["connections"] == 2


@pytest.mark.parametrize("kind", ["sink", "source"])
def test_those_that_say_nothing_keep_nobody_out(transport: str, kind: str) -> None:
    """The one that came first goes first; one that has greeted stays."""
    stream: Any = sink_of(transport, connections=3) if kind == "sink" else source_of(transport, connections=3)
    with stream, opened(transport, stream), ExitStack() as stack:
        wait_for(lambda: len(stream._open._greeted) == 1)
        silent = []
        for number in range(2, 12):
            silent.append(stack.enter_context(socket.create_connection((stream.host, stream.port), timeout=30)))
            wait_for(lambda number=number: stream.statistics()["accepted"] == number)
        for gone in silent[:8]:
            shown_the_door(gone)
        with opened(transport, stream):
            wait_for(lambda: len(stream._open._greeted) == 2)
        assert refused(stream) == {"silent": 9}


def test_the_longest_silent_makes_room(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with source_of(transport, connections=2) as source, opened(transport, source) as first, opened(transport, source) as second:
        wait_for(lambda: len(source._open._greeted) == 2)
        content = frame([1], 3.0)
        first.sendall(header(transport, len(content)) + content)
        wait_for(lambda: source.statistics()["waiting"] == 1)
        monkeypatch.setattr(connections, "QUIET", 0.0)
        with opened(transport, source):
            shown_the_door(second)
            first.sendall(header(transport, len(content)) + content)
            wait_for(lambda: source.statistics()["waiting"] == 2)
        assert refused(source) == {"silent": 1}


@pytest.mark.parametrize("kind", ["sink", "source"])
def test_peers_of_zeromq_are_asked_whether_they_are_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq answers; one that does not is ended; one of a protocol without pings is left alone."""
    need("zmq", "msgpack", "websockets")
    import zmq

    monkeypatch.setattr(connections, "PING_EVERY", 0.05)
    monkeypatch.setattr(connections, "SILENT", 1.0)
    stream: Any = sink_of("zeromq") if kind == "sink" else source_of("zeromq")
    with stream, zmq.Context() as context, context.socket(zmq.SUB if kind == "sink" else zmq.PUSH) as peer:
        peer.connect(f"tcp://127.0.0.1:{stream.port}")
        wait_for(lambda: stream.statistics()["connections"] == 1)
        with opened("zeromq", stream) as silent, opened("zeromq", stream, greeting=zmtp.GREETING.replace(b"\3\1", b"\3\0")) as old:
            assert zmtp.PING in silent.recv(1000)
            shown_the_door(silent)
            time.sleep(1.0)
            old.settimeout(0.1)
            with pytest.raises(TimeoutError):
                old.recv(1)
        assert stream.statistics()["accepted"] == 3  # libzmq did not have to come again
        wait_for(lambda: stream.statistics()["connections"] == 1)
        assert refused(stream) == {"silent": 1}


def test_the_system_finds_hosts_that_have_vanished(transport: str, stream: Any) -> None:
    with opened(transport, stream):
        (found,) = [one.get_extra_info("socket") for one in stream._open]
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform.startswith("linux"):
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    wait_for(lambda: stream.statistics()["connections"] == 0)


@pytest.mark.parametrize(
    "said",
    [
        b"\x02xx",  # no subscription
        b"\x01" + bytes(300),  # a long topic
        b"",
    ],
)
def test_subscribers_of_zeromq_that_say_something_else(said: bytes) -> None:
    need("zmq", "msgpack", "websockets")
    with sink_of("zeromq") as sink:
        hello_then(sink, zmtp.frame(said))
        wait_for(lambda: sum(refused(sink).values()) == 1)


def test_too_many_subscriptions_and_frames_of_several_parts() -> None:
    need("zmq", "msgpack", "websockets")
    import zmq

    with sink_of("zeromq") as sink, source_of("zeromq") as source, zmq.Context() as context:
        hello_then(sink, zmtp.frame(b"\1topic") * 65)
        wait_for(lambda: refused(sink) == {"oversized": 1})
        with context.socket(zmq.PUSH) as pusher:
            pusher.setsockopt(zmq.LINGER, 0)
            pusher.connect(f"tcp://127.0.0.1:{source.port}")
            pusher.send_multipart([b"topic", frame([1], 1.0)])
            wait_for(lambda: refused(source) == {"malformed": 1})
        assert source.take() == []


@pytest.mark.parametrize("kind", ["sink", "source"])
def test_heartbeats_of_zeromq_are_answered(kind: str) -> None:
    need("zmq", "msgpack", "websockets")
    import zmq

    stream: Any = sink_of("zeromq") if kind == "sink" else source_of("zeromq")
    with stream, zmq.Context() as context, context.socket(zmq.SUB if kind == "sink" else zmq.PUSH) as peer:
        peer.setsockopt(zmq.HEARTBEAT_IVL, 20)
        peer.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
        peer.connect(f"tcp://127.0.0.1:{stream.port}")
        wait_for(lambda: stream.statistics()["connections"] == 1)
        time.sleep(1.5)
        assert stream.statistics()["accepted"] == 1  # it never gave us up
        assert refused(stream) == {}


def test_pings_of_one_that_reads_no_answers(transport: str, stream: Any) -> None:
    ping = zmtp.frame(b"\x04PING\0\0" + bytes(16), zmtp.COMMAND) if transport == "zeromq" else b"\x89\xfd" + bytes(4 + 125)
    most = 0
    with opened(transport, stream, receives=4096) as plain:
        plain.settimeout(0.5)
        with suppress(TimeoutError, ConnectionError):
            for _ in range(200):
                plain.sendall(ping * (2**14 // len(ping)))
                most = max(most, *(peer.get_write_buffer_size() for peer in list(stream._open)), 0)
        if transport == "websocket":
            wait_for(lambda: refused(stream) == {"oversized": 1})
        assert most < 2**19
    wait_for(lambda: stream.statistics()["connections"] == 0)
    assert refused(stream) == ({"oversized": 1} if transport == "websocket" else {})


def test_sockets_of_zeromq_that_do_not_go_together() -> None:
    need("zmq", "msgpack", "websockets")
    import zmq

    with source_of("zeromq") as source, zmq.Context() as context, context.socket(zmq.SUB) as wrong:
        wrong.connect(f"tcp://127.0.0.1:{source.port}")
        wait_for(lambda: refused(source).get("malformed"))


def test_pages_from_elsewhere_are_refused() -> None:
    need("websockets", "msgpack")
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with sink_of("websocket") as closed, sink_of("websocket", origins=["https://mine.org"]) as open_:
        for stream, origin in ((closed, "https://mine.org"), (open_, "https://evil.org")):
            with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{stream.port}", origin=origin):
                pass  # never
        with connect(f"ws://127.0.0.1:{open_.port}", origin="https://mine.org"):
            wait_for(lambda: subscribers(open_) == 1)


def test_a_text_message_is_no_frame() -> None:
    need("websockets", "msgpack")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    for stream in (sink_of("websocket"), source_of("websocket")):
        with stream, connect(f"ws://127.0.0.1:{stream.port}") as connection:
            connection.send("hello")
            with pytest.raises(ConnectionClosed) as end:
                connection.recv(timeout=30)
            assert end.value.rcvd is not None and end.value.rcvd.code == 1008
            wait_for(lambda stream=stream: refused(stream) == {"malformed": 1})


def test_the_queue_of_a_subscriber() -> None:
    async def use() -> None:
        queue = listener.Subscriber(frames=3, size=10)
        assert queue.offer(bytes(50))  # more than the limit, but nothing waits
        assert not queue.offer(b"")
        assert [await queue.take()] == [[bytes(50)]]
        for _ in range(2):  # room for ten bytes comes back with what is taken
            assert queue.offer(b"abcd") and queue.offer(b"efgh") and not queue.offer(b"ijk")
            assert queue.offer(b"ij") and not queue.offer(b"")
            assert queue.waiting == 3
            assert (await queue.take(8), await queue.take()) == ([b"abcd", b"efgh"], [b"ij"])

    asyncio.run(use())


# -- ports and options -----------------------------------------------------------------------------------------------
def test_it_listens_on_loopback_alone(stream: Any) -> None:
    assert stream.host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", stream.port), timeout=30)


def test_a_port_that_is_taken(transport: str, sink: listener.ListeningSink) -> None:
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{sink.port}: .*in use"):
        sink_of(transport, port=sink.port)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": ""}, "0.0.0.0"),
        ({"host": None}, "None"),
        ({"port": -1}, "-1"),
        ({"port": 65536}, "65536"),
        ({"port": True}, "True"),
        ({"connections": 0}, "connections: 0"),
    ],
)
def test_options_that_are_none(transport: str, options: dict[str, Any], said: str) -> None:
    for make in (sink_of, source_of):
        with pytest.raises(NetworkError, match=said):
            make(transport, **options)


def test_limits_that_are_none(transport: str) -> None:
    for limit in ("queue_frames", "queue_bytes"):
        with pytest.raises(NetworkError, match=limit):
            sink_of(transport, **{limit: 0})
    for limit in ("queue_frames", "most_bytes"):
        with pytest.raises(NetworkError, match=limit):
            source_of(transport, **{limit: 1.5})


def test_a_host_that_is_none(transport: str) -> None:
    with pytest.raises(OSError, match="cannot listen on no.such.host.invalid"):
        sink_of(transport, host="no.such.host.invalid")


def test_nothing_is_left_open() -> None:
    """Warnings of forgotten sockets, tasks and loops are errors of this process."""
    need("zmq", "msgpack", "websockets")
    script = """
import gc, socket, time
from gpu_npu.streams.msgpack_format import MsgpackFormat
from gpu_npu.streams.websocket import WebSocketSink, WebSocketSource
from gpu_npu.streams.zeromq import ZeroMQSink, ZeroMQSource
for kind in (WebSocketSink, WebSocketSource, ZeroMQSink, ZeroMQSource):
    stream = kind(MsgpackFormat(1))
    with socket.create_connection((stream.host, stream.port)) as silent, socket.create_connection((stream.host, stream.port)) as other:
        other.sendall(b"GET / HTTP/1.1\\r\\n")
        time.sleep(0.2)
        stream.close()
    stream.close()
gc.collect()
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_end_while_others_come_leaves_nothing_open() -> None:
    need("zmq", "msgpack", "websockets")
    script = """
import gc, socket, threading, time
from gpu_npu.streams.msgpack_format import MsgpackFormat
from gpu_npu.streams.websocket import WebSocketSink
from gpu_npu.streams.zeromq import ZeroMQSource
def come(port, over):
    try:
        while not over.is_set():
            socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        over.set()
for kind in (ZeroMQSource, WebSocketSink, ZeroMQSource):
    stream, over = kind(MsgpackFormat(1)), threading.Event()
    others = [threading.Thread(target=come, args=(stream.port, over)) for _ in range(2)]
    for other in others:
        other.start()
    time.sleep(0.01)
    stream.close()
    over.set()
    for other in others:
        other.join()
gc.collect()
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# -- a burst and its subscribers -------------------------------------------------------------------------------------
def test_subscribers_do_not_change_a_run(transport: str) -> None:
    def run(network: Connectome, sinks: list[listener.ListeningSink]) -> str:
        digest = Digest()
        with NPU.from_connectome(network, backend="reference") as npu:
            for _ in range(200):
                npu.inject([1, 2, 3], 9.0)
                result = npu.process_burst()
                digest.update(result.burst, result.fired_neurons)
                for sink in sinks:
                    sink.publish(result)
        return digest.hexdigest()

    network = fixed_out_degree(100, 10, seed=1, threshold=5.0, leak_coefficient=0.1)
    with sink_of(transport) as sink, Peer(transport, sink.port, "keep"), Peer(transport, sink.port, "stall"):
        wait_for(lambda: subscribers(sink) == 2)
        assert run(network, [sink]) == run(network, [])
