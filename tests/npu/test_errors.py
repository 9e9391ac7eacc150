"""Bad input at the NPU's door: a clear error that names the value, and an NPU that is as it was, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import assert_bits
from test_npu import same_network

from gpu_npu import (
    NPU,
    Area,
    BackendUnavailableError,
    CapacityError,
    Connectome,
    DeviceMemoryError,
    FileFormatError,
    KernelError,
    NetworkError,
    NeuronIndexError,
    NpuError,
    Rules,
    Settings,
    SumOverflowError,
)
from gpu_npu.backends import select
from gpu_npu.backends.base import Backend, Platform
from gpu_npu.io import load, save

NAN, INF = float("nan"), float("inf")
Bad = tuple[str, Callable[[NPU], object], type[NpuError], str]

BAD: tuple[Bad, ...] = (
    # ids out of range, negative, of a wrong kind
    ("injection beyond", lambda n: n.inject([0, 12], 1), NeuronIndexError, r"neurons\[1\]: 12 .*reserve"),
    ("injection before", lambda n: n.inject([-1], 1), NeuronIndexError, "-1"),
    ("ids that are real", lambda n: n.inject([1.5], 1), NetworkError, "float64.*1.5"),
    ("ids that are flags", lambda n: n.inject(np.ones(10, bool), 1), NetworkError, "bool"),
    ("ids in a square", lambda n: n.inject([[1]], 1), NetworkError, r"\(1, 1\)"),
    ("ids beyond 32 bits", lambda n: n.force_fire([2**32 + 1]), NeuronIndexError, "4294967297"),
    ("ids that are text", lambda n: n.force_fire(["a"]), NetworkError, "U1"),
    ("power beyond", lambda n: n.set_power_neurons([99]), NeuronIndexError, "99"),
    ("power of a burst", lambda n: n.process_burst([99]), NeuronIndexError, "99"),
    ("source beyond", lambda n: n.add_synapse(12, 0, 1, 1), NeuronIndexError, r"source.*12"),
    ("target before", lambda n: n.add_synapse(0, -3, 1, 1), NeuronIndexError, r"target.*-3"),
    ("batch beyond", lambda n: n.add_synapses([0, 1], [0, 70], 1, 1), NeuronIndexError, r"target\[1\].*70"),
    ("removal beyond", lambda n: n.remove_synapse(0, 12), NeuronIndexError, "12"),
    ("reweighting beyond", lambda n: n.update_weight(12, 0, 1), NeuronIndexError, "12"),
    ("deletion beyond", lambda n: n.delete_neurons([0, 12]), NeuronIndexError, "12"),
    ("deletion twice", lambda n: n.delete_neurons([4, 4]), NetworkError, "4 is given more than once"),
    ("parameter beyond", lambda n: n.set_parameter("threshold", [12], 1), NeuronIndexError, "12"),
    ("parameter twice", lambda n: n.set_parameter("threshold", [3, 3], 1), NetworkError, "3 is given more than once"),
    (
        "parameter of none yet",
        lambda n: n.set_parameter("threshold", [0, 11], 1),
        NetworkError,
        "the id 11 is reserved, but its neuron was never created",
    ),
    ("reading beyond", lambda n: n.get_parameter("threshold", [12]), NeuronIndexError, "12"),
    ("mapping beyond", lambda n: n.set_neuron_mapping({0: 1, 12: 1}), NeuronIndexError, "12"),
    ("outgoing beyond", lambda n: n.outgoing_synapses([12]), NeuronIndexError, "12"),
    ("incoming beyond", lambda n: n.incoming_synapses([12]), NeuronIndexError, "12"),
    # values
    ("potential NaN", lambda n: n.inject([0, 1], [1, NAN]), NetworkError, r"potentials\[1\].*nan"),
    ("potential infinite", lambda n: n.inject([0], INF), NetworkError, "inf"),
    ("potential too large", lambda n: n.inject([0], 1e39), NetworkError, "1e\\+39"),
    ("potential a text", lambda n: n.inject([0], "x"), NetworkError, "potentials"),
    ("threshold NaN", lambda n: n.set_parameter("threshold", [0], NAN), NetworkError, "threshold.*nan"),
    ("threshold infinite", lambda n: n.set_area_parameter("threshold", 0, INF), NetworkError, "threshold.*inf"),
    ("threshold limit -inf", lambda n: n.set_parameter("threshold_limit", [0], -INF), NetworkError, "threshold_limit.*-inf"),
    ("leak above 1", lambda n: n.set_parameter("leak_coefficient", [0, 1], [1, 1.5]), NetworkError, r"leak_coefficient\[1\].*1.5"),
    ("leak below 0", lambda n: n.set_area_parameter("leak_coefficient", 0, -0.1), NetworkError, "leak_coefficient.*-0.1"),
    ("excitability above 1", lambda n: n.add_neuron(excitability=1.25), NetworkError, "excitability.*1.25"),
    ("period above u16", lambda n: n.set_parameter("refractory_period", [0], 65536), NetworkError, "65536"),
    ("period of halves", lambda n: n.set_parameter("refractory_period", [0], 0.5), NetworkError, "refractory_period.*float64"),
    ("flag of 2", lambda n: n.set_parameter("mp_charge_accumulation", [0], 2), NetworkError, "2"),
    ("coordinates flat", lambda n: n.set_parameter("coordinates", [0, 1], [1, 2]), NetworkError, "coordinates"),
    ("no such field", lambda n: n.set_parameter("treshold", [0], 1), NetworkError, "'treshold'.*threshold_limit"),
    ("no such field to read", lambda n: n.get_parameter("valid?"), NetworkError, "valid?"),
    ("no such field to add", lambda n: n.add_neuron(weight=1), NetworkError, "weight"),
    ("weight above u8", lambda n: n.add_synapse(0, 1, 256, 1), NetworkError, "weight.*256"),
    ("weight below 0", lambda n: n.add_synapses([0], [1], [-1], 1), NetworkError, "weight.*-1"),
    ("weight of halves", lambda n: n.add_synapse(0, 1, 1.5, 1), NetworkError, "weight.*1.5"),  # type: ignore[arg-type]
    ("weight to set above u8", lambda n: n.update_weights([0, 0], [1, 2], [3, 300]), NetworkError, r"weight\[1\].*300"),
    ("conductance above u8", lambda n: n.add_synapse(0, 1, 1, 700), NetworkError, "psp.*700"),
    ("synapse of type 2", lambda n: n.add_synapse(0, 1, 1, 1, 2), NetworkError, "inhibitory.*2"),
    ("area of text", lambda n: n.set_neuron_mapping({0: "x"}), NetworkError, "cortical_area"),  # type: ignore[dict-item]
    ("area below 0", lambda n: n.set_area(-1, power=True), NetworkError, "-1"),
    ("area beyond u32", lambda n: n.neurons_in_area(2**32), NetworkError, "4294967296"),
    ("area flag of 2", lambda n: n.set_area(1, power=2), NetworkError, "power: 2"),  # type: ignore[arg-type]
    ("power amount NaN", lambda n: n.set_power_amount(NAN), NetworkError, "power_amount.*nan"),
    ("settings of another kind", lambda n: n.set_settings({}), NetworkError, "not a Settings"),  # type: ignore[arg-type]
    ("floor above ceiling", lambda n: n.set_settings(Settings(Rules(potential_floor=2, potential_ceiling=1))), NetworkError, "2.0.*1.0"),
    # lengths
    ("potentials of another length", lambda n: n.inject([0, 1, 2], [1, 2]), NetworkError, "2 values for 3"),
    ("values of another length", lambda n: n.set_parameter("threshold", [0, 1], [1, 2, 3]), NetworkError, "3 values for 2"),
    ("targets of another length", lambda n: n.add_synapses([0, 1], [1, 2, 3], 1, 1), NetworkError, "3 values for 2"),
    ("pairs of other lengths", lambda n: n.remove_synapses([0, 1], [1]), NetworkError, "1 ids for 2"),
    ("areas of another length", lambda n: n.set_neuron_mapping([0, 1], [1, 2, 3]), NetworkError, "3 values for 2"),
    ("no areas", lambda n: n.set_neuron_mapping([0, 1]), NetworkError, "areas"),
    ("areas twice", lambda n: n.set_neuron_mapping({0: 1}, [1]), NetworkError, "twice"),
    ("fields of another length", lambda n: n.add_neurons(2, threshold=[1, 2, 3]), NetworkError, "3 values for 2"),
    # capacity
    ("neurons", lambda n: n.add_neurons(3), CapacityError, "3 neurons do not fit: 2 of 12.*reserve"),
    ("synapses", lambda n: n.add_synapses([0] * 9, 1, 1, 1), CapacityError, "9 synapses do not fit: 8 of the 18 reserved.*reserve"),
    ("a number of neurons below 0", lambda n: n.add_neurons(-1), NetworkError, "-1"),
    ("room below 0", lambda n: n.reserve(neurons=-5), NetworkError, "-5"),
    ("too much room", lambda n: n.reserve(neurons=2**30 + 1), CapacityError, "1,073,741,825"),
    # history, runs
    ("burst 0", lambda n: n.get_fire_history(0), NetworkError, "burst 0 .* holds bursts 1 to 3"),
    ("a burst to come", lambda n: n.get_fire_history(4), NetworkError, "burst 4"),
    ("history of -1", lambda n: n.get_recent_history(-1), NetworkError, "-1"),
    ("-1 bursts", lambda n: n.run(-1), NetworkError, "-1"),
    ("network of edits", lambda n: n.reset(network=True), NetworkError, "to_connectome"),
)


def lively(factory: Callable[[], Platform]) -> NPU:
    """10 of 12 neurons, 10 of 18 synapses, three bursts done, something staged."""
    npu = NPU(12, 18, backend=factory, areas={0: Area(psp_uniform=False)})
    npu.add_neurons(10, threshold=1.0, leak_coefficient=0.5)
    npu.add_synapses(np.arange(10), (np.arange(10) + 1) % 10, 2, 1)
    npu.set_power_neurons([0])
    npu.run(3)
    npu.inject([3], 7.0)
    npu.force_fire([5])
    return npu


def test_bad_input_changes_nothing(backend_factory: Callable[[], Platform]) -> None:
    npu, untouched = lively(backend_factory), lively(backend_factory)
    before, settings, statistics = untouched.to_connectome(), untouched.settings, untouched.statistics()
    for what, call, kind, message in BAD:
        with pytest.raises(kind, match=message):
            call(npu)
            pytest.fail(f"{what}: no error")
        same_network(npu.to_connectome(), before)
        assert (npu.settings, npu.statistics()) == (settings, statistics), what
    for _ in range(3):
        result, expected = npu.process_burst(), untouched.process_burst()
        assert_bits(result.fired_neurons, expected.fired_neurons, "fired")
        assert replace(result, fired_neurons=None) == replace(expected, fired_neurons=None)  # type: ignore[arg-type]
        assert_bits(npu.fire_queue.potentials, untouched.fire_queue.potentials, "potentials")


@pytest.mark.parametrize("kind", [NetworkError, NeuronIndexError, CapacityError, SumOverflowError, FileFormatError])
def test_errors_are_also_what_a_caller_would_catch(kind: type[NpuError]) -> None:
    assert issubclass(kind, (ValueError, IndexError, OverflowError))
    assert issubclass(kind, NpuError)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"neuron_count": -1}, NetworkError, "-1"),
        ({"neuron_count": 2.5}, NetworkError, "2.5"),
        ({"neuron_count": 2**30 + 1}, CapacityError, "1,073,741,825"),
        ({"synapse_capacity": -1}, NetworkError, "-1"),
        ({"fire_ledger_window": 0}, NetworkError, "fire_ledger_window: 0"),
        ({"weight_dtype": np.int16}, NetworkError, "int16"),
        ({"psp_dtype": np.float64}, NetworkError, "float64"),
        ({"areas": {0: True}}, NetworkError, "True"),
        ({"settings": 3}, NetworkError, "3"),
        ({"backend": "tpu"}, NetworkError, "'tpu' is not one of"),
        ({"backend": "cpu", "device": 0}, NetworkError, "has no devices"),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[NpuError], message: str) -> None:
    with pytest.raises(kind, match=message):
        NPU(**options)


def test_a_network_that_cannot_be_is_refused_whole() -> None:
    connectome = Connectome(3, 40, weight_dtype=np.uint16, psp_dtype=np.uint16, areas={0: Area(psp_uniform=False)})
    connectome.add_neurons(2)
    connectome.add_synapses([0, 1], [2, 2], 60000, 35000)
    with pytest.raises(SumOverflowError, match="neuron 2: its synaptic input"):
        NPU.from_connectome(connectome, backend="reference")
    assert not connectome.frozen
    connectome.remove_synapses([0], [2])
    connectome.neurons.threshold[1] = np.nan
    with pytest.raises(NetworkError, match=r"threshold\[1\].*nan"):
        NPU.from_connectome(connectome, backend="reference")


def test_files_that_are_none(tmp_path: Path) -> None:
    connectome = Connectome(3, 3)
    connectome.add_neurons(3)
    good = tmp_path / "good.npz"
    save(connectome, good)
    for name, content in (("cut.npz", good.read_bytes()[:-40]), ("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=name):
            load(tmp_path / name)


class _Gpu:
    """Stands for the CUDA device in `select`: what it says about itself is all that counts there."""

    description = "GPU 0, a small one"
    closed = False

    def __init__(self, index: int | None = None) -> None:
        self.index = index

    def free_and_total(self) -> tuple[int, int]:
        return 1000, 2000

    def close(self) -> None:
        type(self).closed = True


def test_a_gpu_that_is_too_small_names_needed_and_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_npu.backends.devices.cuda.CudaDevice", _Gpu)
    with pytest.raises(DeviceMemoryError, match="GPU 0, a small one: the network needs about [0-9,]+ bytes, 1,000 are free"):
        NPU(100_000, 10, backend="cuda")
    assert _Gpu.closed
    with pytest.raises(DeviceMemoryError):
        NPU(100_000, 10, backend="auto", device=0)
    npu = NPU(100_000, 10)
    assert npu.backend in ("cpu", "reference")
    assert "not cuda: GPU 0, a small one: the network needs about" in npu.backend_reason


@pytest.mark.parametrize(
    "problem",
    [
        BackendUnavailableError("no GPU is here"),
        BackendUnavailableError("the driver is for CUDA 11.4, CuPy for 13: update the driver"),
        KernelError("burst.cu(3): error: expected a ';'"),
    ],
)
def test_only_auto_falls_back(monkeypatch: pytest.MonkeyPatch, problem: NpuError) -> None:
    def fails(*_: Any) -> Backend:
        raise problem

    monkeypatch.setattr(select, "_cuda", fails)
    with pytest.raises(type(problem)) as caught:
        NPU(3, backend="cuda")
    assert caught.value is problem
    assert f"not cuda: {problem}" in NPU(3).backend_reason
    monkeypatch.setattr(select, "_cpu", fails)
    with pytest.raises(type(problem)):
        NPU(3, backend="cpu")
    npu = NPU(3)
    assert npu.backend == "reference"
    assert f"not cuda: {problem}; not cpu: {problem}" in npu.backend_reason
    assert NPU(3, backend="reference").backend_reason.startswith("chosen")
