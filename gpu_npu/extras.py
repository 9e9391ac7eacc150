"""The command that installs what an optional part of this package needs: right for this Python, and for how it was installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "gpu-npu"


def install_command(extra: str) -> str:
    """What installs the packages of an extra of pyproject.toml, to be pasted into a shell.

    From a clone that is the clone with its extra; an installed package is on no index, so the packages are named.
    """
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        place = "." if root == Path.cwd() else str(root)
        return f"{_installer()} --editable {shlex.quote(f'{place}[{extra}]')}"
    packages = _packages(extra)
    return install_packages(*([package for package in packages if not _installed(package)] or packages))


def install_packages(*requirements: str) -> str:
    """What installs these packages, to be pasted into a shell."""
    return " ".join([_installer(), *map(shlex.quote, requirements)])


def is_complete(extra: str) -> bool:
    """Whether some version of every package of an extra is installed; False where it is not known which ones they are."""
    packages = _packages(extra)
    return bool(packages) and all(map(_installed, packages))


def _installer() -> str:
    python = shlex.quote(sys.executable or "python3")
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):  # as in an environment that uv made
        return f"uv pip install --python {python}"
    return f"{python} -m pip install"


def _packages(extra: str) -> list[str]:
    """The requirements of an extra, as the installed package says; none where it is not installed."""
    try:
        requirements = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    of_extra = re.compile(rf"\bextra\s*==\s*['\"]{extra}['\"]")
    return [requirement.partition(";")[0].strip() for requirement in requirements if of_extra.search(requirement)]


def _installed(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    try:
        return name is not None and bool(importlib.metadata.version(name[0]))
    except importlib.metadata.PackageNotFoundError:
        return False
