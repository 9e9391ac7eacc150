"""What reading a file may cost in memory, known before it is spent: one rule for every reader.

A file says in a few bytes how large the things are that it holds. So a reader asks its `Budget` before it makes anything
whose size the file decides:

    budget = Budget.of(path, memory_limit)
    budget.take(array_bytes, f"array 'indptr' of {n:,} values")     # also what a compressed file unpacks to
    budget.take_json(len(text), "the genome")                       # objects of Python are larger than their text
    budget.take_network(neurons, synapses)                          # once their numbers are known, before they are made

A file of F bytes may cost SMALL + F * GROWTH bytes without being asked for more, and never more than SHARE of the memory that
is free. So a small file cannot take the machine, while every file that is not packed unusually well is read. A caller's
`memory_limit` takes the place of both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from gpu_npu.checks import check_integer
from gpu_npu.errors import BackendUnavailableError, CapacityError
from gpu_npu.limits import host_memory
from gpu_npu.objects import described

SMALL = 2**30
"""Bytes of memory that any file may cost."""
GROWTH = 64
"""Bytes of memory for each byte of the file: JSON takes up to JSON_BYTES, a synapse of three bytes in CSR SYNAPSE_BYTES."""
SHARE = 0.75
"""Of the free memory, for one file."""
NEURON_BYTES, SYNAPSE_BYTES = 200, 64
"""Memory for each of them in a network that is read, looked at and loaded."""
JSON_BYTES = 30
"""Memory for each character of JSON, at most: an empty list in a list is three characters and 64 bytes."""

PIECE = 2**20
"""Bytes."""


class Budget:
    """The memory that one file may cost, and what of it is taken."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.limit, self.taken = path, limit, 0

    def __repr__(self) -> str:
        return described(self, f"{gib(self.taken)} of {gib(self.limit)} for {self.path}")

    @classmethod
    def of(cls, path: Path, memory_limit: int | None = None) -> Budget:
        """memory_limit: bytes; None: by the size of the file and the free memory. NetworkError: no such number. OSError."""
        return cls(path, allowance(path.stat().st_size) if memory_limit is None else check_integer(memory_limit, "memory_limit"))

    def take(self, nbytes: int, what: str) -> None:
        """Count these bytes, which are about to be held. CapacityError, with nothing counted: they are more than is left."""
        if self.taken + nbytes > self.limit:
            held = f", beside {gib(self.taken)} before it" if self.taken else ""
            raise CapacityError(
                f"{self.path}: {what} takes about {gib(nbytes)} of memory{held}; this file may take {gib(self.limit)}",
                python=f"memory_limit={self.taken + nbytes} allows it",
            )
        self.taken += nbytes

    def take_json(self, characters: int, what: str) -> None:
        """The same of a text that is about to be parsed as JSON."""
        self.take(characters * JSON_BYTES, f"{what}, {characters:,} characters of JSON,")

    def take_network(self, neurons: int, synapses: int) -> None:
        """The same of a network that is about to be made."""
        self.take(neurons * NEURON_BYTES + synapses * SYNAPSE_BYTES, f"a network of {neurons:,} neurons and {synapses:,} synapses")

    def read(self, file: BinaryIO, what: str) -> bytes:
        """The rest of a file, which may be a pipe or a device without end."""
        parts, want = [], os.fstat(file.fileno()).st_size + 1
        while part := file.read(min(want, self.limit - self.taken + 1)):
            self.take(len(part), what)
            parts.append(part)
            want = PIECE
        return b"".join(parts)


def allowance(size: int) -> int:
    """Bytes of memory that a file of this size may cost where nobody says."""
    try:
        free = host_memory()[0]
    except BackendUnavailableError:  # a system that does not tell
        return SMALL + size * GROWTH
    return min(SMALL + size * GROWTH, int(free * SHARE))


def gib(size: int) -> str:
    """A number of bytes for a message."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**29 else f"{size:,} bytes"
