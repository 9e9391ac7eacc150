"""What a launch leaves for the host: for each burst a record, for all of them the fired ids."""

from __future__ import annotations

import numpy as np

from gpu_npu.arrays import U32
from gpu_npu.backends.base import Chunk
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.layout import RECORD, RING_HEADER
from gpu_npu.connectome.fields import COUNTERS

BURSTS = 4096
LEAST_IDS, MOST_IDS = 2**18, 2**22


def ring_of(neurons: int) -> tuple[int, int]:
    """Bursts, and fired ids, that a launch may compute before the host looks at them: ids of four bursts in which all fire, or of
    more. 1.3 to 17 MB of host memory, twice."""
    return BURSTS, min(max(4 * neurons, LEAST_IDS), MOST_IDS)


class Ring:
    """Memory that kernels write and the host reads, for `bursts` records and `ids` fired ids; and the launches that fill it.

    last, read, nanoseconds : numbers that these launches take, of shape (1,).
    """

    def __init__(self, context: Context, bursts: int, ids: int) -> None:
        self.bursts, self.ids = bursts, ids
        self._first_id = RING_HEADER + bursts * RECORD
        array, self._host = context.device.mapped(self._first_id + ids, np.uint32)
        room = {"memory": array, "ring_bursts": bursts, "ring_ids": ids}
        self.last, self.read, self.nanoseconds = np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.zeros(1, np.uint64)
        numbers = {"last": self.last, "read": self.read, "nanoseconds": self.nanoseconds}
        self.run = {
            (plain, alone): context.prepared("run_bursts" if plain else "run_learning_bursts", **numbers, **room, single=alone)
            for plain in (False, True)
            for alone in (False, True)
        }
        """By whether there are neither rules nor delays above 1, and whether one block does it alone."""
        self.archive = context.prepared("archive_fired", **room)
        self.finish = context.prepared("finish_burst", **room, single=True)

    def one(self) -> tuple[int, U32 | None, list[int]]:
        """How many fired in the one burst of the launch, who (None: they did not fit), and the counters and the clock."""
        record = self._host[RING_HEADER : RING_HEADER + RECORD]
        count = int(record[0])
        fired = None if self._host[2] else self._host[self._first_id : self._first_id + count].copy()
        return count, fired, record[2 : 4 + 2 * len(COUNTERS)].view(np.uint64).tolist()

    def chunk(self, first: int) -> tuple[Chunk, bool]:
        """All bursts of the launch, the first of them being `first`; and whether the ids of the last did not fit."""
        bursts, ids, unread = self._host[:3].tolist()
        records = self._host[RING_HEADER : RING_HEADER + bursts * RECORD].reshape(bursts, RECORD)
        begin = np.zeros(bursts + 1, np.int64)
        np.cumsum(records[:, 0], out=begin[1:])
        if unread:
            begin[-1] = ids
        numbers = records[:, 2 : 4 + 2 * len(COUNTERS)].copy().view(np.uint64)
        fired = self._host[self._first_id : self._first_id + ids].copy()
        return Chunk(first, begin, fired, numbers[:, : len(COUNTERS)], numbers[:, len(COUNTERS)].astype(np.int64)), bool(unread)
