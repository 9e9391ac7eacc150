"""The strategies of propagation: forced, each gives what the reference gives; left to themselves, the right one is chosen."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from networks import Plan, agree, plans

from gpu_npu.backends.base import Platform
from gpu_npu.backends.devices.base import Launch
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform, Executor, Tuning
from gpu_npu.backends.layout import STRATEGIES
from gpu_npu.backends.memory import cell_bits
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Connectome

WIDE_TERMS = {"weight16", "psp16", "nonuniform"}
"""Switches that slices do not serve: with them, rows would be compared once more."""
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one block, tiny slices": ({"block": 32, "blocks": 1, "shared": 128}, {"propagation": "slices", "heavy_row": 1}),
    "several blocks a slice": ({"block": 64, "blocks": 8, "shared": 2048, "seed": 1}, {"propagation": "slices", "heavy_row": 20}),
    "one slice of all": ({"block": 160, "blocks": 3, "shared": 65536, "seed": 2}, {"propagation": "slices"}),
    "blocked": ({"block": 96, "blocks": 2, "cache_bytes": 400, "seed": 3}, {"propagation": "blocked", "heavy_row": 3}),
    "rows": ({"block": 256, "blocks": 9, "seed": 4}, {"propagation": "rows", "heavy_row": 2}),
    "chosen": ({"block": 64, "blocks": 5, "cache_bytes": 400, "shared": 512, "seed": 5}, {"heavy_row": 9}),
}


def without_wide_terms(plan: Plan) -> Plan:
    return replace(plan, switches=plan.switches - WIDE_TERMS)


def agrees(shape: str, plan: Plan) -> None:
    device, options = SHAPES[shape]
    agree(plan, DevicePlatform(EmulatedDevice(**device), Tuning(**options)), ReferencePlatform())


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=12)
@given(plan=plans(sizes=(1, 31, 33, 64, 100, 257, 300), hubs=(0, 40, 300)).map(without_wide_terms))
def test_every_strategy_gives_what_the_reference_gives(shape: str, plan: Plan) -> None:
    agrees(shape, plan)


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_many_networks_by_every_strategy(shape: str) -> None:
    @settings(max_examples=1_000, derandomize=False, print_blob=True)
    @given(plan=plans().map(without_wide_terms))
    def look(plan: Plan) -> None:
        agrees(shape, plan)

    look()


def delivered(network: Connectome, fired: Any, platform: Platform) -> tuple[Any, Any]:
    """What arrives when these neurons fire: ids and potentials."""
    with closing(platform.load(network, NetworkShape.of(network, ledger_window=2))) as backend:
        backend.force(fired)
        backend.burst(1)
        backend.burst(2)
        return backend.candidates()


@pytest.mark.parametrize("inhibitory", [0.0, 0.5, 1.0])
def test_sums_beyond_a_cell(inhibitory: float) -> None:
    """1,000 of the largest terms end in each of few targets: a cell of 32 bits wraps again and again, either way."""
    sources, targets = 1_000, 40
    network = Connectome(sources + targets, sources * targets)
    network.add_neurons(sources + targets, threshold=1e30)
    sign = np.random.default_rng(1).random(sources * targets) < inhibitory
    network.add_synapses(np.repeat(np.arange(sources), targets), np.tile(np.arange(targets), sources) + sources, 255, 255, sign)
    bits = cell_bits(NetworkShape.of(network), sources)
    assert (sources * 65025 << bits) > 10 * 2**32  # the sum is that of ten wraps, where all have one sign
    fired = np.arange(sources, dtype=np.uint32)
    ids, potentials = delivered(network, fired, ReferencePlatform())
    assert len(ids) == targets
    for shape in ("one block, tiny slices", "several blocks a slice"):
        device, options = SHAPES[shape]
        ours = delivered(network, fired, DevicePlatform(EmulatedDevice(**device), Tuning(**options)))
        np.testing.assert_array_equal(ours[0], ids)
        np.testing.assert_array_equal(ours[1], potentials)


@pytest.mark.parametrize(
    ("weight", "psp", "in_degree", "bits"),
    [
        (np.uint8, np.uint8, 0, 1),
        (np.uint8, np.uint8, 1, 1),
        (np.uint8, np.uint8, 2, 2),
        (np.uint8, np.uint8, 32_767, 15),
        (np.uint8, np.uint8, 32_768, 0),
        (np.uint16, np.uint8, 127, 7),
        (np.uint8, np.uint16, 128, 0),
        (np.uint16, np.uint16, 1, 0),
    ],
)
def test_a_cell_has_room_for_all_arrivals_and_a_term_of_either_sign(weight: Any, psp: Any, in_degree: int, bits: int) -> None:
    assert cell_bits(NetworkShape(1, 0, 1, weight, psp), in_degree) == bits
    if bits:
        assert in_degree < 1 << bits
        assert int(np.iinfo(weight).max) * int(np.iinfo(psp).max) << bits < 2**31


CELLS = 232_448 // 4
CASES = [  # neurons, fired, synapses of those, strategy on a GPU of 132 processors
    pytest.param(22_590, 200, 4_400, "rows", id="seed"),
    pytest.param(22_590, 11_000, 240_000, "rows", id="seed, every second"),
    pytest.param(1_000_000, 100, 100_000, "rows", id="million, 0.01 %"),
    pytest.param(1_000_000, 10_000, 10_000_000, "slices", id="million, 1 %"),
    pytest.param(100_000, 50_000, 50_000_000, "slices", id="many"),
    pytest.param(20_000_000, 20_000, 20_000_000, "blocked", id="twenty million, 0.1 %"),
    pytest.param(20_000_000, 100, 1_000, "rows", id="twenty million, few"),
    pytest.param(1_000_000, 0, 0, "rows", id="none"),
    pytest.param(289 * CELLS + 1, 16_785, 168_000_000, "slices", id="more neurons than a float can count"),
]


@pytest.fixture(scope="module")
def large_gpu() -> Any:
    """Emulated, with as many processors, as much shared memory and as large a cache as an H200."""
    network = Connectome(40, 40)
    network.add_neurons(40)
    network.add_synapses(0, 1, 1, 1)
    platform = DevicePlatform(EmulatedDevice(block=32, blocks=132, shared=232_448, cache_bytes=62_914_560))
    executor = platform.load(network, NetworkShape.of(network, ledger_window=2))
    yield executor
    executor.close()


@pytest.mark.parametrize(("neurons", "fired", "synapses", "strategy"), CASES)
def test_the_strategy_fits_the_activity(large_gpu: Executor, neurons: int, fired: int, synapses: int, strategy: str) -> None:
    device, state = large_gpu._device, large_gpu._state.copy()
    state["neurons"], state["cell_bits"] = neurons, cell_bits(NetworkShape(neurons, 0), 1_000)
    out = device.alloc(5, np.uint32)
    args = (state, np.uint32(fired), np.uint32(0), np.uint64(synapses), out)
    device.launch([Launch("choice_of_propagation", args)])
    chosen, range_, slices, shares, parts = (int(value) for value in device.fetched(out, 5))
    device.release(out)
    assert STRATEGIES[chosen] == strategy
    assert shares * slices <= 132 or shares == 1
    assert range_ * 8 <= 62_914_560 or strategy in ("rows", "slices")
    if strategy == "slices":
        assert slices * CELLS >= neurons
        assert shares * slices > 132 // 2
    if fired:
        assert parts <= max(1, 132 // fired)  # 132 warps
