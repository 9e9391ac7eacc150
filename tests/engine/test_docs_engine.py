"""What docs/engine.md shows works, and lists what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpu_npu.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()


def test_the_snippet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    exec(compile(found[0], "docs/engine.md", "exec"), {})
    assert "EngineStatus(state='paused', frequency=100.0" in capsys.readouterr().out
    assert (tmp_path / "run.ckpt").is_file()


def test_every_path_is_listed(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from gpu_npu import NPU, BurstEngine
    from gpu_npu.service.app import make_app
    from gpu_npu.service.service import Service

    with NPU(1, backend="reference") as npu, BurstEngine(npu) as engine:
        paths = make_app(Service(engine, "none")).openapi()["paths"]
        engine.stop()
    listed = {
        path.partition("?")[0] for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for path in re.findall(r"/[a-z./?=&0-9]+", row)
    }
    assert listed == {path.replace("{name}", "threshold") for path in paths} | {"/openapi.json"}


def test_options_exist() -> None:
    known = CliRunner().invoke(main, ["serve", "--help"]).output
    assert {option for option in re.findall(r"--[a-z][a-z-]+", PAGE) if option not in known} == {"--once"}
