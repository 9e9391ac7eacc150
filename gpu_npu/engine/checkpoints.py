"""Checkpoints of an engine, written while bursts go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gpu_npu.checks import check_path
from gpu_npu.errors import EngineError
from gpu_npu.npu import NPU
from gpu_npu.npu.snapshot import Snapshot
from gpu_npu.objects import described


class CheckpointWriter:
    """Writes one checkpoint at a time, on a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "gpu-npu checkpoint")
        self._writing = False

    def __repr__(self) -> str:
        return described(self, "writing" if self._writing else "idle")

    def write(
        self, submit: Callable[[Callable[[NPU], None]], Future[None]], path: str | os.PathLike[str], notes: Mapping[str, Any] | None
    ) -> Future[int]:
        """Submit the taking of a snapshot, and write it to `path` after that. The future has the number of its last burst.
        EngineError where one is still being written. Called with the engine's condition held."""
        path = check_path(path)
        if self._writing:
            raise EngineError("a checkpoint is still being written", python="wait for the future of the last checkpoint()")
        written: Future[int] = Future()
        written.set_running_or_notify_cancel()

        def take(npu: NPU) -> None:
            self._pool.submit(write, npu.snapshot(notes)).add_done_callback(finish)

        def write(snapshot: Snapshot) -> int:
            snapshot.write(path)
            return snapshot.burst

        def finish(done: Future[Any]) -> None:
            self._writing = False
            error = done.exception()
            if error is None:
                written.set_result(done.result())
            else:
                written.set_exception(error)

        taken = submit(take)
        self._writing = True
        taken.add_done_callback(lambda future: finish(future) if future.exception() is not None else None)
        return written

    def close(self) -> None:
        """Finish what is being written."""
        self._pool.shutdown()
