"""Synapses as structure of arrays, and batches of them as they travel between parts of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U8, U32, Counts
from gpu_npu.errors import NetworkError, NeuronIndexError
from gpu_npu.objects import OneLine, described

CountType = type[np.uint8] | type[np.uint16]
SYNAPSES_AT_A_TIME = 2**22
"""What travels in one batch where there are many: bounds the memory of whoever reads them."""


@dataclass(frozen=True, eq=False, repr=False)
class SynapseBatch(OneLine):
    """n synapses, all valid, in the order of their age: arrays of shape (n,)."""

    source: U32
    target: U32
    weight: Counts
    psp: Counts
    inhibitory: NDArray[np.bool_]

    def __post_init__(self) -> None:
        lengths = {len(self.source), len(self.target), len(self.weight), len(self.psp), len(self.inhibitory)}
        if len(lengths) > 1:
            raise NetworkError(f"a batch of synapses has arrays of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def empty(cls, weight_dtype: CountType = np.uint8, psp_dtype: CountType = np.uint8) -> SynapseBatch:
        """No synapse."""
        ids = np.zeros(0, np.uint32)
        return cls(ids, ids, np.zeros(0, weight_dtype), np.zeros(0, psp_dtype), np.zeros(0, np.bool_))

    @classmethod
    def concatenate(cls, batches: Iterable[SynapseBatch]) -> SynapseBatch:
        """All batches one after the other; no batch at all gives an empty one of uint8."""
        parts = list(batches)
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([b.source for b in parts]),
            np.concatenate([b.target for b in parts]),
            np.concatenate([b.weight for b in parts]),
            np.concatenate([b.psp for b in parts]),
            np.concatenate([b.inhibitory for b in parts]),
        )


class SynapseSource(ABC, Iterable[SynapseBatch]):
    """Synapses that are read batch by batch, so that nobody needs to hold all of them.

    Iterating gives batches of any size (memory for two of them is needed), oldest synapse first. A source is iterated more
    than once, and is the same each time.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def total(self) -> int:
        """Synapses in all batches together."""

    @property
    @abstractmethod
    def weight_dtype(self) -> CountType:
        """np.uint8 or np.uint16."""

    @property
    @abstractmethod
    def psp_dtype(self) -> CountType:
        """np.uint8 or np.uint16."""

    @abstractmethod
    def __iter__(self) -> Iterator[SynapseBatch]: ...

    def __repr__(self) -> str:
        dtypes = f"{np.dtype(self.weight_dtype)} weights, {np.dtype(self.psp_dtype)} psps"
        return described(self, f"{self.total:,} synapses, {dtypes}")

    def within(self, neurons: int) -> SynapseSource:
        """The same source, seen while it is read to keep its word: ids below `neurons`, dtypes, `total`."""
        return _Checked(self, neurons)


class _Checked(SynapseSource):
    """Raises NetworkError or NeuronIndexError where a source gives what it should not."""

    def __init__(self, source: SynapseSource, neurons: int) -> None:
        self._source, self._neurons = source, neurons

    @property
    def total(self) -> int:
        return self._source.total

    @property
    def weight_dtype(self) -> CountType:
        return self._source.weight_dtype

    @property
    def psp_dtype(self) -> CountType:
        return self._source.psp_dtype

    def __iter__(self) -> Iterator[SynapseBatch]:
        dtypes = {"source": np.uint32, "target": np.uint32, "weight": self.weight_dtype, "psp": self.psp_dtype, "inhibitory": np.bool_}
        count = 0
        for batch in self._source:
            for name, dtype in dtypes.items():
                array = getattr(batch, name)
                if array.dtype != dtype or array.ndim != 1:
                    raise NetworkError(f"{name} of a batch: {array.dtype} of shape {array.shape}, where {np.dtype(dtype)}, flat, is needed")
            for name in ("source", "target"):
                ids = getattr(batch, name)
                if ids.size and int(ids.max()) >= self._neurons:
                    bad = int(np.argmax(ids >= self._neurons))
                    raise NeuronIndexError.outside(f"{name} of synapse {count + bad}", int(ids[bad]), self._neurons)
            count += len(batch)
            if count > self.total:
                break
            yield batch
        if count != self.total:
            more = "more" if count > self.total else f"{count:,}"
            raise NetworkError(f"a source of synapses says that it has {self.total:,} and gives {more}; a source is the same each time")


class SynapseChain(SynapseSource):
    """Several sources of the same dtypes one after the other."""

    def __init__(self, first: SynapseSource, *others: SynapseSource) -> None:
        self.parts = (first, *others)

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts)

    @property
    def weight_dtype(self) -> CountType:
        return self.parts[0].weight_dtype

    @property
    def psp_dtype(self) -> CountType:
        return self.parts[0].psp_dtype

    def __iter__(self) -> Iterator[SynapseBatch]:
        for part in self.parts:
            yield from part


class SynapseArray(SynapseSource):
    """Preallocated slots; slot i was filled before slot i + 1, so the slot number is the age.

    The arrays are views of the `count` slots used so far (shape (count,)); growing the capacity makes new ones. A
    removed synapse keeps its slot, with `valid` False, until the connectome is compacted.
    """

    __slots__ = ("_inhibitory", "_psp", "_source", "_target", "_valid", "_weight", "count", "neuron_capacity")

    def __init__(self, capacity: int, neuron_capacity: int, weight_dtype: CountType, psp_dtype: CountType) -> None:
        self.count = 0
        self.neuron_capacity = neuron_capacity
        self._source: U32 = np.zeros(capacity, np.uint32)
        self._target: U32 = np.zeros(capacity, np.uint32)
        self._weight: Counts = np.zeros(capacity, weight_dtype)
        self._psp: Counts = np.zeros(capacity, psp_dtype)
        self._inhibitory: NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self._valid: NDArray[np.bool_] = np.zeros(capacity, np.bool_)

    @property
    def capacity(self) -> int:
        """Slots reserved."""
        return len(self._source)

    @property
    def valid_count(self) -> int:
        """Synapses that are not removed."""
        return int(np.count_nonzero(self.valid))

    @property
    def total(self) -> int:
        return self.valid_count

    @property
    def weight_dtype(self) -> CountType:
        return self._weight.dtype.type

    @property
    def psp_dtype(self) -> CountType:
        return self._psp.dtype.type

    def __iter__(self) -> Iterator[SynapseBatch]:
        """The valid synapses, oldest first; views where none of a batch is removed."""
        for start in range(0, self.count, SYNAPSES_AT_A_TIME):
            used = slice(start, min(start + SYNAPSES_AT_A_TIME, self.count))
            keep: slice | NDArray[np.bool_] = slice(None) if self._valid[used].all() else self._valid[used]
            weight, psp, inhibitory = self._weight[used][keep], self._psp[used][keep], self._inhibitory[used][keep]
            yield SynapseBatch(self._source[used][keep], self._target[used][keep], weight, psp, inhibitory)

    @property
    def source(self) -> U32:
        """uint32 id of the neuron that the synapse leaves."""
        return self._source[: self.count]

    @property
    def target(self) -> U32:
        """uint32 id of the neuron that it ends in."""
        return self._target[: self.count]

    @property
    def weight(self) -> Counts:
        """uint8 or uint16."""
        return self._weight[: self.count]

    @property
    def psp(self) -> Counts:
        """Postsynaptic potential, uint8 or uint16; what is delivered is weight * psp."""
        return self._psp[: self.count]

    @property
    def inhibitory(self) -> NDArray[np.bool_]:
        """The sign of what is delivered."""
        return self._inhibitory[: self.count]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """False: removed."""
        return self._valid[: self.count]

    source_neurons = source
    target_neurons = target
    weights = weight
    conductances = psp
    valid_mask = valid

    @property
    def types(self) -> U8:
        """uint8, 0 excitatory, 1 inhibitory: the same memory as `inhibitory`."""
        return self.inhibitory.view(np.uint8)

    @property
    def source_index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(indptr, order): the valid slots leaving neuron i are order[indptr[i]:indptr[i + 1]], oldest first.

        indptr has shape (neuron_capacity + 1,), order (valid_count,). Made anew at each look.
        """
        slots = np.flatnonzero(self.valid)
        source = self._source[slots]
        indptr = np.zeros(self.neuron_capacity + 1, np.int64)
        np.cumsum(np.bincount(source, minlength=self.neuron_capacity), out=indptr[1:])
        return indptr, slots[np.argsort(source, kind="stable")]

    def batch(self) -> SynapseBatch:
        """The valid synapses, oldest first, copied."""
        keep = self.valid
        return SynapseBatch(self.source[keep], self.target[keep], self.weight[keep], self.psp[keep], self.inhibitory[keep])

    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """source, target, weight, psp, inhibitory, valid at their full capacity."""
        return (self._source, self._target, self._weight, self._psp, self._inhibitory, self._valid)

    def append(self, batch: SynapseBatch) -> None:
        """Fill the next slots; the caller has checked that there are enough."""
        end = self.count + len(batch)
        used = slice(self.count, end)
        self._source[used] = batch.source
        self._target[used] = batch.target
        self._weight[used] = batch.weight
        self._psp[used] = batch.psp
        self._inhibitory[used] = batch.inhibitory
        self._valid[used] = True
        self.count = end

    def append_one(self, source: int, target: int, weight: int, psp: int, inhibitory: bool) -> None:
        """Fill the next slot; the caller has checked everything."""
        slot = self.count
        self._source[slot] = source
        self._target[slot] = target
        self._weight[slot] = weight
        self._psp[slot] = psp
        self._inhibitory[slot] = inhibitory
        self._valid[slot] = True
        self.count = slot + 1

    def with_capacity(self, capacity: int, neuron_capacity: int) -> SynapseArray:
        """A copy with other capacities (at least as many slots as are used)."""
        new = SynapseArray(capacity, neuron_capacity, self._weight.dtype.type, self._psp.dtype.type)
        for ours, theirs in zip(self.arrays(), new.arrays(), strict=True):
            theirs[: self.count] = ours[: self.count]
        new.count = self.count
        return new
