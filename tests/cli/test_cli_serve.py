"""gpu-npu serve and gpu-npu top, as processes: signals, sockets, tokens, what goes away."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpu_npu import NPU
from gpu_npu.cli import main
from gpu_npu.cli.networks import EXAMPLES
from gpu_npu.extras import install_command
from gpu_npu.npu.snapshot import Snapshot

pytest.importorskip("fastapi", reason="needs the extra serve")
psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef0123"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pseudo-terminals")

WITH_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Tests may be started with SIGINT ignored, which is handed down."""


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", WITH_CTRL_C, "-W", "error", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment)


@contextmanager
def serving(*arguments: object, network: tuple[object, ...] = ("small",)) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service of the small network, and its port."""
    process = start("-m", "gpu_npu", "serve", *network, "--backend", "reference", "--port", 0, *arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        while " at ws:" in line or " at zmq:" in line:
            line = process.stdout.readline()
        found = re.match(r"serving small on reference at http://\S+:(\d+) \((gpu-npu|python -m gpu_npu) top shows it, SIGTERM", line)
        assert found, (line, process.communicate(timeout=30))
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def ask(port: int, path: str = "/status", method: str = "GET", host: str = "127.0.0.1", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_soon_and_well(number: int) -> None:
    with serving("--frequency", 50) as (process, port), socket.create_connection(("127.0.0.1", port)) as idle:
        while ask(port)[1]["engine"]["bursts"] < 10:
            time.sleep(0.05)
        assert idle.fileno() > 0  # a connection that says nothing keeps nothing open
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
        assert time.monotonic() - began < 5
        with pytest.raises(ConnectionRefusedError):
            ask(port)


def test_it_listens_where_it_was_asked_to_and_nowhere_else() -> None:
    for host in ("127.0.0.2", "localhost"):
        with serving("--host", host) as (process, port):
            listening = [c.laddr for c in psutil.Process(process.pid).net_connections("all") if c.status == psutil.CONN_LISTEN]
            bound = [c.laddr for c in psutil.Process(process.pid).net_connections("udp")]
            expected = "127.0.0.1" if host == "localhost" else host
            assert [(where.ip, where.port) for where in listening] in ([(expected, port)], [("::1", port)])
            assert bound == []
            assert ask(port, host=host)[0] == 200


def test_streams_of_a_service() -> None:
    """What fires comes out over ZeroMQ and WebSocket, and what goes in fires; both listen where they were asked to."""
    zmq, msgpack = pytest.importorskip("zmq"), pytest.importorskip("msgpack")
    client = pytest.importorskip("websockets.sync.client")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        out, into = one.getsockname()[1], two.getsockname()[1]
    streams = ["--publish", f"zmq://:{out}/msgpack", "--publish", "ws://127.0.0.2:0/feagi", "--sense", f"ws://127.0.0.1:{into}/msgpack"]
    with serving("--paused", *streams) as (process, port):
        listening = {c.laddr for c in psutil.Process(process.pid).net_connections("all") if c.status == psutil.CONN_LISTEN}
        assert {("127.0.0.1", port), ("127.0.0.1", out), ("127.0.0.1", into)} <= listening
        assert [where.ip for where in listening - {("127.0.0.1", port), ("127.0.0.1", out), ("127.0.0.1", into)}] == ["127.0.0.2"]
        names = ask(port)[1]["engine"]
        assert [*names["sinks"]][:2] == ["areas", f"zmq://127.0.0.1:{out}/msgpack"]
        assert [*names["sources"]] == [f"ws://127.0.0.1:{into}/msgpack"]
        context = zmq.Context()
        with context.socket(zmq.SUB) as subscriber, client.connect(f"ws://127.0.0.1:{into}", proxy=None) as sender:
            subscriber.setsockopt(zmq.SUBSCRIBE, b"")
            subscriber.setsockopt(zmq.RCVTIMEO, 30_000)
            subscriber.connect(f"tcp://127.0.0.1:{out}")
            sender.send(msgpack.packb({"ids": np.array([900, 901], "<u4").tobytes(), "potentials": 1e6}))
            while not ask(port)[1]["engine"]["sources"][f"ws://127.0.0.1:{into}/msgpack"]["frames"]:
                time.sleep(0.02)
            while not ask(port)[1]["engine"]["sinks"][f"zmq://127.0.0.1:{out}/msgpack"]["subscribers"]:
                time.sleep(0.02)
            assert ask(port, "/start", "POST")[0] == 200
            frame = msgpack.unpackb(subscriber.recv())
            assert frame["burst"] == 1
            assert {900, 901} <= set(np.frombuffer(frame["ids"], "<u4").tolist())
        context.term()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    "url",
    [
        "zmq",
        "tcp://:5000/feagi",
        "zmq://localhost/feagi",
        "zmq://:5000",
        "zmq://:5000/json",
        "ws://:99999/feagi",
        "ws://[::1/feagi",
        "ws://a@b:1/feagi",
    ],
)
def test_urls_that_are_no_streams(url: str) -> None:
    result = CliRunner().invoke(main, ["serve", "small", "--publish", url])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert repr(url) in result.stderr


def test_elsewhere_than_on_loopback_a_token_is_demanded(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        result = CliRunner().invoke(main, ["serve", "small", "--host", host])
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--host {host} is not loopback: others could control the network; give a --token-file" in result.stderr
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with serving("--host", "0.0.0.0", "--token-file", tmp_path / "token") as (_, port):
        assert ask(port)[0] == 401
        assert ask(port, Authorization=f"Bearer {TOKEN}")[0] == 200
        assert top(port, "--once", "--interval", 0.1).exit_code == 3
        assert "network    small" in top(port, "--once", "--interval", 0.1, "--token-file", tmp_path / "token").stdout


@pytest.mark.parametrize("token", ["", "short", "with a space in it", "ünïcödé-ünïcödé-ünïcödé", "a\x00bcdefghijklmnop"])
def test_tokens_that_are_none(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")
    result = CliRunner().invoke(main, ["serve", "small", "--token-file", str(tmp_path / "token")])
    assert result.exit_code == 2
    assert "a token is 16 or more letters, digits or signs" in result.stderr
    assert CliRunner().invoke(main, ["serve", "small", "--token-file", str(tmp_path / "absent")]).exit_code == 11


def test_a_service_goes_on_where_another_ended(tmp_path: Path) -> None:
    """SIGTERM leaves a checkpoint, and one was there before; what is resumed has the network's name, its bursts go on, and
    it is written where it came from."""
    path = tmp_path / "run.ckpt"
    with serving("--checkpoint", path, "--checkpoint-every", 1, "--frequency", 200) as (process, port):
        end = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        earlier = Snapshot.read(path).burst
        process.send_signal(signal.SIGTERM)
        assert (process.wait(20), process.communicate()) == (0, ("", ""))
    last = Snapshot.read(path)
    assert last.burst > earlier > 0
    with NPU.from_connectome(EXAMPLES["small"].make(), backend="reference") as npu:
        npu.run(last.burst)
        expected = npu.process_burst().fired_neurons.tolist()
    with serving("--paused", network=("--resume", path)) as (process, port):
        assert ask(port)[1]["engine"]["burst"] == last.burst
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/step", b"{}", {"Content-Type": "application/json"})
        assert json.loads(connection.getresponse().read()) == {"burst": last.burst + 1, "fired_neurons": expected}
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert Snapshot.read(path).burst == last.burst + 1


def test_a_server_that_dies_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_npu.service.server.Server.alive", False)
    arguments = ("small", "--backend", "reference", "--port", "0", "--checkpoint", tmp_path / "run.ckpt")
    result = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    assert (result.exit_code, result.stderr) == (15, "Error: the HTTP server ended\n")
    assert Snapshot.read(tmp_path / "run.ckpt").notes["serve"]["network"] == "small"


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is loopback when it is judged and something else a moment later; the second answer is never listened at."""
    answers, resolved, bound = iter(["127.0.0.1", "0.0.0.0"]), socket.getaddrinfo, []

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        return resolved(next(answers) if host == "changing.invalid" else host, *rest, **more)

    def bind(address: tuple[str, int], **_: Any) -> socket.socket:
        bound.append(address)
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_server", bind)
    result = CliRunner().invoke(main, ["serve", "small", "--backend", "reference", "--host", "changing.invalid"])
    assert (result.exit_code, bound) == (11, [("127.0.0.1", 8765)])


def test_checkpoints_of_a_service_that_cannot_be_written(tmp_path: Path) -> None:
    """The folder is there when it begins, and then no more."""
    (tmp_path / "absent").mkdir()
    with serving("--checkpoint", tmp_path / "absent" / "run.ckpt", "--checkpoint-every", 1) as (process, port):
        (tmp_path / "absent").rmdir()
        time.sleep(1.5)
        assert ask(port)[1]["engine"]["state"] == "running"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 11
    *notes, error = err.splitlines()
    assert notes
    assert all(re.fullmatch(r"Note: no checkpoint: .*absent.*; the service goes on", note) for note in notes)
    assert re.match(r"Error: .*absent", error)


def test_wrong_usage(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, status, told in (
            (["--port", port], 11, f"Error: 127.0.0.1 port {port}: Address already in use"),
            (["--host", "nowhere.invalid"], 11, "Error: nowhere.invalid: "),
            (["--frequency", "often"], 2, "'often' is neither a number of Hz nor max"),
            (["--frequency", "0"], 4, "frequency: 0.0 is not within"),
            (["--power", "area:nowhere"], 2, "--power"),
            (["--port", "70000"], 2, "--port"),
            (["--checkpoint-every", "5"], 2, "--checkpoint-every needs --checkpoint FILE"),
            (["--checkpoint", tmp_path / "no" / "run.ckpt"], 11, "run.ckpt: No such file or directory"),
            (["--resume", tmp_path / "run.ckpt"], 2, "either a NETWORK or --resume FILE is needed"),
        ):
            result = CliRunner().invoke(main, ["serve", "small", "--backend", "reference", *map(str, arguments)])
            assert (result.exit_code, result.stdout) == (status, "")
            assert told in result.stderr
            assert len(result.stderr.splitlines()) == 1


def test_resuming_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run.ckpt").write_bytes(b"nothing of the kind")
    for name, status in (("run.ckpt", 3), ("absent", 11)):
        result = CliRunner().invoke(main, ["serve", "--resume", str(tmp_path / name)])
        assert (result.exit_code, len(result.stderr.splitlines())) == (status, 1)
    assert CliRunner().invoke(main, ["serve"]).exit_code == 2
    for note in ([], {"network": 1}, {"network": "a", "cortical_ids": {"x": "00"}}, {"network": "a", "cortical_ids": {"1": "no"}}):
        with NPU(1, backend="reference") as npu:
            npu.snapshot({"serve": note}).write(tmp_path / "run.ckpt")
        result = CliRunner().invoke(main, ["serve", "--resume", str(tmp_path / "run.ckpt")])
        assert (result.exit_code, "its note of a service cannot be read" in result.stderr) == (3, True)


def test_an_engine_that_fails_ends_the_service_with_its_status() -> None:
    script = """
from gpu_npu import KernelError
from gpu_npu.backends.reference import Reference
from gpu_npu import NPU
from gpu_npu.npu.snapshot import Snapshot
from gpu_npu.cli import main
from gpu_npu.cli.networks import EXAMPLES
before = Reference.burst
def burst(self, number):
    if number == 5:
        raise KernelError("the device is gone")
    return before(self, number)
Reference.burst = burst
main(["serve", "small", "--backend", "reference", "--port", "0", "--frequency", "max"])
"""
    process = start("-c", script)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (9, "Error: the engine failed after burst 4: KernelError: the device is gone\n")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_its_packages(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gpu_npu.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(main, ["serve", "small"])
    assert result.exit_code == 16
    said = re.fullmatch(r"Error: serve needs packages that cannot be imported \(.*\): (.*)\n", result.stderr)
    assert said and said[1] == install_command("serve")


def top(port: int, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["top", f"http://127.0.0.1:{port}", *map(str, arguments)])


def test_top_once() -> None:
    with serving("--frequency", 100) as (_, port):
        result = top(port, "--once", "--interval", 0.5)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = dict(re.match(r"(\S+(?: \S+)?) +(.*?) *$", line).groups() for line in result.stdout.split("\n\n")[0].splitlines())  # type: ignore[union-attr]
    assert rows["network"] == "small: 1,000 neurons, 20,000 synapses on reference"
    assert rows["state"] == "running"
    assert re.fullmatch(r"[0-9.]+ \(target 100 Hz\); burst [0-9,]+", rows["bursts/s"])
    assert 10 < float(rows["bursts/s"].split()[0]) < 120
    assert re.fullmatch(r"p50 [0-9,]+, p99 [0-9,]+, p99.9 [0-9,]+, max [0-9,]+", rows["µs late"])
    assert re.search(r"^1 +power +[0-9,]+ +█", result.stdout, re.MULTILINE)


def test_top_of_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
    result = top(port, "--once")
    assert (result.exit_code, result.stderr) == (11, f"Error: http://127.0.0.1:{port} does not answer: Connection refused\n")
    for url in ("ftp://localhost", "http://", "http://localhost:8765/status", "http://localhost:port", "http://[::1"):
        result = CliRunner().invoke(main, ["top", url, "--once"])
        assert result.exit_code == 2, url
        assert len(result.stderr.splitlines()) == 1
    web = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    try:
        assert web.stdout is not None
        port = int(re.search(r"port (\d+)", web.stdout.readline())[1])  # type: ignore[index]
        result = top(port, "--once")
        assert (result.exit_code, result.stderr) == (3, f"Error: http://127.0.0.1:{port} answers, but is no gpu-npu service\n")
    finally:
        web.kill()
        web.communicate()


def test_top_lives_on_when_the_service_goes_away() -> None:
    """On a terminal: what it shows, the service killed, what it then says, Ctrl-C."""
    master, slave = os.openpty()
    with serving() as (process, port):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
        arguments = [sys.executable, "-c", WITH_CTRL_C, "-m", "gpu_npu", "top", f"127.0.0.1:{port}", "--interval", "0.1"]
        watching = subprocess.Popen(arguments, stdout=slave, stderr=subprocess.PIPE, encoding="utf-8", env=environment)
        os.close(slave)

        def see(text: bytes) -> None:
            shown, end = b"", time.monotonic() + 30
            while text not in shown:
                assert time.monotonic() < end, shown
                if select.select([master], [], [], 0.1)[0]:
                    shown += os.read(master, 65536)

        see(b"target 30 Hz")
        process.kill()
        see(b"does not answer: Connection refused; the last that was seen, ")
        watching.send_signal(signal.SIGINT)
        try:
            while os.read(master, 65536):
                continue
        except OSError:  # Linux says so when the other end is closed
            os.close(master)
        _, err = watching.communicate(timeout=30)
        assert (watching.returncode, err) == (0, "")
