"""Checkpoints: the whole state of a run in one file, from which any backend goes on as if the run had never stopped.

    npu.snapshot().write("run.ckpt")
    npu = NPU.from_snapshot(Snapshot.read("run.ckpt"), backend="cpu")

Taking a snapshot copies what lies on the backend; writing it touches neither NPU nor backend, so another thread may do it
while bursts go on. docs/checkpoints.md has the file byte by byte.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, Counts
from gpu_npu.backends.flight import Flight, Learning, Scheduled
from gpu_npu.checks import check_ids, check_integer, check_path, check_potentials
from gpu_npu.connectome import NEURON_FIELDS, STATE_FIELDS, Connectome, FeagiRule, PairRule
from gpu_npu.connectome.fields import LONGEST_DELAY, CountType
from gpu_npu.connectome.validation import check_weights
from gpu_npu.errors import NetworkError, NpuError
from gpu_npu.io.project import network_arrays, network_values, read_network
from gpu_npu.io.sealed import Sealed, write_sealed
from gpu_npu.io.strict_json import parse_json
from gpu_npu.objects import described

QUEUES = ("fired", "previous", "candidates", "staged")
"""Of a Flight: ids with potentials."""
ENDS = ("source", "target")
LAST_BURST = 2**61
"""No run comes so far: a burst a nanosecond would take 73 years. Numbers up to twice this are held everywhere."""


@dataclass(frozen=True)
class Snapshot:
    """A run between two bursts, as `NPU.snapshot` takes it.

    Attributes
    ----------
    network : the connectome as it stood, neurons with their state; frozen.
    flight : queues, ledger, what was staged, the burst number.
    fire_ledger_window : bursts of history that are kept.
    power_neurons : the list that `set_power_neurons` was given, uint32 ascending.
    initial : state that `reset` goes back to, by field, full length; a field that is not here goes back to 0.
    next_rule : the handle that the next plasticity rule gets.
    notes : what its user wants to find again, whatever JSON can say; extra : the same as flat arrays.
    longest_delay : spikes are kept for so many bursts.
    """

    network: Connectome
    flight: Flight
    fire_ledger_window: int
    power_neurons: U32
    initial: Mapping[str, NDArray[Any]]
    next_rule: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    longest_delay: int = 1

    def __repr__(self) -> str:
        return described(self, f"burst {self.burst:,} of {self.network!r}")

    def __post_init__(self) -> None:
        """The parts must belong together: NetworkError or NeuronIndexError."""
        flight, n = self.flight, self.network.neuron_capacity
        check_integer(flight.burst, "burst", 0, LAST_BURST)
        check_integer(self.fire_ledger_window, "fire_ledger_window", 1, LAST_BURST)
        check_integer(self.next_rule, "next_rule", 0, LAST_BURST)
        check_integer(self.longest_delay, "longest_delay", self.network.synapses.delay_range[1], LONGEST_DELAY)
        queues = {name: getattr(flight, name) for name in QUEUES} | {f"earlier[{i}]": queue for i, queue in enumerate(flight.earlier)}
        for name, (ids, potentials) in queues.items():
            check_ids(ids, n, name)
            if len(potentials) != len(ids):
                raise NetworkError(f"{name}: {len(potentials):,} potentials for {len(ids):,} ids")
            check_potentials(potentials, len(ids), name)
        ascending = {name: ids for name, (ids, _) in queues.items() if name != "staged"}
        ascending |= {"forced": flight.forced, "power_neurons": self.power_neurons}
        ascending |= {f"ledger[{i}]": ids for i, ids in enumerate(flight.ledger)}
        for name, ids in ascending.items():
            check_ids(ids, n, name)
            if bool((ids[1:] <= ids[:-1]).any()):
                raise NetworkError(f"{name}: its ids do not ascend")
        kept = min(self.fire_ledger_window, flight.burst)
        if self.fire_ledger_window < 1 or len(flight.ledger) != kept:
            raise NetworkError(
                f"the ledger has {len(flight.ledger)} bursts; with a window of {self.fire_ledger_window} it has {kept} "
                f"after burst {flight.burst}"
            )
        self._check_memory()
        self._check_scheduled()
        under_way = max(min(self.longest_delay, flight.burst) - 2, 0)
        if len(flight.earlier) != under_way:
            raise NetworkError(f"{len(flight.earlier)} earlier fire queues, where delays up to {self.longest_delay} have {under_way}")
        fired = [ids for ids, _ in (*flight.earlier, flight.previous, flight.fired)]
        for ids, noted in zip(reversed(fired), reversed(flight.ledger), strict=False):
            if not np.array_equal(ids, noted):
                raise NetworkError("the ledger ends with other ids than those that fired last")

    def _check_scheduled(self) -> None:
        burst, neuron, potential = self.flight.scheduled
        check_ids(neuron, self.network.neuron_capacity, "scheduled")
        if not len(burst) == len(neuron) == len(potential):
            raise NetworkError(f"scheduled: {len(burst):,} bursts for {len(neuron):,} ids and {len(potential):,} potentials")
        if bool((burst[1:] < burst[:-1]).any() or (burst[:1] <= self.burst).any()):
            raise NetworkError(f"scheduled: its bursts do not ascend, or are not after burst {self.burst}")
        if len(burst) and int(burst[-1]) >= 2 * LAST_BURST:
            raise NetworkError(f"scheduled: burst {burst[-1]:,} is beyond {2 * LAST_BURST - 1:,}")
        if bool(np.isinf(potential).any()):  # one that is not a number stands for a neuron to be forced
            raise NetworkError("scheduled: a potential is infinite")

    def _check_memory(self) -> None:
        learning, rules = self.flight.learning, self.network.plasticity
        if len(learning.silent_until) != len(rules) or max(learning.silent_until, default=-1) >= self.next_rule:
            handles = list(learning.silent_until)
            raise NetworkError(f"rules with the handles {handles}, for {len(rules)} rules and the next handle {self.next_rule}")
        paired = [handle for handle, rule in zip(learning.silent_until, rules, strict=True) if isinstance(rule, PairRule)]
        if list(learning.traces) != paired:
            raise NetworkError(f"traces of the rules {list(learning.traces)}; pair rules are {paired}")
        n = self.network.neuron_capacity if rules else 0
        arrays: dict[str, NDArray[Any]] = {"last_fired": learning.last_fired, "run": learning.run}
        arrays |= {f"trace {i} of rule {handle}": pair[i] for handle, pair in learning.traces.items() for i in range(2)}
        for handle, burst in learning.silent_until.items():
            check_integer(burst, f"first burst of rule {handle}", -1, 2 * LAST_BURST)
        for name, array in arrays.items():
            if len(array) != n:
                raise NetworkError(f"{name}: {len(array):,} values for {n:,} ids of a network with {len(rules)} rules")
        for name in ("residues", "delivered"):
            count = len(getattr(learning, name))
            if count not in (0, self.network.synapse_count):
                raise NetworkError(f"{name}: {count:,} for {self.network.synapse_count:,} synapses")
        if len(learning.residues) and np.float32 in (self.network.weight_dtype, self.network.psp_dtype):
            raise NetworkError("residues: of whole weights, and weights or psps of this network are float32")
        if len(learning.delivered):
            self._check_delivered(learning.delivered)

    def _check_delivered(self, delivered: Counts) -> None:
        """What FeagiRules hold back are weights, of synapses that they act on."""
        network = self.network
        held = np.flatnonzero(check_weights(delivered, network.weight_dtype, len(delivered), "delivered") != network.synapses.weight)
        source, target = (network.neurons.cortical_area[end[held]] for end in (network.synapses.source, network.synapses.target))
        learns = np.zeros(len(held), np.bool_)
        for rule in network.plasticity:
            if isinstance(rule, FeagiRule):
                learns |= (source == rule.source_area) & (target == rule.target_area)
        if not learns.all():
            synapse = int(held[np.flatnonzero(~learns)[0]])
            raise NetworkError(f"delivered[{synapse}]: {delivered[synapse]} is held back, of a synapse that no FeagiRule acts on")

    @property
    def burst(self) -> int:
        """Number of the last burst."""
        return self.flight.burst

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write to a file, which takes the place of what is at `path` whole and on the disk, or not at all.

        OSError: not writable, the disk is full, or another process is writing there; what was at `path` stays.
        """
        path, learning = check_path(path), self.flight.learning
        values = {
            "burst": self.burst,
            "fire_ledger_window": self.fire_ledger_window,
            "rules_since": json.dumps(list(learning.silent_until.items())),
            "next_rule": self.next_rule,
            "longest_delay": self.longest_delay,
            "notes": json.dumps(dict(self.notes)),
            **network_values(self.network),
        }
        earlier = self.flight.earlier
        arrays = {
            **network_arrays(self.network),
            **{f"initial_{name}": array for name, array in self.initial.items()},
            "power_neurons": self.power_neurons,
            **_joined("ledger", "fired", self.flight.ledger),
            **_joined("earlier", "neuron", [ids for ids, _ in earlier]),
            "earlier_potential": np.concatenate([np.zeros(0, np.float32), *(potentials for _, potentials in earlier)]),
            "forced": self.flight.forced,
            **{f"scheduled_{name}": array for name, array in self.flight.scheduled._asdict().items()},
            "last_fired": learning.last_fired,
            "run": learning.run,
            "residues": learning.residues,
            "delivered": learning.delivered.astype(self.network.weight_dtype),
            **{f"trace_{handle}_{end}": array for handle, pair in learning.traces.items() for end, array in zip(ENDS, pair, strict=True)},
            **{f"extra_{name}": array for name, array in self.extra.items()},
        }
        for name in QUEUES:
            arrays[f"{name}_neuron"], arrays[f"{name}_potential"] = getattr(self.flight, name)
        write_sealed(path, values, arrays)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, memory_limit: int | None = None) -> Snapshot:
        """What `write` wrote. CheckpointError: truncated, changed, of another version, or not a checkpoint. CapacityError: it takes
        more memory than `memory_limit` (gpu_npu/io/budget.py says how many bytes where it is None). OSError: not readable."""
        with Sealed(path, memory_limit) as file:
            network = read_network(file, file.version)
            network.freeze()
            queues = {
                name: (file.array(f"{name}_neuron", dtype=np.uint32), file.array(f"{name}_potential", dtype=np.float32)) for name in QUEUES
            }
            shape = (network.neuron_capacity,)
            initial = {
                name: file.array(f"initial_{name}", shape, NEURON_FIELDS[name].dtype)
                for name in STATE_FIELDS
                if f"initial_{name}" in file
            }
            ledger = _cut(file, "ledger", "fired", np.uint32)
            earlier: tuple[tuple[U32, F32], ...] = ()
            if file.version > 2:
                potentials = _cut(file, "earlier", "potential", np.float32)
                earlier = tuple(zip(_cut(file, "earlier", "neuron", np.uint32), potentials, strict=True))
            longest_delay = file.integer("longest_delay") if file.version > 2 else 1
            forced = file.array("forced", dtype=np.uint32)
            scheduled = Scheduled(
                file.array("scheduled_burst", dtype=np.uint64),
                file.array("scheduled_neuron", dtype=np.uint32),
                file.array("scheduled_potential", dtype=np.float32),
            )
            extra = {name.removeprefix("extra_"): file.array(name) for name in file.names("extra_")}
            try:
                learning = _learning(file, network.weight_dtype)
                return cls(
                    network,
                    Flight(
                        file.integer("burst"),
                        ledger=ledger,
                        forced=forced,
                        scheduled=scheduled,
                        learning=learning,
                        earlier=earlier,
                        **queues,
                    ),
                    file.integer("fire_ledger_window"),
                    file.array("power_neurons", dtype=np.uint32),
                    initial,
                    file.integer("next_rule"),
                    dict(_json(file, "notes")),
                    extra,
                    longest_delay,
                )
            except (NpuError, ValueError, TypeError, OverflowError) as error:
                raise file.error(error) from error


def _joined(name: str, what: str, parts: Sequence[U32]) -> dict[str, NDArray[Any]]:
    """Lists of ids one after the other, and where each begins."""
    offset = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(ids) for ids in parts], out=offset[1:])
    return {f"{name}_offset": offset, f"{name}_{what}": np.concatenate([np.zeros(0, np.uint32), *parts])}


def _cut(file: Sealed, name: str, what: str, dtype: Any) -> tuple[NDArray[Any], ...]:
    """The lists of `_joined`."""
    offset, whole = file.array(f"{name}_offset", dtype=np.int64), file.array(f"{name}_{what}", dtype=dtype)
    if not len(offset) or offset[0] != 0 or offset[-1] != len(whole) or bool((offset[1:] < offset[:-1]).any()):
        raise file.error(f"'{name}_offset' does not cut the {len(whole):,} values of '{name}_{what}' into bursts")
    return tuple(np.split(whole, offset[1:-1])) if len(offset) > 1 else ()


def _learning(file: Sealed, weight_dtype: CountType) -> Learning:
    since = {int(handle): int(burst) for handle, burst in _json(file, "rules_since")}
    traces = {
        handle: (file.array(f"trace_{handle}_source", dtype=np.uint32), file.array(f"trace_{handle}_target", dtype=np.uint32))
        for handle in since
        if f"trace_{handle}_source" in file
    }
    last, run = file.array("last_fired", dtype=np.int64), file.array("run", dtype=np.uint16)
    residues, delivered = file.array("residues", dtype=np.int16), file.array("delivered", dtype=weight_dtype)
    return Learning(since, last, run, traces, residues, delivered)


def _json(file: Sealed, name: str) -> Any:
    text = file.text(name)
    try:
        return parse_json(text)
    except ValueError as error:
        raise NetworkError(f"{name!r} cannot be read: {error} in {text!r:.200}") from error
