"""Recording what fires, in bounded memory: a .npz file that is written as bursts go by and appears whole.

    with Recorder("fired.npz") as recorder:
        npu.run(100_000, recorder)
    print(load_recording("fired.npz").fired_in(17))

The arrays of the file: `fired` (uint32: the ids of all bursts one after the other), `offset` (int64: burst
first_burst + i is fired[offset[i]:offset[i + 1]]), `counters` (int64, a column for each of COUNTERS), `first_burst` and
`digest` (SHA-256 of the run, see `Digest`).
"""

from __future__ import annotations

import errno
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.errors import NetworkError
from gpu_npu.fire import BurstResult, Digest
from gpu_npu.io.archive import Archive
from gpu_npu.io.atomic import Unfinished
from gpu_npu.objects import OneLine, Unique, described

COUNTERS = ("sensory_injections", "power_injections", "synaptic_injections", "neurons_processed", "neurons_in_refractory")
BUFFER = 2**20
"""Bytes of fired ids that are gathered before they are written."""
COUNTS_IN_MEMORY = 2**23
"""Bytes of counts and counters of bursts that are kept in memory; beyond that in a temporary file."""
_HEADER = 128
"""Bytes in front of the ids: a .npy header, padded, so that it can be written again when their number is known."""
_CRC_AT = 14
"""Where the CRC stands in the local header of a member of a zip file."""
_BURST = np.dtype([("count", "<i8"), ("counters", "<i8", len(COUNTERS))])
_BURST_FORMAT = f"<{1 + len(COUNTERS)}q"


class Recorder(Unique):
    """Writes the fired ids and counters of every burst to a file; pass it to `NPU.run` as the callback, or call it.

    The file appears at `path` when the recorder is closed, with all bursts recorded so far. Leaving a `with` block by an
    error closes it too, unless nothing was recorded yet: then what stood at `path` stays. Bursts must follow one another.
    Memory: about BUFFER + COUNTS_IN_MEMORY bytes.

    OSError where the path cannot be written, at once; or where the disk is full, in which case the file still gets
    every burst before the one that did not fit. What a process that was killed left of it is taken over (see
    `gpu_npu.io.atomic.Unfinished`); what another one is writing at this moment is an OSError too.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._unfinished = Unfinished(self.path)
        self._file = self._unfinished.file
        self._bursts = tempfile.SpooledTemporaryFile(max_size=COUNTS_IN_MEMORY)  # noqa: SIM115
        self._zip = zipfile.ZipFile(self._file, "w")
        self._member = zipfile.ZipInfo("fired.npy")
        self._fired = self._zip.open(self._member, "w", force_zip64=True)
        self._fired.write(_npy_header(0))
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
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

    def discard(self) -> None:
        """Close without a file; what stood at the path stays."""
        if not self._closed:
            self._closed = True
            self._let_go()

    def __call__(self, result: BurstResult) -> None:
        """Record one burst."""
        if self._closed or self._full:
            raise NetworkError(f"the recorder of {self.path} is {'closed' if self._closed else 'full'}; make a new one")
        if self.bursts == 0:
            self._first = result.burst
        elif result.burst != self._first + self.bursts:
            raise NetworkError(f"burst {result.burst} does not follow burst {self._first + self.bursts - 1} in {self.path}")
        ids = np.ascontiguousarray(result.fired_neurons, "<u4").tobytes()
        self._room(len(ids))
        self._bursts.write(struct.pack(_BURST_FORMAT, len(result.fired_neurons), *(getattr(result, name) for name in COUNTERS)))
        self._waiting.append(ids)
        self._waiting_bytes += len(ids)
        self._digest.update(result.burst, result.fired_neurons)
        self.bursts += 1
        self.fired_total += len(result.fired_neurons)
        if self._waiting_bytes >= BUFFER:
            self._flush()

    def _room(self, more: int) -> None:
        """Claim disk space for the ids and for all that follows them, before the burst counts as recorded."""
        end = _HEADER + 4 * self.fired_total + more + (self.bursts + 1) * (8 + _BURST.itemsize) + 4096
        claimed = os.fstat(self._file.fileno()).st_size
        if end <= claimed:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, end + BUFFER)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that claims nothing ahead
                return
            self._full = True
            raise OSError(error.errno, f"{os.strerror(error.errno or 0)}; {self.bursts:,} bursts are recorded", str(self.path)) from error

    def _flush(self) -> None:
        self._fired.write(b"".join(self._waiting))
        self._waiting.clear()
        self._waiting_bytes = 0

    def hexdigest(self) -> str:
        """The digest of what was recorded so far."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Finish the file and let it appear. Closing twice is no error."""
        if self._closed:
            return
        self._closed = True
        try:
            self._finish()
            self._unfinished.finish()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._zip.fp = None  # it writes no more
        self._bursts.close()
        self._unfinished.discard()

    def _finish(self) -> None:
        self._flush()
        self._fired.close()
        # The header of `fired` says their number now, and its CRC changes with it: CRCs are linear in the bytes.
        header, tail = _npy_header(self.fired_total), 4 * self.fired_total
        self._member.CRC ^= _crc(header, tail) ^ _crc(_npy_header(0), tail)
        end = self._file.tell()
        data_at = end - tail - _HEADER
        self._file.seek(data_at)
        self._file.write(header)
        self._file.seek(self._member.header_offset + _CRC_AT)
        self._file.write(struct.pack("<L", self._member.CRC))
        self._file.seek(end)
        offset = np.int64(0)
        with self._stream("offset", (self.bursts + 1,)) as member:
            member.write(offset.tobytes())
            for rows in self._rows():
                ends = offset + np.cumsum(rows["count"])
                member.write(ends.astype("<i8").tobytes())
                offset = ends[-1]
        with self._stream("counters", (self.bursts, len(COUNTERS))) as member:
            for rows in self._rows():
                member.write(rows["counters"].tobytes())
        for name, value in (("first_burst", np.array(self._first)), ("digest", np.array(self.hexdigest()))):
            with self._zip.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, value)
        self._zip.close()
        self._file.truncate()

    def _stream(self, name: str, shape: tuple[int, ...]) -> Any:
        member = self._zip.open(f"{name}.npy", "w", force_zip64=True)
        np.lib.format.write_array_header_1_0(member, {"descr": "<i8", "fortran_order": False, "shape": shape})
        return member

    def _rows(self) -> Iterator[NDArray[np.void]]:
        """What was noted of the bursts, in parts."""
        self._bursts.seek(0)
        while data := self._bursts.read(_BURST.itemsize * 2**14):
            yield np.frombuffer(data, _BURST)


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


@dataclass(frozen=True, repr=False)
class Recording(OneLine):
    """What a Recorder wrote, in memory.

    Attributes
    ----------
    first_burst : number of the first burst (0 where there is none).
    offset : int64 (bursts + 1,); fired : uint32; burst first_burst + i is fired[offset[i]:offset[i + 1]].
    counters : int64 (bursts, 5), a column for each of COUNTERS.
    digest : SHA-256 (hex), as of `NPU.run`.
    """

    first_burst: int
    offset: NDArray[np.int64]
    fired: NDArray[np.uint32]
    counters: NDArray[np.int64]
    digest: str

    @property
    def bursts(self) -> int:
        """How many bursts were recorded."""
        return len(self.offset) - 1

    def fired_in(self, burst: int) -> NDArray[np.uint32]:
        """Fired ids of a burst; NetworkError where it was not recorded."""
        i = burst - self.first_burst
        if not 0 <= i < self.bursts:
            raise NetworkError(f"burst {burst} was not recorded: there are {self.bursts:,} from burst {self.first_burst} on")
        return self.fired[self.offset[i] : self.offset[i + 1]]


def load_recording(path: str | os.PathLike[str]) -> Recording:
    """Read what a Recorder wrote. FileFormatError: damaged, or another file. OSError: not readable."""
    with Archive(Path(path)) as archive:
        offset, fired = archive.array("offset", dtype=np.int64), archive.array("fired", dtype=np.uint32)
        if not len(offset) or offset[0] != 0 or offset[-1] != len(fired) or bool((offset[1:] < offset[:-1]).any()):
            raise archive.error(f"'offset' does not cut the {len(fired):,} ids of 'fired' into bursts")
        counters = archive.array("counters", (len(offset) - 1, len(COUNTERS)), np.int64)
        return Recording(archive.integer("first_burst"), offset, fired, counters, archive.text("digest"))
