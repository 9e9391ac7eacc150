"""Large bodies are read by a process of their own: JSON of a few MiB takes Python's lock for as long as many bursts last.

The process gets `(index in BODIES, size)` and the text, and gives `(whether it is right, size)` and the pickled body, or why not.
It ends with its standard input.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from gpu_npu.objects import Unique, described

from .bodies import BODIES, Body, InvalidBody, parse

SMALL = 2**14
"""Bytes of a body that is read at once."""
MEMORY = 2**30
"""Bytes that the process may take for a body beside what it has from the start."""
PATIENCE = 10.0
"""Seconds that it may take."""
TOO_COSTLY = f"body: it takes more than {PATIENCE:g} seconds, or {MEMORY:,} bytes of memory, to read"
_QUESTION, _ANSWER = struct.Struct("<BQ"), struct.Struct("<?Q")
_NAMES = list(BODIES)
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from gpu_npu.service.reading import serve; serve()"
"""Isolated (-I), it imports what this process would, and nothing from the current folder."""


class Reader(Unique):
    """Reads bodies, one large one at a time. `close` ends the process, which the first large body starts."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gpu-npu bodies")
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return described(self, "no process" if self._process is None else f"process {self._process.pid}")

    def read(self, name: str, text: bytes) -> Future[Body]:
        """The body of this name in BODIES; the future's error is InvalidBody where it is none. One that is cancelled before its
        turn is not read."""
        if len(text) > SMALL:
            return self._thread.submit(self._ask, name, text)
        read: Future[Body] = Future()
        try:
            read.set_result(parse(name, text))
        except InvalidBody as error:
            read.set_exception(error)
        return read

    def close(self) -> None:
        """End the process."""
        process = self._process
        if process is not None:
            process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._end()

    def _ask(self, name: str, text: bytes) -> Body:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _CODE, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        alarm = threading.Timer(PATIENCE, process.kill)
        alarm.start()
        try:
            process.stdin.write(_QUESTION.pack(_NAMES.index(name), len(text)))
            process.stdin.write(text)
            process.stdin.flush()
            right, size = _ANSWER.unpack(process.stdout.read(_ANSWER.size))
            answer = pickle.loads(process.stdout.read(size))
        except (OSError, struct.error, EOFError, pickle.UnpicklingError):
            self._end()
            raise InvalidBody(TOO_COSTLY) from None
        finally:
            alarm.cancel()
        if not right:
            raise InvalidBody(answer)
        return BODIES[name].model_construct(**answer)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def serve() -> None:
    """Answer questions until there are no more; as the process."""
    os.nice(10)
    _limit_memory()
    while question := sys.stdin.buffer.read(_QUESTION.size):
        index, size = _QUESTION.unpack(question)
        right, answer = _read(_NAMES[index], sys.stdin.buffer, size)
        data = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.write(_ANSWER.pack(right, len(data)) + data)
        sys.stdout.buffer.flush()


def _read(name: str, file: BinaryIO, size: int) -> tuple[bool, Any]:
    try:
        return True, dict(parse(name, file.read(size)))
    except (InvalidBody, MemoryError) as error:
        return False, str(error) or TOO_COSTLY


def _limit_memory() -> None:
    if sys.platform.startswith("linux"):
        import resource
        from pathlib import Path

        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))
