"""What the kernels are told about plasticity rules: tables of rules, areas, windows, traces and decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, sorted_unique
from gpu_npu.backends.layout import DTYPES
from gpu_npu.connectome import FeagiRule, PairRule, WindowRule
from gpu_npu.connectome.plasticity import RESIDUE_BITS, decay_table

Kind = tuple[float, int, bool]
"""Of a trace: time constant, burst up to which all is silent, whether of all spikes or of the last alone."""
Acting = tuple[PairRule | WindowRule | FeagiRule, int]
"""A rule, and the burst up to which all is silent for it."""
HALF_WEIGHT = 1 << (RESIDUE_BITS - 1)
"""In units of 2**-16 of a weight, as the bounds in the tables are."""


def kinds_of(rule: PairRule, silent_until: int) -> tuple[Kind, Kind]:
    """Of the traces of sources and of targets."""
    every = rule.pairing == "all"
    return (rule.tau_plus, silent_until, every), (rule.tau_minus, silent_until, every)


@dataclass(frozen=True)
class RuleTables:
    """The tables for some rules.

    areas : those that rules name, ascending; area areas[i] is i + 1 to the kernels, any other 0.
    arrays : name in layout.PLASTIC -> values.
    traces : kinds of traces of all spikes: row i of the array of this name.
    windows, longest : how many kinds of windows there are, and the longest one.
    columns : that a row of a source needs.
    paired : (areas + 1, areas + 1), whether there is a pair rule from one to the other.
    feagi : whether the rules are FeagiRules.
    """

    areas: U32
    arrays: Mapping[str, NDArray[Any]]
    traces: tuple[Kind, ...]
    windows: int
    longest: int
    columns: int
    paired: NDArray[np.bool_]
    feagi: bool

    @property
    def lengths(self) -> dict[str, int]:
        """Of the axes of layout.PLASTIC that follow from the rules."""
        axes = {"area": "plastic_areas", "rule": "rules", "window_kind": "windows", "trace_kind": "trace_kinds", "decay": "decays"}
        lengths = {axis: len(self.arrays[name]) for axis, name in axes.items()}
        return {**lengths, "more_windows": max(self.windows - 1, 0), "trace": len(self.traces), "history": int(self.feagi)}

    def places(self, areas: U32) -> U32:
        """These areas as the kernels count them."""
        place = np.searchsorted(self.areas, areas).astype(np.uint32)
        known: NDArray[np.bool_] = np.equal(self.areas[np.minimum(place, len(self.areas) - 1)], areas)
        return np.where(known, place + np.uint32(1), np.uint32(0))

    def note_reach(self, places: U32) -> None:
        """Fill in between which ids the targets of each area's rules lie; `places`: of the area of each id."""
        size = len(self.areas) + 1
        lowest, highest = np.full(size, len(places), np.int64), np.full(size, -1, np.int64)
        order = np.argsort(places, kind="stable")
        begin = np.searchsorted(places[order], np.arange(size + 1))
        there: NDArray[np.bool_] = np.greater(begin[1:], begin[:-1])
        lowest[there], highest[there] = order[begin[:-1][there]], order[begin[1:][there] - 1]
        targets = self.arrays["pairs"].reshape(size, size) != 0
        plastic = self.arrays["plastic_areas"]
        low = np.where(targets, lowest[None, :], len(places)).min(axis=1)
        high = np.where(targets, highest[None, :], 0).max(axis=1)
        plastic["lowest"], plastic["highest"] = np.minimum(low, max(len(places) - 1, 0)), np.maximum(high, 0)

    @property
    def taught(self) -> NDArray[np.bool_]:
        """Of each place: is it the target of a rule?"""
        return np.asarray(self.arrays["pairs"].reshape(len(self.areas) + 1, -1).any(axis=0))


def make_tables(rules: Sequence[Acting], *, start: int, largest: int, residues: bool, wide: bool) -> RuleTables:
    """The tables for these rules, in the order in which they act. start: the burst before the first one that is counted;
    largest: weight; residues: whether column 0 of a row holds residues; wide: weights or psps have 4 bytes, and are aligned to them."""
    areas = sorted_unique(np.array([area for rule, _ in rules for area in (rule.source_area, rule.target_area)], np.uint32))
    place = {int(area): i + 1 for i, area in enumerate(areas)}
    windows = list(dict.fromkeys((rule.window, silent_until) for rule, silent_until in rules if not isinstance(rule, PairRule)))
    paired_kinds = [kind for rule, silent_until in rules if isinstance(rule, PairRule) for kind in kinds_of(rule, silent_until)]
    kinds = sorted(dict.fromkeys(paired_kinds), key=lambda kind: not kind[2])
    size = len(areas) + 1
    by_mapping: dict[tuple[int, int], list[Acting]] = {}
    for rule, silent_until in rules:
        by_mapping.setdefault((place[rule.source_area], place[rule.target_area]), []).append((rule, silent_until))
    pairs, paired = np.zeros((size, size), np.uint32), np.zeros((size, size), np.bool_)
    plastic, table, columns = np.zeros(size, DTYPES["PlasticArea"]), np.zeros(len(rules), DTYPES["Rule"]), int(residues)
    at = 0
    for (source, target), members in by_mapping.items():
        pairs[source, target] = at << 8 | len(members)
        plastic["learns"][source] = 1
        mine: list[int] = []
        for rule, silent_until in members:
            if not isinstance(rule, PairRule):
                kind = windows.index((rule.window, silent_until))
                mine += [] if kind in mine else [kind]
                plastic["expires"][source] = 1
                entry: dict[str, float] = {"column": residues + mine.index(kind), "window": kind}
            else:
                plastic["paired"][target], paired[source, target] = 1, True
                entry = _pair_entry(rule, [kinds.index(kind) for kind in kinds_of(rule, silent_until)], largest)
            if isinstance(rule, FeagiRule):
                entry |= {"up": rule.up, "down": rule.down, "top": rule.top(largest)}
            else:
                entry |= {"plus": rule.plus, "minus": rule.minus}
            for name, value in entry.items():
                table[name][at] = value
            at += 1
        columns = max(columns, residues + len(mine))
    columns += columns % 2 if wide else 0
    arrays: dict[str, NDArray[Any]] = {
        "plastic_areas": plastic,
        "pairs": pairs.ravel(),
        "rules": table,
        "windows": np.array(
            [(max(silent - start, 0), max(window - start, silent - start + 1, 1), window) for window, silent in windows], DTYPES["Window"]
        ),
        **_trace_tables(kinds, start),
    }
    stored, longest = tuple(kind for kind in kinds if kind[2]), max((window for window, _ in windows), default=0)
    feagi = any(isinstance(rule, FeagiRule) for rule, _ in rules)
    return RuleTables(areas, arrays, stored, len(windows), longest, columns, paired, feagi)


def _pair_entry(rule: PairRule, traces: list[int], largest: int) -> dict[str, float]:
    low, high = ((bound << RESIDUE_BITS) + HALF_WEIGHT for bound in (rule.w_min, rule.top(largest)))
    multiplicative = int(rule.bounds == "multiplicative")
    return {
        "pair": 1, "source_trace": traces[0], "target_trace": traces[1], "multiplicative": multiplicative, "low": low, "high": high
    }  # fmt: skip


def _trace_tables(kinds: Sequence[Kind], start: int) -> dict[str, NDArray[Any]]:
    """Tables of decay one after the other, and for each kind of trace where its own is."""
    taus = list(dict.fromkeys(tau for tau, _, _ in kinds))
    decays = [decay_table(tau) for tau in taus]
    begin = np.concatenate(([0], np.cumsum([len(table) for table in decays], dtype=np.int64)))
    rows = [
        (max(silent_until - start, 0), begin[taus.index(tau)], len(decays[taus.index(tau)]), i + 1 if every else 0)
        for i, (tau, silent_until, every) in enumerate(kinds)
    ]
    return {"trace_kinds": np.array(rows, DTYPES["Trace"]), "decays": np.concatenate([np.zeros(0, np.uint32), *decays])}
