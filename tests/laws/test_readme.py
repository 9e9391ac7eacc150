"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpu_npu.cli import EXIT_STATUS, main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SNIPPETS[number], f"README.md, snippet {number + 1}", "exec"), {})
    printed = capsys.readouterr().out
    if number == 0:
        assert printed == "Burst 1: 1 neurons fired\n"


def test_snippets_are_there() -> None:
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize("page", ["checkpoints", "plasticity"])
def test_snippets_of_other_pages(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    exec(compile(found[0], f"docs/{page}.md", "exec"), {})


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text())) <= targets


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).is_file(), link


def test_options_of_the_command_line_exist() -> None:
    shown = re.findall(r"^gpu-npu (\w+)(.*)$", README, re.MULTILINE)
    assert {command for command, _ in shown} == {"run", "info", "grow", "doctor", "example", "serve", "top"}
    for command, rest in shown:
        known = CliRunner().invoke(main, [command, "--help"]).output
        assert all(option in known for option in re.findall(r"(?<![\w-])--?[a-z-]+", rest))
    known = CliRunner().invoke(main, ["run", "--help"]).output
    text = README[README.index("## The command line") : README.index("| exit status")]
    assert {"--json", "--quiet", "--schedule"} <= {option for option in re.findall(r"--[a-z]+", text) if option in known}


def test_exit_statuses_are_told() -> None:
    table = README[README.index("| exit status") : README.index("## Limits")]
    told = {int(number) for row in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE) for number in row.split(",")}
    assert told == {2, 14, 130, 143, *EXIT_STATUS.values()}
