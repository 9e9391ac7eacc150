"""What a run under way holds beside the network; equal on every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, Counts
from gpu_npu.objects import OneLine, one_line


def _nothing(dtype: type[np.generic]) -> Any:
    return field(default_factory=lambda: np.zeros(0, dtype))


RUN_MAX = 65535
"""No window is longer, so bursts in a row are counted up to here."""


@dataclass(frozen=True, repr=False)
class Learning(OneLine):
    """What plasticity rules remember. Arrays of neurons have a value for each id; without rules they are empty.

    `silent_until`: handle of each rule, in the order in which they act -> the last burst that is silent for it.
    `last_fired` (int64): the last burst in which a neuron fired, if that was after the earliest of `silent_until`; else 0.
    `run` (uint16): in how many bursts in a row, up to the last one, it fired, from there on and counted to 65535.
    `traces`: handle of each pair rule -> (uint32, uint32): the traces X of a neuron as a source and as a target, just after
    the burst `last_fired`; 0 where it did not fire after the rule's `silent_until`.
    `residues` (int16): as `Backend.residues` says; empty where all are 0.
    `delivered` (dtype of weights): of the synapses in the same order, the weights that the next burst delivers, where a
    FeagiRule holds back what the last one changed; empty where nothing is held back.
    """

    silent_until: Mapping[int, int] = field(default_factory=dict)
    last_fired: NDArray[np.int64] = _nothing(np.int64)
    run: NDArray[np.uint16] = _nothing(np.uint16)
    traces: Mapping[int, tuple[U32, U32]] = field(default_factory=dict)
    residues: NDArray[np.int16] = _nothing(np.int16)
    delivered: Counts = _nothing(np.uint8)


class Scheduled(NamedTuple):
    """Stimulus of bursts to come, one entry an item, ascending by burst, then neuron, then age: `burst` uint64, `neuron`
    uint32, `potential` float32, not a number where the neuron is to be forced."""

    burst: NDArray[np.uint64]
    neuron: U32
    potential: F32

    def __repr__(self) -> str:
        return one_line(self)

    @staticmethod
    def none() -> Scheduled:
        """Nothing is to come."""
        return Scheduled(np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.float32))

    def after(self, burst: int) -> Scheduled:
        """What is to come after this burst."""
        at = int(np.searchsorted(self.burst, np.uint64(burst), side="right"))
        return Scheduled(self.burst[at:], self.neuron[at:], self.potential[at:])

    def upto(self, burst: int) -> Scheduled:
        """What is to come up to this burst."""
        at = int(np.searchsorted(self.burst, np.uint64(burst), side="right"))
        return Scheduled(self.burst[:at], self.neuron[:at], self.potential[:at])

    def plus(self, burst: NDArray[np.uint64], neuron: U32, potential: F32) -> Scheduled:
        """With more items, younger than these."""
        if not len(burst):
            return self
        bursts, neurons = np.concatenate((self.burst, burst)), np.concatenate((self.neuron, neuron))
        order = np.lexsort((neurons, bursts))
        return Scheduled(bursts[order], neurons[order], np.concatenate((self.potential, potential))[order])


@dataclass(frozen=True, repr=False)
class Flight(OneLine):
    """What a run under way holds beside the network: with it, a network goes on as if it had never been stopped.

    Ids are uint32 and potentials float32, one for each. `fired`: the fire queue of the last burst, `previous`: that of the
    one before it, `earlier`: those of the bursts before that which are still under way, oldest first (none unless some delay is
    above 2), `candidates`: the last fire candidate list, as the queries of these names say. `ledger`: the fired ids of
    the last bursts, oldest first, as many as the window keeps. `staged`: the external potentials for the next burst in the
    order staged; `forced`: the ids to be forced in it, ascending, each once. `scheduled`: what is
    staged for later bursts. `learning`: what plasticity rules remember.
    """

    burst: int
    fired: tuple[U32, F32]
    previous: tuple[U32, F32]
    candidates: tuple[U32, F32]
    ledger: tuple[U32, ...]
    staged: tuple[U32, F32]
    forced: U32
    scheduled: Scheduled = field(default_factory=Scheduled.none)
    learning: Learning = field(default_factory=Learning)
    earlier: tuple[tuple[U32, F32], ...] = ()
