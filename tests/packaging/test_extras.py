"""The command that an error names for what is missing: it works where the user is, as it is written."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from gpu_npu import extras
from gpu_npu.extras import install_command, install_packages, is_complete

ROOT = Path(__file__).parents[2]
REQUIRED = [
    "numpy>=2.0",
    "websockets>=14.2; extra == 'stream'",
    'no-such-package>=1.1 ; extra == "stream"',
    "no-such-cupy>=14; (sys_platform == 'linux') and extra == 'cuda13'",
    "numpy>=1; extra == 'whole'",
]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package had been installed from a wheel with these requirements."""
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages" / "gpu_npu" / "extras.py"))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRED)


def test_from_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert shlex.split(install_command("stream")) == [sys.executable, "-m", "pip", "install", "--editable", ".[stream]"]
    monkeypatch.chdir(tmp_path)
    assert shlex.split(install_command("stream"))[-1] == f"{ROOT}[stream]"


def test_from_a_wheel(installed: None) -> None:
    """The packages by name: what is installed already is left out, unless nothing else is."""
    assert shlex.split(install_command("stream"))[-1] == "no-such-package>=1.1"
    assert shlex.split(install_command("cuda13"))[-1] == "no-such-cupy>=14"
    assert shlex.split(install_command("whole"))[-1] == "numpy>=1"
    assert not is_complete("stream")
    assert is_complete("whole")
    assert not is_complete("unknown")


def test_what_a_shell_would_read_otherwise_is_quoted(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my python/bin/python")
    assert install_packages("a>=1") == "'/my python/bin/python' -m pip install 'a>=1'"


def test_an_environment_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/uv")
    assert install_packages("a").startswith("uv pip install --python ")


def test_every_extra_that_is_named_is_declared() -> None:
    declared = re.findall(r"(?m)^(\w+) = \[", (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1])
    texts = {path: path.read_text() for path in (ROOT / "gpu_npu").rglob("*.py")}
    named = [name for text in texts.values() for name in re.findall(r"install_command\(['\"](\w+)['\"]\)", text)]
    assert len(named) >= 4
    assert set(named) <= set(declared)


@pytest.mark.parametrize("folder", ["gpu_npu", "docs", "README.md"])
def test_nobody_is_sent_to_an_index(folder: str) -> None:
    """The package is on none, and a shell reads brackets that are not quoted."""
    files = [ROOT / folder] if folder.endswith(".md") else [path for path in (ROOT / folder).rglob("*.*") if path.suffix in (".py", ".md")]
    assert [path for path in files if re.search(r"pip install (gpu-npu|\.\[)|gpu-npu\[", path.read_text())] == []
