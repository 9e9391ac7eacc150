"""Every morphology against its rule said once more, voxel by voxel, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu.genome.morphologies import CORE, Morphology, Unusable, parts_of, read_morphology, voxel_pairs

Voxel = tuple[int, int, int]
Pairs = set[tuple[Voxel, Voxel]]


def voxels(size: Voxel) -> Iterator[Voxel]:
    return product(*map(range, size))  # type: ignore[return-value]


def inside(d: Voxel, size: Voxel) -> bool:
    return all(0 <= x < n for x, n in zip(d, size, strict=True))


def grown(name: str, s: Voxel, d: Voxel, definitions: dict[str, Morphology] | None = None, memories: bool = False) -> Pairs:
    parts = parts_of(name, definitions or {}, s, d, between_memories=memories)
    source, target = voxel_pairs(parts, s, d)
    assert len(source) <= sum(part.count for part in parts)  # the estimate holds
    from_, to = (np.stack(np.unravel_index(ids, size), axis=1).tolist() for ids, size in ((source, s), (target, d)))
    pairs = {(tuple(a), tuple(b)) for a, b in zip(from_, to, strict=True)}
    assert len(pairs) == len(source)
    return pairs


# -- the rules -----------------------------------------------------------------------------------------------------
def project(s: int, d: int, S: int, D: int) -> bool:
    if S > D:
        return math.floor(np.float32(s) / (np.float32(S) / np.float32(D))) == d
    if S < D:
        return math.floor(np.float32(d) / (np.float32(D) / np.float32(S))) == s
    return s == d


def projector(s: Voxel, d: Voxel, S: Voxel, D: Voxel) -> bool:
    return all(project(s[a], d[a], S[a], D[a]) for a in range(3))


def transpose(i: int, j: int) -> Callable[[Voxel, Voxel, Voxel, Voxel], bool]:
    def swapped(v: Voxel) -> Voxel:
        axes = list(v)
        axes[i], axes[j] = axes[j], axes[i]
        return (axes[0], axes[1], axes[2])

    return lambda s, d, S, D: projector(swapped(s), d, swapped(S), D)


def lateral(axis: int, step: int) -> Callable[[Voxel, Voxel, Voxel, Voxel], bool]:
    return lambda s, d, S, D: all(d[a] == s[a] + (step if a == axis else 0) for a in range(3))


def tile(s: Voxel, d: Voxel, S: Voxel, D: Voxel) -> bool:
    if math.prod(D) >= math.prod(S):
        return all(s[a] == d[a] % S[a] for a in range(3))
    return all(d[a] == s[a] % D[a] for a in range(3))


def sweeper(s: Voxel, d: Voxel, S: Voxel, D: Voxel) -> bool:
    order = [(x, y, z) for z in range(D[2]) for y in range(D[1]) for x in range(D[0])]
    x, y, z = (min(s[a], D[a] - 1) for a in range(3))
    at = order.index((x, y, z)) + 1
    return at < len(order) and order[at] == d


def decoder(axis: int) -> Callable[[Voxel, Voxel, Voxel, Voxel], bool]:
    def rule(s: Voxel, d: Voxel, S: Voxel, D: Voxel) -> bool:
        return all(bool(s[a] >> (D[a] - 1 - d[a]) & 1) if a == axis else d[a] == min(s[a], D[a] - 1) for a in range(3))

    return rule


def encoder(axis: int) -> Callable[[Voxel, Voxel, Voxel, Voxel], bool]:
    def rule(s: Voxel, d: Voxel, S: Voxel, D: Voxel) -> bool:
        return all(bool(d[a] >> (S[a] - 1 - s[a]) & 1) if a == axis else d[a] == min(s[a], D[a] - 1) for a in range(3))

    return rule


def rotator(s: Voxel, d: Voxel, S: Voxel, D: Voxel) -> bool:
    def away(x: float) -> int:
        return math.floor(abs(Fraction(x)) + Fraction(1, 2)) * (1 if x >= 0 else -1)

    theta = math.pi / 2 - math.pi * d[2] / (D[2] - 1) if D[2] > 1 else 0.0
    a, b = max(D[0] - 1, 1), max(D[1] - 1, 1)
    dx = s[0] / max(S[0] - 1, 1) * a - a / 2
    dy = s[1] / max(S[1] - 1, 1) * b - b / 2
    x = away(a / 2 + dx * math.cos(theta) - dy * math.sin(theta))
    y = away(b / 2 + dx * math.sin(theta) + dy * math.cos(theta))
    return (x, y) == d[:2]


def last(size: Voxel) -> Voxel:
    return (size[0] - 1, size[1] - 1, size[2] - 1)


ORIGIN = (0, 0, 0)
RULES: dict[str, Callable[[Voxel, Voxel, Voxel, Voxel], bool]] = {
    "block_to_block": lambda s, d, S, D: s == d,
    "lateral_+x": lateral(0, 1),
    "lateral_-x": lateral(0, -1),
    "lateral_+y": lateral(1, 1),
    "lateral_-y": lateral(1, -1),
    "lateral_+z": lateral(2, 1),
    "lateral_-z": lateral(2, -1),
    "0-0-0_to_all": lambda s, d, S, D: s == ORIGIN,
    "all_to_0-0-0": lambda s, d, S, D: d == ORIGIN,
    "projector": projector,
    "transpose_xy": transpose(0, 1),
    "transpose_xz": transpose(0, 2),
    "transpose_yz": transpose(1, 2),
    "centered_projector": lambda s, d, S, D: all(d[a] == s[a] + (D[a] - 1) // 2 - (S[a] - 1) // 2 for a in range(3)),
    "tile": tile,
    "sweeper": sweeper,
    "first_to_last": lambda s, d, S, D: s == ORIGIN and d == last(D),
    "last_to_first": lambda s, d, S, D: s == last(S) and d == ORIGIN,
    "bitmask_decoder_x": decoder(0),
    "bitmask_decoder_y": decoder(1),
    "bitmask_decoder_z": decoder(2),
    "bitmask_encoder_x": encoder(0),
    "bitmask_encoder_y": encoder(1),
    "bitmask_encoder_z": encoder(2),
    "rotator_z": rotator,
    "episodic_memory": lambda s, d, S, D: False,
    "memory_replay": lambda s, d, S, D: False,
    "episodic_scan": lambda s, d, S, D: False,
    "associative_memory": projector,
}

axis = st.integers(1, 6)
size = st.tuples(axis, axis, axis)


def by_rule(rule: Callable[[Voxel, Voxel, Voxel, Voxel], bool], S: Voxel, D: Voxel) -> Pairs:
    return {(s, d) for s in voxels(S) for d in voxels(D) if rule(s, d, S, D)}


def test_every_core_morphology_has_its_rule_here() -> None:
    assert set(RULES) == set(CORE)


@pytest.mark.parametrize("name", RULES)
@given(S=size, D=size)
def test_core(name: str, S: Voxel, D: Voxel) -> None:
    assert grown(name, S, D, memories=True) == by_rule(RULES[name], S, D)


@pytest.mark.parametrize(("S", "D"), [(257, 256), (1000, 3), (3, 1000), (7, 1000), (640, 480), (480, 640)])
def test_projection_of_long_axes(S: int, D: int) -> None:
    assert {(s[0], d[0]) for s, d in grown("projector", (S, 1, 1), (D, 1, 1))} == {
        (s, d) for s in range(S) for d in range(D) if project(s, d, S, D)
    }


def test_associative_memory_connects_memories_only() -> None:
    assert grown("associative_memory", (2, 2, 2), (2, 2, 2), memories=False) == set()


vector = st.tuples(*[st.integers(-7, 7)] * 3)
element = st.one_of(st.integers(0, 7), st.sampled_from("*?!"))
side = st.tuples(element, element, element)


@given(S=size, D=size, vectors=st.lists(vector, max_size=4))
def test_vectors(S: Voxel, D: Voxel, vectors: list[Voxel]) -> None:
    definition = read_morphology({"type": "vectors", "parameters": {"vectors": [list(v) for v in vectors]}})
    expected = {(s, d) for s in voxels(S) for v in vectors if inside(d := (s[0] + v[0], s[1] + v[1], s[2] + v[2]), D)}
    assert grown("mine", S, D, {"mine": definition}) == expected


def matches(s: int, d: int, from_: int | str, to: int | str) -> bool:
    if isinstance(from_, int) and s != from_:
        return False
    return d == to if isinstance(to, int) else {"*": True, "?": d == s, "!": d != s}[to]


@given(S=size, D=size, patterns=st.lists(st.tuples(side, side), max_size=3))
def test_patterns(S: Voxel, D: Voxel, patterns: list[Any]) -> None:
    definition = read_morphology({"type": "patterns", "parameters": {"patterns": [[list(p), list(q)] for p, q in patterns]}})

    def rule(s: Voxel, d: Voxel, S: Voxel, D: Voxel) -> bool:
        return any(all(matches(s[a], d[a], p[a], q[a]) for a in range(3)) for p, q in patterns)

    assert grown("mine", S, D, {"mine": definition}) == by_rule(rule, S, D)


def test_a_genomes_own_definition_of_a_core_name_is_passed_over() -> None:
    mine = read_morphology({"type": "vectors", "parameters": {"vectors": [[2, 0, 0]]}})
    assert grown("lateral_+x", (4, 1, 1), (4, 1, 1), {"lateral_+x": mine}) == by_rule(lateral(0, 1), (4, 1, 1), (4, 1, 1))


@pytest.mark.parametrize(
    "definition", [{"type": "functions"}, {"type": "composite", "parameters": {"mapper_morphology": "projector"}}, {"vectors": [[0, 0, 0]]}]
)
def test_what_makes_no_synapses(definition: dict[str, Any]) -> None:
    assert grown("mine", (2, 2, 2), (2, 2, 2), {"mine": read_morphology(definition)}) == set()


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (None, "no morphology 'mine'"),
        (7, "not an object"),
        ({"type": "vectors", "parameters": []}, "parameters are not an object"),
        ({"type": "vectors", "parameters": {"vectors": [[1, 2]]}}, "its vectors are not"),
        ({"type": "vectors", "parameters": {"vectors": [[1, 2, 0.5]]}}, "its vectors are not"),
        ({"type": "patterns", "parameters": {"patterns": [["*", "*", "*"]]}}, "its patterns are not"),
        ({"type": "patterns", "parameters": {"patterns": [[["*", "*", "x"], [0, 0, 0]]]}}, "its patterns are not"),
        ({"type": "patterns", "parameters": {"patterns": [[["*", "*", ["*"]], [0, 0, 0]]]}}, "its patterns are not"),
        ({"type": "patterns", "parameters": {"patterns": [[["*", "*", "*"], [0, -3, 0]]]}}, "negative coordinate -3"),
        ({"type": "spline"}, "its type is none of"),
    ],
)
def test_what_cannot_be_applied(definition: Any, said: str) -> None:
    definitions = {} if definition is None else {"mine": read_morphology(definition)}
    with pytest.raises(Unusable, match=said):
        parts_of("mine", definitions, (1, 1, 1), (1, 1, 1), between_memories=False)


def test_estimates_of_products_are_made_without_the_pairs() -> None:
    every = Morphology("patterns", patterns=((("*", "*", "*"), ("*", "!", "?")),))
    (part,) = parts_of("mine", {"mine": every}, (10**5, 10**5, 10), (10**5, 10**5, 10), between_memories=False)
    assert part.count == 10**10 * (10**10 - 10**5) * 10
