"""A plugin of pytest: the tests of one backend alone, and every outcome written down at once.

    python -m pytest -p profiling.selection --only-backend cuda --outcomes FILE [--barrier-seconds S] ...

A test stays where one of its parameters is the backend ("cuda", "cpu", "emulated"), or a kind of it ("cpu-2"). FILE gets
a line of JSON for each test as soon as it is done, so that a run that is cut short has not been for nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpu_npu.backends import kernels


def is_of(item: Any, backend: str) -> bool:
    """Whether the test runs on this backend."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    return any(isinstance(value, str) and (value == backend or value.startswith(f"{backend}-")) for value in parameters)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only-backend", help="leave out tests that do not run on this backend")
    parser.addoption("--barrier-seconds", type=float, help="kernels whose blocks wait longer for one another end as an error")
    parser.addoption("--outcomes", type=Path, help="a line of JSON for each test: file, test, outcome")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    backend = config.getoption("--only-backend")
    if backend:
        left_out = [item for item in items if not is_of(item, backend)]
        items[:] = [item for item in items if is_of(item, backend)]
        config.hook.pytest_deselected(items=left_out)


class Outcomes:
    """Writes passed, failed or skipped for each test; an error before or behind a test is a failure of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._write(report.nodeid, "passed" if hasattr(report, "wasxfail") else report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, "failed")

    def _write(self, test: str, outcome: str) -> None:
        line = json.dumps({"file": test.partition("::")[0], "test": test, "outcome": outcome})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def pytest_configure(config: pytest.Config) -> None:
    kernels.BARRIER_SECONDS = config.getoption("--barrier-seconds")
    path = config.getoption("--outcomes")
    if path is not None and not hasattr(config, "workerinput"):  # with pytest-xdist the workers report to the one who writes
        config.pluginmanager.register(Outcomes(path), "outcomes")
