"""Plasticity on a device: which rules there are, what they keep, and what edits have to do about it.

kernels/plasticity.cu says what a burst does and why most synapses can owe what rules take from them. This side keeps that
true whenever something changes between bursts: first everything is paid (`settle`), then the change is made, and before the
next burst the tables of rules and areas, the columns of the rows and the index of incoming synapses are made anew. Without
a rule nothing of it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32
from gpu_npu.backends.base import RUN_MAX, Memory
from gpu_npu.backends.devices.base import Device, Launch
from gpu_npu.backends.layout import DTYPES, PLASTIC, WORD_NEURONS
from gpu_npu.backends.rows import FEW, RowStore
from gpu_npu.connectome import PairRule, PlasticityRule, SynapseBatch, SynapseSource, WindowRule
from gpu_npu.connectome.fields import CountType
from gpu_npu.connectome.plasticity import RESIDUE_BITS, TRACE_BITS, decay_table
from gpu_npu.errors import DeviceMemoryError, NetworkError

Kind = tuple[float, int, bool]
"""Of a trace: time constant, burst up to which all is silent, whether of all spikes or of the last alone."""
MAX_TAIL = 512
"""So many incoming synapses of a neuron may be unsorted: a visit compares each with those before it."""
CLOCK_SPAN = 2**31
"""After so many bursts the clock of plasticity starts again."""
RULES_OF_A_MAPPING = 255
HALF_WEIGHT = 1 << (RESIDUE_BITS - 1)
"""In units of 2**-16 of a weight, as the bounds in the tables are."""
SLOT_DTYPE = np.uint16
"""Of guesses, kept where other rows have weights: in which slot of its source's row an incoming synapse is."""
_DTYPE = {array.name: array.dtype for array in PLASTIC}


@dataclass(frozen=True)
class _Tables:
    """What the kernels are told about the rules."""

    areas: U32
    """Areas that rules name, ascending; area areas[i] is i + 1 to the kernels."""
    arrays: Mapping[str, NDArray[Any]]
    traces: tuple[Kind, ...]
    """Kinds of traces of all spikes: row i of traces."""
    windows: int
    longest: int
    columns: int
    paired: NDArray[np.bool_]
    """(areas + 1, areas + 1): is there a pair rule from one to the other?"""


class Plasticity:
    """The rules of one network on one device."""

    def __init__(
        self,
        device: Device,
        state: NDArray[np.void],
        rows: RowStore,
        *,
        neurons: int,
        largest: int,
        areas_of: Callable[[], U32],
        last_burst: Callable[[], int],
    ) -> None:
        """`largest`: weight. `areas_of` fetches the area of every id; `last_burst`: the number of the last one computed."""
        self._device, self._state, self._rows, self._neurons = device, state, rows, neurons
        self._largest, self._areas_of, self._last_burst = largest, areas_of, last_burst
        self._rules: dict[int, tuple[PairRule | WindowRule, int]] = {}
        self._arrays: dict[str, Any] = {}
        self._tables: _Tables | None = None
        self._incoming: RowStore | None = None
        self._start = 0  # the burst before the first one that is counted
        self.stale = False
        """Tables, columns and index are not those of the rules and areas: the next burst begins by making them anew."""
        self._has_residues = False  # column 0 holds residues
        self._plastic: U32 = np.zeros(0, np.uint32)  # sources whose rows have columns

    @property
    def on(self) -> bool:
        """Is anything kept on the device?"""
        return self._tables is not None

    @property
    def nbytes(self) -> int:
        """Bytes on the device beside the columns of rows."""
        return sum(int(array.nbytes) for array in self._arrays.values()) + (self._incoming.nbytes if self._incoming else 0)

    # -- rules -----------------------------------------------------------------------------------------------------
    def add(self, handle: int, rule: PlasticityRule, since: int) -> None:
        """Let a rule act; it is all there or, for want of memory, not at all."""
        if not isinstance(rule, PairRule | WindowRule):
            raise NetworkError(f'rule "{rule.name}" is written in Python: take backend="reference"')
        mapping = (rule.source_area, rule.target_area)
        if sum((other.source_area, other.target_area) == mapping for other, _ in self._rules.values()) >= RULES_OF_A_MAPPING:
            raise NetworkError(f"{RULES_OF_A_MAPPING} rules act from area {mapping[0]} to {mapping[1]} already; remove one")
        self.settle()
        if not self.on:
            self._start = self._now
        self._rules[handle] = rule, since
        stale = self.stale
        try:
            self._prepare(finally_=False)
        except BaseException:
            del self._rules[handle]
            raise
        self.stale = stale  # what no rule acts on any more goes when the next burst does

    def remove(self, handle: int) -> None:
        self.settle()
        del self._rules[handle]
        self.stale = True

    # -- bursts ----------------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Be ready for the next bursts."""
        if self.on and self._now - self._start >= CLOCK_SPAN:
            self._restart_clock()
        if self.stale:
            self._prepare(finally_=True)

    @property
    def _now(self) -> int:
        return self._last_burst()

    def reset(self) -> None:
        """All is paid, and the last burst is 0 again: every rule goes on as one that is registered now."""
        self._start = 0
        self._rules = {handle: (rule, 0) for handle, (rule, _) in self._rules.items()}
        if not self.on:
            return
        for name in ("spikes", "runs", "traces", "open_bits", "visit_count"):
            self._device.zero(self._arrays[name])
        self._settle(None, pays=False, residues=0)
        self.stale = True

    def settle(self, ids: U32 | None = None) -> None:
        """Make synapses pay what they owe: those of these sources, or all."""
        if not self.on or self.stale:
            return  # when it became stale, all was paid
        if ids is None:
            self._settle(None, pays=True, residues=0)
            return
        with self._device.lent() as lent:
            self._settle(lent.uploaded(ids), len(ids), pays=True, residues=0)

    @contextmanager
    def _settling(self, ids: U32) -> Iterator[None]:
        """Around an edit of synapses of these sources (ascending): they pay before, and afterwards what columns say starts
        from now. What that takes is there before the edit."""
        with self._device.lent() as lent:
            on_device = lent.uploaded(ids)
            self._settle(on_device, len(ids), pays=True, residues=0)
            yield
            self._settle(on_device, len(ids), pays=False, residues=0)

    def _settle(self, ids: Any, count: int | None = None, *, pays: bool, residues: int) -> None:
        """Of `count` rows `ids` on the device, or of all."""
        rows = self._neurons if count is None else count
        now = np.uint32(self._now - self._start)
        args = (self._state, now, np.uint64(rows), ids, np.uint32(pays), np.uint32(residues))
        self._device.launch([Launch("settle_synapses", args, single=rows <= FEW)])

    def _restart_clock(self) -> None:
        """Count bursts from a later one on. What is older than that is as good as never."""
        self.settle()
        start = self._now - CLOCK_SPAN // 2
        by = start - self._start
        spikes = self._device.fetched(self._arrays["spikes"], self._neurons)
        for field in ("last", "before"):
            spikes[field] = np.where(spikes[field] > by, spikes[field] - by, 0)
        self._device.upload(self._arrays["spikes"], spikes)
        self._device.zero(self._arrays["visit_count"])
        self._device.wait()
        self._start, self.stale = start, True

    # -- edits -----------------------------------------------------------------------------------------------------
    def areas_change(self, areas: U32, neurons: U32 | None = None) -> None:
        """Before neurons change their areas. `areas`: those they go to; those they come from too, unless `neurons` says who goes."""
        if self._tables is None or self.stale:
            return  # when it became stale, all was paid
        if np.isin(areas, self._tables.areas).any() or (neurons is not None and self._places(neurons).any()):
            self.settle()
            self.stale = True

    def edit_weights(self, source: U32, edit: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Do an edit that sets weights of synapses of these sources."""
        if not self.on or self.stale or not len(source):
            return edit()
        with self._settling(np.unique(source)):
            return edit()

    def add_synapses(self, batch: SynapseBatch, add: Callable[[], None]) -> None:
        """Do an edit that adds these synapses: all of it or, for want of memory, nothing."""
        if not self.on or self.stale or not len(batch):
            return add()
        with self._settling(np.unique(batch.source)):
            if self._incoming is not None:
                # First the index: should the rows not find room, what is too much in it leads nowhere.
                self._index(self._paired_among(batch))
            add()

    def _index(self, batch: SynapseBatch) -> None:
        """Enter synapses into the index."""
        assert self._incoming is not None
        if not len(batch):
            return
        try:
            self._incoming.add(_reversed(batch))
        finally:
            self._bind()  # it may have moved
        if self._incoming.longest_tail(np.unique(batch.target)) > MAX_TAIL:
            self.compact()

    def compact(self) -> None:
        """Sort the index."""
        if self._incoming is not None and not self.stale:
            self._incoming.compact()
            self._bind()
            self._device.launch([Launch("guess_slots", (self._state,))])

    def clear_columns(self) -> None:
        """Where no rule is left, columns go that found no memory to go when the last one did."""
        if not self.on and not self.stale:
            self._drop_columns(np.zeros(0, np.uint32))

    def remove_synapses(self, source: U32, target: U32, found: NDArray[np.bool_]) -> None:
        """The oldest synapses of these pairs are gone, where there was one."""
        if self._incoming is not None and not self.stale:
            with suppress(DeviceMemoryError):  # what is too much in the index leads nowhere
                self._incoming.edit(target[found], source[found], None)

    def _places(self, neurons: U32) -> U32:
        """The areas of these neurons as the tables count them, 0: no rule names it."""
        kind = DTYPES["Spikes"]
        with self._device.lent() as lent:
            ids, out = lent.uploaded(neurons), lent.alloc(len(neurons), kind)
            args = (np.uint64(len(neurons)), ids, self._arrays["spikes"], np.uint32(kind.itemsize), out)
            self._device.launch([Launch("gather_values", args, single=len(neurons) <= FEW)])
            places: U32 = self._device.fetched(out, len(neurons))["area"]
        return places

    def _paired_among(self, batch: SynapseBatch) -> SynapseBatch:
        """Those of a batch in which a pair rule acts."""
        assert self._tables is not None
        return batch.take(self._tables.paired[self._places(batch.source), self._places(batch.target)])

    def reserve(self, neurons: int) -> dict[str, Any]:
        """What `move_to` will take for so many ids, or DeviceMemoryError."""
        if not self.on or neurons <= self._neurons:
            return {}
        self.settle()
        sizes = self._sizes(neurons)
        fresh = self._device.alloc_all([(size, _DTYPE[name]) for name, size in sizes.items()])
        if self._incoming is not None:
            try:
                self._incoming.reserve(neurons, 0)
            except BaseException:
                self._device.release(*fresh)
                raise
            self._bind()  # it has moved, and stays there even if others find no room
        return dict(zip(sizes, fresh, strict=True))

    def move_to(self, neurons: int, larger: dict[str, Any]) -> None:
        """Go over to larger arrays; new ids have areas too."""
        if neurons == self._neurons:
            return
        for name, new in larger.items():
            old = self._arrays[name]
            width = old.size if name.endswith("_bits") else self._neurons
            for i in range(old.size // width if width else 0):
                self._device.copy(new, i * (new.size * width // old.size), old, i * width, width)
        self._device.release(*(self._arrays[name] for name in larger))
        self._arrays |= larger
        self._neurons = neurons
        self.stale = self.stale or self.on
        self._bind()

    def _sizes(self, neurons: int) -> dict[str, int]:
        """Elements of the arrays that are kept per id."""
        tables = self._tables
        words = -(-neurons // WORD_NEURONS)
        return {
            "spikes": neurons,
            "runs": neurons,
            "more_seen": neurons * max((tables.windows if tables else 0) - 1, 0),
            "traces": neurons * len(tables.traces if tables else ()),
            "open_bits": words,
            "visit_bits": words,
            "taught_bits": words,
            "visits": neurons,
        }

    # -- tables, columns, index --------------------------------------------------------------------------------------
    def _prepare(self, *, finally_: bool) -> None:
        """Make tables, columns and index those of the present rules and areas. Everything is paid. `finally_`: a burst
        follows, so what no rule acts on any more goes; else it stays."""
        if not self._rules and finally_:
            self._forget()
            return
        residues = any(isinstance(rule, PairRule) for rule, _ in self._rules.values()) or (self._has_residues and not finally_)
        tables = self._make_tables(residues)
        area = self._areas_of()
        place = np.searchsorted(tables.areas, area).astype(np.uint32)
        known: NDArray[np.bool_] = np.equal(tables.areas[np.minimum(place, len(tables.areas) - 1)], area)
        index = np.where(known, place + np.uint32(1), np.uint32(0))
        self._reach(tables, index)
        learns = tables.arrays["plastic_areas"]["learns"][index] != 0
        sources = np.flatnonzero(learns).astype(np.uint32)

        # Everything that can fail for want of memory comes before the first change, but for wider rows, which harm nothing.
        old = self._tables
        kept = [kind for kind in tables.traces if old and kind in old.traces]
        sizes = {
            "more_seen": self._neurons * max(tables.windows - 1, 0),
            "traces": self._neurons * len(tables.traces),
            **{name: len(array) for name, array in tables.arrays.items()},
        }
        if old is None:
            sizes = {**self._sizes(self._neurons), **sizes, "visit_count": 2}
        wanted: list[tuple[int, Any]] = [(size, _DTYPE[name]) for name, size in sizes.items()]
        area_on_device, *arrays = self._device.alloc_all([(self._neurons, np.uint32), *wanted])
        fresh = dict(zip(sizes, arrays, strict=True))
        incoming: RowStore | None = None
        try:
            incoming = self._make_index(tables, index)
            self._plastic = np.union1d(self._plastic, sources)  # the columns of some may be had and those of others not
            self._rows.set_columns(sources, tables.columns)
        except BaseException:
            self._device.release(area_on_device, *arrays)
            if incoming is not None:
                incoming.free()
            raise

        for name, host in tables.arrays.items():
            self._device.upload(fresh[name], host)
        for kind in kept:
            assert old is not None
            to, at = tables.traces.index(kind), old.traces.index(kind)
            self._device.copy(fresh["traces"], to * self._neurons, self._arrays["traces"], at * self._neurons, self._neurons)
        self._device.release(*(self._arrays[name] for name in fresh if name in self._arrays))
        self._arrays |= fresh
        if self._incoming is not None:
            self._incoming.free()
        self._incoming, self._tables = incoming, tables
        self._bind()
        taught = np.asarray(tables.arrays["pairs"].reshape(len(tables.areas) + 1, -1).any(axis=0))
        # Of those that fired in an area that no window rule left from, it is not known: the next burst looks at all.
        bits = {"taught_bits": bit_set(self._neurons, taught[index]), "open_bits": bit_set(self._neurons, slice(None))}
        for name, host in bits.items():
            self._device.upload(self._arrays[name], host)
        self._device.upload(area_on_device, index)
        self._device.launch([Launch("place_in_areas", (self._state, area_on_device))])
        self._device.release(area_on_device)
        mode = 0 if not residues else 2 if not self._has_residues else int(finally_)
        self._settle(None, pays=False, residues=mode)
        self._has_residues, self.stale = residues, False
        if finally_:
            self._drop_columns(sources)
        if incoming is not None:
            self._device.launch([Launch("guess_slots", (self._state,))])

    def _drop_columns(self, plastic: U32) -> None:
        """Rows other than these lose their columns, of which nothing is asked; for want of memory, they do some other time."""
        with suppress(DeviceMemoryError):
            self._rows.set_columns(np.setdiff1d(self._plastic, plastic, assume_unique=True), 0)
            self._plastic = plastic

    def _forget(self) -> None:
        """No rule is left, and nothing of them stays."""
        self._device.release(*self._arrays.values())
        if self._incoming is not None:
            self._incoming.free()
        self._arrays, self._tables, self._incoming = {}, None, None
        self.stale, self._has_residues = False, False
        self._bind()
        self._drop_columns(np.zeros(0, np.uint32))

    def _bind(self) -> None:
        """Write where everything lies into the State that kernels are given."""
        state, tables = self._state, self._tables
        for name in _DTYPE:
            array = self._arrays.get(name)
            state[name] = self._device.address(array) if array is not None and array.nbytes else 0
        if self._incoming is not None:
            index = self._incoming.state
            state["incoming"], state["incoming_arena"] = index["rows"], index["arena"]
            index["edit_bytes"], index["neurons"] = state["edit_bytes"], self._neurons
        state["clock_start"] = self._start & 0xFFFFFFFF
        state["areas"] = len(tables.areas) + 1 if tables else 0
        state["window_kinds"], state["longest_window"] = (tables.windows, tables.longest) if tables else (0, 0)
        state["trace_values"] = len(tables.traces) if tables else 0

    def _make_tables(self, residues: bool) -> _Tables:
        rules = [(rule, since) for rule, since in self._rules.values()]
        areas = np.unique(np.array([area for rule, _ in rules for area in (rule.source_area, rule.target_area)], np.uint32))
        place = {int(area): i + 1 for i, area in enumerate(areas)}
        windows = list(dict.fromkeys((rule.window, since) for rule, since in rules if isinstance(rule, WindowRule)))
        kinds = sorted(dict.fromkeys(kind for pair in self._kinds().values() for kind in pair), key=lambda kind: not kind[2])
        taus = list(dict.fromkeys(tau for tau, _, _ in kinds))
        decays = [decay_table(tau) for tau in taus]
        begin = np.concatenate(([0], np.cumsum([len(table) for table in decays], dtype=np.int64)))

        size = len(areas) + 1
        by_mapping: dict[tuple[int, int], list[tuple[PairRule | WindowRule, int]]] = {}
        for rule, since in rules:
            by_mapping.setdefault((place[rule.source_area], place[rule.target_area]), []).append((rule, since))
        pairs, paired = np.zeros((size, size), np.uint32), np.zeros((size, size), np.bool_)
        plastic, table, columns = np.zeros(size, DTYPES["PlasticArea"]), np.zeros(len(rules), DTYPES["Rule"]), int(residues)
        at = 0
        for (source, target), members in by_mapping.items():
            pairs[source, target] = at << 8 | len(members)
            plastic["learns"][source] = 1
            mine: list[int] = []
            for rule, since in members:
                if isinstance(rule, WindowRule):
                    kind = windows.index((rule.window, since))
                    mine += [] if kind in mine else [kind]
                    plastic["expires"][source] = 1
                    table[at] = (0, residues + mine.index(kind), rule.plus, rule.minus, kind, 0, 0, 0, 0, 0)
                else:
                    traces = [kinds.index(kind) for kind in _kinds_of(rule, since)]
                    bounds = ((bound << RESIDUE_BITS) + HALF_WEIGHT for bound in (rule.w_min, rule.top(self._largest)))
                    table[at] = (1, 0, rule.plus, rule.minus, 0, *traces, rule.bounds == "multiplicative", *bounds)
                    plastic["paired"][target], paired[source, target] = 1, True
                at += 1
            columns = max(columns, residues + len(mine))
        start = self._start
        stored = tuple(kind for kind in kinds if kind[2])
        arrays: dict[str, NDArray[Any]] = {
            "plastic_areas": plastic,
            "pairs": pairs.ravel(),
            "rules": table,
            "windows": np.array(
                [(max(since - start, 0), max(window - start, since - start + 1, 1), window) for window, since in windows], DTYPES["Window"]
            ),
            "trace_kinds": np.array(
                [
                    (max(since - start, 0), begin[taus.index(tau)], len(decays[taus.index(tau)]), i + 1 if every else 0)
                    for i, (tau, since, every) in enumerate(kinds)
                ],
                DTYPES["Trace"],
            ),
            "decays": np.concatenate([np.zeros(0, np.uint32), *decays]),
        }
        longest = max((window for window, _ in windows), default=0)
        return _Tables(areas, arrays, stored, len(windows), longest, columns, paired)

    @staticmethod
    def _reach(tables: _Tables, index: U32) -> None:
        """Fill in between which ids the targets of each area's rules lie."""
        size = len(tables.areas) + 1
        lowest, highest = np.full(size, len(index), np.int64), np.full(size, -1, np.int64)
        order = np.argsort(index, kind="stable")
        begin = np.searchsorted(index[order], np.arange(size + 1))
        there: NDArray[np.bool_] = np.greater(begin[1:], begin[:-1])
        lowest[there], highest[there] = order[begin[:-1][there]], order[begin[1:][there] - 1]
        targets = tables.arrays["pairs"].reshape(size, size) != 0
        plastic = tables.arrays["plastic_areas"]
        low = np.where(targets, lowest[None, :], len(index)).min(axis=1)
        high = np.where(targets, highest[None, :], 0).max(axis=1)
        plastic["lowest"], plastic["highest"] = np.minimum(low, max(len(index) - 1, 0)), np.maximum(high, 0)

    def _make_index(self, tables: _Tables, index: U32) -> RowStore | None:
        """The incoming synapses that are in a pair rule; None where there is no such rule."""
        if not tables.paired.any():
            return None
        state = self._state.copy()
        state["weight_bytes"], state["psp_bytes"] = SLOT_DTYPE().itemsize, 1
        incoming = RowStore(self._device, state, self._neurons, 0, SLOT_DTYPE, np.uint8)
        try:
            incoming.build([_Incoming(self._rows, self._neurons, tables.paired, index)])
        except BaseException:
            incoming.free()
            raise
        return incoming

    # -- out and in, for a run that goes on elsewhere ------------------------------------------------------------------
    def residues(self) -> NDArray[np.int16]:
        """Of every synapse that `synapses_from()` lists, in its order."""
        if not self._has_residues:
            return np.zeros(self._rows.count, np.int16)
        return np.concatenate([np.zeros(0, np.uint16), *self._rows.first_column()]).view(np.int16)

    def memory(self) -> Memory:
        """What rules remember."""
        residues = self.residues()
        residues = residues if residues.any() else residues[:0]
        if not self._rules or self._tables is None:
            return Memory(residues=residues)
        since = {handle: silent for handle, (_, silent) in self._rules.items()}
        first = min(since.values())
        last = self._device.fetched(self._arrays["spikes"], self._neurons)["last"].astype(np.int64)
        last[last > 0] += self._start
        last[last <= first] = 0
        run = self._device.fetched(self._arrays["runs"], self._neurons)
        run = np.where((last > 0) & (last == self._now), np.minimum(run, min(self._now - first, RUN_MAX)), 0)
        traces = {handle: (self._trace(kinds[0], last), self._trace(kinds[1], last)) for handle, kinds in self._kinds().items()}
        return Memory(since, last, run.astype(np.uint16), traces, residues)

    def _kinds(self) -> dict[int, tuple[Kind, Kind]]:
        """Of each pair rule, the kinds of the traces of sources and targets."""
        return {handle: _kinds_of(rule, since) for handle, (rule, since) in self._rules.items() if isinstance(rule, PairRule)}

    def _trace(self, kind: Kind, last: NDArray[np.int64]) -> U32:
        """Of all neurons, as they were just after their last spikes."""
        assert self._tables is not None
        _, since, every = kind
        if not every:
            return np.where(last > since, np.uint32(1 << TRACE_BITS), np.uint32(0))
        if kind not in self._tables.traces:
            return np.zeros(self._neurons, np.uint32)
        return self._device.fetched(self._arrays["traces"], self._neurons, self._tables.traces.index(kind) * self._neurons)

    def resume(self, memory: Memory) -> None:
        """Go on after the last burst; the rules are there already."""
        self.stale = self.on or len(memory.residues) > 0
        if len(memory.residues):
            # Synapses in no pair rule may have one, until the next burst: their rows get a column for it.
            rows = np.setdiff1d(self._rows.rows_of(memory.residues != 0), self._plastic, assume_unique=True)
            self._plastic, self._has_residues = np.union1d(self._plastic, rows), True
            self._rows.set_columns(rows, 1)
            for _ in self._rows.first_column(memory.residues.view(np.uint16)):
                continue
        if self._tables is None:
            return
        self._start = max(0, self._now - CLOCK_SPAN // 2)
        spikes = np.zeros(self._neurons, DTYPES["Spikes"])
        spikes["last"] = np.maximum(memory.last_fired - self._start, 0)
        self._device.upload(self._arrays["spikes"], spikes)
        self._device.upload(self._arrays["runs"], memory.run.astype(np.uint32))
        for handle, kinds in self._kinds().items():
            for kind, trace in zip(kinds, memory.traces[handle], strict=True):
                if kind in self._tables.traces:
                    self._device.upload(self._arrays["traces"], trace, self._tables.traces.index(kind) * self._neurons)
        self._device.wait()


class _Incoming(SynapseSource):
    """The synapses of these rows in which a pair rule acts, backwards: from target to source."""

    def __init__(self, rows: RowStore, neurons: int, paired: NDArray[np.bool_], place: U32) -> None:
        """`place`: the area of each id as `paired` counts them."""
        self._rows, self._paired, self._place = rows, paired, place
        by_source, by_target = (np.asarray(paired.any(axis=axis)) for axis in (1, 0))
        self._sources, self._targets = np.flatnonzero(by_source[place]).astype(np.uint32), bit_set(neurons, by_target[place])
        self._total = sum(map(len, self))

    @property
    def total(self) -> int:
        return self._total

    @property
    def weight_dtype(self) -> CountType:
        return SLOT_DTYPE

    @property
    def psp_dtype(self) -> CountType:
        return np.uint8

    def __iter__(self) -> Iterator[SynapseBatch]:
        for batch in self._rows.list(self._sources, self._targets):
            yield _reversed(batch.take(self._paired[self._place[batch.source], self._place[batch.target]]))


def _reversed(batch: SynapseBatch) -> SynapseBatch:
    unknown, none = np.zeros(len(batch), SLOT_DTYPE), np.zeros(len(batch), np.uint8)
    return replace(batch, source=batch.target, target=batch.source, weight=unknown, psp=none, inhibitory=none.view(np.bool_))


def bit_set(neurons: int, members: Any) -> U32:
    """A bit for each neuron; `members` picks those that are set: a mask or ids."""
    bits = np.zeros(-(-neurons // WORD_NEURONS) * WORD_NEURONS, np.bool_)
    bits[:neurons][members] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)


def _kinds_of(rule: PairRule, since: int) -> tuple[Kind, Kind]:
    every = rule.pairing == "all"
    return (rule.tau_plus, since, every), (rule.tau_minus, since, every)
