"""Plasticity on a device: which rules there are, what they keep, and what edits have to do about it.

kernels/plasticity.cu says what a burst does, kernels/rules.cuh why most synapses can owe what rules take from them. This side keeps that
true whenever something changes between bursts: first everything is paid (`pay_debts`), then the change is made, and before the
next burst the tables of rules and areas, the columns of the rows and the index of incoming synapses are made anew. Without
a rule nothing of it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, Counts, sorted_union, sorted_unique, without
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.executor.fired import FireStore, bit_set
from gpu_npu.backends.executor.incoming import IncomingIndex
from gpu_npu.backends.executor.listing import first_column, list_rows, room_to_hold_back, rows_of
from gpu_npu.backends.executor.rows import RowStore
from gpu_npu.backends.executor.rule_store import RuleStore
from gpu_npu.backends.executor.rule_tables import Acting, Kind, kinds_of, make_tables
from gpu_npu.backends.flight import RUN_MAX, Learning
from gpu_npu.backends.layout import DTYPES, Array
from gpu_npu.connectome import FeagiRule, PairRule, PlasticityRule, SynapseBatch, WindowRule
from gpu_npu.connectome.plasticity import TRACE_BITS
from gpu_npu.errors import DeviceMemoryError, NetworkError

CLOCK_SPAN = 2**31
"""After so many bursts the clock of plasticity starts again."""
RULES_OF_A_MAPPING = 255

class Plasticity:
    """The rules of one network on one device."""

    def __init__(self, context: Context, lengths: Mapping[str, int], rows: RowStore, areas_of: Callable[[], U32], fired: FireStore) -> None:
        """`areas_of` fetches the area of every id."""
        self._context, self._device = context, context.device
        self._rows, self._areas_of, self._fired = rows, areas_of, fired
        self._rules: dict[int, Acting] = {}
        self._store = RuleStore(context, lengths)
        self._incoming: IncomingIndex | None = None
        self._start = 0  # the burst before the first one that is counted
        self.stale = False
        """Tables, columns and index are not those of the rules and areas: the next burst begins by making them anew."""
        self._has_residues = False  # column 0 holds residues
        self._plastic: U32 = np.zeros(0, np.uint32)  # sources whose rows have columns

    @property
    def on(self) -> bool:
        """Is anything kept on the device?"""
        return self._store.tables is not None

    @property
    def owes(self) -> bool:
        """Are there rules for which weights are brought up to date when the source fires?"""
        return any(isinstance(rule, WindowRule | FeagiRule) for rule, _ in self._rules.values())

    @property
    def nbytes(self) -> int:
        """Bytes on the device beside the columns of rows."""
        return self._store.nbytes + (self._incoming.nbytes if self._incoming else 0)

    # -- rules -----------------------------------------------------------------------------------------------------
    def add(self, handle: int, rule: PlasticityRule, silent_until: int) -> None:
        """Let a rule act; it is all there or, for want of memory, not at all."""
        if not isinstance(rule, PairRule | WindowRule | FeagiRule):
            raise NetworkError(
                f'rule "{rule.name}" is written in Python and runs on the reference backend only', python="take backend='reference'"
            )
        mapping = (rule.source_area, rule.target_area)
        if sum((other.source_area, other.target_area) == mapping for other, _ in self._rules.values()) >= RULES_OF_A_MAPPING:
            raise NetworkError(f"{RULES_OF_A_MAPPING} rules act from area {mapping[0]} to {mapping[1]} already; remove one")
        self.pay_debts()
        if not self.on:
            self._start = self._now
        self._rules[handle] = rule, silent_until
        stale = self.stale
        try:
            self._prepare(drop=False)
        except BaseException:
            del self._rules[handle]
            raise
        self.stale = stale  # what no rule acts on any more goes when the next burst does

    def remove(self, handle: int) -> None:
        self._pay_all()
        del self._rules[handle]
        self.stale = True

    # -- bursts ----------------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Be ready for the next bursts."""
        if self.on and self._now - self._start >= CLOCK_SPAN:
            self._restart_clock()
        if self.stale:
            self._prepare(drop=True)

    @property
    def _now(self) -> int:
        return self._fired.burst

    def end_run(self) -> None:
        """Before a reset: weights become those that were learnt."""
        self._pay_all()

    def reset(self) -> None:
        """All is paid, and the last burst is 0 again: every rule goes on as one that is registered now."""
        self._start = 0
        self._rules = {handle: (rule, 0) for handle, (rule, _) in self._rules.items()}
        if not self.on:
            return
        self._store.zero("spikes", "runs", "traces", "open_bits", "visit_count")
        self._settle_synapses(None, pays=False, residues=0)
        self.stale = True

    @property
    def _holds(self) -> bool:
        """May FeagiRules hold something back?"""
        return self._store.tables is not None and self._store.tables.feagi and not self.stale

    def _pay_all(self) -> None:
        """All synapses pay what they owe, and nothing is held back any more."""
        if self.on and not self.stale:
            self._settle_synapses(None, pays=True, residues=0)

    def pay_debts(self, ids: U32 | None = None) -> None:
        """Make synapses pay what they owe to window rules: those of these sources, or all."""
        if not self.on or self.stale or self._holds:
            return  # when it became stale, all was paid
        if ids is None:
            self._settle_synapses(None, pays=True, residues=0)
            return
        with self._device.scratch() as scratch:
            self._settle_synapses(scratch.uploaded(ids), len(ids), pays=True, residues=0)

    @contextmanager
    def _paying_around(self, ids: U32) -> Iterator[None]:
        """Around an edit of synapses of these sources (ascending): they pay before, and afterwards what columns say starts
        from now. What that takes is there before the edit."""
        with self._device.scratch() as scratch:
            on_device = scratch.uploaded(ids)
            self._settle_synapses(on_device, len(ids), pays=True, residues=0)
            yield
            self._settle_synapses(on_device, len(ids), pays=False, residues=0)

    def _settle_synapses(self, ids: Any, count: int | None = None, *, pays: bool, residues: int) -> None:
        """Of `count` rows `ids` on the device, or of all."""
        n = self._rows.neurons if count is None else count
        self._context.launch("settle_synapses", t=self._now - self._start, n=n, ids=ids, pays=int(pays), residues=residues, items=n)

    def heed(self, back: int = 0) -> None:
        """Edits and listings of rows that follow heed what FeagiRules hold back; listings show weights as of `back` bursts ago."""
        state, now = self._context.state, self._now - self._start if self._holds else 0
        state["rules_now"], state["rules_shown"] = now, max(now - back, 0)

    def _delivered(self) -> Counts:
        """As Learning.delivered."""
        none = np.zeros(0, self._rows.dtypes[0])
        if not self._holds:
            return none

        def weights(back: int) -> Counts:
            self.heed(back)
            return np.concatenate([none, *(batch.weight for batch in list_rows(self._rows))])

        before, now = weights(1), weights(0)
        return none if np.array_equal(before, now) else before

    def _restart_clock(self) -> None:
        """Count bursts from a later one on: all of it or, for want of memory, nothing."""
        delivered, start = self._delivered(), self._now - CLOCK_SPAN // 2
        self.pay_debts()
        if not len(delivered):
            self._prepare(drop=True, start=start)
            return
        with room_to_hold_back(self._rows) as hold_back:
            self._prepare(drop=True, start=start)
            self.heed()
            hold_back(self._now - self._start, delivered)

    def _count_from(self, start: int) -> None:
        """What is kept of spikes says bursts of the clock that begins at `start`. What is older is as good as never."""
        by = start - self._start
        spikes = self._store.of_neurons("spikes")
        for field in ("last", "before"):
            spikes[field] = np.where(spikes[field] > by, spikes[field] - by, 0)
        self._store.upload("spikes", spikes)
        if self._store.tables is not None and self._store.tables.feagi:
            older = self._store.of_neurons("older")
            self._store.upload("older", np.where(older > by, older - np.uint32(by), np.uint32(0)))
        self._store.zero("visit_count")
        self._device.wait()
        self._start = start

    # -- edits -----------------------------------------------------------------------------------------------------
    @contextmanager
    def areas_change(self, areas: U32, neurons: U32 | None = None) -> Iterator[None]:
        """Around an edit that changes areas of neurons. `areas`: those they go to; those they come from too, unless `neurons` says
        who goes."""
        tables = self._store.tables
        concerned = tables is not None and not self.stale  # when it became stale, all was paid
        if concerned and tables is not None:
            concerned = bool(np.isin(areas, tables.areas).any() or (neurons is not None and self._store.places(neurons).any()))
        yield
        if concerned:
            self._pay_all()
            self.stale = True

    def edit_weights(self, source: U32, edit: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Do an edit that sets weights of synapses of these sources."""
        self.heed()
        if not self.on or self.stale or self._holds or not len(source):
            return edit()
        with self._paying_around(sorted_unique(source)):
            return edit()

    def add_synapses(self, batch: SynapseBatch, add: Callable[[], None]) -> None:
        """Do an edit that adds these synapses: all of it or, for want of memory, nothing."""
        self.heed()
        if not self.on or self.stale or self._holds or not len(batch):
            return add()
        with self._paying_around(sorted_unique(batch.source)):
            if self._incoming is not None:
                # First the index: should the rows not find room, what is too much in it leads nowhere.
                self._incoming.add(batch, self._store.places(batch.source), self._store.places(batch.target))
            add()

    def compact(self) -> None:
        """Sort the index."""
        if self._incoming is not None and not self.stale:
            self._incoming.compact()

    def clear_columns(self) -> None:
        """Where no rule is left, columns go that found no memory to go when the last one did."""
        if not self.on and not self.stale:
            self._drop_columns(np.zeros(0, np.uint32))

    def remove_synapses(self, source: U32, target: U32, found: NDArray[np.bool_]) -> None:
        """The oldest synapses of these pairs are gone, where there was one."""
        if self._incoming is not None and not self.stale:
            self._incoming.remove(source[found], target[found])

    def larger(self, lengths: Mapping[str, int]) -> list[tuple[Array, int]]:
        """As `Store.larger`; the index has grown then."""
        if not self.on or lengths["neuron"] <= self._store.neurons:
            return []
        self.pay_debts()
        if self._incoming is not None:
            self._incoming.reserve(lengths["neuron"])
        return self._store.larger(lengths)

    def move_to(self, lengths: Mapping[str, int], fresh: Mapping[str, Any]) -> None:
        """As `Store.move_to`; new ids have areas too."""
        if self._holds and lengths["neuron"] > self._store.neurons:
            self._context.state["neurons"] = self._store.neurons  # of the arrays as they are
            self._settle_synapses(None, self._store.neurons, pays=True, residues=0)
            self._context.state["neurons"] = lengths["neuron"]
        self.stale = self.stale or (self.on and lengths["neuron"] > self._store.neurons)
        self._store.move_to(lengths, fresh)
        self._bind()

    # -- tables, columns, index --------------------------------------------------------------------------------------
    def _prepare(self, *, drop: bool, start: int | None = None) -> None:
        """Make tables, columns and index those of the present rules and areas. Everything is paid. `drop`: a burst follows, so
        what no rule acts on any more goes; else it stays. `start`: the clock begins there from now on."""
        if not self._rules and drop:
            self._forget()
            return
        residues = any(isinstance(rule, PairRule) for rule, _ in self._rules.values()) or (self._has_residues and not drop)
        largest, wide = self._rows.largest_weight, any(dtype.itemsize == 4 for dtype in self._rows.dtypes)
        start = self._start if start is None else start
        tables = make_tables(list(self._rules.values()), start=start, largest=largest, residues=residues, wide=wide)
        places = tables.places(self._areas_of())
        tables.note_reach(places)
        sources = np.flatnonzero(tables.arrays["plastic_areas"]["learns"][places]).astype(np.uint32)
        with self._device.scratch() as scratch, self._device.scratch() as lasting:
            # Everything that can fail for want of memory comes before the first change, but for wider rows, which harm nothing.
            on_device = scratch.uploaded(places)
            fresh = {array.name: lasting.alloc(size, array.dtype) for array, size in self._store.needed(tables)}
            incoming = IncomingIndex(self._rows, tables.paired, places) if tables.paired.any() else None
            try:
                self._plastic = sorted_union(self._plastic, sources)  # the columns of some may be had and those of others not
                self._rows.set_columns(sources, tables.columns)
            except BaseException:
                if incoming is not None:
                    incoming.free()
                raise
            lasting.keep()
            if self._holds:
                self._pay_all()
            if start != self._start:
                self._count_from(start)
            self._store.take(tables, fresh)
            if self._incoming is not None:
                self._incoming.free()
            self._incoming = incoming
            self._bind()
            # Of those that fired in an area that no window rule left from, it is not known: the next burst looks at all.
            self._store.upload("taught_bits", bit_set(self._rows.neurons, tables.taught[places]))
            self._store.upload("open_bits", bit_set(self._rows.neurons, slice(None)))
            self._context.launch("place_in_areas", area=on_device)
        mode = 0 if not residues else 2 if not self._has_residues else int(drop)
        self._settle_synapses(None, pays=False, residues=mode)
        self._has_residues, self.stale = residues, False
        if drop:
            self._drop_columns(sources)
        if incoming is not None:
            incoming.guess_slots()

    def _drop_columns(self, plastic: U32) -> None:
        """Rows other than these lose their columns, of which nothing is asked; for want of memory, they do some other time."""
        with suppress(DeviceMemoryError):
            self._rows.set_columns(without(self._plastic, plastic), 0)
            self._plastic = plastic

    def _forget(self) -> None:
        """No rule is left, and nothing of them stays."""
        self._store.forget()
        if self._incoming is not None:
            self._incoming.free()
            self._incoming = None
        self.stale, self._has_residues = False, False
        self._bind()
        self._drop_columns(np.zeros(0, np.uint32))

    def _bind(self) -> None:
        """Write where everything lies into the State that kernels are given."""
        self._store.bind()
        state = self._context.state
        state["incoming"] = state["incoming_arena"] = 0
        if self._incoming is not None:
            self._incoming.bind()
        state["clock_start"] = self._start & 0xFFFFFFFF

    # -- out and in, for a run that goes on elsewhere ------------------------------------------------------------------
    def residues(self) -> NDArray[np.int16]:
        """Of every synapse that `synapses_from()` lists, in its order."""
        if not self._has_residues:
            return np.zeros(self._rows.count, np.int16)
        return np.concatenate([np.zeros(0, np.uint16), *first_column(self._rows)]).view(np.int16)

    def learning(self) -> Learning:
        """What rules remember."""
        residues = self.residues()
        residues = residues if residues.any() else residues[:0]
        if not self._rules or not self.on:
            return Learning(residues=residues)
        silent_until = {handle: silent for handle, (_, silent) in self._rules.items()}
        first = min(silent_until.values())
        last = self._store.of_neurons("spikes")["last"].astype(np.int64)
        last[last > 0] += self._start
        last[last <= first] = 0
        run = self._store.of_neurons("runs")
        run = np.where((last > 0) & (last == self._now), np.minimum(run, min(self._now - first, RUN_MAX)), 0)
        traces = {handle: (self._trace(kinds[0], last), self._trace(kinds[1], last)) for handle, kinds in self._kinds().items()}
        return Learning(silent_until, last, run.astype(np.uint16), traces, residues, self._delivered())

    def _kinds(self) -> dict[int, tuple[Kind, Kind]]:
        """Of each pair rule, the kinds of the traces of sources and targets."""
        return {handle: kinds_of(rule, silent_until) for handle, (rule, silent_until) in self._rules.items() if isinstance(rule, PairRule)}

    def _trace(self, kind: Kind, last: NDArray[np.int64]) -> U32:
        """Of all neurons, as they were just after their last spikes."""
        _, silent_until, every = kind
        return self._store.trace(kind) if every else np.where(last > silent_until, np.uint32(1 << TRACE_BITS), np.uint32(0))

    def resume(self, learning: Learning) -> None:
        """Go on after the last burst; the rules are there already."""
        self.stale = self.on or len(learning.residues) > 0
        if len(learning.residues):
            # Synapses in no pair rule may have one, until the next burst: their rows get a column for it.
            rows = without(rows_of(self._rows, learning.residues != 0), self._plastic)
            self._plastic, self._has_residues = sorted_union(self._plastic, rows), True
            self._rows.set_columns(rows, 1)
            for _ in first_column(self._rows, learning.residues.view(np.uint16)):
                continue
        if not self.on:
            return
        self._start = max(0, self._now - CLOCK_SPAN // 2)
        spikes = np.zeros(self._rows.neurons, DTYPES["Spikes"])
        spikes["last"] = np.maximum(learning.last_fired - self._start, 0)
        self._store.upload("spikes", spikes)
        self._store.upload("runs", learning.run.astype(np.uint32))
        for handle, kinds in self._kinds().items():
            for kind, trace in zip(kinds, learning.traces[handle], strict=True):
                self._store.set_trace(kind, trace)
        if self._store.tables is not None and self._store.tables.feagi:
            self._store.upload("history", (spikes["last"] > 0).astype(np.uint64))
            self._store.zero("older")
        self._device.wait()
        if self._store.tables is not None and self._store.tables.feagi:
            self._prepare(drop=True)
            if len(learning.delivered):
                with room_to_hold_back(self._rows) as hold_back:
                    self.heed()
                    hold_back(self._now - self._start, learning.delivered)
