"""gpu-npu convert."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from click.testing import CliRunner

from gpu_npu.cli import main


def test_a_table_is_converted(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("pre,post,weight\na,b,3\n")
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "edges.csv"), "-o", str(tmp_path / "edges.parquet")])
    assert result.exit_code == 0 and "edges.parquet: 2 neurons, 1 synapses" in result.stdout
    assert pq.read_table(tmp_path / "edges.parquet").to_pylist() == [{"source": "a", "target": "b", "weight": 3, "excitatory": 1}]


def test_an_output_of_no_format_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("pre,post,weight\na,b,3\n")
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "edges.csv"), "-o", str(tmp_path / "edges.docx")])
    assert result.exit_code == 4
    assert (
        result.stderr
        == f"Error: {tmp_path / 'edges.docx'}: a network is written to a file whose name ends in .npz, .json, .csv, .parquet, .feather\n"
    )
