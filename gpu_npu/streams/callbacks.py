"""Python callbacks as sinks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from gpu_npu.checks import check_integer
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import Unique, described

LAST_WORDS = 1.0
"""Seconds that a callback gets, when the sink is closed, for what still waits for it."""


class CallbackSink(Unique):
    """Calls callback(result) for every burst, in order, on a thread of its own.

    `capacity` results may wait for it; what comes beyond is dropped and counted. A callback that raises is not called
    again, and `failed` is told the exception.
    """

    def __init__(self, callback: Callable[[BurstResult], object], failed: Callable[[BaseException], object], capacity: int = 1024) -> None:
        self._callback, self._failed, self._capacity = callback, failed, check_integer(capacity, "capacity", 1)
        self._waiting: deque[BurstResult] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._sent = self._dropped = 0
        self._thread = threading.Thread(target=self._call, name="gpu-npu callback", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return described(self, self.statistics())

    def publish(self, result: BurstResult) -> None:
        """Hand over, or drop where there is no room."""
        with self._condition:
            if self._closed:
                return
            if len(self._waiting) >= self._capacity:
                self._dropped += 1
                return
            self._waiting.append(result)
            self._condition.notify()

    def statistics(self) -> dict[str, int]:
        """sent: results that the callback was called with; dropped; waiting."""
        return {"sent": self._sent, "dropped": self._dropped, "waiting": len(self._waiting)}

    def close(self) -> None:
        """Call for what waits, for a second at most; the rest is dropped and counted."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(LAST_WORDS)
        with self._condition:
            self._dropped += len(self._waiting)
            self._waiting.clear()

    def _call(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                result = self._waiting.popleft()
            try:
                self._callback(result)
            except BaseException as error:
                with self._condition:
                    self._closed = True
                    self._dropped += len(self._waiting)
                    self._waiting.clear()
                self._failed(error)
                return
            self._sent += 1
