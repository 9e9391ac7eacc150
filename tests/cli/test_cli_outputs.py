"""No command destroys what it reads, or one output by another; what cannot be written is told before anything is computed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpu_npu.cli import main, networks
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import load, save
from gpu_npu.recordings import load_recording

ROOT = Path(__file__).parents[2]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with everything that a run may read."""
    monkeypatch.chdir(tmp_path)
    save(fixed_out_degree(20, 3, seed=3, threshold=1.0), Path("net.npz"))
    save(fixed_out_degree(20, 3, seed=3, threshold=1.0), Path("net.ckpt"))
    np.savez("when.npz", burst=[1], neuron=[2])
    np.save("ids.npy", [3, 4])
    np.savez("a:b.npz", c=[5])
    Path("genome.json").write_text("{}")
    Path("token").write_text("0123456789abcdef0123")
    os.link("net.npz", "hard.npz")
    os.symlink("net.npz", "link.npz")
    return tmp_path


def contents() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in os.listdir()}


RUN = ("run", "net.npz", "--bursts", 3, "--backend", "reference")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*RUN, "--record", "net.npz"), "net.npz: --record would write over NETWORK"),
        ((*RUN, "--record", "link.npz"), "link.npz: --record would write over NETWORK"),
        ((*RUN, "--record", "hard.npz"), "hard.npz: --record would write over NETWORK"),
        ((*RUN, "--record", "ids.npy", "--power", "ids.npy"), "ids.npy: --record would write over --power"),
        ((*RUN, "--record", "ids.npy", "--inject", "ids.npy:3"), "ids.npy: --record would write over --inject"),
        ((*RUN, "--record", "a:b.npz", "--rate", "a:b.npz:c:0.5"), "a:b.npz: --record would write over --rate"),
        ((*RUN, "--record", "ids.npy", "--poisson", "ids.npy:2"), "ids.npy: --record would write over --poisson"),
        ((*RUN, "--record", "when.npz", "--schedule", "when.npz"), "when.npz: --record would write over --schedule"),
        ((*RUN, "--checkpoint", "net.npz", "--checkpoint-every", 2), "net.npz: --checkpoint would write over NETWORK"),
        ((*RUN, "--checkpoint", "when.npz", "--checkpoint-every", 2, "--schedule", "when.npz"), "when.npz: --checkpoint would write over"),
        (("run", "net.ckpt", "--checkpoint-every", 2, "--backend", "reference"), "net.ckpt: --checkpoint would write over NETWORK"),
        (("grow", "genome.json", "-o", "genome.json"), "genome.json: --out would write over GENOME"),
        (("serve", "net.npz", "--checkpoint", "link.npz"), "link.npz: --checkpoint would write over NETWORK"),
        (("serve", "net.npz", "--power", "ids.npy", "--checkpoint", "ids.npy"), "ids.npy: --checkpoint would write over --power"),
        (("serve", "net.npz", "--token-file", "token", "--checkpoint", "token"), "token: --checkpoint would write over --token-file"),
    ],
)
def test_an_input_is_never_written_over(arguments: tuple[object, ...], told: str) -> None:
    before = contents()
    done = call(*arguments)
    assert (done.exit_code, done.stderr.startswith(f"Error: {told}"), done.stderr.count("\n")) == (11, True, 1), done.output
    assert contents() == before


def test_a_checkpoint_may_replace_the_one_that_was_resumed_and_nothing_else_may() -> None:
    assert call(*RUN, "--checkpoint", "run.ckpt", "--checkpoint-every", 2).exit_code == 0
    os.symlink("run.ckpt", "part.000000000004.npz")
    before = contents()
    refused = call("run", "--resume", "run.ckpt", "--bursts", 9, "--record", "part.npz", "--backend", "reference")
    assert (refused.exit_code, contents()) == (11, before)
    assert refused.stderr.startswith("Error: part.000000000004.npz: --record would write over --resume")
    gone_on = call("run", "--resume", "run.ckpt", "--bursts", 9, "--backend", "reference", "--checkpoint", "./run.ckpt")
    assert gone_on.exit_code == 0, gone_on.output


def test_parts_of_a_record_are_no_inputs_either() -> None:
    """Later parts of another run are removed, so none of them may be read."""
    os.remove("link.npz")
    for number in (1, 3, 700):
        name = f"fired.{number:012d}.npz"
        os.rename("net.npz", name)
        before = contents()
        done = call("run", name, "--bursts", 5, "--backend", "reference", "--record", "fired.npz", "--checkpoint-every", 2)
        assert (done.exit_code, contents()) == (11, before)
        assert done.stderr == f"Error: {name}: --record would write over NETWORK; name another file\n"
        os.rename(name, "net.npz")
    os.mkdir("fired.000000000003.npz")
    done = call(*RUN, "--record", "fired.npz", "--checkpoint-every", 2)
    assert done.exit_code == 11 and "fired.000000000003.npz: this is a folder" in done.stderr
    assert "net.ckpt" in os.listdir() and load("net.ckpt").neuron_count == 20


def test_no_two_outputs_are_one_file() -> None:
    done = call(*RUN, "--record", "out", "--checkpoint", "out.000000000001", "--checkpoint-every", 2)
    assert (done.exit_code, "--checkpoint would write over --record" in done.stderr) == (11, True)
    assert not [name for name in os.listdir() if "out" in name]


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_file_that_the_shell_opened_is_not_replaced(stream: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    Path("table.txt").write_text("what stood there\n")
    with open("table.txt", "a+") as file:
        command = [sys.executable, "-m", "gpu_npu", *map(str, RUN), "--record", "table.txt"]
        streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | {stream: file}
        done = subprocess.run(command, encoding="utf-8", env=environment, timeout=60, check=False, **streams)  # type: ignore[call-overload]
    assert done.returncode == 11
    name = {"stdin": "input", "stdout": "output", "stderr": "error"}[stream]
    told = f"Error: table.txt: --record would write over standard {name}; name another file\n"
    assert Path("table.txt").read_text() == "what stood there\n" + (told if stream == "stderr" else "")
    assert stream == "stderr" or done.stderr == told


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "pipe", ".", "no/out"])
@pytest.mark.parametrize("arguments", [(*RUN, "--record"), (*RUN, "--checkpoint-every", 2, "--checkpoint"), ("example", "random-1m", "-o")])
def test_what_is_no_file_is_told_before_anything_is_computed(
    arguments: tuple[object, ...], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo("pipe")
    before = sorted(os.listdir())
    monkeypatch.setattr(networks, "read", lambda name: pytest.fail("it was read"))
    monkeypatch.setattr(networks, "_driven", lambda *_: pytest.fail("it was made"))
    done = call(*arguments, path)
    assert done.exit_code in (2, 11) and done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.output
    assert Path(path).name in done.stderr
    assert sorted(os.listdir()) == before and os.stat("/dev/null").st_rdev


def test_what_may_be_replaced_is_replaced_with_its_mode() -> None:
    for name in ("record.npz", "run.ckpt", "small.npz"):
        Path(name).write_bytes(b"what stood there")
        os.chmod(name, 0o600)
    assert call(*RUN, "--record", "record.npz").exit_code == 0
    assert call(*RUN, "--checkpoint", "run.ckpt", "--checkpoint-every", 2).exit_code == 0
    assert call("example", "small", "-o", "small.npz").exit_code == 0
    assert load_recording("record.npz").bursts == 3 and load("small.npz").neuron_count == 1000
    assert {os.stat(name).st_mode & 0o777 for name in ("record.npz", "run.ckpt", "small.npz")} == {0o600}


def test_the_rule_is_told() -> None:
    for command in (("run",), ("serve",), ("grow",), ("example",)):
        assert "a file that is there is replaced" in " ".join(call(*command, "--help").stdout.split())
