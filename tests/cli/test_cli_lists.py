"""Long lists of edges: read batch by batch, with the same result, and interrupted without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from gpu_npu.cli import main, networks, progress
from gpu_npu.cli.tally import Values, spread
from gpu_npu.io import tables

ROOTS = 720575940603266592 + np.arange(60, dtype=np.int64) * 7


@pytest.fixture
def edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An edge list of 600 rows, read 64 at a time."""
    monkeypatch.setattr(tables, "ROWS_AT_A_TIME", 64)
    monkeypatch.setattr("gpu_npu.io.arrow.ROWS_AT_A_TIME", 64)
    draw = np.random.default_rng(0)
    source, target = (ROOTS[draw.integers(0, 60, 600)] for _ in range(2))
    table = {"pre": source, "post": target, "weight": draw.integers(1, 400, 600), "nt_type": draw.choice(["ACH", "GABA"], 600)}
    pq.write_table(pa.table(table), tmp_path / "edges.parquet")
    return tmp_path / "edges.parquet"


def told(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json", "--backend", "cpu"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("silence", [(), ("--silence", f"{ROOTS[3]},{ROOTS[9]}")])
@pytest.mark.parametrize("drive", [(), ("--rate", "all:0.3:700"), ("--rate", "all:0.05:700", "--threshold", "1")])
def test_a_list_that_is_streamed_runs_as_one_in_memory(
    edges: Path, silence: tuple[str, ...], drive: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for most in (600, 599):
        monkeypatch.setattr(networks, "MOST_IN_MEMORY", most)
        facts = told("run", edges, "--bursts", 30, "--threshold", 500, *drive, *silence)
        found.append({name: facts[name] for name in ("neurons", "synapses", "fired", "digest", "most_active", "notes")})
    assert found[0] == found[1]


def test_info_of_a_list_that_is_streamed(edges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = told("info", edges)
    monkeypatch.setattr(networks, "MOST_IN_MEMORY", 0)
    streamed = told("info", edges)
    for facts in (whole, streamed):
        facts["memory"].pop("free_bytes")
    assert streamed == whole and streamed["synapses"] == 600


@pytest.mark.parametrize("values", [[], [3], [3, 4], [0, 0, 0, 7], list(range(250))])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_values_are_counted_as_numpy_does(values: list[int], dtype: Any) -> None:
    counted, array = Values(dtype), np.array(values, dtype)
    counted.add(array[:2])
    counted.add(array[2:])
    assert counted.spread() == spread(array)


# -- Ctrl-C --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["run", "info", "convert", "experiment"])
def test_ctrl_c_while_a_list_is_read(command: str, edges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any batch; nothing is left behind."""
    read = tables.ArrowTable.batches

    def interrupted(self: Any, wanted: Any) -> Any:
        for number, batch in enumerate(read(self, wanted)):
            if number == stop[0]:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(tables.ArrowTable, "batches", interrupted)
    monkeypatch.chdir(edges.parent)
    output = {"run": ("--record", "out.npz"), "convert": ("-o", "out.npz"), "experiment": ("--spikes", "out.parquet")}
    stop = [0]
    for stop[0] in (0, 5):
        result = CliRunner().invoke(main, [command, str(edges), *output.get(command, ())])
        assert (result.exit_code, result.stdout) == (130, "")
        assert result.stderr.splitlines()[-1] == "Error: interrupted"
    assert os.listdir() == ["edges.parquet"]


def test_a_signal_while_a_list_is_read(tmp_path: Path) -> None:
    """Of a process of its own, which is about to read a list of 3 M rows when it says which columns it takes."""
    ids = np.arange(3_000_000)
    table = pa.table({"pre": ids, "post": ids[::-1], "weight": np.ones(len(ids), np.int64)})
    pq.write_table(table, tmp_path / "edges.parquet")
    command = [sys.executable, "-m", "gpu_npu", "convert", "edges.parquet", "-o", "out.npz"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "source = 'pre'" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.splitlines()[-1]) == (130, "", "Error: interrupted")
    assert os.listdir(tmp_path) == ["edges.parquet"]


def test_rows_that_are_read_are_shown(edges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int | None]] = []
    monkeypatch.setattr(progress.Bar, "at", lambda self, done, total=None: shown.append((done, total)))
    monkeypatch.setattr(networks, "MOST_IN_MEMORY", 0)
    told("info", edges)
    assert [at for at, total in shown if total is None][:10] == [64, 128, 192, 256, 320, 384, 448, 512, 576, 600]
    assert [at for at, total in shown if total == 600][:10] == [64, 128, 192, 256, 320, 384, 448, 512, 576, 600]
