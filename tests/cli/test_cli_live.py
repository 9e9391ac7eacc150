"""The command line as it is lived with: Ctrl-C, a terminal, a full disk, a pipe that closes, the time to the first burst."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from gpu_npu import NPU
from gpu_npu.cli import main
from gpu_npu.connectome.generators import seed_example
from gpu_npu.recordings import load_recording

ROOT = Path(__file__).parents[2]
ENDLESS = ("run", "seed", "--bursts", "100000000", "--backend", "cpu")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pseudo-terminals")


WITH_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Shells start what runs in the background with SIGINT ignored, and that is handed down: tests may be started so too."""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", WITH_CTRL_C, "-W", "error", "-m", "gpu_npu", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "COLUMNS": "80", "TERM": "xterm", **more}


@pytest.fixture(scope="module", autouse=True)
def kernels_are_built() -> None:
    """So that no test here waits for a compiler."""
    assert CliRunner().invoke(main, ["run", "small", "--bursts", "1", "--backend", "cpu"]).exit_code == 0


def start(*arguments: object) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), stdout=pipe, stderr=pipe, encoding="utf-8", env=environment())


def wait_until_recording(folder: Path, process: subprocess.Popen[str]) -> None:
    """Bursts run from when the unfinished record has claimed room."""
    end = time.monotonic() + 60
    while not any(path.stat().st_size > 10_000 for path in folder.iterdir()):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_table_and_its_record(number: int, status: int, tmp_path: Path) -> None:
    record = tmp_path / "fired.npz"
    process = start(*ENDLESS, "--targets", "--record", record)
    wait_until_recording(tmp_path, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, "")
    done = int(re.search(r"^bursts +([0-9,]+) of 100,000,000 \(interrupted\)", out, re.MULTILINE)[1].replace(",", ""))
    recording = load_recording(record)
    assert recording.bursts == done > 0
    assert recording.digest in out
    assert re.search(r"^propagation .*not measured", out, re.MULTILINE)
    assert re.search(r"^burst .*met", out, re.MULTILINE)
    assert os.listdir(tmp_path) == ["fired.npz"]
    checked = min(done, 50)
    with NPU.from_connectome(seed_example(), backend="cpu") as npu:
        assert npu.run(checked).fired_counts.tolist() == [len(recording.fired_in(i + 1)) for i in range(checked)]


def test_ctrl_c_and_json(tmp_path: Path) -> None:
    process = start(*ENDLESS, "--json", "--record", tmp_path / "r")
    wait_until_recording(tmp_path, process)
    time.sleep(1.5)  # a terminal would see the bar by now
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    facts = json.loads(out)
    assert (process.returncode, err, facts["interrupted"]) == (130, "", True)
    assert 0 < facts["bursts"] < facts["bursts_asked"]


def wait_until_it_waits(process: subprocess.Popen[str]) -> None:
    """Until a process has done nothing for a second."""
    spent, end = -1.0, time.monotonic() + 60
    while (now := psutil.Process(process.pid).cpu_times().user) > spent:
        assert time.monotonic() < end
        spent = now
        time.sleep(1)


def test_ctrl_c_while_it_loads_is_one_line(tmp_path: Path) -> None:
    """A pipe with no writer, read as the network, keeps it in front of the load."""
    os.mkfifo(tmp_path / "network.npz")
    (tmp_path / "r.npz").write_text("what stood there")
    process = start("run", tmp_path / "network.npz", "--record", tmp_path / "r.npz")
    wait_until_it_waits(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Error: interrupted\n")
    assert sorted(os.listdir(tmp_path)) == ["network.npz", "r.npz"]
    assert (tmp_path / "r.npz").read_text() == "what stood there"


def on_a_terminal(*arguments: object, seconds: float | None = None) -> tuple[int, str, str]:
    """Status, stdout, and what stderr, a terminal of its own, was sent; SIGINT after so many seconds."""
    master, slave = os.openpty()
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=slave, encoding="utf-8", env=environment())
    os.close(slave)
    shown, started, sent = b"", time.monotonic(), False
    while True:
        if seconds is not None and not sent and time.monotonic() - started > seconds:
            process.send_signal(signal.SIGINT)
            sent = True
        if not select.select([master], [], [], 0.05)[0]:
            continue
        try:
            data = os.read(master, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(master)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out, shown.decode()


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    status, out, shown = on_a_terminal(*ENDLESS, seconds=3)
    assert status == 130
    assert "running" in shown
    assert re.search(r"[0-9,]+/100,000,000", shown)
    assert "running" not in out
    assert "digest" in out


def test_loading_has_a_bar_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "network.npz")
    status, _, shown = on_a_terminal("run", tmp_path / "network.npz", seconds=2.5)
    assert status == 130
    assert f"reading {tmp_path}"[:20] in shown
    assert "Error: interrupted" in shown


@pytest.mark.parametrize("arguments", [("--bursts", "5"), ("--bursts", "5", "--json")])
def test_what_is_over_in_a_second_has_no_bar(arguments: tuple[str, ...]) -> None:
    status, out, shown = on_a_terminal("run", "small", "--backend", "cpu", *arguments)
    assert (status, shown) == (0, "")
    assert "digest" in out


def test_quiet_has_no_bar() -> None:
    assert on_a_terminal(*ENDLESS, "--quiet", seconds=3) == (130, "", "")


def test_a_full_disk_is_told_and_what_was_done_too(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the disk: the system refuses what goes beyond, in the same way."""
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000)); from gpu_npu.cli import main; main()"
    arguments = [sys.executable, "-c", script, *ENDLESS, "--record", str(tmp_path / "r.npz")]
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", env=environment(), timeout=120, check=False)
    assert done.returncode == 11
    assert re.fullmatch(r"Error: \S+r\.npz: File too large; [0-9,]+ bursts are recorded\n", done.stderr)
    recording = load_recording(tmp_path / "r.npz")
    assert f"; {recording.bursts:,} bursts" in done.stderr
    assert recording.bursts > 100
    with NPU.from_connectome(seed_example(), backend="cpu") as npu:
        assert npu.run(recording.bursts, digest=True).digest == recording.digest
    assert "digest" in done.stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start("run", "small", "--bursts", "3", "--backend", "reference")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) in (0, 1)
    process.stderr.close()


def test_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        arguments = command("run", "small", "--bursts", "3", "--backend", "reference")
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", env=environment(), timeout=60, check=False)
    assert (done.returncode, done.stderr) == (11, "Error: No space left on device\n")


def test_a_terminal_without_greek() -> None:
    for arguments in (("run", "small", "--bursts", "3"), ("info", "small"), ("--help",), ("run", "--help")):
        done = subprocess.run(
            command(*arguments), capture_output=True, encoding="ascii", env=environment(PYTHONIOENCODING="ascii"), timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_first_burst_comes_soon() -> None:
    """Ten bursts of the seed example, from the command to the table, where the kernels are built: the best of three."""
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run(command("run", "seed", "--bursts", 10, "--quiet"), check=True, env=environment(), timeout=60)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 3
