"""Recordings as .npz files, written as bursts go by.

The arrays of the file: `fired` (uint32: the ids of all bursts one after the other), `offset` (int64: burst
first_burst + i is fired[offset[i]:offset[i + 1]]), `counters` (int64, a column for each of COUNTERS), `first_burst` and
`digest` (SHA-256 of the run, see `Digest`); labels and columns of the neurons, where they have some (`io/annotations.py`).
`fired` comes first, so that ids are written once, where they stay.
"""

from __future__ import annotations

import functools
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from types import TracebackType
from typing import IO, Any, NamedTuple, TypeVar, cast

import numpy as np

from gpu_npu.checks import check_kind, check_path
from gpu_npu.connectome import COUNTERS, Annotations
from gpu_npu.errors import NetworkError
from gpu_npu.io.annotations import annotation_arrays, annotation_values, read_annotations
from gpu_npu.io.archive import Archive
from gpu_npu.io.atomic import Unfinished
from gpu_npu.io.disk import NO_ROOM, claim, read_at, write_at
from gpu_npu.npu.results import BurstResult, Digest
from gpu_npu.objects import Unique, described

from .base import Recording
from .counts import ROW, Counts

M = TypeVar("M", bound=Callable[..., Any])
BUFFER = 2**20
"""Bytes of fired ids that are gathered before they are written."""
_HEADER = 128
"""Bytes in front of the ids: a .npy header, padded, so that it can be written again when their number is known."""
_FIRED = "fired.npy"
_IDS_AT = 30 + len(_FIRED) + 20 + _HEADER
"""Where the ids begin: behind the zip's header of the member, its name, its sizes in 64 bits, and the .npy header."""
_TAIL = 4096
"""Bytes of what follows the ids, beside a row for each burst."""


def _locked(method: M) -> M:
    """A method of a Recorder during which other threads wait."""

    @functools.wraps(method)
    def call(self: Recorder, /, *args: Any) -> Any:
        with self._lock:
            return method(self, *args)

    return cast(M, call)


class _Content(NamedTuple):
    """What a finished file says of its first bursts."""

    bursts: int
    fired: int
    crc: int
    """Of the header of no ids, and the ids."""
    digest: str


class Recorder(Unique):
    """Writes the fired ids and counters of every burst to a file; pass it to `NPU.run` as the callback, or call it.

    The file appears at `path` when the recorder is closed, with all bursts recorded so far. Leaving a `with` block by an
    error closes it too, unless nothing was recorded yet: then what stood at `path` stays. Bursts must follow one another.
    Memory: about BUFFER bytes and `counts.IN_MEMORY`; nothing is written anywhere but in the folder of the record.

    OSError where the path cannot be written, at once (see `gpu_npu.io.atomic.Unfinished`); or where the disk is full: room is
    taken before a burst counts as recorded, so the file still gets every burst before the one that did not fit. On a file
    system that gives less room than it said, `close` writes as many bursts as there is room for, and says how many.
    """

    def __init__(self, path: str | os.PathLike[str], annotations: Annotations | None = None) -> None:
        """annotations: of the neurons, which go into the file too."""
        self.path, self._lock = check_path(path), RLock()
        known = Annotations() if annotations is None else check_kind(annotations, Annotations, "annotations")
        self._about: dict[str, Any] = {**annotation_values(known), **annotation_arrays(known)}
        self._tail = _TAIL + sum(np.asarray(value).nbytes + 2**9 for value in self._about.values())
        self._unfinished = Unfinished(self.path)
        self._file = io.FileIO(self._unfinished.file.fileno(), "r+", closefd=False)
        self._claimed, self._ahead = 0, BUFFER
        """Bytes that the file has on the disk, and how many more than needed are claimed at a time."""
        self._counts = Counts(self.path)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._crc = zlib.crc32(_npy_header(0))
        """Of what is on the disk: the header of no ids, and the ids."""
        self._bursts_written = self._ids_written = 0
        self._digest = Digest()
        self._first = 0
        self.bursts = self.fired_total = 0
        self._closed = self._full = False

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ", full" if self._full else ""
        return described(self, f"{self.bursts:,} bursts, {self.fired_total:,} fired ids for {str(self.path)!r}{state}")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not self.bursts:
            self.discard()
        self.close()

    @_locked
    def discard(self) -> None:
        """Close without a file; what stood at the path stays."""
        self._closed = True
        self._counts.close()
        self._unfinished.discard()

    @_locked
    def __call__(self, result: BurstResult) -> None:
        """Record one burst."""
        if self._closed or self._full:
            raise NetworkError(f"the recorder of {self.path} is {'closed' if self._closed else 'full'}; make a new one")
        if self.bursts == 0:
            self._first = result.burst
        elif result.burst != self._first + self.bursts:
            raise NetworkError(f"burst {result.burst} does not follow burst {self._first + self.bursts - 1} in {self.path}")
        ids = np.ascontiguousarray(result.fired_neurons, "<u4").tobytes()
        try:
            self._make_room(len(ids))
        except OSError as error:
            self._full = True
            raise self._told(error, f"{self.bursts:,}") from error
        self._counts.append(result)
        self._waiting.append(ids)
        self._waiting_bytes += len(ids)
        self._digest.update(result.burst, result.fired_neurons)
        self.bursts += 1
        self.fired_total += len(result.fired_neurons)

    def _make_room(self, more: int) -> None:
        """Take what one burst with so many bytes of ids needs, on the disk too, before it counts as recorded."""
        if self._waiting_bytes >= BUFFER:
            self._flush(self.bursts)
        self._counts.make_room()
        end = _IDS_AT + 4 * self.fired_total + more + (self.bursts + 1) * ROW.itemsize + self._tail
        if end <= self._claimed:
            return
        try:
            claim(self._file, self._claimed, end + self._ahead)
        except OSError as error:
            if not self._ahead or error.errno not in NO_ROOM:
                raise
            self._ahead = 0  # from here on burst by burst
            claim(self._file, self._claimed, end)
        self._claimed = end + self._ahead

    def _flush(self, bursts: int) -> None:
        """Write the ids of the bursts up to this one that are not on the disk yet."""
        count = max(bursts - self._bursts_written, 0)
        ids = b"".join(self._waiting[:count])
        write_at(self._file, ids, _IDS_AT + 4 * self._ids_written)
        self._crc = zlib.crc32(ids, self._crc)
        self._bursts_written += count
        self._ids_written += len(ids) // 4
        self._waiting_bytes -= len(ids)
        del self._waiting[:count]

    @_locked
    def hexdigest(self) -> str:
        """The digest of what was recorded so far."""
        return self._digest.hexdigest()

    @_locked
    def close(self) -> None:
        """Finish the file and let it appear. Closing twice is no error."""
        if self._closed:
            return
        self._closed = True
        try:
            kept = self._finish()
            self._unfinished.finish()
        finally:
            self.discard()
        if kept is not None:
            raise kept

    def _finish(self) -> OSError | None:
        """Write the file around the ids. Where there is no room for that, although it was taken: of fewer bursts; returns the
        error that says so."""
        kept, problem = self.bursts, None
        while True:
            try:
                self._flush(kept)
                self._write(self._content_of(kept))
            except OSError as error:
                problem, kept = error, kept * 7 // 8
                if not kept or error.errno not in NO_ROOM:
                    raise self._told(error, "no") from error
            else:
                return None if problem is None else self._told(problem, f"{kept:,} of {self.bursts:,}")

    def _told(self, error: OSError, bursts: str) -> OSError:
        return OSError(error.errno, f"{error.strerror}; {bursts} bursts are recorded", str(self.path))

    def _content_of(self, bursts: int) -> _Content:
        """Of the first bursts, all of whose ids are on the disk."""
        if bursts == self.bursts:
            return _Content(bursts, self.fired_total, self._crc, self.hexdigest())
        fired, crc, digest, burst = 0, zlib.crc32(_npy_header(0)), Digest(), self._first
        for rows in self._counts.rows(bursts):
            for count in rows["count"].tolist():
                ids = read_at(self._file, 4 * count, _IDS_AT + 4 * fired)
                crc = zlib.crc32(ids, crc)
                digest.update(burst, np.frombuffer(ids, "<u4"))
                burst, fired = burst + 1, fired + count
        return _Content(bursts, fired, crc, digest.hexdigest())

    def _write(self, content: _Content) -> None:
        """The file around the ids: the zip's headers, and the other arrays behind them."""
        bursts, fired, crc, digest = content
        header, tail = _npy_header(fired), 4 * fired
        ids = zipfile.ZipInfo(_FIRED)
        ids.header_offset, ids.external_attr = 0, 0o600 << 16
        ids.file_size = ids.compress_size = _HEADER + tail
        # The header says their number now, and the CRC changes with it: CRCs are linear in the bytes.
        ids.CRC = crc ^ _crc(header, tail) ^ _crc(_npy_header(0), tail)
        with io.BufferedRandom(io.FileIO(self._file.fileno(), "r+", closefd=False)) as file:
            file.seek(0)
            file.write(ids.FileHeader(zip64=True) + header)
            file.seek(_IDS_AT + tail)
            with zipfile.ZipFile(file, "w") as archive:
                archive.filelist.append(ids)
                archive.NameToInfo[ids.filename] = ids
                with _member(archive, "offset", (bursts + 1,)) as member:
                    offset = np.int64(0)
                    member.write(offset.tobytes())
                    for rows in self._counts.rows(bursts):
                        ends = offset + np.cumsum(rows["count"])
                        member.write(ends.astype("<i8").tobytes())
                        offset = ends[-1]
                with _member(archive, "counters", (bursts, len(COUNTERS))) as member:
                    for rows in self._counts.rows(bursts):
                        member.write(rows["counters"].tobytes())
                for name, value in {"first_burst": self._first, "digest": digest, **self._about}.items():
                    with archive.open(f"{name}.npy", "w") as member:
                        np.lib.format.write_array(member, np.asarray(value))
            file.truncate()


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """An array of int64 in an archive, to be written piece by piece."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<i8", "fortran_order": False, "shape": shape})
        yield member


def _npy_header(count: int) -> bytes:
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": "<u4", "fortran_order": False, "shape": (count,)})
    header = text.getvalue()
    return header[:-1].ljust(_HEADER - 1) + header[-1:]


def _crc(header: bytes, zeros: int) -> int:
    """CRC-32 of these bytes and so many zeros after them."""
    crc, block = zlib.crc32(header), bytes(min(zeros, BUFFER))
    while zeros:
        crc = zlib.crc32(block[:zeros] if zeros < len(block) else block, crc)
        zeros -= min(zeros, len(block))
    return crc


def load_recording(path: str | os.PathLike[str]) -> Recording:
    """Read what a Recorder wrote. FileFormatError: damaged, or another file. OSError: not readable."""
    with Archive(check_path(path)) as archive:
        offset, fired = archive.array("offset", dtype=np.int64), archive.array("fired", dtype=np.uint32)
        if not len(offset) or offset[0] != 0 or offset[-1] != len(fired) or bool((offset[1:] < offset[:-1]).any()):
            raise archive.error(f"'offset' does not cut the {len(fired):,} ids of 'fired' into bursts")
        counters = archive.array("counters", (len(offset) - 1, len(COUNTERS)), np.int64)
        annotations = read_annotations(archive)
        return Recording(archive.integer("first_burst"), offset, fired, counters, archive.text("digest"), annotations)
