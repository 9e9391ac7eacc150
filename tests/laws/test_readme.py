"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpu_npu.cli import EXIT_STATUS, main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ("glossary", "engine", "streams", "plasticity", "checkpoints", "feagi")
"""Of docs, beside the normative one and the one that is drawn from the code."""
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SNIPPETS[number], f"README.md, snippet {number + 1}", "exec"), {})
    printed = capsys.readouterr().out
    if number == 0:
        assert printed == "Burst 1: 1 neurons fired\n"


def test_snippets_are_there() -> None:
    assert len(SNIPPETS) == 4


@pytest.mark.parametrize("page", ["checkpoints", "plasticity"])
def test_snippets_of_other_pages(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    exec(compile(found[0], f"docs/{page}.md", "exec"), {})


EXACT = ("network", "neurons", "synapses", "seed", "bursts", "fired", "over time", "most active", "digest")
"""Rows of the table that are the same on every machine."""


def rows(table: str) -> dict[str, str]:
    """Label -> text of the table of a run; what differs from run to run is masked."""
    found: dict[str, str] = {}
    for line in table.splitlines():
        label = line[:16].strip() or list(found)[-1]
        found[label] = f"{found.get(label, '')} {line[16:].strip()}".strip()
    found["backend"] = found["backend"].partition(" (")[0]
    return {label: text if label in EXACT else re.sub(r"\d[\d.,]*", "#", text) for label, text in found.items()}


def test_the_sample_is_what_a_run_prints() -> None:
    (sample,) = re.findall(r"^```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    result = CliRunner().invoke(main, ["run", "seed", "--bursts", "1000", "--backend", "cpu"], env={"COLUMNS": "80"})
    assert result.exit_code == 0 and rows(result.stdout) == rows(sample)
    assert max(map(len, sample.splitlines())) <= 80


def test_commands_are_those_that_make_run_leaves() -> None:
    assert not re.findall(r"^gpu-npu (?:run|info|doctor|example|grow|serve|top)\b", README, re.MULTILINE)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text())) <= targets


def test_links_lead_somewhere() -> None:
    for page in (README, *((ROOT / "docs" / f"{name}.md").read_text() for name in PAGES)):
        for link in re.findall(r"\]\(([^)]+)\)", page):
            file, _, place = link.partition("#")
            path = ROOT / file if page is README else ROOT / "docs" / (file or "glossary.md")
            assert link.startswith("https://") or path.is_file(), link
            assert not place or f'<a id="{place}"></a>' in path.read_text(), link


def test_words_have_one_explanation_each() -> None:
    terms = re.findall(r"^(?:<a id=\"[a-z-]+\"></a>)?\*\*(.+?)\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)
    must = {"area", "burst", "candidate", "fire ledger", "mapping", "mp-driven", "power", "psp", "psp uniform", "trace"}
    assert must <= {term.lower() for term in terms}


def test_options_of_the_command_line_exist() -> None:
    shown = re.findall(r"^\.venv/bin/gpu-npu (\w+)(.*)$", README, re.MULTILINE)
    assert {command for command, _ in shown} == {"run", "info", "experiment", "convert", "grow", "doctor", "example", "serve", "top"}
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
