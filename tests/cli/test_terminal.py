"""What a file says reaches a terminal as text, and never as a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gpu_npu import Area
from gpu_npu.cli import main
from gpu_npu.cli.status import told
from gpu_npu.cli.terminal import LONGEST, shown
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.errors import NetworkError
from gpu_npu.io import save

TITLE = "\x1b]0;owned\x07\x9b2J\u202e"


def test_control_characters_are_escaped_and_long_texts_cut() -> None:
    assert shown(TITLE) == r"\x1b]0;owned\x07\x9b2J\u202e"
    assert shown("Größe 3 µs █") == "Größe 3 µs █"
    assert shown("a" * (LONGEST + 5)) == "a" * LONGEST + " ... (5 characters more)"
    assert told(NetworkError(f"area {TITLE}" + "x" * 10**6)).startswith(r"area \x1b]0;owned")
    assert len(told(NetworkError("x" * 10**6))) < LONGEST + 50
    assert len(told(OSError(2, "No such file", "\x1b" * 10**6))) < 5 * LONGEST


@pytest.mark.parametrize("command", ["info", "run"])
def test_names_of_a_file(tmp_path: Path, command: str) -> None:
    save(fixed_out_degree(10, 2, seed=0, areas={0: Area(TITLE)}), tmp_path / "network.npz")
    for arguments in ([command, str(tmp_path / "network.npz")], [command, str(tmp_path / f"{TITLE}.npz")]):
        result = CliRunner().invoke(main, [*arguments, "--backend", "reference", *(["--bursts", "1"] if command == "run" else [])])
        assert not set("\x1b\x07\x9b\u202e") & set(result.output)
