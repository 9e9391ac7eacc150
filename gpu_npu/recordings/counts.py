"""How many neurons fired in each burst, and the counters of each, kept until a record is finished."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import COUNTERS
from gpu_npu.io.atomic import scratch
from gpu_npu.io.disk import read_at, write_at
from gpu_npu.npu.results import BurstResult

IN_MEMORY = 2**23
"""Bytes that are kept in memory; what comes before them lies in a file without a name, beside the record."""
ROW = np.dtype([("count", "<i8"), ("counters", "<i8", len(COUNTERS))])
"""Of a burst."""
_FORMAT = struct.Struct(f"<{1 + len(COUNTERS)}q")
_PART = 2**14 * ROW.itemsize
"""Bytes of rows that are read at a time."""


class Counts:
    """A row for each burst of the record at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = bytearray()
        self._file: IO[bytes] | None = None
        self._in_file = 0
        """Bytes of rows."""

    def append(self, result: BurstResult) -> None:
        """The row of the next burst."""
        self._rows += _FORMAT.pack(len(result.fired_neurons), *(getattr(result, name) for name in COUNTERS))

    def make_room(self) -> None:
        """Bring the rows to the file, if they are many. OSError: it does not take them; nothing is lost."""
        if len(self._rows) < IN_MEMORY:
            return
        if self._file is None:
            self._file = scratch(self._path)
        write_at(self._file, self._rows, self._in_file)
        self._in_file += len(self._rows)
        self._rows.clear()

    def rows(self, bursts: int) -> Iterator[NDArray[np.void]]:
        """Those of the first `bursts` bursts, in parts."""
        end = bursts * ROW.itemsize
        for at in range(0, min(end, self._in_file), _PART):
            yield np.frombuffer(read_at(self._file, min(end, self._in_file, at + _PART) - at, at), ROW)  # type: ignore[arg-type]
        if end > self._in_file:
            yield np.frombuffer(bytes(self._rows[: end - self._in_file]), ROW)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
