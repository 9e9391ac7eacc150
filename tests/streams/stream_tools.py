"""What the tests of streams share: optional packages, bursts, processes at the other end, and waiting."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from gpu_npu import BurstResult

SUBSCRIBER = Path(__file__).with_name("subscriber.py")


def need(*packages: str) -> None:
    """Skips where an optional package is not; in CI (the variable is set) it fails."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            if os.environ.get("CI"):
                pytest.fail(f"the package {package} is not installed")
            pytest.skip(f"the package {package} is not installed: pip install --editable '.[test]'")


def burst(number: int, fired: object = (1, 5, 9)) -> BurstResult:
    ids = np.asarray(fired, np.uint32)
    return BurstResult(number, ids, len(ids), 1, 2, 3, 4, 5)


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Until it holds; a failure after so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.002)


class Peer:
    """`subscriber.py` in a process; `lines` grows as it prints."""

    def __init__(self, transport: str, port: int, role: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        self.process = subprocess.Popen(
            [sys.executable, str(SUBSCRIBER), transport, str(port), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lines: list[int] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(map(int, self.process.stdout))

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self) -> list[int]:
        """All that it printed, once it has ended by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self._reader.join(60)
        return self.lines

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            if not pipe.closed:
                self._reader.join(60)
                pipe.close()
