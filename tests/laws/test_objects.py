"""What every object of the package says of itself is one true short line; what cannot be copied says why."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

import gpu_npu
from gpu_npu import (
    NPU,
    Area,
    BurstEngine,
    CapacityError,
    CustomRule,
    Digest,
    FrameError,
    NetworkError,
    NeuronIndexError,
    PairRule,
    WindowRule,
)
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.executor import DevicePlatform
from gpu_npu.backends.flight import Scheduled
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome.generators import RandomSynapses, fixed_out_degree
from gpu_npu.connectome.synapses import SynapseChain
from gpu_npu.io import save, stream
from gpu_npu.npu.sizing import plan_memory
from gpu_npu.objects import LONGEST, OneLine
from gpu_npu.recordings import Recorder, load_recording
from gpu_npu.service.service import Service
from gpu_npu.streams.base import Stimulus
from gpu_npu.streams.callbacks import CallbackSink
from gpu_npu.streams.feagi_format import FeagiFormat
from gpu_npu.streams.msgpack_format import MsgpackFormat
from gpu_npu.streams.places import Places
from gpu_npu.streams.zeromq import ZeroMQSink, ZeroMQSource
from gpu_npu.timing import Histogram, Pace

ROOT = Path(gpu_npu.__file__).parent
INSIDE = (
    "gpu_npu.cli",
    "gpu_npu.backends",
    "gpu_npu.service.app",
    "gpu_npu.service.guard",
    "gpu_npu.service.server",
    "gpu_npu.service.metrics",
)
"""Rooms whose objects nobody is handed, but for backends and devices."""
READERS = ("Archive", "Column", "Counts", "Reader", "Sealed", "Unfinished")
"""Open files while they are read or written."""
OF_THE_NPU = ("Guard", "Part", "Bursts", "NetworkEdits", "NeuronEdits", "SynapseEdits", "Queries")
"""Its parts."""


LARGE = re.compile(r"NDArray|U32|F32|Flags|Counts|Mapping|list|dict|Iterable")
"""In the type of a field: it may hold more than a line."""


def public_classes() -> Iterator[type]:
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        if name.endswith(("__main__", "wheel_hook", "cuda")):
            continue
        for found in vars(importlib.import_module(name)).values():
            if inspect.isclass(found) and found.__module__ == name and not found.__name__.startswith("_"):
                yield found


def is_handed_out(found: type) -> bool:
    plain = issubclass(found, (Exception, BaseModel)) or getattr(found, "_is_protocol", False)
    outside = not found.__module__.startswith(INSIDE) or issubclass(
        found, (gpu_npu.backends.base.Backend, gpu_npu.backends.devices.base.Device)
    )
    return outside and not plain and found.__name__ not in (*READERS, *OF_THE_NPU)


@pytest.mark.parametrize("found", [found for found in public_classes() if is_handed_out(found)], ids=lambda found: found.__name__)
def test_no_class_leaves_its_repr_to_chance(found: type) -> None:
    assert found.__repr__ is not object.__repr__ or inspect.isabstract(found) or found is OneLine or found.__name__ == "Unique"
    if dataclasses.is_dataclass(found) and "__repr__" in vars(found) and hasattr(found.__repr__, "__wrapped__"):  # made by dataclass
        large = [
            field
            for field in dataclasses.fields(found)
            if re.search(r"NDArray|U32|F32|Flags|Counts|Mapping|list|dict|Iterable", str(field.type))
        ]
        assert not large


class Doubling(CustomRule):
    def apply(self, burst: int, synapses: Any, weight: Any, source_fired: Any, target_fired: Any) -> Any:
        return weight * 2


@pytest.fixture
def things(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Objects of every kind that a user is handed, large enough that a careless repr would show it."""
    network = fixed_out_degree(3000, 5, seed=1, areas={area: Area(f"area {area}\n" * 40) for area in range(9)})
    save(network, tmp_path / "network.npz")
    with ExitStack() as stack:
        npu = stack.enter_context(NPU.from_connectome(network, backend="reference"))
        npu.inject(np.arange(2000), 1e6)
        result = npu.process_burst()
        recorder = stack.enter_context(Recorder(tmp_path / "fired.npz"))
        recorder(result)
        engine = stack.enter_context(BurstEngine(NPU.from_connectome(network, backend="reference"), 30))
        stack.callback(engine.npu.close)
        snapshot = npu.snapshot({"note": "x" * 1000})
        format = FeagiFormat(Places.of(network))
        sinks = {"sink": stack.enter_context(ZeroMQSink(format)), "source": stack.enter_context(ZeroMQSource(MsgpackFormat(3000)))}
        callback = CallbackSink(lambda result: None, lambda error: None)
        stack.callback(callback.close)
        with Recorder(tmp_path / "closed.npz") as closed:
            closed(result)
        empty, source = stream(tmp_path / "network.npz")
        device = CpuDevice()
        stack.callback(device.close)
        platform = DevicePlatform(device)
        shape = NetworkShape.of(network)
        yield {
            **sinks,
            "npu": npu,
            "result": result,
            "run": npu.run(300),
            "queue": npu.fire_queue,
            "candidates": npu.fire_candidate_list,
            "ledger": npu.fire_ledger,
            "view": npu.neuron_array,
            "synapses": npu.synapse_array,
            "batch": npu.outgoing_synapses(np.arange(3000)),
            "digest": Digest(),
            "resumable": Digest(resumable=True),
            "connectome": network,
            "neurons": network.neurons,
            "settings": network.settings,
            "area": Area("x" * 1000),
            "window rule": WindowRule(0, 1, 3, 1, 1),
            "pair rule": PairRule(0, 1, a_plus=0.5, a_minus=0.5, tau_plus=20, tau_minus=20),
            "custom rule": Doubling(0, 1),
            "random": RandomSynapses(10, 10, 1),
            "chain": SynapseChain(network.synapses, source),
            "from a file": source,
            "without synapses": empty,
            "checked": source.within(3000),
            "snapshot": snapshot,
            "flight": snapshot.flight,
            "scheduled": Scheduled.none(),
            "recorder": recorder,
            "closed recorder": closed,
            "recording": load_recording(tmp_path / "closed.npz"),
            "engine": engine,
            "status": engine.status(),
            "service": Service(engine, "network\n" * 100),
            "pace": Pace(None),
            "histogram": Histogram(),
            "stimulus": Stimulus(np.zeros(500, np.uint32), np.zeros(500, np.float32)),
            "format": format,
            "places": format.places,
            "callback": callback,
            "plan": plan_memory(network, backend="reference"),
            "shape": shape,
            "reference": ReferencePlatform().load(network, shape),
            "device": device,
            "platform": platform,
            "executor": platform.load(network, shape),
            "ranges of an error": NeuronIndexError.outside("neurons[3]", 2**63, 3000),
        }


def told(thing: object) -> str:
    text = repr(thing)
    assert "\n" not in text and " object at 0x" not in text and "array(" not in text, text
    assert 3 < len(text) <= LONGEST + 120, (len(text), text)
    return text


def test_every_repr_is_one_short_line(things: dict[str, Any]) -> None:
    texts = {name: told(thing) for name, thing in things.items()}
    assert texts["ledger"] == "<FireLedger: bursts 282 to 301 in a window of 20>"
    assert texts["npu"] == "<NPU: 3,000 neurons (capacity 3,000) after burst 301 on reference>"
    assert texts["result"].startswith("BurstResult(burst=1, fired_neurons=<uint32 (2000,)>, neuron_count=2000, ")
    assert texts["neurons"] == "<NeuronArray: 3,000 neurons (capacity 3,000)>"
    assert texts["from a file"] == "<ProjectSynapses: 15,000 synapses, uint8 weights, uint8 psps>"


def test_a_repr_never_fails_whatever_has_ended(things: dict[str, Any]) -> None:
    seen: list[str] = []
    npu: NPU = things["npu"]
    npu.run(1, watch=lambda result: seen.append(told(npu)))  # it belongs to the run meanwhile
    assert len(seen) == 1
    things["engine"].close()
    npu.close()
    for name in ("sink", "source", "callback", "device"):
        things[name].close()
    for thing in things.values():
        told(thing)
    assert repr(npu) == "<NPU: closed after burst 302>" and repr(things["ledger"]).startswith("<FireLedger: bursts 283 to 302")


UNIQUE = (
    "npu",
    "ledger",
    "view",
    "recorder",
    "engine",
    "service",
    "sink",
    "source",
    "callback",
    "reference",
    "executor",
    "device",
    "platform",
)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_cannot_be_copied_says_why(things: dict[str, Any], duplicate: Callable[[Any], object]) -> None:
    for name in UNIQUE:
        with pytest.raises(TypeError, match="cannot be copied or pickled: it has a device, a thread or a file of its own; "):
            duplicate(things[name])
    with pytest.raises(TypeError, match=r"^NPU .*; npu\.snapshot\(\) is a copy"):
        duplicate(things["npu"])


def test_values_are_copied_as_ever(things: dict[str, Any]) -> None:
    for name in ("result", "run", "queue", "batch", "settings", "area", "window rule", "pair rule", "recording", "random", "status"):
        again = pickle.loads(pickle.dumps(things[name]))
        assert type(again) is type(things[name]) and repr(again) == repr(things[name]) == repr(copy.deepcopy(things[name]))


@pytest.mark.parametrize(
    "error",
    [
        NetworkError("x is 1", python="y()"),
        FrameError("oversized", "too long"),
        NeuronIndexError.outside("neurons", 9, 3),
        CapacityError("full"),
    ],
)
def test_errors_survive_pickling(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
