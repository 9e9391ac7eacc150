"""gpu-npu run --checkpoint-every and --resume: a run that was stopped, killed or moved ends as one that never stopped."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpu_npu import NPU, Snapshot
from gpu_npu.cli import main
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import save
from gpu_npu.recordings import Recorder, load_recording

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def kernels_are_built() -> None:
    assert CliRunner().invoke(main, ["run", "small", "--bursts", "1", "--backend", "cpu"]).exit_code == 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a network, a schedule and a list of ids in it."""
    monkeypatch.chdir(tmp_path)
    save(fixed_out_degree(60, 8, seed=3, weight=(1, 20), threshold=40.0, leak_coefficient=0.1, excitability=0.9), tmp_path / "tiny.npz")
    burst = np.arange(1, 2000, 3)
    np.savez(tmp_path / "when.npz", burst=burst, neuron=burst % 60, potential=(burst % 7).astype(np.float32))
    np.save(tmp_path / "ids.npy", np.array([5, 6, 7]))
    return tmp_path


DRIVEN = (
    *("tiny.npz", "--rate", "all:0.05:30", "--poisson", "1,2,3:0.5:9", "--inject", "ids.npy:11", "--every", 4),
    *("--schedule", "when.npz", "--power", "8,9", "--seed", 77, "--threshold", 35),
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def facts(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


WHOLE = (
    *("digest", "bursts", "bursts_asked", "fired", "most_active", "sensory_injections", "synaptic_injections", "neurons_processed"),
    *("network", "seed"),
)
"""What a resumed run says of all its bursts."""


def test_a_resumed_run_ends_as_one_that_never_stopped(folder: Path) -> None:
    """On another backend; what the run was begun with is not asked for again, though it be gone."""
    straight = facts(*DRIVEN, "--bursts", 95, "--backend", "cpu", "--record", "straight.npz")
    first = facts(*DRIVEN, "--bursts", 42, "--backend", "cpu", "--checkpoint-every", 10, "--record", "parts.npz")
    assert (first["checkpoint"], first["record"]) == ("tiny.ckpt", "parts.*.npz")
    for name in ("tiny.npz", "when.npz", "ids.npy"):
        os.remove(name)
    second = facts("--resume", "tiny.ckpt", "--bursts", 71, "--backend", "reference")
    third = facts("--resume", "tiny.ckpt", "--bursts", 95, "--backend", "cpu", "--checkpoint-every", 9)
    assert (second["bursts_before"], third["bursts_before"], third["bursts_per_second"] > 0) == (42, 71, True)
    assert {name: third[name] for name in WHOLE} == {name: straight[name] for name in WHOLE}

    whole, parts = load_recording("straight.npz"), [load_recording(path) for path in sorted(folder.glob("parts.*.npz"))]
    firsts = [part.first_burst for part in parts]
    assert firsts == [1, 11, 21, 31, 41, 43, 51, 61, 71, 72, 73, 82, 91] and sum(part.bursts for part in parts) == 95
    for part in parts:
        for burst in range(part.first_burst, part.first_burst + part.bursts):
            np.testing.assert_array_equal(part.fired_in(burst), whole.fired_in(burst))
    np.testing.assert_array_equal(np.concatenate([part.counters for part in parts]), whole.counters)


def parts(folder: Path) -> list[tuple[int, int]]:
    """First and last burst of each part of a record."""
    found = [load_recording(path) for path in sorted(folder.glob("fired.*.npz"))]
    return [(part.first_burst, part.first_burst + part.bursts - 1) for part in found]


def test_a_record_has_no_parts_of_another_run(folder: Path) -> None:
    """A shorter run, a refused one, and one that another process recorded further than its checkpoint, with other parts."""
    driven = ("tiny.npz", "--rate", "all:0.1:50", "--backend", "reference", "--record", "fired.npz", "--checkpoint-every")
    facts(*driven, 20, "--bursts", 50, "--seed", 1)
    assert parts(folder) == [(1, 20), (21, 40), (41, 50)]
    assert run(*driven, 20, "--schedule", "nowhere.npz").exit_code == 11
    assert parts(folder) == [(1, 20), (21, 40), (41, 50)]  # nothing was recorded in their place

    Path(".fired.000000000031.npz.unfinished").write_bytes(b"half")
    others = ("fired.mine.npz", "fired.0001.npz", "fired.000000000031.txt", "refired.000000000031.npz", ".fired.npz.unfinished")
    for name in others:
        Path(name).write_bytes(b"another's")
    facts(*driven, 10, "--bursts", 20, "--seed", 2)
    for name in others:
        assert Path(name).read_bytes() == b"another's"
        os.remove(name)
    assert parts(folder) == [(1, 10), (11, 20)]
    os.rename("tiny.ckpt", "at20.ckpt")
    assert not list(folder.glob(".*"))

    facts("--resume", "at20.ckpt", "--bursts", 50, "--checkpoint", "tiny.ckpt", "--backend", "reference")
    assert parts(folder) == [(1, 10), (11, 20), (21, 30), (31, 40), (41, 50)]
    facts("--resume", "at20.ckpt", "--bursts", 44, "--checkpoint-every", 7, "--backend", "reference")
    assert parts(folder) == [(1, 10), (11, 20), (21, 21), (22, 28), (29, 35), (36, 42), (43, 44)]


def test_a_part_that_another_process_writes_stays(folder: Path) -> None:
    with Recorder(folder / "fired.000000000003.npz"):
        refused = run("tiny.npz", "--bursts", 9, "--backend", "reference", "--record", "fired.npz", "--checkpoint-every", 2)
    assert (refused.exit_code, refused.stderr) == (11, "Error: fired.000000000003.npz: another process is writing it\n")


def test_the_table_of_a_resumed_run(folder: Path) -> None:
    straight = run(*DRIVEN, "--bursts", 90, "--backend", "cpu")
    assert run(*DRIVEN, "--bursts", 50, "--backend", "cpu", "--checkpoint-every", 20, "--quiet").output == ""
    resumed = run("--resume", "tiny.ckpt", "--bursts", 90, "--backend", "cpu")
    again = run("--resume", "tiny.ckpt", "--backend", "cpu")

    def row(result: Result, label: str) -> str:
        return next(line for line in result.stdout.splitlines() if line.startswith(label))

    for label in ("digest", "fired", "network"):
        assert row(resumed, label) == row(straight, label) == row(again, label)
    assert "90, 50 before --resume" in row(resumed, "bursts")
    assert "90, 90 before --resume" in row(again, "bursts ") and "bursts/s" not in again.stdout.split("\n\n")[0]
    assert row(resumed, "checkpoint").split() == ["checkpoint", "tiny.ckpt"]
    columns, fired = (Snapshot.read("tiny.ckpt").notes["run"][name] for name in ("columns", "fired"))
    assert len(columns) == 90 and sum(columns) == fired  # those of 50 bursts are among those of 90 now
    assert row(resumed, "over time") == row(straight, "over time") == row(again, "over time")


def test_a_checkpoint_of_something_else_can_be_run_too(folder: Path) -> None:
    """Of an engine or of a program: the run begins there."""
    with NPU.from_connectome(fixed_out_degree(60, 8, seed=3, threshold=1.0), backend="cpu") as npu:
        npu.inject([1, 2, 3], 5.0)
        npu.run(2)
        npu.snapshot().write("mine.ckpt")
        found = facts("--resume", "mine.ckpt", "--bursts", 7, "--backend", "reference")
        assert found["digest"] == npu.run(7, digest=True).digest and found["network"] == "mine.ckpt" and found["bursts_before"] == 0
    before = os.listdir()
    refused = run("--resume", "mine.ckpt", "--checkpoint", "out.ckpt")
    assert (refused.exit_code, os.listdir()) == (2, before)
    assert refused.output.startswith("Error: --checkpoint says where to; how often? Give --checkpoint-every N")


def test_notes_under_the_name_of_a_run_that_are_not_its_own(folder: Path) -> None:
    facts("tiny.npz", "--rate", "1,2:0.5", "--bursts", 5, "--backend", "reference", "--checkpoint-every", 5)
    ours = Snapshot.read("tiny.ckpt")
    note, stimulus = ours.notes["run"], ours.notes["run"]["stimuli"][0]

    def refused(other: object) -> str:
        replace(ours, notes={"run": other}).write("odd.ckpt")
        result = run("--resume", "odd.ckpt", "--backend", "reference")
        assert result.exit_code == 3
        return result.output

    for other in (3, None, [], {}, {"who": "me"}):
        assert refused(other) == f"Error: odd.ckpt: its notes are not those of a run: {json.dumps(other)}\n"
    for name in note:
        assert "its notes are not those of a run" in refused({key: value for key, value in note.items() if key != name})
    wrong = {
        "asked": [4],
        "bursts": [-1],
        "columns": [["x"], [], [1, 2]],
        "column_bursts": [0, 2, "1"],
        "counters": [{"a": "b"}],
        "digest": ["00", "no"],
        "every": [0, "1"],
    }
    for name, values in wrong.items():
        for value in values:
            assert "its notes are not those of a run" in refused({**note, name: value})
    without = {name: array for name, array in ours.extra.items() if name != "fired_by_neuron"}
    for counts in ({}, {"fired_by_neuron": np.zeros(3, np.int64)}, {"fired_by_neuron": np.zeros(60, np.int32)}):
        replace(ours, extra={**without, **counts}).write("odd.ckpt")
        assert "odd.ckpt: it lacks the array 'fired_by_neuron'" in run("--resume", "odd.ckpt", "--backend", "reference").stderr
    for other in (3, {}, {**stimulus, "kind": "odd"}, {**stimulus, "odd": 1}):
        assert "odd.ckpt: its notes of stimuli cannot be read" in refused({**note, "stimuli": [other]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'NETWORK', or --resume FILE"),
        (("tiny.npz", "--checkpoint", "x.ckpt"), "--checkpoint says where to; how often? Give --checkpoint-every N"),
        (("tiny.npz", "--resume", "tiny.ckpt"), "NETWORK cannot be given with --resume: the run goes on as it was begun"),
        (("--resume", "tiny.ckpt", "--rate", "all:0.5"), "--rate cannot be given with --resume: the run goes on as it was begun"),
        (("--resume", "tiny.ckpt", "--seed", 0), "--seed cannot be given with --resume: the run goes on as it was begun"),
        (("--resume", "tiny.ckpt", "--potential", 1), "--potential cannot be given with --resume: the run goes on as it was begun"),
        (("--resume", "tiny.ckpt", "--bursts", 4), "Invalid value for --bursts: 4 are less than the 5 that the run has behind it"),
    ],
)
def test_wrong_usage(folder: Path, arguments: tuple[object, ...], message: str) -> None:
    assert run("tiny.npz", "--bursts", 5, "--checkpoint-every", 5, "--quiet").exit_code == 0
    refused = run(*arguments)
    assert (refused.exit_code, refused.output) == (2, f"Error: {message} (see main run --help)\n")


def test_a_damaged_checkpoint_is_told(folder: Path) -> None:
    (folder / "tiny.ckpt").write_bytes(b"\x89GPUNPU\n and then nothing")
    refused = run("--resume", "tiny.ckpt")
    assert refused.exit_code == 3
    assert re.fullmatch(r"Error: tiny\.ckpt: it is of version \d+ of the format, and this release reads versions 2 and 3\n", refused.output)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


def test_a_full_disk_is_told_and_the_run_goes_on(folder: Path) -> None:
    """The limit on the size of a file stands for the disk, once the first checkpoint is written."""
    straight = facts(*DRIVEN, "--bursts", 40, "--backend", "reference")
    facts(*DRIVEN, "--bursts", 20, "--backend", "reference", "--checkpoint-every", 10)
    before = Path("tiny.ckpt").read_bytes()
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); from gpu_npu.cli import main; main()"
    arguments = ["run", "--resume", "tiny.ckpt", "--bursts", "40", "--backend", "reference", "--json"]
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment(), timeout=60, check=False)
    assert done.returncode == 11
    assert done.stderr == "Note: no checkpoint: tiny.ckpt: File too large; the run goes on\nError: tiny.ckpt: File too large\n"
    assert json.loads(done.stdout)["digest"] == straight["digest"]
    assert Path("tiny.ckpt").read_bytes() == before and not list(folder.glob(".*"))
    assert facts("--resume", "tiny.ckpt", "--bursts", 40, "--backend", "cpu")["digest"] == straight["digest"]


def test_what_is_interrupted_goes_on(folder: Path) -> None:
    """SIGTERM ends it with a checkpoint of its last burst."""
    process = start(*DRIVEN, "--bursts", 100_000_000, "--backend", "cpu", "--checkpoint-every", 50)
    wait_for_another(folder, process)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 143 and not error
    stopped = json.loads(out)
    assert Snapshot.read("tiny.ckpt").burst == stopped["bursts"] > 50
    bursts = stopped["bursts"] + 10
    resumed = facts("--resume", "tiny.ckpt", "--bursts", bursts, "--backend", "cpu")
    assert resumed["digest"] == facts(*DRIVEN, "--bursts", bursts, "--backend", "cpu")["digest"]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "gpu_npu", "run", *map(str, arguments), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment())


def wait_for_another(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until the process has written a checkpoint, or is over."""
    path = folder / "tiny.ckpt"
    before = path.stat().st_mtime_ns if path.exists() else 0
    end = time.monotonic() + 60
    while process.poll() is None and not (path.exists() and path.stat().st_mtime_ns != before):
        assert time.monotonic() < end
        time.sleep(0.002)


def killed_again_and_again(folder: Path, times: int, bursts: int, seed: int) -> int:
    """Run, kill at random moments after a checkpoint, resume on the other backend; returns how often a half-written file was left."""
    straight = facts(*DRIVEN, "--bursts", bursts, "--backend", "cpu", "--checkpoint-every", bursts, "--checkpoint", "straight.ckpt")
    chance, halves = random.Random(seed), 0
    arguments: tuple[object, ...] = (*DRIVEN, "--bursts", bursts, "--checkpoint-every", 10)
    for kill in range(times):
        process = start(*arguments, "--backend", ("cpu", "reference")[kill % 2])
        wait_for_another(folder, process)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"kill {kill}: the run was over; give it more bursts"
        process.communicate()
        halves += (folder / ".tiny.ckpt.unfinished").exists()
        assert 0 < Snapshot.read("tiny.ckpt").burst < bursts
        arguments = ("--resume", "tiny.ckpt")
    end = facts("--resume", "tiny.ckpt", "--backend", "cpu")
    assert {name: end[name] for name in WHOLE} == {name: straight[name] for name in WHOLE}
    assert not (folder / ".tiny.ckpt.unfinished").exists()
    noted = [Snapshot.read(name).notes["run"] for name in ("straight.ckpt", "tiny.ckpt")]
    assert noted[0] == {**noted[1], "every": bursts}
    return halves


def test_five_kills(folder: Path) -> None:
    killed_again_and_again(folder, 5, 700, seed=1)


@pytest.mark.long
def test_fifty_kills(folder: Path) -> None:
    assert killed_again_and_again(folder, 50, 15_000, seed=2) > 0
