"""The network that engines are compared on, and each engine: one network in one library, as it does it best."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu import NPU, Connectome, Rules, Settings

Ids = NDArray[np.uint32]
BIGGEST_WEIGHT = 4
PERIOD = 3
DRIVEN = 10
"""One of so many neurons is driven, and fires once in about SWEEP bursts by that alone."""
SWEEP = 20


# -- the network -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Network:
    """`degree` synapses leave every neuron; those of every second neuron inhibit. Arrays: target u32 (neurons, degree),
    ascending in a row; weight u8 (neurons, degree); potential f32 (neurons,), what each starts with."""

    neurons: int
    degree: int
    target: Ids
    weight: NDArray[np.uint8]
    potential: NDArray[np.float32]
    threshold: float
    amount: float

    @staticmethod
    def random(neurons: int, degree: int, seed: int = 0) -> Network:
        """The threshold makes what a neuron receives worth about half of its own drive: activity neither dies nor grows."""
        rng = np.random.default_rng(seed)
        degree = min(degree, neurons)
        width = neurons // degree
        target = rng.integers(0, width, (neurons, degree), dtype=np.uint32) + np.arange(degree, dtype=np.uint32) * np.uint32(width)
        weight = rng.integers(1, BIGGEST_WEIGHT + 1, (neurons, degree), dtype=np.uint8)
        square = np.mean(np.arange(1, BIGGEST_WEIGHT + 1) ** 2)
        threshold = float(np.ceil(np.sqrt(2 * degree * square)))
        potential = rng.integers(0, int(threshold), neurons).astype(np.float32)
        return Network(neurons, degree, target, weight, potential, threshold, max(1.0, round(threshold / SWEEP)))

    @property
    def driven(self) -> Ids:
        return np.arange(0, self.neurons, DRIVEN, dtype=np.uint32)

    @property
    def drive(self) -> NDArray[np.float32]:
        """What each neuron receives from outside in every burst."""
        drive = np.zeros(self.neurons, np.float32)
        drive[self.driven] = self.amount
        return drive

    def signed(self, dtype: Any = np.float32) -> NDArray[Any]:
        """Weights with their signs, (neurons, degree)."""
        signed = self.weight.astype(dtype)
        signed[1::2] *= -1
        return signed

    @cached_property
    def connectome(self) -> Connectome:
        """For the NPU. Exact as long as what arrives at a neuron in a burst stays below 2^24."""
        most = BIGGEST_WEIGHT * int(np.bincount(self.target.ravel()).max()) + self.threshold + self.amount
        if most >= 2**24:
            raise ValueError(f"sums of up to {most:,.0f} are not exact in float32")
        rules = Rules(refractory_clock="burst", potential_floor=0.0)
        connectome = Connectome(self.neurons, self.weight.size, settings=Settings(rules=rules, power_amount=self.amount))
        fields = {"threshold": self.threshold, "refractory_period": PERIOD, "leak_coefficient": 0.0}
        connectome.add_neurons(self.neurons, membrane_potential=self.potential, **fields)
        source = np.repeat(np.arange(self.neurons, dtype=np.uint32), self.degree)
        connectome.add_synapses(source, self.target.ravel(), self.weight.ravel(), 1, source % 2 == 1)
        return connectome


# -- engines -----------------------------------------------------------------------------------------------------------
class Engine(ABC):
    """One network in one library."""

    @abstractmethod
    def run(self, bursts: int) -> list[Ids]:
        """The ids that fired in each of the next bursts, on the host."""

    def close(self) -> None:
        """Give back what will not go with the object."""
        return


class OurRun(Engine):
    """`NPU.run`."""

    def __init__(self, network: Network, make: Callable[[], Any]) -> None:
        self._npu = NPU.from_connectome(network.connectome, backend=make)
        self._npu.set_power_neurons(network.driven)

    def close(self) -> None:
        self._npu.close()

    def run(self, bursts: int) -> list[Ids]:
        fired: list[Ids] = []
        self._npu.run(bursts, watch=lambda result: fired.append(result.fired_neurons))
        return fired


class OurBursts(OurRun):
    """`NPU.process_burst`, as often."""

    def run(self, bursts: int) -> list[Ids]:
        return [self._npu.process_burst().fired_neurons for _ in range(bursts)]


class Arrays(Engine):
    """The model in arrays of NumPy, or of CuPy, which has the same functions."""

    def __init__(self, network: Network, xp: Any, sparse: Any) -> None:
        """`sparse`: scipy.sparse or cupyx.scipy.sparse for products; None to gather rows."""
        self._xp, self._neurons, self._threshold = xp, network.neurons, np.float32(network.threshold)
        self._potential, self._drive = xp.asarray(network.potential), xp.asarray(network.drive)
        self._countdown = xp.zeros(network.neurons, xp.int32)
        self._spikes = xp.zeros(network.neurons, xp.bool_)
        self._matrix: Any = None
        if sparse is None:
            self._target, self._weight = xp.asarray(network.target.astype(np.int32)), xp.asarray(network.signed())
            return
        data, columns = xp.asarray(network.signed().ravel()), xp.asarray(network.target.ravel().astype(np.int32))
        rows = xp.arange(0, network.target.size + 1, network.degree, dtype=xp.int32)
        by_source = sparse.csr_matrix((data, columns, rows), shape=(network.neurons, network.neurons))
        self._matrix = by_source.T.tocsr()

    def _arriving(self) -> Any:
        if self._matrix is not None:
            return self._matrix @ self._spikes.astype(self._xp.float32)
        fired = self._xp.flatnonzero(self._spikes)
        targets, weights = self._target[fired].ravel(), self._weight[fired].ravel()
        if self._xp is np:
            return np.bincount(targets, weights, self._neurons).astype(np.float32)
        sums = self._xp.zeros_like(self._drive)
        self._xp.add.at(sums, targets, weights)  # an atomic addition each
        return sums

    def run(self, bursts: int) -> list[Ids]:
        xp, recorded = self._xp, []
        for _ in range(bursts):
            free = self._countdown == 0
            total = xp.maximum(self._potential + (self._arriving() + self._drive), 0)
            self._spikes = free & (total >= self._threshold)
            self._potential = xp.where(free, xp.where(self._spikes, 0, total), self._potential)
            self._countdown = xp.where(free, PERIOD * self._spikes, self._countdown - 1)
            recorded.append(self._spikes)
        host = recorded if xp is np else [spikes.get() for spikes in recorded]
        return [np.flatnonzero(spikes).astype(np.uint32) for spikes in host]


class Torch(Engine):
    """The model in tensors of PyTorch.

    Rows are gathered without a wait for the host: of as many as can have fired, those that did not are a row of zeros.
    """

    def __init__(self, network: Network, device: str, *, product: bool, most_fired: int) -> None:
        self._torch = torch = importlib.import_module("torch")
        if device == "cpu":
            torch.set_num_threads(1)  # its threads spin and take the cores from whoever runs beside it; one was faster
        place = partial(torch.as_tensor, device=device)
        self._neurons, self._threshold, self._most = network.neurons, network.threshold, most_fired
        self._potential, self._drive = place(network.potential), place(network.drive)
        self._countdown = torch.zeros(network.neurons, dtype=torch.int32, device=device)
        self._spikes = torch.zeros(network.neurons, dtype=torch.bool, device=device)
        self._matrix: Any = None
        if product:
            target, order = torch.sort(place(network.target.astype(np.int32).ravel()), stable=True)
            start = torch.zeros(network.neurons + 1, dtype=torch.int32, device=device)
            start[1:] = torch.bincount(target, minlength=network.neurons).cumsum(0)
            source, weight = (order // network.degree).to(torch.int32), place(network.signed().ravel())[order]
            shape = (network.neurons, network.neurons)
            self._matrix = torch.sparse_csr_tensor(start, source, weight, shape, check_invariants=True)  # by target
            return
        none = np.zeros((1, network.degree))
        self._target = place(np.concatenate((network.target, none)).astype(np.int32))
        self._weight = place(np.concatenate((network.signed(), none)).astype(np.float32))

    def _arriving(self) -> Any:
        torch = self._torch
        if self._matrix is not None:
            return self._matrix @ self._spikes.to(torch.float32)
        fired = torch.nonzero_static(self._spikes, size=self._most, fill_value=self._neurons).ravel()
        sums = torch.zeros_like(self._drive)
        return sums.index_add_(0, self._target[fired].ravel(), self._weight[fired].ravel())

    def run(self, bursts: int) -> list[Ids]:
        torch, recorded = self._torch, []
        with torch.inference_mode():
            for _ in range(bursts):
                free = self._countdown == 0
                total = (self._potential + (self._arriving() + self._drive)).clamp_(min=0)
                self._spikes = free & (total >= self._threshold)
                self._potential = torch.where(free, torch.where(self._spikes, 0.0, total), self._potential)
                self._countdown = torch.where(free, PERIOD * self._spikes.to(torch.int32), self._countdown - 1)
                recorded.append(self._spikes)
            host = torch.stack(recorded).cpu().numpy()
        return [np.flatnonzero(spikes).astype(np.uint32) for spikes in host]


class Genn(Engine):
    """GeNN (pygenn 5): its code generator, its recording of spikes on the device, weights of one byte."""

    STEP = """
    if (Countdown > 0) { Countdown--; Stopped = 1; }
    else { Stopped = 0; V = fmax(V + (Isyn + Drive), 0.0f); }
    """

    def __init__(self, network: Network, backend: str, folder: Path, bursts: int) -> None:
        """`bursts`: how many every `run` computes."""
        genn = importlib.import_module("pygenn")
        self._bursts = bursts
        self._model = model = genn.GeNNModel("float", "beside", backend=backend)
        model.dt = 1.0
        neuron = genn.create_neuron_model(
            "integer",
            params=["Threshold", "Period"],
            vars=[("V", "scalar"), ("Drive", "scalar"), ("Countdown", "int"), ("Stopped", "int")],
            sim_code=self.STEP,
            threshold_condition_code="Stopped == 0 && V >= Threshold",
            reset_code="V = 0.0f; Countdown = (int)Period;",
            auto_refractory_required=False,
        )
        synapse = genn.create_weight_update_model("byte", vars=[("g", "int8_t")], pre_spike_syn_code="addToPost((scalar)g);")
        parameters = {"Threshold": network.threshold, "Period": PERIOD}
        start = {"V": network.potential, "Drive": network.drive, "Countdown": 0, "Stopped": 0}
        self._neurons = model.add_neuron_population("n", network.neurons, neuron, parameters, start)
        self._neurons.spike_recording_enabled = True
        weights = {"g": network.signed(np.int8).ravel()}
        update, delta = genn.init_weight_update(synapse, {}, weights), genn.init_postsynaptic("DeltaCurr")
        synapses = model.add_synapse_population("s", "SPARSE", self._neurons, self._neurons, update, delta)
        synapses.set_sparse_connections(np.repeat(np.arange(network.neurons), network.degree), network.target.ravel())
        model.build(str(folder))
        model.load(num_recording_timesteps=bursts)

    def run(self, bursts: int) -> list[Ids]:
        if bursts != self._bursts:
            raise ValueError(f"this engine runs {self._bursts} bursts at a time, not {bursts}")
        first = self._model.timestep
        for _ in range(bursts):
            self._model.step_time()
        self._model.pull_recording_buffers_from_device()
        times, ids = self._neurons.spike_recording_data[0]
        when = np.asarray(times).astype(np.int64) - first
        return [np.sort(np.asarray(ids)[when == step]).astype(np.uint32) for step in range(bursts)]


class Brainevent(Engine):
    """brainevent on JAX: its product of spikes and CSR by source, all bursts of a run in one compiled loop."""

    def __init__(self, network: Network, bursts: int) -> None:
        """`bursts`: how many every `run` computes."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory of a GPU
        jax, brainevent = importlib.import_module("jax"), importlib.import_module("brainevent")
        xp = jax.numpy
        rows = np.arange(0, network.target.size + 1, network.degree, dtype=np.int32)  # looked at while it is compiled
        columns, data = xp.asarray(network.target.ravel().astype(np.int32)), xp.asarray(network.signed().ravel())
        drive = xp.asarray(network.drive)

        def burst(arrays: Any, state: Any, _: None) -> Any:
            potential, countdown, spikes = state
            matrix = brainevent.CSR((*arrays, rows), shape=(network.neurons, network.neurons))
            free = countdown == 0
            total = xp.maximum(potential + (brainevent.BinaryArray(spikes) @ matrix + drive), 0)
            fires = free & (total >= network.threshold)
            potential = xp.where(free, xp.where(fires, 0, total), potential)
            return (potential, xp.where(free, PERIOD * fires, countdown - 1), fires), fires

        self._bursts, self._arrays = bursts, (data, columns)
        self._loop = jax.jit(lambda arrays, state: jax.lax.scan(partial(burst, arrays), state, None, length=bursts))
        nothing = xp.zeros(network.neurons, xp.int32)
        self._state = (xp.asarray(network.potential), nothing, nothing > 0)

    def run(self, bursts: int) -> list[Ids]:
        if bursts != self._bursts:
            raise ValueError(f"this engine runs {self._bursts} bursts at a time, not {bursts}")
        self._state, recorded = self._loop(self._arrays, self._state)
        return [np.flatnonzero(spikes).astype(np.uint32) for spikes in np.asarray(recorded)]
