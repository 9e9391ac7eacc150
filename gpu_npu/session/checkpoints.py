"""Checkpoints of a run, written every so many bursts, and its record in parts, which go with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from gpu_npu import NPU, Annotations, BurstResult, CheckpointError, Digest, Snapshot
from gpu_npu.io.atomic import UNFINISHED, Unfinished
from gpu_npu.objects import Unique, described
from gpu_npu.recordings import Recorder

NOTE = "run"
"""The name under which a run is noted in its checkpoints."""
NOTED: dict[str, type | tuple[type, ...]] = {
    "network": str,
    "asked": int,
    "bursts": int,
    "fired": int,
    "columns": list,
    "column_bursts": int,
    "counters": dict,
    "digest": str,
    "stimuli": list,
    "every": int,
    "record": (str, type(None)),
}
"""What is noted of it."""
MOST_TOLD = 80
"""Characters of other notes."""


class Checkpoints(Unique):
    """Written to one file on a thread of its own while bursts go on, one at a time.

    What cannot be written is told; the file then stays as it was, and the run goes on.
    """

    def __init__(self, path: Path, every: int, tell: Callable[[OSError], object]) -> None:
        """tell: called with the reason, once for each reason."""
        self.path, self.every, self._tell = path, every, tell
        self.error: OSError | None = None
        """Why the last one could not be written."""
        self._thread = ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def __repr__(self) -> str:
        return described(self, f"{self.path}, every {self.every:,} bursts")

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wait()
        self._thread.shutdown()

    def take(self, npu: NPU, run: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Begin to write the run as it stands, once the one before it is written."""
        self.wait()
        self._under_way = self._thread.submit(npu.snapshot({NOTE: run}, arrays).write, self.path)

    def wait(self) -> None:
        """Until the last one is on the disk, or has failed."""
        if self._under_way is None:
            return
        before, self.error = self.error, None
        try:
            self._under_way.result()
        except OSError as error:
            self.error = error
            if before is None or str(error) != str(before):
                self._tell(error)
        self._under_way = None


def noted(path: Path, snapshot: Snapshot) -> dict[str, Any]:
    """What the run noted, of which this is a checkpoint; nothing where something else wrote it. CheckpointError: other notes
    under its name."""
    if NOTE not in snapshot.notes:
        return {}
    run = snapshot.notes[NOTE]
    if not _is_of_a_run(run):
        raise CheckpointError(f"{path}: its notes are not those of a run: {json.dumps(run)[:MOST_TOLD]}")
    return dict(run)


def _is_of_a_run(note: Any) -> bool:
    if not isinstance(note, dict) or not all(isinstance(note.get(name, ...), kind) for name, kind in NOTED.items()):
        return False
    numbers = [note["bursts"], note["fired"], *note["columns"], *note["counters"].values()]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        return False
    if note["column_bursts"] < 1 or len(note["columns"]) != -(-note["bursts"] // note["column_bursts"]):
        return False
    if note["every"] < 1 or note["asked"] < max(1, note["bursts"]):
        return False
    try:
        Digest(state=bytes.fromhex(note["digest"]))
    except ValueError:
        return False
    return True


def files_of_parts(record: Path, first: int) -> list[Path]:
    """The files that a record in parts writes or removes, when `first` is the next burst."""
    return sorted({_part(record, first), *_parts(record, first)})


def _part(record: Path, first: int) -> Path:
    """The part of a record that begins with this burst."""
    return record.with_name(f"{record.stem}.{first:012d}{record.suffix}")


def _parts(record: Path, first: int, names: Iterable[str] | None = None) -> list[Path]:
    """Those of the files in its folder (or of these names) that are parts of a record and begin with burst `first` or later."""
    if names is None:
        names = os.listdir(record.parent) if record.parent.is_dir() else []
    pattern = re.compile(rf"{re.escape(record.stem)}\.([0-9]{{12}}|[1-9][0-9]{{12,}}){re.escape(record.suffix)}")
    found = (pattern.fullmatch(name) for name in names)
    return [record.with_name(match[0]) for match in found if match and int(match[1]) >= first]


class Parts(Unique):
    """A record in parts: one for each stretch between two checkpoints, complete before its checkpoint is written.

    `fired.npz` becomes `fired.000000000001.npz`, `fired.000000001001.npz`, ... by the first burst of each. Parts of these
    names that begin with burst `first` or later are of another run, or will be recorded again: they are removed once that
    burst is recorded.
    """

    def __init__(self, path: Path, first: int, annotations: Annotations) -> None:
        self.path, self._annotations = path, annotations
        self._begin(first)
        self._alone = False
        """Whether nothing of an earlier process is left from `first` on."""

    def __repr__(self) -> str:
        return described(self, self.pattern)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pattern(self) -> str:
        """What the names of the parts are like."""
        return str(self.path.with_name(f"{self.path.stem}.*{self.path.suffix}"))

    def _begin(self, first: int) -> None:
        self._first = first
        self._recorder = Recorder(_part(self.path, first), self._annotations)

    def __call__(self, result: BurstResult) -> None:
        """Record one burst."""
        if not self._alone:
            self._remove_others()
            self._alone = True
        self._recorder(result)

    def _remove_others(self) -> None:
        """Parts of earlier processes, and what killed ones left of them. OSError: one of them is being written."""
        hidden = [name[1:] for name in os.listdir(self.path.parent) if name.startswith(".") and name.endswith(UNFINISHED)]
        names = [name.removesuffix(UNFINISHED) for name in hidden]
        for part in {*_parts(self.path, self._first, names)} - {_part(self.path, self._first)}:  # that one is ours
            Unfinished(part).discard()
        for part in _parts(self.path, self._first):
            part.unlink()

    def cut(self) -> None:
        """End a part; the next burst begins another."""
        if self._recorder.bursts:
            self._recorder.close()
            self._begin(self._first + self._recorder.bursts)

    def close(self) -> None:
        """End the last part."""
        if not self._recorder.bursts:
            self._recorder.discard()
        self._recorder.close()
