"""Configurations of SONATA: which files make a circuit, and what a simulation says of it (sets of nodes, inputs)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import Flags
from gpu_npu.errors import CapacityError, FileFormatError
from gpu_npu.objects import one_line

from .budget import Budget
from .strict_json import parse_json

MOST_FILES = 5
"""Configurations that name one another."""
LONGEST_PATH = 4096
"""Characters, once the names of a manifest are replaced."""


class Configuration(NamedTuple):
    """What a configuration and those that it names say, with every name of their manifests replaced."""

    networks: Mapping[str, list[dict[str, Any]]]
    """"nodes" and "edges" -> their files."""
    node_sets: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]]
    missing: list[Path]
    """Files of a simulation that are not there."""

    def __repr__(self) -> str:
        return one_line(self)


def read_configuration(path: Path) -> Configuration:
    """Of a circuit, or of a simulation that names one. FileFormatError: no such file. OSError."""
    networks: Mapping[str, list[dict[str, Any]]] | None = None
    sets, inputs, missing = dict[str, Any](), dict[str, Mapping[str, Any]](), list[Path]()
    waiting, needed = [path], {path}
    for _ in range(MOST_FILES):
        if not waiting:
            break
        file = waiting.pop(0)
        if file not in needed and not file.exists():
            missing.append(file)
            continue
        try:
            said = _json(file)
            manifest = {name: str(value) for name, value in said.get("manifest", {}).items()} | {"${configdir}": "."}
            if networks is None:
                networks = _networks(said, manifest, file)
            inputs |= {
                name: {key: _resolved(value, manifest, file) for key, value in one.items()} for name, one in said.get("inputs", {}).items()
            }
            sets |= _node_sets(said, manifest, file, missing)
            for key in ("network", "simulation"):
                if isinstance(said.get(key), str):
                    waiting.append(Path(_resolved(said[key], manifest, file)))
                    needed |= {waiting[-1]} if key == "network" else set()
        except CapacityError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{file}: no configuration of SONATA: {error!r:.200}") from error
    if networks is None:
        raise FileFormatError(f"{path}: it names no files of nodes; give the configuration that names both circuit and simulation")
    return Configuration(networks, sets, inputs, missing)


def _json(path: Path) -> Any:
    """The value in a file of JSON, counted before it is read. ValueError: none."""
    budget = Budget.of(path)
    with path.open("rb") as file:
        text = budget.read(file, "the configuration")
    budget.take_json(len(text), "the configuration")
    return parse_json(text)


def _networks(said: Any, manifest: Mapping[str, str], path: Path) -> dict[str, list[dict[str, Any]]] | None:
    networks = said.get("networks")
    if not (isinstance(networks, dict) and isinstance(networks.get("nodes"), list)):
        return None
    return {
        kind: [{key: _resolved(value, manifest, path) for key, value in entry.items()} for entry in networks.get(kind) or []]
        for kind in ("nodes", "edges")
    }


def _node_sets(said: Any, manifest: Mapping[str, str], path: Path, missing: list[Path]) -> dict[str, Any]:
    sets = dict(said.get("node_sets") or {})
    if isinstance(said.get("node_sets_file"), str):
        file = Path(_resolved(said["node_sets_file"], manifest, path))
        if file.exists():
            sets |= dict(_json(file))
        else:
            missing.append(file)
    return sets


def _resolved(value: Any, manifest: Mapping[str, str], config: Path) -> Any:
    """A text with $NAMES of the manifest replaced; a path beside the configuration, where it is one."""
    if not isinstance(value, str):
        return value
    for _ in manifest:
        for name in sorted(manifest, key=len, reverse=True):
            key = name if name.startswith("$") else f"${name}"
            value = value.replace(key, manifest[name]).replace(f"${{{key[1:].strip('{}')}}}", manifest[name])
            if len(value) > LONGEST_PATH:
                raise ValueError(f"the manifest makes more than {LONGEST_PATH:,} characters of a name")
    beside = value.endswith((".h5", ".csv", ".json"))
    return str(config.parent / value) if beside else value


def members(name: str, sets: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], depth: int = 0) -> Flags | None:
    """Which nodes are in a set: those whose columns ("population", "node_id", attributes) have one of its values, or those of the sets
    that it lists. None: it says something else, such as an expression."""
    said, count = sets.get(name), len(columns["population"])
    if isinstance(said, list) and depth < len(sets):
        found: Flags = np.zeros(count, np.bool_)
        for one in said:
            part = members(str(one), sets, columns, depth + 1)
            if part is None:
                return None
            found |= part
        return found
    if not isinstance(said, dict) or any(isinstance(value, dict) for value in said.values()):
        return None
    found = np.ones(count, np.bool_)
    for key, value in said.items():
        wanted = [str(one) for one in (value if isinstance(value, list) else [value])]
        found &= np.isin(columns[key], wanted) if key in columns else np.zeros(count, np.bool_)
    return found


def inputs_told(said: Configuration) -> Iterator[str]:
    """How the inputs of a simulation are taken, which no network has."""
    for name, one in said.inputs.items():
        if one.get("input_type") == "spikes" and str(one.get("input_file", "")).endswith(".h5"):
            chosen = one.get("node_set", "")
            of = said.node_sets.get(chosen, {}) if isinstance(chosen, str) else chosen
            population = of.get("population", chosen) if isinstance(of, dict) else chosen
            options = f"--schedule {shlex.quote(one['input_file'])} --population {shlex.quote(str(population))}"
            yield f"its input {name!r} is taken by {options} (and --ms for the duration of a burst)"
        else:
            yield f"its input {name!r} is not taken: {one.get('input_type')!r} of {one.get('module')!r}"
