"""Synapses as structure of arrays, and batches of them as they travel between parts of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import I64, U8, U32, Counts, Flags, Indices, is_spread, spread
from gpu_npu.errors import CapacityError, NetworkError, NeuronIndexError
from gpu_npu.objects import OneLine, described

from .fields import LONGEST_DELAY, SYNAPSE_FIELDS, CountType, DelayType, synapse_dtypes

_SEED_NAMES = {field.seed_name: name for name, field in SYNAPSE_FIELDS.items()} | {"valid_mask": "valid"}
SYNAPSES_AT_A_TIME = 2**22
"""What travels in one batch where there are many: bounds the memory of whoever reads them."""
NO_DELAYS = LONGEST_DELAY, 1
"""(shortest, longest) of no synapse: minimum and maximum with others give those of the others."""


@dataclass(frozen=True, eq=False, repr=False)
class SynapseBatch(OneLine):
    """n synapses, all valid, in the order of their age: an array of shape (n,) for each of SYNAPSE_FIELDS."""

    source: U32
    target: U32
    weight: Counts
    psp: Counts
    inhibitory: Flags
    delay: Counts
    """Often one value in the memory of one item (`gpu_npu.arrays.spread`), read-only."""

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns()}
        if len(lengths) > 1:
            raise NetworkError(f"a batch of synapses has arrays of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.source)

    def columns(self) -> tuple[NDArray[Any], ...]:
        """Its arrays in the order of SYNAPSE_FIELDS."""
        return tuple(getattr(self, name) for name in SYNAPSE_FIELDS)

    def take(self, chosen: slice | Flags | Indices) -> SynapseBatch:
        """Some of the synapses: a slice (views), a mask, or indices in the order wanted (copies)."""
        return SynapseBatch(*(column[chosen] for column in self.columns()))

    @classmethod
    def of(cls, **columns: NDArray[Any]) -> SynapseBatch:
        """A batch of these arrays; fields that have a default may be left out."""
        n = len(columns["source"])
        for name, field in SYNAPSE_FIELDS.items():
            if name not in columns and field.default is not None:
                columns[name] = spread(field.default, n, field.dtype or np.uint8)
        return cls(**columns)

    @classmethod
    def empty(
        cls, weight_dtype: CountType = np.uint8, psp_dtype: CountType = np.uint8, delay_dtype: DelayType = np.uint8
    ) -> SynapseBatch:
        """No synapse."""
        return cls(*(np.zeros(0, dtype) for dtype in synapse_dtypes(weight_dtype, psp_dtype, delay_dtype).values()))

    @classmethod
    def concatenate(cls, batches: Iterable[SynapseBatch]) -> SynapseBatch:
        """All batches one after the other; no batch at all gives an empty one of uint8."""
        parts = [batch.columns() for batch in batches]
        return cls(*map(np.concatenate, zip(*parts, strict=True))) if parts else cls.empty()


@dataclass(frozen=True, repr=False)
class Procedure(OneLine):
    """How a backend can make the synapses of a source itself, any of them by their number."""

    kernel: str
    arguments: Mapping[str, np.generic]
    """What the kernel needs beside the numbers wanted and where to put them, in its order."""


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

    @property
    def delay_dtype(self) -> DelayType:
        """np.uint8 or np.uint16."""
        return np.uint8

    @property
    def delay_range(self) -> tuple[int, int]:
        """(shortest, longest): no delay is outside; NO_DELAYS where there is no synapse."""
        return 1, 1

    @abstractmethod
    def __iter__(self) -> Iterator[SynapseBatch]: ...

    @property
    def dtypes(self) -> dict[str, type[np.generic]]:
        """The dtype of every array of a batch."""
        return synapse_dtypes(self.weight_dtype, self.psp_dtype, self.delay_dtype)

    def procedure(self) -> Procedure | None:
        """How a backend makes these synapses instead of reading them; None: it has to read them."""
        return None

    def __repr__(self) -> str:
        dtypes = f"{np.dtype(self.weight_dtype)} weights, {np.dtype(self.psp_dtype)} psps"
        return described(self, f"{self.total:,} synapses, {dtypes}")

    def within(self, neurons: int) -> SynapseSource:
        """The same source, seen while it is read to keep its word: ids below `neurons`, dtypes, delays, `total`."""
        return _Checked(self, neurons)


class SynapseWrapper(SynapseSource):
    """A source that passes on what another gives; its heirs say how."""

    def __init__(self, source: SynapseSource) -> None:
        self._source = source

    @property
    def total(self) -> int:
        return self._source.total

    @property
    def weight_dtype(self) -> CountType:
        return self._source.weight_dtype

    @property
    def psp_dtype(self) -> CountType:
        return self._source.psp_dtype

    @property
    def delay_dtype(self) -> DelayType:
        return self._source.delay_dtype

    @property
    def delay_range(self) -> tuple[int, int]:
        return self._source.delay_range


class _Checked(SynapseWrapper):
    """Raises NetworkError or NeuronIndexError where a source gives what it should not."""

    def __init__(self, source: SynapseSource, neurons: int) -> None:
        super().__init__(source)
        self._neurons = neurons

    def __iter__(self) -> Iterator[SynapseBatch]:
        dtypes, (shortest, longest) = self.dtypes, self.delay_range
        count = 0
        for batch in self._source:
            for name, dtype in dtypes.items():
                array = getattr(batch, name)
                if array.dtype != dtype or array.ndim != 1:
                    raise NetworkError(f"{name} of a batch: {array.dtype} of shape {array.shape}, where {np.dtype(dtype)}, flat, is needed")
            check_ends(batch, self._neurons, count)
            outside = (batch.delay < shortest) | (batch.delay > longest)
            if outside.any():
                at = int(np.argmax(outside))
                said = f"a source that says {shortest} to {longest}; correct its delay_range"
                raise NetworkError(f"synapse {count + at}: a delay of {batch.delay[at]} from {said}")
            count += len(batch)
            if count > self.total:
                break
            yield batch
        if count != self.total:
            more = "more" if count > self.total else f"{count:,}"
            raise NetworkError(f"a source of synapses has a total of {self.total:,} and gave {more}; correct its total")


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

    @property
    def delay_dtype(self) -> DelayType:
        return self.parts[0].delay_dtype

    @property
    def delay_range(self) -> tuple[int, int]:
        shortest, longest = zip(*(part.delay_range for part in self.parts), strict=True)
        return min(shortest), max(longest)

    def __iter__(self) -> Iterator[SynapseBatch]:
        for part in self.parts:
            yield from part


class SynapseArray(SynapseSource):
    """Preallocated slots; slot i was filled before slot i + 1, so the slot number is the age.

    The arrays are views of the `count` slots used so far (shape (count,)); growing the capacity makes new ones. A
    removed synapse keeps its slot, with `valid` False, until the connectome is compacted. `delay` is read-only, and takes no
    memory, until a synapse has another delay than the first one. The names of the first API (source_neurons, weights,
    conductances, ...) read the same arrays.
    """

    __slots__ = ("_arrays", "_dtypes", "count", "neuron_capacity")

    source: U32
    target: U32
    weight: Counts
    psp: Counts
    inhibitory: Flags
    delay: Counts
    valid: Flags
    """False: removed."""

    def __init__(
        self, capacity: int, neuron_capacity: int, weight_dtype: CountType, psp_dtype: CountType, delay_dtype: DelayType = np.uint8
    ) -> None:
        self.count = 0
        self.neuron_capacity = neuron_capacity
        self._dtypes = weight_dtype, psp_dtype, delay_dtype
        dtypes = {**synapse_dtypes(*self._dtypes), "valid": np.bool_}
        try:
            self._arrays: dict[str, NDArray[Any]] = {
                name: spread(1, capacity, dtype) if name == "delay" else np.zeros(capacity, dtype) for name, dtype in dtypes.items()
            }
        except (MemoryError, ValueError) as error:
            raise CapacityError(f"room for {capacity:,} synapses is more than the memory of this machine") from error

    def __getattr__(self, name: str) -> NDArray[Any]:
        wanted = _SEED_NAMES.get(name, name)
        if wanted not in SYNAPSE_FIELDS and wanted != "valid":
            raise AttributeError(f"SynapseArray has no field {name!r}")
        return self._arrays[wanted][: self.count]

    @property
    def capacity(self) -> int:
        """Slots reserved."""
        return len(self._arrays["valid"])

    @property
    def valid_count(self) -> int:
        """Synapses that are not removed."""
        return int(np.count_nonzero(self.valid))

    @property
    def total(self) -> int:
        return self.valid_count

    @property
    def weight_dtype(self) -> CountType:
        return self._dtypes[0]

    @property
    def psp_dtype(self) -> CountType:
        return self._dtypes[1]

    @property
    def delay_dtype(self) -> DelayType:
        return self._dtypes[2]

    @property
    def delay_range(self) -> tuple[int, int]:
        delay = self.delay[:1] if self.has_one_delay else self.delay[self.valid]
        return (int(delay.min()), int(delay.max())) if len(delay) else NO_DELAYS

    @property
    def has_one_delay(self) -> bool:
        """Whether one value is kept for all."""
        return is_spread(self._arrays["delay"])

    @property
    def slot_bytes(self) -> int:
        """Memory of a slot."""
        return sum(array.itemsize for name, array in self._arrays.items() if not (name == "delay" and self.has_one_delay))

    def __iter__(self) -> Iterator[SynapseBatch]:
        """The valid synapses, oldest first; views where none of a batch is removed."""
        valid = self.valid
        for start in range(0, self.count, SYNAPSES_AT_A_TIME):
            used = slice(start, min(start + SYNAPSES_AT_A_TIME, self.count))
            batch = self.take(used)
            yield batch if valid[used].all() else batch.take(valid[used])

    @property
    def types(self) -> U8:
        """uint8, 0 excitatory, 1 inhibitory: the same memory as `inhibitory`."""
        return self.inhibitory.view(np.uint8)

    @property
    def source_index(self) -> tuple[I64, I64]:
        """(indptr, order): the valid slots leaving neuron i are order[indptr[i]:indptr[i + 1]], oldest first.

        indptr has shape (neuron_capacity + 1,), order (valid_count,). Made anew at each look.
        """
        slots = np.flatnonzero(self.valid)
        source = self.source[slots]
        indptr = np.zeros(self.neuron_capacity + 1, np.int64)
        np.cumsum(np.bincount(source, minlength=self.neuron_capacity), out=indptr[1:])
        return indptr, slots[np.argsort(source, kind="stable")]

    def take(self, slots: slice | Flags | Indices) -> SynapseBatch:
        """The synapses in these slots, used ones: a slice (views), a mask of all used slots, or their numbers (copies)."""
        return SynapseBatch(*(self._arrays[name][: self.count][slots] for name in SYNAPSE_FIELDS))

    def oldest(self, source: U32, target: U32, *, consume: bool = False) -> I64:
        """For each pair the slot of its oldest valid synapse, -1 for none; `consume`: its r-th occurrence gets the r-th oldest."""
        pairs, group = np.unique((source.astype(np.uint64) << np.uint64(32)) | target, return_inverse=True)
        if not len(pairs):
            return np.zeros(0, np.int64)
        slots = np.flatnonzero(self.valid)
        keys = (self.source[slots].astype(np.uint64) << np.uint64(32)) | self.target[slots]
        at = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
        match = pairs[at] == keys
        slots, at = slots[match], at[match]
        slots = slots[np.argsort(at, kind="stable")]
        available = np.bincount(at, minlength=len(pairs))
        start = np.cumsum(available) - available
        rank = _occurrence(group, len(pairs)) if consume else np.zeros(len(group), np.int64)
        found = rank < available[group]
        result = np.full(len(group), -1, np.int64)
        result[found] = slots[(start[group] + rank)[found]]
        return result

    def batch(self) -> SynapseBatch:
        """The valid synapses, oldest first, copied."""
        return self.take(self.valid)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Every field in the order of SYNAPSE_FIELDS, then valid, at their full capacity."""
        return tuple(self._arrays.values())

    def check_room(self, count: int) -> None:
        """CapacityError where fewer slots than these are free."""
        free = self.capacity - self.count
        if count > free:
            raise CapacityError(
                f"{count:,} synapses do not fit: {free:,} of the {self.capacity:,} reserved are free",
                python=f"reserve(synapses={self.capacity + count - free}) makes room; compact() frees what removed synapses hold",
            )

    def append(self, batch: SynapseBatch) -> None:
        """Fill the next slots; the caller has checked that there are enough."""
        used = slice(self.count, self.count + len(batch))
        self._make_room_for(batch.delay)
        for name, column in zip(SYNAPSE_FIELDS, batch.columns(), strict=True):
            if not is_spread(self._arrays[name]):
                self._arrays[name][used] = column
        self._arrays["valid"][used] = True
        self.count += len(batch)

    def append_one(self, *values: int) -> None:
        """Fill the next slot with a value for each of SYNAPSE_FIELDS; the caller has checked everything."""
        slot, delays = self.count, self._arrays["delay"]
        if delays[slot] != values[-1]:  # the last of SYNAPSE_FIELDS
            self._make_room_for(np.array(values[-1:], delays.dtype))
        for array, value in zip(self._arrays.values(), values):  # noqa: B905 - there is none for valid, the last
            if not is_spread(array):
                array[slot] = value
        self._arrays["valid"][slot] = True
        self.count = slot + 1

    def set_delays(self, slots: Indices, delay: Counts) -> None:
        """Another delay of the synapses in these slots."""
        self._make_room_for(delay)
        if not is_spread(self._arrays["delay"]):
            self._arrays["delay"][slots] = delay

    def _make_room_for(self, delay: Counts) -> None:
        """One value serves while all delays are equal; from here on each synapse has its own unless these are equal to it too."""
        held = self._arrays["delay"]
        if is_spread(held) and len(delay) and bool((delay != held[0]).any()):
            one = self.count == 0 and bool((delay == delay[0]).all())
            self._arrays["delay"] = spread(delay[0].copy(), len(held), held.dtype) if one else held.copy()

    def with_capacity(self, capacity: int, neuron_capacity: int) -> SynapseArray:
        """A copy with other capacities (at least as many slots as are used)."""
        new = SynapseArray(capacity, neuron_capacity, *self._dtypes)
        new.append(self.take(slice(None)))
        new.valid[:] = self.valid
        return new


def _occurrence(group: Indices, groups: int) -> I64:
    """group (n,) of numbers below `groups` -> how many equal ones stand before each."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group, minlength=groups)
    start = np.cumsum(size) - size
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - start[group[order]]
    return rank


def check_ends(synapses: SynapseBatch | SynapseArray, neurons: int, first: int = 0) -> None:
    """NeuronIndexError for an end that is not below `neurons`; the message counts synapses from `first`."""
    for name in ("source", "target"):
        ids = getattr(synapses, name)
        if ids.size and int(ids.max()) >= neurons:
            bad = int(np.argmax(ids >= neurons))
            raise NeuronIndexError.outside(f"{name} of synapse {first + bad}", int(ids[bad]), neurons)
