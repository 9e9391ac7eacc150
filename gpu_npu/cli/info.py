"""gpu-npu info: what a network holds, and what it needs on a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from gpu_npu import Area, Connectome
from gpu_npu.connectome import SynapseSource
from gpu_npu.npu.sizing import MemoryPlan, plan_memory

from .networks import backend_options, small_or_streamed
from .progress import Bar
from .reading import reading_options
from .tally import Tally, spread
from .terminal import shown

AREAS_SHOWN = 20
"""In the table; JSON has all of them."""


@click.command(short_help="What a network holds, and the memory it needs.")
@click.argument("network_name", metavar="NETWORK")
@reading_options
@backend_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
def info(network_name: str, backend: str, device: int | None, ledger_window: int, as_json: bool, reading: dict[str, Any]) -> None:
    """Say what NETWORK (as for run) holds, the memory it needs on the device, and whether it fits."""
    with Bar() as bar:
        bar.step(f"reading {network_name}")
        connectome, more = small_or_streamed(network_name, reading, bar)
        connectome.validate()
        bar.step(f"looking at {network_name}")
        sources = (connectome.synapses, *(() if more is None else (more.within(connectome.neuron_capacity),)))
        facts = {"network": network_name, **_facts(connectome, sources)}
        plan = plan_memory(connectome, synapses=more, fire_ledger_window=ledger_window, backend=backend, device=device)
    facts["memory"] = {
        "backend": plan.backend,
        "backend_reason": f"{plan.reason}: {plan.description}",
        "pieces": dict(plan.pieces),
        "bytes": plan.needed,
        "loading_bytes": plan.loading,
        "free_bytes": plan.free,
        "total_bytes": plan.total,
        "fits": plan.fits,
    }
    if as_json:
        click.echo(json.dumps(_finite(facts), indent=2))
    else:
        _print(facts, plan)


def _facts(connectome: Connectome, sources: Sequence[SynapseSource]) -> dict[str, Any]:
    neurons = connectome.neurons
    there = np.flatnonzero(neurons.valid)
    tally = Tally(connectome)
    tally.add(sources)
    ids, counts = np.unique(neurons.cortical_area[there], return_counts=True)
    size = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    areas = {area: connectome.areas.get(area, Area()) for area in sorted({*size, *connectome.areas})}
    power = [area for area, flags in areas.items() if flags.power]
    settings = asdict(connectome.settings)
    return {
        "neurons": connectome.neuron_count,
        "neuron_capacity": connectome.neuron_capacity,
        "synapses": tally.count,
        "synapse_capacity": max(connectome.synapse_capacity, tally.count),
        **tally.facts(there),
        "labels": _labels(connectome),
        "columns": {name: len(np.unique(values)) for name, values in connectome.annotations.columns.items()},
        "areas": [{"id": area, **asdict(flags), "neurons": size.get(area, 0)} for area, flags in areas.items()],
        "power_neurons": sum(size.get(area, 0) for area in power),
        "threshold": spread(neurons.threshold[there]),
        "rules": settings.pop("rules"),
        "settings": settings,
        "plasticity": [{"rule": rule.name, **rule.parameters} for rule in connectome.plasticity],
    }


def _labels(connectome: Connectome) -> dict[str, str] | None:
    """The first and the last of the labels."""
    labels = connectome.annotations.labels
    return None if labels is None or not len(labels) else {"first": str(labels[0]), "last": str(labels[-1])}


def _finite(value: Any) -> Any:
    """JSON has no infinity: a bound that is none is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _text(spread: dict[str, Any]) -> str:
    if spread["min"] is None:
        return "none"
    return f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:,g}, mean {spread['mean']:,.2f}"


def _print(facts: dict[str, Any], plan: MemoryPlan) -> None:
    several = facts["psp"]["sources_with_several"]
    shared = f"{several:,} sources have several" if several else "one a source"
    areas = facts["areas"]
    rows = [
        ("network", facts["network"]),
        ("neurons", f"{facts['neurons']:,} (capacity {facts['neuron_capacity']:,})"),
        ("synapses", f"{facts['synapses']:,} (capacity {facts['synapse_capacity']:,}), {facts['inhibitory_share']:.1%} inhibitory"),
        ("out-degree", _text(facts["out_degree"])),
        ("in-degree", _text(facts["in_degree"])),
        ("weights", f"{facts['weight']['dtype']}, {_text(facts['weight'])}"),
        ("psps", f"{facts['psp']['dtype']}, {_text(facts['psp'])}; {shared}"),
        ("delays", f"{facts['delay']['dtype']}, {_text(facts['delay'])} bursts"),
        ("thresholds", _text(facts["threshold"])),
        ("rules", ", ".join(f"{name} {value}" for name, value in facts["rules"].items())),
        ("settings", ", ".join(f"{name} {value}" for name, value in facts["settings"].items())),
        *([("labels", f"{facts['labels']['first']} to {facts['labels']['last']}")] if facts["labels"] else []),
        *([("columns", ", ".join(f"{name} ({count:,} values)" for name, count in facts["columns"].items()))] if facts["columns"] else []),
        ("areas", f"{len(areas):,}, with {facts['power_neurons']:,} power neurons"),
    ]
    for area in areas[:AREAS_SHOWN]:
        flags = "".join(
            f", {told}"
            for told, on in (("power", area["power"]), ("mp-driven psp", area["mp_driven_psp"]), ("psp divided", not area["psp_uniform"]))
            if on
        )
        rows.append((f"  {area['id']}", f"{area['name'] or '(no name)'}: {area['neurons']:,} neurons{flags}"))
    if len(areas) > AREAS_SHOWN:
        rows.append(("", f"and {len(areas) - AREAS_SHOWN:,} more (--json has them all)"))
    mappings, names = facts["mappings"], {area["id"]: area["name"] or str(area["id"]) for area in areas}
    rows.append(("mappings", f"{len(mappings):,} pairs of areas have synapses"))
    for mapping in mappings[:AREAS_SHOWN]:
        source, target = (names.get(mapping[end], str(mapping[end])) for end in ("source", "target"))
        rows.append(("", f"{source} -> {target}: {mapping['synapses']:,} synapses"))
    if len(mappings) > AREAS_SHOWN:
        rows.append(("", f"and {len(mappings) - AREAS_SHOWN:,} more (--json has them all)"))
    for rule in facts["plasticity"]:
        given = ", ".join(f"{key} {value}" for key, value in rule.items() if key not in ("rule", "source_area", "target_area"))
        source, target = (names.get(rule[f"{end}_area"], str(rule[f"{end}_area"])) for end in ("source", "target"))
        rows.append(("plasticity", f"{source} -> {target}: {rule['rule']} rule, {given}"))
    rows += [
        ("", ""),
        ("backend", f"{plan.backend} ({plan.reason}: {plan.description})"),
        *((f"  {piece}", f"{count:>15,} bytes") for piece, count in plan.pieces.items()),
        ("needs", f"{plan.needed:>15,} bytes, and {plan.loading:,} more while it loads"),
        *([("", "(what plasticity rules take is not counted; docs/plasticity.md says how much that is)")] if facts["plasticity"] else ()),
        ("free", f"{plan.free:>15,} bytes of {plan.total:,}"),
        ("fits", "yes" if plan.fits else "NO"),
    ]
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(shown, row))
    Console(highlight=False, markup=False).print(table)
