"""A bar on stderr for what takes longer than a second; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

SHOWN_AFTER = 1.0
"""Seconds."""
BETWEEN_UPDATES = 0.05
"""Seconds."""


class Bar:
    """What is going on, shown from the first second on. `on`: False shows nothing, as does a stderr that is no terminal."""

    def __init__(self, on: bool = True) -> None:
        self._on = on and sys.stderr is not None and sys.stderr.isatty()
        self._lock = threading.Lock()
        self._over = False
        self._next = 0.0
        if self._on:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
            console = Console(stderr=True, force_terminal=True)
            self._progress = Progress(*columns, console=console, transient=True)
            self._task = self._progress.add_task("", total=None, count="")
            self._timer = threading.Timer(SHOWN_AFTER, self._show)
            self._timer.daemon = True

    def __enter__(self) -> Bar:
        if self._on:
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._on:
            self._timer.cancel()
            with self._lock:
                self._over = True
                self._progress.stop()

    def _show(self) -> None:
        with self._lock:
            if not self._over:
                self._progress.start()

    def step(self, description: str, total: int | None = None) -> None:
        """Something else begins: so many items, or nobody knows."""
        if self._on:
            self._total = total
            self._progress.update(self._task, description=description, total=total, completed=0, count="")

    def at(self, done: int, total: int | None = None) -> None:
        """So many items are done, of those of the step or of `total`; cheap enough to be called for each."""
        if self._on and (now := time.monotonic()) >= self._next:
            self._next = now + BETWEEN_UPDATES
            total = self._total if total is None else total
            count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
            self._progress.update(self._task, completed=done, total=total, count=count)
