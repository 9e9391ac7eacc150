"""The golden cases: load one as a Connectome with a script, run it on a backend, demand equality.

The files and their README lie in `golden/`; an independent implementation of the semantics produced them.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.backends.base import BurstOutput
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import SYNAPSE_FIELDS, Area, Connectome, Rules, Settings, SynapseBatch, WindowRule
from gpu_npu.connectome.fields import NEURON_FIELDS, STATE_FIELDS

FOLDER = Path(__file__).parents[1] / "golden"
LEDGER_WINDOW = 7

PLASTIC_CASES = ("edge_stdp", "edits_nonuniform", "everything", "everything_feagi_2_6", "stdp")
"""Cases with mappings of the window rule (`net_stdp` rows)."""

CASES = tuple(sorted({path.stem for path in FOLDER.glob("*.npz")} - {"table_random"}))


@dataclass(frozen=True)
class Case:
    """A network, its script, and what must come out; `data` is the file's arrays by name."""

    name: str
    connectome: Connectome
    data: dict[str, NDArray[Any]]

    @property
    def bursts(self) -> int:
        return len(self.data["out_counters"])

    def operations(self, burst: int) -> list[tuple[str, list[Any], Any]]:
        """(operation, arguments, what it must return) to be done before this burst."""
        return [(name, arguments, answer) for when, name, arguments, answer in json.loads(str(self.data.get("ops", "[]"))) if when == burst]

    def injections(self, burst: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        now = self.data["in_burst"] == burst
        return self.data["in_neuron"][now].astype(np.uint32), self.data["in_potential"][now]

    def forced(self, burst: int) -> NDArray[np.uint32]:
        if "in_force_burst" not in self.data:
            return np.empty(0, np.uint32)
        now = self.data["in_force_burst"] == burst
        return np.asarray(self.data["in_force_neuron"][now], np.uint32)

    def fired(self, burst: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Ids and firing potentials that must come out."""
        part = slice(self.data["out_offset"][burst - 1], self.data["out_offset"][burst])
        return self.data["out_fired"][part], self.data["out_potential"][part]

    def final_synapses(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Source, target and weight of every synapse that is valid at the end, by source, target and age."""
        added = [arguments[:2] for _, name, arguments, _ in json.loads(str(self.data.get("ops", "[]"))) if name == "add_synapse"]
        source = np.append(self.data["net_source"], [s for s, _ in added])
        target = np.append(self.data["net_target"], [t for _, t in added])
        weight = self.data["end_weight"]
        valid = self.data.get("end_synapse_valid", self.data.get("net_synapse_valid", np.ones(len(source), bool)))
        order = np.lexsort((target, source))  # stable: the arrays are in order of age
        order = order[valid[order]]
        return source[order], target[order], weight[order]


def load_case(name: str) -> Case:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    uniform = json.loads(str(data.get("net_area_psp_uniform", "{}")))
    driven = json.loads(str(data.get("net_area_mp_driven_psp", "{}")))
    areas = {int(a): Area(psp_uniform=uniform.get(a, True), mp_driven_psp=driven.get(a, False)) for a in {**uniform, **driven}}
    rules = Rules(
        refractory_clock=str(data["net_refractory_clock"]),
        rectify_input=bool(data["net_rectify_input"]),
        potential_floor=float(data["net_potential_floor"]),
        potential_ceiling=float(data["net_potential_ceiling"]),
    )
    settings = Settings(rules, float(data["net_contribution_scale"]), float(data["net_power_amount"]), int(data["net_random_seed"]))
    count, added = len(data["net_threshold"]), str(data.get("ops", "")).count('"add_synapse"')
    connectome = Connectome(
        count,
        len(data["net_source"]) + added,
        weight_dtype=data["net_weight"].dtype.type,
        psp_dtype=data["net_psp"].dtype.type,
        settings=settings,
        areas=areas,
        plasticity=[WindowRule(*row) for row in data["net_stdp"].tolist()] if "net_stdp" in data else (),
    )
    connectome.add_neurons(count, **{field: data[f"net_{field}"] for field in NEURON_FIELDS if f"net_{field}" in data})
    if "net_neuron_valid" in data:
        connectome.delete_neurons(np.flatnonzero(~data["net_neuron_valid"]).astype(np.uint32))

    # Synapses that start invalid are added and removed again. Removing takes the oldest of a pair, so within each pair
    # the invalid ones are put first; the order among the valid ones, which is all that counts, stays.
    source, target = data["net_source"], data["net_target"]
    valid = data.get("net_synapse_valid", np.ones(len(source), bool))
    slots, ranked = np.lexsort((target, source)), np.lexsort((valid, target, source))
    order = np.empty_like(slots)
    order[slots] = ranked
    connectome.add_synapses(*(data[f"net_{field}"][order] for field in SYNAPSE_FIELDS if f"net_{field}" in data))
    assert connectome.remove_synapses(source[~valid], target[~valid]).all()
    return Case(name, connectome, data)


def run_case(case: Case, platform: Any) -> None:
    """Load the case there (or into the scalar model), run its script; everything is equal or an assertion fails."""
    with closing(platform.load(case.connectome, NetworkShape.of(case.connectome, ledger_window=LEDGER_WINDOW))) as backend:
        _run_script(case, backend)


def _run_script(case: Case, backend: Any) -> None:
    for handle, rule in enumerate(case.connectome.plasticity):
        backend.add_rule(handle, rule, 0)
    backend.set_power(np.unique(case.data["in_power"]).astype(np.uint32))
    for burst in range(1, case.bursts + 1):
        for name, arguments, answer in case.operations(burst):
            returned = perform(backend, case.connectome, name, arguments)
            assert returned is None or returned == answer, f"burst {burst}: {name}{arguments} returned {returned}"
        backend.inject(*case.injections(burst))
        backend.force(case.forced(burst))
        compare_burst(case, burst, backend.burst(burst), backend.fire_queue())
        for past in range(max(1, burst - LEDGER_WINDOW + 1), burst + 1):
            np.testing.assert_array_equal(backend.fired_in(past), case.fired(past)[0], err_msg=f"ledger, burst {past}")
    for field in STATE_FIELDS:
        expected = case.data[f"end_{field}"]
        assert_bits(backend.read(field), expected, f"{field} at the end")
    left = SynapseBatch.concatenate(list(backend.synapses_from()))
    for got, expected in zip((left.source, left.target, left.weight), case.final_synapses(), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert backend.synapse_count == len(left)


def compare_burst(case: Case, burst: int, output: BurstOutput, queue: tuple[NDArray[np.uint32], NDArray[np.float32]]) -> None:
    ids, potentials = case.fired(burst)
    np.testing.assert_array_equal(output.fired, ids, err_msg=f"burst {burst}: fired")
    np.testing.assert_array_equal(queue[0], ids, err_msg=f"burst {burst}: fire queue")
    assert_bits(queue[1], potentials, f"burst {burst}: firing potentials")
    assert output.counters == tuple(case.data["out_counters"][burst - 1]), f"burst {burst}: counters"


def assert_bits(got: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    """Same dtype and the same bits (a float32 is compared as its uint32)."""
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, not {expected.dtype}"
    if expected.dtype == np.float32:
        got, expected = got.view(np.uint32), expected.view(np.uint32)
    np.testing.assert_array_equal(got, expected, err_msg=what)


def perform(backend: Any, connectome: Connectome, name: str, arguments: list[Any]) -> bool | None:
    """One operation of a script through the Backend contract; None where the contract returns nothing."""
    if name == "set_parameter":
        field, neuron, value = arguments
        backend.write(field, np.array([neuron], np.uint32), np.array([value], NEURON_FIELDS[field].dtype))
        return None
    if name == "delete_neuron":
        return bool(backend.delete_neurons(np.array(arguments, np.uint32))[0])
    source, target = np.array(arguments[:1], np.uint32), np.array(arguments[1:2], np.uint32)
    if name == "remove_synapse":
        return bool(backend.remove_synapses(source, target)[0])
    weight = np.array(arguments[2:3], connectome.weight_dtype)
    if name == "update_synapse_weight":
        return bool(backend.reweight_synapses(source, target, weight)[0])
    assert name == "add_synapse", name
    psp, inhibitory = np.array(arguments[3:4], connectome.psp_dtype), np.array(arguments[4:5], bool)
    backend.add_synapses(SynapseBatch.of(source=source, target=target, weight=weight, psp=psp, inhibitory=inhibitory))
    return None
