"""gpu-npu run: what it prints, writes and returns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import shared_data

from gpu_npu import (
    NPU,
    Area,
    BackendUnavailableError,
    Connectome,
    DeviceMemoryError,
    KernelError,
    NetworkError,
    NpuError,
    SumOverflowError,
    __version__,
)
from gpu_npu.cli import EXIT_STATUS, main
from gpu_npu.connectome.generators import seed_example
from gpu_npu.io import load, save

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def rows(result: Result) -> dict[str, str]:
    """The table: label -> text, folded lines joined."""
    assert result.exit_code == 0, result.output
    table: dict[str, str] = {}
    label = ""
    for line in result.stdout.split("\n\n")[0].splitlines():
        label = line[:16].strip() or label
        table[label] = f"{table.get(label, '')} {line[16:].strip()}".strip()
    return table


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Eight neurons in a ring, threshold 1; area 5 holds 6 and 7."""
    connectome = Connectome(8, 8, areas={5: Area("last")})
    connectome.add_neurons(8, cortical_area=[0, 0, 0, 0, 0, 0, 5, 5])
    connectome.add_synapses(np.arange(8), (np.arange(8) + 1) % 8, 2, 1)
    save(connectome, tmp_path / "ring.npz")
    return tmp_path / "ring.npz"


def fired_in(path: Path) -> list[list[int]]:
    with np.load(path, allow_pickle=False) as content:
        return [ids.tolist() for ids in np.split(content["fired"], content["offset"][1:-1])]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_seed_example(tmp_path: Path, backend: str) -> None:
    table = rows(run("seed", "--bursts", 30, "--backend", backend, "--record", tmp_path / "out"))
    assert list(table) == [
        "network",
        "backend",
        "neurons",
        "synapses",
        "bytes",
        "seed",
        "loaded in",
        "bursts",
        "fired",
        "over time",
        "most active",
        "bursts/s",
        "µs a burst",
        "synaptic events",
        "µs by phase",
        "record",
        "digest",
    ]
    expected = NPU.from_connectome(seed_example(), backend="reference").run(30, digest=True)
    assert table["digest"] == expected.digest
    assert table["neurons"] == "22,590"
    assert table["synapses"] == "500,000"
    assert table["backend"].startswith(f"{backend} (chosen: ")
    assert table["bursts"] == "30"
    assert table["fired"].startswith(f"{expected.fired_total:,} (")
    assert table["synaptic events"].startswith(f"{expected.synaptic_injections:,} (")
    assert re.fullmatch(r"p50 [0-9,.]+, p99 [0-9,.]+", table["µs a burst"])
    assert "propagation" in table["µs by phase"]
    assert "mean of 30 further bursts, timed phase by phase" in table["µs by phase"]
    assert re.search(r"rows [0-9,]+, neurons [0-9,]+", table["bytes"])
    with np.load(tmp_path / "out", allow_pickle=False) as content:
        assert str(content["digest"]) == expected.digest
        assert np.diff(content["offset"]).tolist() == expected.fired_counts.tolist()
        assert content["fired"].dtype == np.uint32
        assert content["counters"].shape == (30, 5)


def test_what_drives(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"

    def bursts(*arguments: object) -> list[list[int]]:
        rows(run(file, "--bursts", 3, "--backend", "reference", "--record", out, *arguments))
        return fired_in(out)

    assert bursts() == [[], [], []]
    assert bursts("--power", "1,3") == [[1, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert bursts("--power", "area:5", "--power", "0") == [[0, 6, 7], [0, 1, 6, 7], [0, 1, 2, 6, 7]]
    assert bursts("--inject", "2") == [[2], [2, 3], [2, 3, 4]]
    assert bursts("--inject", "2", "--every", 2) == [[2], [3], [2, 4]]
    assert bursts("--inject", "2", "--potential", 0.4) == [[], [], [2]]
    assert bursts("--inject", "2:0.5", "--potential", 9) == [[], [2], [3]]
    assert bursts("--inject", "area:5:1.5", "--every", 3) == [[6, 7], [0, 7], [0, 1]]
    assert bursts("--inject", "area:5", "--inject", "0:1", "--every", 3) == [[0, 6, 7], [0, 1, 7], [0, 1, 2]]
    assert bursts("--inject", "0:2", "--threshold", 2, "--every", 3) == [[0], [1], [2]]
    assert bursts("--inject", "0:2", "--threshold", 2.5, "--every", 3) == [[], [], []]
    np.save(tmp_path / "ids.npy", np.array([4, 1], np.int32))
    np.savez(tmp_path / "one.npz", which=np.array([3]))
    np.savez(tmp_path / "two.npz", other=np.array([3.5]), stim=np.array([5, 6]))
    assert bursts("--inject", tmp_path / "ids.npy")[0] == [1, 4]
    assert bursts("--inject", f"{tmp_path / 'one.npz'}:3")[0] == [3]
    assert bursts("--inject", tmp_path / "two.npz", "--power", tmp_path / "ids.npy")[0] == [1, 4, 5, 6]


def test_a_connectome_in_csr(tmp_path: Path) -> None:
    path = tmp_path / "csr.npz"
    np.savez(path, indptr=[0, 2, 3, 3], indices=[1, 2, 2], count=np.array([5, 300, 7], np.uint16), sign=np.array([1, -1, 1], np.int8))
    table = rows(run(path, "--bursts", 4, "--power", "0", "--threshold", 1, "--backend", "reference", "--record", tmp_path / "o.npz"))
    assert (table["neurons"], table["synapses"]) == ("3", "3")
    assert fired_in(tmp_path / "o.npz") == [[0], [0, 1, 2], [0, 1, 2], [0, 1, 2]]


@pytest.mark.long
def test_the_fly_hemisphere() -> None:
    """1,000 bursts of the real connectome: one digest, neither silence nor everything."""
    data = shared_data()
    drive = ("--bursts", 1000, "--threshold", 200, "--inject", f"{data / 'flyref_right_gust.npz'}:250")
    tables = [rows(run(data / "flywire_right.npz", *drive, "--backend", backend)) for backend in ("cpu", "reference")]
    assert tables[0]["digest"] == tables[1]["digest"]
    fired = int(tables[0]["fired"].split()[0].replace(",", ""))
    assert 162 * 1000 < fired < 0.5 * 66_658 * 1000


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.npz"], 2, "neither a file nor one of the examples: seed"),
        (["seed", "--bursts", 0], 2, "0"),
        (["seed", "--power", "x"], 2, "'x' is no id; WHAT is ids or labels like 1,2,5-8, COLUMN=VALUE, area:A, all, index:0-9, or a file"),
        (["seed", "--power", "area:x"], 2, "'area:x': 'x' is neither the id nor the name of an area"),
        (["seed", "--inject", "1,2:abc"], 2, "'abc' is not a potential"),
        (["seed", "--record", "no/such/folder/out.npz"], 11, "no/such/folder/out.npz: No such file or directory"),
        (["seed", "--backend", "tpu"], 2, "tpu"),
        (["pyproject.toml"], 3, "pyproject.toml"),
        (["seed", "--inject", "pyproject.npz"], 11, "pyproject.npz"),
        (["seed", "--threshold", "nan"], 4, "threshold: nan"),
        (["seed", "--power", "area:9"], 4, "no neuron is in area 9"),
        (["seed", "--device", 0], 4, "has no devices"),
        (["seed", "--power", "1,99999"], 5, "99999 is not a neuron id"),
    ],
)
def test_errors_are_one_line_and_a_status(arguments: list[object], status: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = run(*arguments, *([] if "--backend" in arguments else ["--backend", "reference"]))
    assert result.exit_code == status
    lines = result.stderr.splitlines()
    assert message in lines[-1]
    assert len([line for line in lines if line.startswith("Error: ")]) == 1
    assert status == 2 or len(lines) == 1


@pytest.mark.parametrize("kind", EXIT_STATUS)
def test_each_kind_of_error_has_its_status(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise kind("what is wrong\nand a long log")

    monkeypatch.setattr(NPU, "from_connectome", fails)
    result = run("seed")
    assert (result.exit_code, result.stderr) == (EXIT_STATUS[kind], "Error: what is wrong\n")


def test_statuses_are_distinct_and_complete() -> None:
    assert len(set(EXIT_STATUS.values())) == len(EXIT_STATUS)
    assert set(NpuError.__subclasses__()) <= set(EXIT_STATUS)
    assert {BackendUnavailableError, DeviceMemoryError, KernelError, NetworkError, SumOverflowError} <= set(EXIT_STATUS)


def test_ids_in_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    np.savez(tmp_path / "two.npz", a=[1], b=[2])
    np.save(tmp_path / "real.npy", np.array([0.5]))
    for name, status, message in (("bad.npy", 3, "bad.npy"), ("two.npz", 3, "It has a, b"), ("real.npy", 4, "0.5")):
        result = run("seed", "--backend", "reference", "--inject", tmp_path / name)
        assert (result.exit_code, message in result.stderr) == (status, True), result.stderr


def test_from_a_shell(file: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}

    def shell(*arguments: object) -> str:
        command = [sys.executable, "-m", "gpu_npu", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=environment, timeout=120).stdout

    assert shell("--version").strip() == f"gpu-npu, version {__version__}"
    text = shell("run", file, "--bursts", 5, "--power", "0", "--backend", "reference")
    npu = NPU.from_connectome(load(file), backend="reference")
    npu.set_power_neurons([0])
    assert npu.run(5, digest=True).digest in text


@pytest.mark.parametrize(
    ("called", "on_path", "told"),
    [
        ("/usr/bin/gpu-npu", "/usr/bin/gpu-npu", "gpu-npu"),
        (".venv/bin/gpu-npu", None, ".venv/bin/gpu-npu"),
        ("/x/gpu_npu/__main__.py", None, "python -m gpu_npu"),
        ("/x/pytest/__main__.py", None, "gpu-npu"),
    ],
)
def test_hints_name_the_command_as_it_can_be_called(called: str, on_path: str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.setattr("shutil.which", lambda name: on_path)
    listed = CliRunner().invoke(main, ["example", "small"])
    assert listed.stderr.startswith(f"Error: -o says where to: {told} example small -o small.npz")
