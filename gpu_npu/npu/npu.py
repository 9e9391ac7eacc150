"""NPU: a connectome on a backend, in parts that share one Resident: bursts, edits, queries.

The NPU keeps no copy of what lives on the backend. It checks every argument before anything changes, so a call is
done as a whole or raises with the NPU as it was. No clock, thread of its own or file is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.backends.select import BackendChoice
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.checks import check_count, check_flag, check_kind, check_map
from gpu_npu.connectome import Area, Connectome, CustomRule, Settings, SynapseSource
from gpu_npu.errors import CapacityError, NetworkError
from gpu_npu.objects import Unique, described

from .bursts import Bursts
from .calls import annotated, guarded
from .edits import NetworkEdits, NeuronEdits, SynapseEdits
from .queries import Queries
from .resident import InitialState, Resident
from .snapshot import Snapshot


class NPU(Bursts, NetworkEdits, NeuronEdits, SynapseEdits, Queries, Unique):
    """Neurons and synapses that fire in bursts.

    Any thread may call any method: calls happen one at a time, whole, and in each a second thread waits for its turn. A run is
    one call. Facts that lie here (burst_count, capacities, get_neuron_count, backend, settings, plasticity) never wait.
    What a watch, a plasticity rule or a signal handler calls in the middle of a call of its own thread is a NetworkError.

    Parameters
    ----------
    neuron_count : ids to reserve. No neuron exists yet: `add_neuron` fills the ids in order, `set_neuron_mapping`
        creates those it names. A synapse may name a reserved id and is inert until the neuron exists.
    synapse_capacity : synapses to reserve; `reserve` makes room for more of either.
    fire_ledger_window : bursts of history that are kept.
    backend : "auto", "reference", "cpu" or "cuda"; or a Platform; or a function that makes one.
    device : number of the GPU.
    weight_dtype, psp_dtype : np.uint8, np.uint16 or np.float32. delay_dtype : np.uint8 or np.uint16.
    settings, areas : rules and scales of the network; area id -> flags.
    annotate : as `annotate(True)` from the start, so that building and loading are seen too.

    Errors: those of `gpu_npu.connectome.errors`. An explicit backend that cannot be had is a BackendUnavailableError.
    """

    instead = "npu.snapshot() is a copy of its run, from which NPU.from_snapshot() goes on"

    def __init__(
        self,
        neuron_count: int = 0,
        synapse_capacity: int = 0,
        fire_ledger_window: int = 20,
        *,
        backend: BackendChoice = "auto",
        device: int | None = None,
        weight_dtype: Any = np.uint8,
        psp_dtype: Any = np.uint8,
        delay_dtype: Any = np.uint8,
        settings: Settings | None = None,
        areas: Mapping[int, Area] | None = None,
        annotate: bool = False,
    ) -> None:
        dtypes = {"weight_dtype": weight_dtype, "psp_dtype": psp_dtype, "delay_dtype": delay_dtype}
        empty = Connectome(neuron_count, synapse_capacity, settings=settings, areas=areas, **dtypes)
        window = check_count(fire_ledger_window, "fire_ledger_window", least=1)
        self._resident = Resident(backend, device, annotate)
        self._resident.load(empty, NetworkShape.of(empty, ledger_window=window))

    @classmethod
    def from_connectome(
        cls,
        connectome: Connectome,
        *,
        synapses: SynapseSource | None = None,
        fire_ledger_window: int = 20,
        neuron_capacity: int | None = None,
        synapse_capacity: int | None = None,
        backend: BackendChoice = "auto",
        device: int | None = None,
        annotate: bool = False,
    ) -> NPU:
        """An NPU with this network in it; capacities default to the connectome's. The connectome is frozen.

        synapses: more of them, younger than the connectome's own and of the same dtypes, read batch by batch and never held
        on the host: from a file (`gpu_npu.io.stream`) or generated (`gpu_npu.connectome.generators.RandomSynapses`, on the
        device where that can); `synapse_capacity` is then at least the sum of both.

        Everything in the connectome is checked first, as `Connectome.validate` does; synapses of a source are checked while
        they are read.
        """
        if not isinstance(connectome, Connectome):
            raise NetworkError(
                f"a {type(connectome).__name__} is no Connectome", python="gpu_npu.io.load(it) makes one of files, tables and matrices"
            )
        connectome.validate()
        npu = cls.__new__(cls)
        more = None if synapses is None else _fitting(synapses, connectome)
        count = connectome.synapse_count + (0 if more is None else more.total)
        shape = NetworkShape.of(
            connectome,
            more,
            neuron_capacity=_at_least(neuron_capacity, connectome.neuron_capacity, "neuron_capacity"),
            synapse_capacity=_at_least(synapse_capacity, count, "synapse_capacity", max(count, connectome.synapse_capacity)),
            ledger_window=check_count(fire_ledger_window, "fire_ledger_window", least=1),
        )
        npu._resident = Resident(backend, device, annotate)
        npu._resident.load(connectome, shape, more)
        npu._resident.origin = connectome, shape, more
        return npu

    @classmethod
    def from_snapshot(
        cls, snapshot: Snapshot, *, backend: BackendChoice = "auto", device: int | None = None, annotate: bool = False
    ) -> NPU:
        """An NPU that goes on where `snapshot` was taken, on whatever backend: what comes is, to the bit, what would have
        come there. `reset()` works as before; `reset(network=True)` does not, as it would need the network as first loaded."""
        check_kind(snapshot, Snapshot, "snapshot")
        network, flight = snapshot.network, snapshot.flight
        network.validate()
        npu, resident = cls.__new__(cls), Resident(backend, device, annotate)
        window = check_count(snapshot.fire_ledger_window, "fire_ledger_window", least=1)
        shape = NetworkShape.of(network, ledger_window=window, longest_delay=snapshot.longest_delay)
        resident.load(network, shape, silent_until=flight.learning.silent_until)
        try:
            resident.open().resume(flight)
            if len(flight.learning.delivered):
                resident.bound = resident.proven(lambda network: None)
        except BaseException:
            resident.close()
            raise
        resident.initial = InitialState(shape.neuron_capacity, snapshot.initial)
        resident.listed_power, resident.next_rule = snapshot.power_neurons, snapshot.next_rule
        npu._resident = resident
        return npu

    @guarded
    @annotated("transfer")
    def snapshot(self, notes: Mapping[str, Any] | None = None, extra: Mapping[str, NDArray[Any]] | None = None) -> Snapshot:
        """The run as it stands between two bursts, copied: network, state, queues, ledger, what is staged, burst number.

        `Snapshot.write` makes a file of it, on any thread. notes, extra: values for JSON and arrays to find again in it.
        NetworkError where a CustomRule acts: what it remembers is not known here.
        """
        noted = check_map({} if notes is None else notes, "notes")
        added = check_map({} if extra is None else extra, "extra")
        resident = self._resident
        custom = [handle for handle, rule in resident.rules.items() if isinstance(rule, CustomRule)]
        if custom:
            raise NetworkError(
                f"rule {custom[0]} is a CustomRule, which keeps its state to itself", python=f"unregister_plasticity({custom[0]}) ends it"
            )
        network = resident.to_connectome(as_delivered=True)
        network.freeze()
        flight, initial = resident.open().flight(), InitialState(resident.shape.neuron_capacity, resident.initial.values).values
        keeps = (resident.shape.ledger_window, resident.listed_power, initial, resident.next_rule)
        return Snapshot(network, flight, *keeps, dict(noted), dict(added), resident.shape.longest_delay)

    # -- life ----------------------------------------------------------------------------------------------------
    @guarded
    def close(self) -> None:
        """Give the backend's memory back; any later use of the NPU is an error. Closing twice is none."""
        self._resident.close()

    def __enter__(self) -> NPU:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return described(self, self._resident.summary())

    @guarded
    @annotated("edit")
    def reset(self, network: bool = False) -> None:
        """Back to before the first burst: potentials, countdowns, counts as loaded (of neurons added later: as added),
        burst number 0, empty queues and ledger, nothing staged. Edits, weights as learnt, settings, plasticity rules and
        power neurons stay.

        network=True: the whole network too goes back to the connectome that the NPU was made from, on a new backend
        of the same kind; the list of power neurons is empty again. NetworkError for an NPU that was not made from one.
        """
        resident = self._resident
        backend = resident.ready()
        if not check_flag(network, "network"):
            backend.reset(resident.initial.columns())
            return
        if resident.origin is None:
            raise NetworkError(
                "this NPU was built by edits or goes on from a snapshot, so it has no connectome to go back to",
                python="NPU.from_connectome(npu.to_connectome()) makes one that has",
            )
        resident.close()
        resident.load(*resident.origin)


def _at_least(value: int | None, needed: int, what: str, default: int | None = None) -> int:
    if value is None:
        return needed if default is None else default
    if check_count(value, what) < needed:
        raise CapacityError(f"{what}: {value:,} is less than the {needed:,} that the connectome has")
    return int(value)


def _fitting(source: SynapseSource, connectome: Connectome) -> SynapseSource:
    """The source, seen to fit this connectome."""
    check_kind(source, SynapseSource, "synapses")
    for name in ("weight_dtype", "psp_dtype", "delay_dtype"):
        ours, theirs = np.dtype(getattr(connectome, name)), np.dtype(getattr(source, name))
        if ours != theirs:
            raise NetworkError(
                f"synapses: their {name} is {theirs}, the connectome's {ours}", python=f'make the connectome with {name}="{theirs}"'
            )
    return source.within(connectome.neuron_capacity)
