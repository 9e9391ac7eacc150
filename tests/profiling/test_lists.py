"""The benchmark of edge lists."""

from __future__ import annotations

import json
from pathlib import Path

from profiling import bench_lists


def test_a_small_list(tmp_path: Path) -> None:
    assert bench_lists.main(["--rows", "3000", "--rounds", "1", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rows"] == 3000 and set(found["contenders"]) == set(bench_lists.CONTENDERS)
    assert all(figures["seconds"] > 0 and figures["resident_bytes"] > 2**24 for figures in found["contenders"].values())
