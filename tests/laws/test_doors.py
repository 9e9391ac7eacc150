"""Every public door, walked by its signature, with values that are wrong in every way: the errors of the package and nothing
else, and nothing is changed after one."""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_npu.genome
import gpu_npu.io
import gpu_npu.recordings
import gpu_npu.session
from gpu_npu import NEURON_FIELDS, NPU, Annotations, Area, BurstEngine, Connectome, Digest, NpuError, PairRule, Settings
from gpu_npu.connectome import generators
from gpu_npu.connectome.generators import fixed_out_degree

HANDED_OUT = {
    *("BurstResult", "EngineStatus", "FireCandidateList", "FireLedger", "FireQueue", "NeuronArray", "RunResult", "SynapseArray"),
    *("SynapseBatch", "SynapseSource", "CustomRule", "PlasticityRule", "Snapshot", "Reading", "Report", "Note", "Session", "Trials"),
    *("CorticalArea", "Genome", "Grown", "GrownMapping", "Imported", "NeuronTable", "Rule", "SynapseTable", "Activity", "Result"),
    *("Recording", "Spikes"),
}
"""Classes whose objects the package makes for its users, or that they derive from."""
INSIDE = {"stop", "fail", "wait", "submit", "bind", "check", "reach", "top", "fired_by_neuron", "update", "update_many", "within"}
"""Methods that the package calls, or whose value is the caller's own function, exception or time."""
FILES = {"path", "what", "genome", "source"}
"""Parameters that name a file."""


WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "nan": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "-1": lambda: -1,
    "1.5": lambda: 1.5,
    "2^40": lambda: 2**40,
    "2^63": lambda: 2**63,
    "-2^63": lambda: -(2**63),
    "2^64": lambda: 2**64,
    "10^400": lambda: 10**400,
    "1e308": lambda: 1e308,
    "complex": lambda: 1j,
    "true": lambda: True,
    "flag": lambda: np.True_,
    "text": lambda: "seven",
    "no text": lambda: "",
    "surrogate": lambda: "\ud800",
    "nul": lambda: "a\0b",
    "bytes": lambda: b"seven",
    "empty": lambda: [],
    "ragged": lambda: [[1], [1, 2]],
    "nested": lambda: [[1, 2], [3, 4]],
    "deep": lambda: [[[[[[1]]]]]],
    "mixed": lambda: [1, "a"],
    "nones": lambda: [None, None],
    "nans": lambda: [float("nan"), 1.0],
    "huge": lambda: [10**30, 1],
    "negative": lambda: [-1, 0],
    "flags": lambda: [True, False],
    "among": lambda: [1, True],
    "texts": lambda: ["a", "b"],
    "object": object,
    "objects": lambda: np.array([object(), None], object),
    "map": lambda: {1: 2},
    "odd map": lambda: {"a": object(), None: 3},
    "set": lambda: {1, 2},
    "generator": lambda: (value for value in (0, 1)),
    "function": lambda: len,
    "class": lambda: int,
    "masked": lambda: np.ma.masked_array([1, 2], mask=[False, True]),
    "dates": lambda: np.array(["2026-01-01"], "M8[D]"),
    "record": lambda: np.zeros(2, [("a", "u1")]),
    "voids": lambda: np.zeros(2, "V4"),
    "big-endian": lambda: np.array([300, 2], ">u4"),
    "halves": lambda: np.array([np.nan, 1], np.float16),
    "longs": lambda: np.array([1, 2], np.longdouble),
    "no rows": lambda: np.zeros((0, 3)),
    "scalar": lambda: np.array(1),
    "range": lambda: range(2**62, 2**62 + 2),
}

def network() -> Connectome:
    return fixed_out_degree(6, 2, seed=1, areas={1: Area("one")}, cortical_area=[0, 0, 0, 1, 1, 1])


def labelled() -> Connectome:
    made = network()
    made.set_annotations(Annotations(np.array(list("abcdef")), {"cell_type": np.array(list("xxyyzz"))}))
    return made


def npu() -> NPU:
    made = NPU.from_connectome(network(), backend="reference", neuron_capacity=8, synapse_capacity=20)
    made.register_plasticity(PairRule(0, 1, a_plus=0.5, a_minus=0.5, tau_plus=20, tau_minus=20))
    made.inject([1, 2], 3.0)
    made.process_burst()
    return made


def engine() -> BurstEngine:
    return BurstEngine(network(), backend="reference")


def state(thing: Any) -> bytes:
    """All that a network, or the run of one, is made of."""
    if isinstance(thing, BurstEngine):
        thing = thing.npu
    if isinstance(thing, NPU):
        snapshot = thing.snapshot()
        thing = (snapshot.network, vars(snapshot.flight))
    if isinstance(thing, tuple):
        return pickle.dumps([state(thing[0]), thing[1]])
    if isinstance(thing, Connectome):
        parts = (thing.neurons.arrays(), thing.synapses.batch().columns(), thing.settings, dict(thing.areas), thing.plasticity)
        return pickle.dumps([*parts, thing.neuron_capacity, thing.annotations.labels])
    return b""


SYNAPSES = {"source": [0, 1], "target": [4, 5], "weight": [3, 3], "psp": 2}
PAIR = {"source_area": 0, "target_area": 1, "a_plus": 0.5, "a_minus": 0.5, "tau_plus": 20.0, "tau_minus": 20.0}
FIELDS = dict.fromkeys(NEURON_FIELDS, 1) | {"coordinates": (0, 0, 0)}

METHODS: dict[str, dict[str, Any]] = {  # of an NPU, a Connectome, an engine and annotations: door -> a right call
    "NPU.add_neuron": FIELDS,
    "NPU.add_neurons": {"count": 1, **FIELDS},
    "NPU.add_synapse": {"source": 0, "target": 5, "weight": 3, "conductance": 2},
    "NPU.add_synapses": SYNAPSES,
    "NPU.annotate": {"on": False},
    "NPU.delete_neuron": {"neuron": 1},
    "NPU.delete_neurons": {"neurons": [1, 2]},
    "NPU.force_fire": {"neurons": [1, 2]},
    "NPU.from_connectome": {"connectome": network(), "backend": "reference"},
    "NPU.from_snapshot": {"snapshot": npu().snapshot(), "backend": "reference"},
    "NPU.get_fire_history": {"burst": 1},
    "NPU.get_parameter": {"name": "threshold", "neurons": [1]},
    "NPU.get_recent_history": {"count": 1},
    "NPU.incoming_synapses": {"neurons": [1]},
    "NPU.inject": {"neurons": [1, 2], "potentials": [1.5, 2]},
    "NPU.neurons_at": {"coordinates": (0, 0, 0), "area": 1},
    "NPU.neurons_in_area": {"area": 1},
    "NPU.outgoing_synapses": {"neurons": [1]},
    "NPU.process_burst": {"power_neurons": [1]},
    "NPU.register_plasticity": {"rule": PairRule(**PAIR)},
    "NPU.remove_synapse": {"source": 0, "target": 1},
    "NPU.remove_synapses": {"source": [0], "target": [1]},
    "NPU.reserve": {"neurons": 9, "synapses": 30},
    "NPU.reset": {"network": False},
    "NPU.run": {"n": 1},
    "NPU.schedule": {"bursts": [5], "neurons": [1], "potentials": 2.0},
    "NPU.schedule_force": {"bursts": [5], "neurons": [1]},
    "NPU.set_area": {"area": 1, "power": True, "name": "two"},
    "NPU.set_area_parameter": {"name": "threshold", "area": 1, "value": 2.0},
    "NPU.set_neuron_mapping": {"mapping": {0: 1}},
    "NPU.set_parameter": {"name": "threshold", "neurons": [1], "values": 2.0},
    "NPU.set_power_amount": {"amount": 2.0},
    "NPU.set_power_neurons": {"neurons": [1]},
    "NPU.set_settings": {"settings": Settings(power_amount=2.0)},
    "NPU.snapshot": {},
    "NPU.time_phases": {"on": False},
    "NPU.unregister_plasticity": {"handle": 0},
    "NPU.update_delay": {"source": 0, "target": 1, "delay": 1},
    "NPU.update_delays": {"source": [0], "target": [1], "delay": [1]},
    "NPU.update_synapse_weight": {"source": 0, "target": 1, "weight": 3},
    "NPU.update_weight": {"source": 0, "target": 1, "weight": 3},
    "NPU.update_weights": {"source": [0], "target": [1], "weight": [3]},
    "Connectome.add_neuron": FIELDS,
    "Connectome.add_neurons": {"count": 1, **FIELDS},
    "Connectome.add_synapse": {"source": 0, "target": 5, "weight": 3, "psp": 2},
    "Connectome.add_synapses": SYNAPSES,
    "Connectome.create_neurons": {"ids": [6, 7], **FIELDS},
    "Connectome.delete_neurons": {"ids": [1]},
    "Connectome.find_synapses": {"source": [0], "target": [1]},
    "Connectome.remove_synapses": {"source": [0], "target": [1]},
    "Connectome.reserve": {"neurons": 9, "synapses": 30},
    "Connectome.reweight_synapses": {"source": [0], "target": [1], "weight": [3]},
    "Connectome.set_annotations": {"annotations": Annotations(np.array(list("abcdef")))},
    "Connectome.set_area": {"area": 1, "flags": Area("two")},
    "Connectome.set_delays": {"source": [0], "target": [1], "delay": [1]},
    "Connectome.set_plasticity": {"rules": [PairRule(**PAIR)]},
    "Connectome.set_settings": {"settings": Settings(power_amount=2.0)},
    "Connectome.write": {"field": "threshold", "ids": [1], "values": 2.0},
    "Connectome.write_area": {"field": "threshold", "area": 1, "value": 2.0},
    "BurstEngine.add_sink": {"sink": None, "name": "sink"},
    "BurstEngine.add_source": {"source": None, "name": "source"},
    "BurstEngine.checkpoint": {"path": "run.ckpt", "notes": None},
    "BurstEngine.force_fire": {"neurons": [1]},
    "BurstEngine.inject": {"neurons": [1], "potentials": 2.0},
    "BurstEngine.remove": {"stream": None},
    "BurstEngine.step": {"n": 1},
    "BurstEngine.submit_steps": {"n": 1},
    "BurstEngine.subscribe": {"callback": len, "capacity": 8, "name": "callback"},
    "Annotations.find": {"labels": ["a", "b"]},
    "Annotations.name": {"neuron": 1},
    "Annotations.positions": {"labels": ["a", "b"]},
    "Annotations.select": {"column": "cell_type", "values": ("x",)},
}
CALLS: dict[str, dict[str, Any]] = {  # what makes something
    "NPU": {"neuron_count": 4, "synapse_capacity": 8, "backend": "reference"},
    "Annotations": {"labels": np.array(["a", "b"]), "columns": {"cell_type": np.array(["x", "y"])}},
    "Area": {"name": "one"},
    "BurstEngine": {"source": network(), "frequency": 30.0, "power_neurons": [1], "backend": "reference"},
    "Connectome": {"neuron_capacity": 4, "synapse_capacity": 8},
    "Digest": {},
    "FeagiRule": {"source_area": 0, "target_area": 1, "window": 2, "up": 1.0, "down": 1.0},
    "PairRule": PAIR,
    "Rules": {},
    "Rules.preset": {"name": "feagi-2.6"},
    "Settings": {},
    "Snapshot.read": {"path": "run.ckpt"},
    "WindowRule": {"source_area": 0, "target_area": 1, "window": 2, "plus": 1, "minus": 1},
    "io.each_once": {"ids": np.array([1, 2], np.uint32), "what": "ids"},
    "io.load": {"what": "network.npz"},
    "io.load_small": {"what": "network.npz", "most": 5},
    "io.parse_ids": {"text": "1,2", "capacity": 6},
    "io.read_ids": {"path": "ids.npy", "capacity": 6},
    "io.save": {"connectome": network(), "path": "out.npz"},
    "io.stream": {"what": "network.npz"},
    "io.write": {"network": network(), "path": "out.csv"},
    "io.writer_of": {"path": "out.csv"},
    "genome.NetworkOptions": {},
    "genome.grow": {"genome": "genome.json"},
    "genome.read_export": {"path": "genome.json"},
    "genome.read_genome": {"source": "genome.json", "report": gpu_npu.genome.Report()},
    "recordings.Recorder": {"path": "fired.npz"},
    "recordings.load_recording": {"path": "run.npz"},
    "session.Experiment": {},
    "session.Inject": {"target": [1]},
    "session.Place": {"backend": "reference"},
    "session.Plan": {"bursts": 1},
    "session.Plan.resume": {"path": "run.ckpt"},
    "session.Poisson": {"target": [1], "mean": 0.5},
    "session.Power": {"target": [1]},
    "session.Rate": {"target": [1], "probability": 0.5},
    "session.Schedule": {"bursts": [1], "neurons": [1]},
    "session.Schedule.read": {"path": "schedule.csv"},
    "session.Schedule.sonata": {"path": "run.npz"},
    "session.experiment": {"network": labelled(), "plan": gpu_npu.session.Experiment((([1], 0.5),), bursts=2, trials=1)},
    "session.neurons_of": {"network": labelled(), "target": "cell_type=x"},
    "session.resume": {"path": "run.ckpt"},
    "session.run": {"network": network(), "stimuli": (), "plan": 1, "place": gpu_npu.session.Place("reference")},
    "session.Silenced": {"network": labelled(), "targets": ("cell_type=x",), "source": network().synapses},
    "session.silenced": {"network": labelled(), "targets": ("cell_type=x",)},
    "generators.RandomSynapses": {"neurons": 5, "degree": 2, "seed": 1},
    "generators.fixed_in_degree": {"neurons": 5, "degree": 2, "seed": 1},
    "generators.fixed_out_degree": {"neurons": 5, "degree": 2, "seed": 1},
    "generators.fixed_probability": {"neurons": 5, "probability": 0.5, "seed": 1},
    "generators.seed_example": {"seed": 0},
}
ROOMS = {"": gpu_npu, "io.": gpu_npu.io, "genome.": gpu_npu.genome, "recordings.": gpu_npu.recordings, "session.": gpu_npu.session}
ENDLESS = {("BurstEngine.step", "n"), ("BurstEngine.submit_steps", "n"), ("session.run", "plan")}
"""Bursts to compute, of which a large number is right and never ends."""
FUNCTIONS = {"callback", "watch", "progress", "tell", "moved", "backend"}
"""Parameters that are called; what goes wrong in what is called is its own."""
MOST_SECONDS = 2.0
"""That an error may take, or what turns out to be right."""


def doors_of(prefix: str, room: Any) -> Iterator[str]:
    """The doors of a room with anything to be wrong, by name."""
    for name in getattr(room, "__all__", ()) or [name for name in vars(room) if not name.startswith("_")]:
        found = getattr(room, name)
        if inspect.isfunction(found):
            yield prefix + name
        if not inspect.isclass(found) or issubclass(found, BaseException) or name in HANDED_OUT:
            continue
        if inspect.signature(found).parameters:
            yield prefix + name
        for method, function in inspect.getmembers(found, callable):
            inside = method.startswith("_") or method in INSIDE
            if not inside and set(inspect.signature(function).parameters) - {"self"}:
                yield f"{prefix}{name}.{method}"


def test_every_door_is_walked() -> None:
    """A public function, class or method that has no right call here."""
    public = {door for prefix, room in ROOMS.items() for door in doors_of(prefix, room)}
    assert public - METHODS.keys() - CALLS.keys() == set()
    known = {door for door in {**METHODS, **CALLS} if not door.startswith("generators.")}
    assert known - public == {"Snapshot.read"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that right calls name."""
    monkeypatch.chdir(tmp_path)
    gpu_npu.io.save(network(), "network.npz")
    with NPU.from_connectome(network(), backend="reference") as made:
        made.snapshot().write("run.ckpt")
    np.save("ids.npy", np.array([1, 2]))
    Path("schedule.csv").write_text("1,2\n")
    with gpu_npu.recordings.Recorder("run.npz"):
        pass
    Path("genome.json").write_text("{}")


SUBJECTS = {"NPU": npu, "Connectome": network, "BurstEngine": engine, "Annotations": lambda: labelled().annotations, "Digest": Digest}


def subject(door: str) -> Any:
    """What the door belongs to."""
    kind = door.partition(".")[0]
    if door in CALLS or "from_" in door:
        return None
    return SUBJECTS[kind]()


def called(door: str, thing: Any) -> Callable[..., Any]:
    if thing is not None:
        found: Callable[..., Any] = getattr(thing, door.partition(".")[2])
        return found
    place: Any = {"generators": generators, **{prefix.rstrip("."): room for prefix, room in ROOMS.items()}}
    room, _, rest = door.partition(".")
    found = place.get(room) if room in place and rest else gpu_npu
    for name in (rest if room in place and rest else door).split("."):
        found = getattr(found, name)
    return found


def close(thing: Any) -> None:
    for one in thing if isinstance(thing, tuple) else (thing,):
        if hasattr(one, "close"):
            one.close()


def wrongs(door: str, name: str) -> Iterator[tuple[str, Any]]:
    for what, make in WRONG.items():
        value = make()
        endless = (door, name) in ENDLESS and isinstance(value, int) and value > 1000
        if not endless and not (name in FUNCTIONS and callable(value)):
            yield what, value


@pytest.mark.parametrize("door", [*METHODS, *CALLS])
@pytest.mark.filterwarnings("error")
def test_wrong_values_are_errors_of_the_package(door: str, files: None) -> None:
    right = {**METHODS, **CALLS}[door]
    thing = subject(door)
    signature = inspect.signature(called(door, thing))
    names = [name for name, one in signature.parameters.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    faults = []
    for name in dict.fromkeys([*names, *right]):
        before = state(thing)
        for what, value in wrongs(door, name):
            began = time.perf_counter()
            try:
                close(called(door, thing)(**{**right, name: value}))
            except NpuError as error:
                str(error).encode()
            except OSError as error:
                if name not in FILES:
                    faults.append(f"{name}={what}: {error!r:.200}")
            except BaseException as error:
                faults.append(f"{name}={what}: {error!r:.200}")
            else:  # it is right after all
                close(thing)
                thing = subject(door)
                before = state(thing)
            if time.perf_counter() - began > MOST_SECONDS:
                faults.append(f"{name}={what}: {time.perf_counter() - began:.1f} s")
            if state(thing) != before:
                faults.append(f"{name}={what}: it changed something")
                close(thing)
                thing = subject(door)
                before = state(thing)
    close(thing)
    assert not faults, "\n".join(faults)
