"""The service over real sockets: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, Annotations, Area, BurstEngine, Connectome, NetworkError, __version__
from gpu_npu.npu.snapshot import Snapshot

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from gpu_npu.service import activity as activity_module  # noqa: E402
from gpu_npu.service import app as app_module  # noqa: E402
from gpu_npu.service import guard, reading  # noqa: E402
from gpu_npu.service import server as server_module  # noqa: E402
from gpu_npu.service.activity import AreaActivity  # noqa: E402
from gpu_npu.service.app import make_app  # noqa: E402
from gpu_npu.service.server import Server, is_loopback, resolve  # noqa: E402
from gpu_npu.service.service import Service  # noqa: E402

TOKEN = "correct-horse-battery-staple"


def ring(n: int = 8) -> Connectome:
    """Each neuron makes the next one fire; the last two are an area of their own."""
    connectome = Connectome(n, n, areas={5: Area("last")})
    connectome.add_neurons(n, cortical_area=[0] * (n - 2) + [5, 5])
    connectome.add_synapses(np.arange(n), (np.arange(n) + 1) % n, 2, 1)
    return connectome


@dataclass
class Client:
    """Requests of a test."""

    engine: BurstEngine
    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def raw(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        status, text, _ = self.raw(method, path, data, **({} if body is None else {"content_type": "application/json"}), **headers)
        return status, json.loads(text)


@pytest.fixture
def client() -> Iterator[Client]:
    with BurstEngine(ring(), backend="reference") as engine:
        hosts = frozenset({"127.0.0.1", "localhost"})
        with Server(make_app(Service(engine, "ring"), hosts=hosts), "127.0.0.1", 0) as server:
            yield Client(engine, server.port)
            engine.stop()


def test_status(client: Client) -> None:
    assert client("POST", "/inject", {"neurons": [5]}) == (200, {"neurons": 1})
    assert client("POST", "/step", {"n": 3}) == (200, {"burst": 3, "fired_neurons": [7]})
    status, told = client("GET", "/status")
    assert status == 200
    assert (told["version"], told["network"], told["backend"]) == (__version__, "ring", "reference")
    assert (told["neurons"], told["synapses"], told["power_amount"]) == (8, 8, 1.0)
    assert told["memory"] == client.engine.npu.memory()
    assert told["process_bytes"] > 10_000_000
    assert told["areas"] == [{"id": 0, "name": "", "fired": 1}, {"id": 5, "name": "last", "fired": 2}]
    engine = told["engine"]
    assert (engine["state"], engine["frequency"], engine["burst"], engine["fired"]) == ("paused", None, 3, 3)
    assert engine["burst_seconds"]["count"] == 3
    assert engine["sinks"] == {"areas": {"dropped": 0}}


def test_start_pause_frequency(client: Client) -> None:
    assert client("PUT", "/frequency", {"hertz": 200}) == (200, {"state": "paused", "frequency": 200})
    assert client("POST", "/start") == (200, {"state": "running", "frequency": 200})
    status, told = client("POST", "/step", {})
    assert (status, told) == (409, {"detail": "the engine is running, and takes steps only while it is paused"})
    end = time.monotonic() + 30
    while client("GET", "/status")[1]["engine"]["bursts"] < 5:
        assert time.monotonic() < end
    assert client("PUT", "/frequency", {"hertz": None}) == (200, {"state": "running", "frequency": None})
    assert client("POST", "/pause") == (200, {"state": "paused", "frequency": None})
    bursts = client("GET", "/status")[1]["engine"]["bursts"]
    assert client("POST", "/step", {})[1]["burst"] == bursts + 1


def test_parameters_injection_and_power(client: Client) -> None:
    npu = client.engine.npu
    assert client("POST", "/parameters", {"name": "threshold", "neurons": [1, 2], "values": [3.5, 4]}) == (200, {"neurons": 2})
    assert client("POST", "/parameters", {"name": "refractory_period", "area": 5, "values": 2}) == (200, {"neurons": 2})
    assert client("POST", "/parameters", {"name": "threshold_limit", "neurons": [0], "values": 9.0})[0] == 200
    assert client("GET", "/parameters/threshold?neurons=2&neurons=0") == (200, {"values": [4.0, 1.0]})
    assert client("GET", "/parameters/refractory_period?neurons=7") == (200, {"values": [2]})
    assert client("GET", "/parameters/threshold_limit?neurons=0&neurons=1") == (200, {"values": [9.0, None]})
    assert client("POST", "/parameters", {"name": "threshold_limit", "neurons": [0, 1], "values": [None, 7]})[0] == 200
    assert client("GET", "/parameters/threshold_limit?neurons=0&neurons=1") == (200, {"values": [None, 7.0]})
    assert client("POST", "/parameters", {"name": "mp_charge_accumulation", "neurons": [0], "values": False})[0] == 200
    assert not npu.neuron_array.mp_charge_accumulation[0]

    assert client("POST", "/inject", {"neurons": [1, 4], "potentials": [3.0, 1.0]}) == (200, {"neurons": 2})
    assert client("POST", "/inject", {"neurons": [1, 6], "potentials": 0.5}) == (200, {"neurons": 2})
    assert client("POST", "/step", {})[1]["fired_neurons"] == [1, 4]
    assert client("POST", "/power", {"amount": 2.5, "neurons": [0, 3]}) == (200, {"neurons": 2})
    assert client("POST", "/power", {}) == (200, {"neurons": 2})
    assert npu.power_amount == 2.5
    assert client("POST", "/step", {})[1]["fired_neurons"] == [0, 3, 5]


def test_areas_follow_neurons_that_move(client: Client) -> None:
    client("POST", "/inject", {"neurons": [2]})
    client("POST", "/step", {})
    assert client("POST", "/parameters", {"name": "cortical_area", "neurons": [3], "values": 9})[0] == 200
    client("POST", "/step", {})
    assert client("GET", "/status")[1]["areas"] == [
        {"id": 0, "name": "", "fired": 1},
        {"id": 5, "name": "last", "fired": 0},
        {"id": 9, "name": "", "fired": 1},
    ]


def test_metrics(client: Client) -> None:
    client("POST", "/inject", {"neurons": [5]})
    client("POST", "/step", {"n": 4})
    status, text, headers = client.raw("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert lines["gpu_npu_bursts_total"] == "4.0"
    assert lines["gpu_npu_fired_total"] == "4.0"
    assert lines['gpu_npu_area_fired_total{area="5",name="last"}'] == "2.0"
    assert lines["gpu_npu_burst_seconds_count"] == lines['gpu_npu_burst_seconds_bucket{le="+Inf"}'] == "4.0"
    assert lines["gpu_npu_lateness_seconds_count"] == "0.0"
    assert lines['gpu_npu_stream{kind="sink",stream="areas",what="dropped"}'] == "0.0"
    assert lines["gpu_npu_running"] == "0.0"
    assert float(lines["process_resident_memory_bytes"]) > 1e7


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("POST", "/inject", {"neurons": [8], "potentials": 1}, 400, "neurons[0]: 8 is not a neuron id"),
        ("POST", "/inject", {"neurons": [1, 2], "potentials": [1]}, 400, "potentials"),
        ("POST", "/inject", {"neurons": [1], "potentials": 1e300}, 400, "potentials"),
        ("POST", "/inject", {"neurons": []}, 422, ""),
        ("POST", "/inject", {"neurons": ["1"]}, 400, "integer ids are needed"),
        ("POST", "/inject", {"neurons": [1], "ids": [2]}, 422, ""),
        ("POST", "/step", {"n": 0}, 422, ""),
        ("POST", "/step", {"n": 10**9}, 422, ""),
        ("PUT", "/frequency", {"hertz": 0}, 422, ""),
        ("PUT", "/frequency", {}, 422, ""),
        ("POST", "/parameters", {"name": "coordinates", "neurons": [1], "values": 1}, 422, ""),
        ("POST", "/parameters", {"name": "colour", "neurons": [1], "values": 1}, 422, ""),
        ("POST", "/parameters", {"name": "threshold", "values": 1}, 422, ""),
        ("POST", "/parameters", {"name": "threshold", "neurons": [1], "area": 1, "values": 1}, 422, ""),
        ("POST", "/parameters", {"name": "threshold", "neurons": [1, 1], "values": 1}, 400, "given more than once"),
        ("POST", "/parameters", {"name": "threshold", "neurons": [1], "values": None}, 400, "threshold"),
        ("POST", "/parameters", {"name": "refractory_period", "area": 0, "values": -1}, 400, "refractory_period"),
        ("GET", "/parameters/threshold?neurons=99", None, 400, "99 is not a neuron id"),
        ("GET", "/parameters/threshold", None, 422, ""),
        ("POST", "/power", {"neurons": [77]}, 400, "77 is not a neuron id"),
        ("GET", "/redoc", None, 404, "Not Found"),
        ("GET", "/docs/files/none.js", None, 404, "Not Found"),
        ("POST", "/docs", None, 405, "Method Not Allowed"),
        ("DELETE", "/status", None, 405, "Method Not Allowed"),
    ],
)
def test_what_is_refused(client: Client, method: str, path: str, body: Any, status: int, detail: str) -> None:
    found, told = client(method, path, body)
    assert found == status
    assert detail in str(told["detail"])
    assert client.engine.state == "paused"


def test_bodies_that_are_no_json(client: Client) -> None:
    bodies = (
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"n": NaN}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"\\ud800": 1}',
        b'{"%s": 1}' % (b"k" * 10**6),
    )
    for body in bodies:
        status, told, _ = client.raw("POST", "/step", body, content_type="application/json")
        assert status in (400, 422)
        assert 0 < len(json.loads(told)["detail"]) <= 500
    assert client.engine.status().bursts == 0


def test_a_body_that_is_too_big(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BYTES", 1000)
    status, text, _ = client.raw("POST", "/inject", b" " * 1001, content_type="application/json")
    assert (status, json.loads(text)) == (413, {"detail": "the body is larger than 1,000 bytes"})
    with socket.create_connection(("127.0.0.1", client.port), 30) as connection:  # in chunks, of which nobody says how many
        connection.sendall(
            b"POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(b"1f4\r\n" + b" " * 500 + b"\r\n")
        connection.sendall(b"1f5\r\n" + b" " * 501 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert client("GET", "/status")[0] == 200


def test_a_body_that_does_not_come(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
        connection.sendall(b"POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
        connection.sendall(b"POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{")  # and goes away
    assert client("GET", "/status")[0] == 200


def test_pages_of_other_sites_and_other_names_are_refused(client: Client) -> None:
    assert client("POST", "/start", Origin="http://evil.example") == (403, {"detail": "pages of other sites may not use this service"})
    assert client("POST", "/start", Host="evil.example") == (
        403,
        {"detail": "this service answers requests for 127.0.0.1, localhost, not for evil.example"},
    )
    assert client("POST", "/start", Host="[")[0] == 403
    for origin in ("http://[::1", "null", "", "//"):
        assert client("POST", "/start", Origin=origin) == (403, {"detail": "pages of other sites may not use this service"})
    assert client.engine.state == "paused"
    here = f"127.0.0.1:{client.port}"
    assert client("POST", "/start", Origin=f"http://{here}", Host=here)[0] == 200


def test_the_pages_of_openapi_ask_no_other_host(client: Client) -> None:
    status, _, headers = client.raw("GET", "/")
    assert (status, headers["location"]) == (307, "docs")
    status, page, headers = client.raw("GET", "/docs")
    assert status == 200 and headers["content-type"].startswith("text/html")
    text = page.decode()
    assert "//" not in re.sub(r"//127\.0\.0\.1|<!--.*?-->", "", text) and '"validatorUrl": null' in text
    assert "default-src 'none'" in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(loaded) == 3
    for path in loaded:
        status, body, headers = client.raw("GET", f"/{path}")
        assert status == 200 and len(body) > 1000, path
    (described,) = re.findall(r"url: '([^']+)'", text)
    assert client("GET", f"/{described}")[1]["paths"].keys() >= {"/status", "/start", "/inject"}
    assert client.raw("GET", "/docs", Host="evil.example")[0] == 403


def test_no_answer_gives_advice_for_python(client: Client) -> None:
    """What somebody who calls from Python would do is not what somebody does who sends requests."""
    assert client("POST", "/start")[0] == 200
    told = [
        client("POST", "/step", {}),
        client("POST", "/inject", {"neurons": [8], "potentials": 1}),
        client("POST", "/parameters", {"name": "threshold", "neurons": [8], "values": 1}),
        client("POST", "/power", {"neurons": [77]}),
    ]
    for status, answer in told:
        assert status in (400, 409) and "()" not in answer["detail"] and "reserve" not in answer["detail"] and "=" not in answer["detail"]


def test_a_token_is_demanded_of_everyone() -> None:
    with (
        BurstEngine(ring(), backend="reference") as engine,
        Server(make_app(Service(engine, "ring"), token=TOKEN), "127.0.0.1", 0) as server,
    ):
        client = Client(engine, server.port)
        for headers in (
            {},
            {"Authorization": TOKEN},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer \xe4"},
        ):
            for path in ("/status", "/metrics", "/openapi.json", "/nowhere", "/", "/docs", "/docs/files/swagger-ui.css"):
                assert client("GET", path, **headers) == (401, {"detail": "a bearer token is needed, in the header Authorization"})
        assert client.raw("GET", "/status")[2]["www-authenticate"] == "Bearer"
        assert client("GET", "/status", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert client("GET", "/status", Authorization=f"bearer  {TOKEN}", Host="anything.example")[0] == 200


@pytest.mark.parametrize("count", [server_module.MOST_CONNECTIONS, 3 * server_module.MOST_CONNECTIONS])
def test_silent_connections_keep_nobody_out(client: Client, count: int) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", client.port), 30)) for _ in range(count)]
        for _ in range(5):
            assert client("GET", "/status")[0] == 200
        for one in silent[: count + 1 - server_module.MOST_CONNECTIONS]:
            assert ended(one)
        silent[-1].sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert silent[-1].recv(1000).startswith(b"HTTP/1.1 200 ")


def ended(connection: socket.socket) -> bool:
    """Waits until the service has ended it."""
    try:
        while connection.recv(2**16):
            continue
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def test_a_head_that_does_not_come(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, a byte now and then, and the same after an answer."""
    monkeypatch.setattr(server_module, "PATIENCE", 0.3)
    head = b"GET /status HTTP/1.1\r\nHost: localhost\r\n"
    for said in (b"", head):
        for first in (b"", head + b"\r\n"):
            with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
                if first:
                    connection.sendall(first)
                    assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
                with suppress(ConnectionError):
                    for byte in said:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.02)
                assert ended(connection)
    assert client("GET", "/status")[0] == 200


def test_answers_that_are_not_taken(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who reads nothing is ended; one who reads slowly is not."""
    request, number = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 200
    monkeypatch.setattr(server_module, "PATIENCE", 1.0)
    for pause, reads in ((2.0, False), (0.02, True)):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            connection.connect(("127.0.0.1", client.port))
            connection.settimeout(30)
            connection.sendall(number * request)
            taken = b""
            with suppress(ConnectionError):
                time.sleep(pause)
                while got := connection.recv(2**16):
                    taken += got
                    time.sleep(pause if reads else 0)
        assert (taken.count(b"HTTP/1.1 200 OK") == number) == reads


def test_requests_that_are_none_fill_no_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    for said in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", upgrade, b"POST /step HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
            connection.sendall(said)
            assert connection.recv(1000).startswith(b"HTTP/1.1 ")
    assert not caplog.records


def test_a_request_that_is_no_http_is_refused_in_json(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json")
    assert json.loads(body) == {"detail": "Invalid HTTP request received."}


def largest_child() -> int:
    """KiB that the largest process took which this one started and saw end: those that read bodies, earlier tests' compilers."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/parameters", {"name": "threshold", "neurons": [1], "values": ["a"] * 2**17}),
        ("/parameters", {"name": "threshold", "neurons": [0.5] * 2**17, "values": 1}),
        ("/inject", {"neurons": [1], "potentials": ["a"] * 2**17}),
        ("/power", {"neurons": [None] * 2**17}),
        ("/step", {str(i): 0 for i in range(2**17)}),
    ],
)
def test_a_long_body_that_is_wrong_everywhere_is_told_once(path: str, body: Any) -> None:
    """One error of pydantic for each element, and each branch of a union, takes seconds and a gigabyte."""
    with BurstEngine(ring(), backend="reference") as engine:
        app = make_app(Service(engine, "ring"))
        content, before = json.dumps(body).encode(), largest_child()
        held: list[int] = []

        async def ask() -> list[Any]:
            sent: list[Any] = []
            said = [{"type": "http.request", "body": content, "more_body": False}]

            async def receive() -> Any:
                return said.pop() if said else await asyncio.Event().wait()

            async def send(message: Any) -> None:
                sent.append(message)
                held.append(tracemalloc.get_traced_memory()[1])

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
            async with app.router.lifespan_context(app):
                await app(scope, receive, send)
            return sent

        tracemalloc.start()
        try:
            start, answer = asyncio.run(ask())
        finally:
            tracemalloc.stop()
        engine.stop()
    assert start["status"] == 422
    assert json.loads(answer["body"])["detail"]
    assert max(held) < 2**25
    assert largest_child() <= max(before, 2**20)


def test_names_that_are_no_text() -> None:
    """As those of files may be: they do not break what shows them."""
    with BurstEngine(ring(), backend="reference") as engine, Server(make_app(Service(engine, "ring\udcff.npz")), "127.0.0.1", 0) as server:
        client = Client(engine, server.port)
        with pytest.raises(NetworkError, match="surrogate"):
            engine.npu.set_area(5, name="\ud800")
        assert client("GET", "/status")[1]["network"] == "ring\\udcff.npz"
        assert client.raw("GET", "/metrics")[0] == 200
        engine.fail(ValueError("\udcff"))
        until = time.monotonic() + 30
        while engine.state != "failed":
            assert time.monotonic() < until
        assert client("GET", "/status")[1]["engine"]["error"] == "ValueError: \\udcff"
        engine.error = None


def test_when_the_engine_has_ended(client: Client) -> None:
    client("POST", "/step", {})
    client.engine.fail(ValueError("the lights are out"))
    until = time.monotonic() + 30
    while client.engine.state != "failed":
        assert time.monotonic() < until
    status, told = client("GET", "/status")
    assert (status, told["engine"]["state"], told["engine"]["error"]) == (200, "failed", "ValueError: the lights are out")
    assert told["neurons"] == 8
    for method, path in (("POST", "/start"), ("POST", "/pause")):
        assert client(method, path) == (409, {"detail": "the engine failed after burst 1: ValueError: the lights are out"})
    client.engine.error = None  # so that the fixture ends in peace


def test_an_engine_that_is_busy(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "TURN", 0.1)
    monkeypatch.setattr(app_module, "LOOK", 0.1)
    begun, gate = threading.Event(), threading.Event()
    client.engine.submit(lambda npu: (begun.set(), gate.wait(30)))
    begun.wait(30)
    assert client("POST", "/power", {"amount": 7}) == (503, {"detail": "the engine was busy for 0.1 seconds"})
    assert client("GET", "/status")[1]["neurons"] == 8  # as it was seen last
    assert client.raw("GET", "/metrics")[0] == 200
    gate.set()
    assert client.engine.submit(lambda npu: npu.power_amount).result(10) == 1.0  # it was not done later


def request(path: str, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        len(body),
        body,
    )


def slow(client: Client, seconds: float) -> None:
    """Every burst takes at least so long."""

    class Slow:
        def publish(self, result: Any) -> None:
            time.sleep(seconds)

        def statistics(self) -> dict[str, int]:
            return {}

        def close(self) -> None:
            pass

    client.engine.add_sink(Slow())


def test_a_client_that_leaves_cancels_its_steps(client: Client) -> None:
    slow(client, 0.01)
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
            connection.sendall(request("/step", b'{"n": 1000}'))
    began = time.monotonic()
    assert client("POST", "/pause") == (200, {"state": "paused", "frequency": None})
    until = time.monotonic() + 30
    while client("POST", "/step", {"n": 1})[0] != 200:
        assert time.monotonic() < until
    assert time.monotonic() - began < 20
    assert client.engine.status().bursts < 1000  # of 40,000 that were asked for


def test_bursts_that_are_asked_for_are_bounded_together(client: Client) -> None:
    slow(client, 0.01)
    with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
        connection.sendall(request("/step", b'{"n": 999}'))
        while client("GET", "/status")[1]["engine"]["bursts"] == 0:
            continue
        assert client("POST", "/step", {"n": 2}) == (503, {"detail": "more than 1,000 bursts of /step would be under way"})
        assert client("POST", "/pause")[0] == 200
        assert connection.recv(1000).startswith(b"HTTP/1.1 409 ")
    assert client("POST", "/step", {"n": 2})[0] == 200


def test_large_bodies_are_bounded_together(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_HELD", 100_000)
    body = json.dumps({"neurons": [1], "potentials": 1.0}).encode().ljust(80_000)
    head, rest = request("/inject", body)[:-100], body[-100:]
    with socket.create_connection(("127.0.0.1", client.port), 30) as first:
        first.sendall(head)
        time.sleep(0.2)
        status, told, _ = client.raw("POST", "/inject", body, content_type="application/json")
        assert (status, json.loads(told)["detail"]) == (503, "large bodies of 100,000 bytes are being read; send this one again later")
        assert client("POST", "/inject", {"neurons": [1]})[0] == 200  # small ones have room
        first.sendall(rest)
        assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert client.raw("POST", "/inject", body, content_type="application/json")[0] == 200


def test_a_large_body_says_what_a_small_one_does(client: Client) -> None:
    small = {"neurons": [3, 1, 2], "potentials": [1.5, 2, 2.5]}
    for body, expected in (
        (small, 200),
        ({**small, "potentials": [1, "2"]}, 422),
        ({"neurons": [2**64 - 1]}, 400),
        ({"neurons": []}, 422),
        ({str(i): 0 for i in range(20)}, 422),
    ):
        found = client("POST", "/inject", body)
        status, told, _ = client.raw("POST", "/inject", json.dumps(body).encode().ljust(reading.SMALL + 1), content_type="application/json")
        assert (status, json.loads(told)) == found
        assert status == expected


def test_a_body_that_is_too_costly_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is ended, and the next body has another."""
    reader = reading.Reader()
    text = json.dumps({"neurons": [1]}).encode().ljust(reading.SMALL + 1)
    assert reader.read("Injection", text).result(60)
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    with pytest.raises(reading.InvalidBody, match="takes more than"):
        reader.read("Injection", b'{"neurons":[' + b"[]," * 10**6 + b"[]]}").result(60)
    monkeypatch.setattr(reading, "PATIENCE", 60.0)
    assert reader.read("Injection", text).result(60)
    reader.close()


def test_addresses() -> None:
    assert resolve("127.0.0.1", 1)[1] == "127.0.0.1"
    assert is_loopback(resolve("localhost", 1)[1])
    assert is_loopback("::1")
    assert is_loopback("127.3.2.1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("::")
    assert not is_loopback("fe80::1%lo")
    with pytest.raises(OSError, match="nowhere.invalid"):
        resolve("nowhere.invalid", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken, BurstEngine(ring(), backend="reference") as engine:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}"):
            Server(make_app(Service(engine, "ring")), "127.0.0.1", port)


@pytest.mark.parametrize("at_once", [1, 1000, 2**16])
def test_fired_by_area_is_exact(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many bursts, asked in between by another thread, with the network growing."""
    monkeypatch.setattr(activity_module, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    areas = rng.integers(0, 40, 300).astype(np.uint32) * 1_000_003
    npu = NPU(300, 0, backend="reference")
    npu.add_neurons(250, cortical_area=areas[:250])
    activity = AreaActivity(npu)
    expected = np.zeros(300, np.int64)
    over = threading.Event()
    asking = threading.Thread(target=lambda: [activity.fired() for _ in iter(over.is_set, True)])
    asking.start()
    for burst in range(600):
        if burst == 300:
            npu.reserve(neurons=320)
            npu.add_neurons(50, cortical_area=areas[250:])
            activity.refresh()
        forced = rng.integers(0, 250 if burst < 300 else 300, 30)
        npu.force_fire(forced)
        result = npu.process_burst()
        expected[result.fired_neurons] += 1
        activity.publish(result)
    over.set()
    asking.join()
    assert activity.fired() == {int(area): int(expected[areas == area].sum()) for area in np.unique(areas)}
    npu.close()


def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BurstEngine(ring(), backend="reference") as engine:
        service = Service(engine, "ring", checkpoint=tmp_path / "run.ckpt", notes={"a": 1})
        with Server(make_app(service), "127.0.0.1", 0) as server:
            client = Client(engine, server.port)
            client("POST", "/step", {"n": 7})
            assert client("POST", "/checkpoint") == (200, {"burst": 7})
            written = Snapshot.read(tmp_path / "run.ckpt")
            assert (written.burst, written.notes) == (7, {"a": 1})
            client("POST", "/start")
            assert service.last_checkpoint() == engine.status().burst >= 7
            assert engine.state == "paused"

            def full(self: Snapshot, path: Path) -> None:
                raise OSError(28, "No space left on device", "/secret/run.ckpt")

            monkeypatch.setattr(Snapshot, "write", full)
            status, told = client("POST", "/checkpoint")
            assert status == 507
            assert told == {"detail": "No space left on device"}
            assert client("POST", "/step", {})[0] == 200


def test_a_service_without_a_file_for_checkpoints(client: Client) -> None:
    told = {"detail": "there is no file for a checkpoint; start the service with --checkpoint FILE"}
    assert client("POST", "/checkpoint") == (400, told)


def test_neurons_by_their_labels() -> None:
    network = ring()
    network.set_annotations(Annotations(np.array([f"n{i}" for i in range(8)])))
    with BurstEngine(network, backend="reference") as engine, Server(make_app(Service(engine, "ring")), "127.0.0.1", 0) as server:
        client = Client(engine, server.port)
        assert client("POST", "/inject", {"neurons": ["n5", "n0"]}) == (200, {"neurons": 2})
        assert client("POST", "/step", {})[1] == {"burst": 1, "fired_neurons": [0, 5], "fired_labels": ["n0", "n5"]}
        assert client("GET", "/parameters/threshold?neurons=n2&neurons=n0") == (200, {"values": [1.0, 1.0]})
        assert client("GET", f"/parameters/threshold?neurons={'0' * 257}")[0] == 422
        status, told = client("POST", "/inject", {"neurons": ["n99"]})
        assert status == 400 and "no neuron of this network has the label 'n99'" in told["detail"]
        engine.stop()
