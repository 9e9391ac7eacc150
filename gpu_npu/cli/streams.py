"""Streams named on the command line: zmq://127.0.0.1:5558/feagi."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import click

from gpu_npu import NPU, BurstEngine
from gpu_npu.streams.feagi_format import FeagiFormat
from gpu_npu.streams.msgpack_format import MsgpackFormat
from gpu_npu.streams.places import Places
from gpu_npu.streams.websocket import WebSocketSink, WebSocketSource
from gpu_npu.streams.zeromq import ZeroMQSink, ZeroMQSource

FORM = "zmq|ws://[HOST]:PORT/feagi|msgpack"
LOOPBACK = "127.0.0.1"
SINKS: dict[str, type[ZeroMQSink | WebSocketSink]] = {"zmq": ZeroMQSink, "ws": WebSocketSink}
SOURCES: dict[str, type[ZeroMQSource | WebSocketSource]] = {"zmq": ZeroMQSource, "ws": WebSocketSource}


@dataclass(frozen=True)
class Address:
    """A transport, where to listen, and how frames are written."""

    transport: str
    host: str
    port: int
    format: str

    def at(self, port: int) -> str:
        """As a URL, with the port that was got."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{port}/{self.format}"


def address(text: str) -> Address:
    """An address of this FORM."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or LOOPBACK, parts.port
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from error
    format = parts.path.removeprefix("/")
    if parts.scheme not in SINKS or port is None or format not in ("feagi", "msgpack") or parts.query or parts.fragment or parts.username:
        raise click.BadParameter(f"{text!r} is not of the form {FORM}")
    return Address(parts.scheme, host, port, format)


class Streams:
    """The streams of a service, opened one after the other; the engine closes them."""

    def __init__(self, engine: BurstEngine, ids: Mapping[int, bytes] | None) -> None:
        self._engine = engine
        self._ids = ids
        """Number of an area -> its cortical id; None: our own."""
        self._feagi: list[FeagiFormat] = []

    def open(self, publish: Iterable[Address], sense: Iterable[Address]) -> list[str]:
        """Listen at all of these; says where. The engine must be paused."""
        opened = []
        for wanted in publish:
            sink = SINKS[wanted.transport](self._format(wanted), wanted.host, wanted.port)
            opened.append(f"publishing at {wanted.at(sink.port)}")
            self._engine.add_sink(sink, wanted.at(sink.port))
        for wanted in sense:
            source = SOURCES[wanted.transport](self._format(wanted), wanted.host, wanted.port)
            opened.append(f"sensing at {wanted.at(source.port)}")
            self._engine.add_source(source, wanted.at(source.port))
        return opened

    def _format(self, wanted: Address) -> FeagiFormat | MsgpackFormat:
        if wanted.format == "msgpack":
            return MsgpackFormat(self._engine.npu.neuron_capacity)
        places = self._feagi[0].places if self._feagi else Places.of(self._engine.npu, self._ids)
        self._feagi.append(FeagiFormat(places))
        return self._feagi[-1]

    def moved(self, npu: NPU) -> None:
        """Look up again where neurons are; between two bursts."""
        if self._feagi:
            places = Places.of(npu, self._ids)
            for format in self._feagi:
                format.places = places
