"""A signal in the middle of a burst or of many: the network goes on from the burst that the device has reached."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from faulty import FaultyCpu, FaultyEmulated

from gpu_npu import NPU
from gpu_npu.backends.devices.cuda import call_all
from gpu_npu.backends.executor import DevicePlatform, Tuning
from gpu_npu.connectome.generators import fixed_out_degree


def one_burst(npu: NPU) -> None:
    npu.process_burst()


def many(npu: NPU) -> None:
    npu.run(20)


def watched(npu: NPU) -> None:
    npu.run(20, watch=lambda result: None)


DEVICES = {"cpu": lambda: FaultyCpu(workers=1), "emulated": lambda: FaultyEmulated(block=64)}


@pytest.mark.parametrize("call", [one_burst, many, watched])
@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("launched", [False, True], ids=["before", "after"])
def test_a_signal_loses_nothing(launched: bool, kind: str, call: Callable[[NPU], None]) -> None:
    network = fixed_out_degree(200, 9, seed=3, weight=(1, 60), psp=(1, 9), threshold=2_000.0)
    device, reached = DEVICES[kind](), set[int]()
    executor = DevicePlatform(device, Tuning(ring=(5, 150), propagation="rows", heavy_row=16))
    with (
        NPU.from_connectome(network, backend=executor, synapse_capacity=200_000) as npu,
        NPU.from_connectome(network, backend="reference", synapse_capacity=200_000) as reference,
    ):
        for one in (npu, reference):
            one.set_power_neurons(np.arange(0, 200, 7))
            one.run(2)
        for after in range(1_000):
            for one in (npu, reference):
                one.inject(np.arange(after % 5, 200, 5), 3_000.0)
                fired = one.process_burst().fired_neurons
                targets = np.arange(20) + 5 * after % 180
                one.add_synapses(np.repeat(fired, 20), np.tile(targets, len(fired)), 9, 1)  # light rows become heavy
                one.inject(np.arange(after % 3, 200, 3), 500.0)
            begun, device.after, device.launched = npu.burst_count, after, launched
            try:
                call(npu)
            except KeyboardInterrupt:
                reached.add(npu.burst_count - begun)
            else:
                break
            finally:
                device.after = None
            while reference.burst_count < npu.burst_count:
                reference.process_burst()
            for queue in ("fire_queue", "previous_fire_queue"):
                ours, theirs = (getattr(one, queue) for one in (npu, reference))
                np.testing.assert_array_equal(ours.neurons, theirs.neurons, err_msg=f"{queue} after {after} calls")
                np.testing.assert_array_equal(ours.potentials, theirs.potentials, err_msg=f"{queue} after {after} calls")
            for name in ("membrane_potential", "refractory_countdown"):
                np.testing.assert_array_equal(*(one.get_parameter(name) for one in (npu, reference)))
            for _ in range(2):
                ours, theirs = (one.process_burst() for one in (npu, reference))
                np.testing.assert_array_equal(ours.fired_neurons, theirs.fired_neurons)
                assert replace(ours, fired_neurons=None) == replace(theirs, fired_neurons=None)
        else:
            pytest.fail("it never ended")
    assert len(reached) > (0 if call is one_burst else 2) and (0 in reached) == (not launched)


def test_a_signal_leaves_no_power_neuron() -> None:
    """One that was being made a power neuron when the signal came is none after others were set."""
    network = fixed_out_degree(200, 9, seed=3)
    device = FaultyCpu(workers=1)
    with NPU.from_connectome(network, backend=DevicePlatform(device)) as npu:
        interrupted = True
        for after in range(100):
            npu.set_power_neurons([after])
            device.after = after
            try:
                npu.process_burst()
                interrupted = False
            except KeyboardInterrupt:
                device.after = None
            device.after = None
            npu.set_power_neurons([150, 170])
            assert npu.process_burst().power_injections == 2, after
            if not interrupted:
                break
        assert after > 3


def test_no_signal_comes_between_the_launches_of_a_gpu() -> None:
    """They are calls of their own; on a CPU one call does them all."""

    def strike(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    done: list[int] = []
    send = partial(ctypes.CDLL(None)["raise"], signal.SIGUSR1)  # SIGINT may be ignored, which is handed down
    before = signal.signal(signal.SIGUSR1, strike)
    try:
        with pytest.raises(KeyboardInterrupt):
            call_all([partial(done.append, 1), send, partial(done.append, 2), partial(done.append, 3)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done == [1, 2, 3]
