"""Neuron morphologies: which voxel of a source area connects to which voxel of a target area.

All of them but two are products: what holds on an axis does not depend on the other axes. So a morphology is a list of
blocks, a block three relations (one for each axis of the target), and the pairs of voxels are their outer product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import I64, sorted_unique
from gpu_npu.checks import is_integer
from gpu_npu.objects import OneLine

Size = tuple[int, int, int]
"""Voxels along x, y, z."""
Element = int | str
"""Of a pattern: a coordinate, "*", "?" or "!"."""
WILDCARDS = ("*", "?", "!")
RENAMED = {"memory": "episodic_memory", "bi_directional_stdp": "associative_memory"}


class Unusable(Exception):
    """A morphology that cannot be applied; the text says why."""


# -- definitions ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class Morphology(OneLine):
    """A definition: `vectors` or `patterns` in use, or a function or composite, which goes by its name."""

    kind: Literal["vectors", "patterns", "functions", "composite"]
    vectors: tuple[tuple[int, int, int], ...] = ()
    patterns: tuple[tuple[tuple[Element, ...], tuple[Element, ...]], ...] = ()
    mapper: str | None = None
    broken: str = ""
    """Why it cannot be applied."""


def read_morphology(definition: Any) -> Morphology:
    """What a genome says of a morphology. A broken one is kept, with the reason: it may be that no rule uses it."""
    if not isinstance(definition, Mapping):
        return Morphology("functions", broken="its definition is not an object")
    kind = definition.get("type")
    if kind is None:
        return Morphology("functions")  # before types there were: no synapses
    parameters = definition.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        return Morphology("functions", broken="its parameters are not an object")
    if kind == "vectors":
        vectors = parameters.get("vectors", [])
        if not isinstance(vectors, (list, tuple)) or not all(_triple(v) and all(map(_integer, v)) for v in vectors):
            return Morphology("vectors", broken="its vectors are not a list of [x, y, z] of integers")
        return Morphology("vectors", vectors=tuple((int(x), int(y), int(z)) for x, y, z in vectors))
    if kind == "patterns":
        patterns = parameters.get("patterns", [])
        if not isinstance(patterns, (list, tuple)) or not all(map(_pattern, patterns)):
            return Morphology("patterns", broken='its patterns are not a list of [[x, y, z], [x, y, z]] of integers, "*", "?" and "!"')
        negative = [e for pair in patterns for side in pair for e in side if _integer(e) and e < 0]
        if negative:
            return Morphology("patterns", broken=f"a pattern has the negative coordinate {negative[0]}")
        return Morphology("patterns", patterns=tuple((tuple(source), tuple(target)) for source, target in patterns))
    if kind == "composite":
        mapper = parameters.get("mapper_morphology")
        return Morphology("composite", mapper=mapper if isinstance(mapper, str) else None)
    if kind == "functions":
        return Morphology("functions")
    return Morphology("functions", broken='its type is none of "vectors", "patterns", "functions" and "composite"')


def _integer(value: object) -> bool:
    return is_integer(value) and abs(value) < 2**31


def _triple(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3


def _pattern(pair: Any) -> bool:
    return isinstance(pair, (list, tuple)) and len(pair) == 2 and all(_triple(side) and all(map(_is_element, side)) for side in pair)


def _is_element(value: object) -> bool:
    return _integer(value) or (isinstance(value, str) and value in WILDCARDS)


# -- relations -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False, repr=False)
class Relation(OneLine):
    """Pairs of coordinates on one axis: at most `count`, known without making them; `make` gives (source, target)."""

    count: int
    make: Callable[[], tuple[I64, I64]]


def _paired(source: I64, target: I64, size: int) -> tuple[I64, I64]:
    """Pairs whose target lies on an axis of this size."""
    inside = (target >= 0) & (target < size)
    return source[inside], target[inside]


@dataclass(frozen=True, eq=False, repr=False)
class Block(OneLine):
    """The product of three relations; `axes[a]` is the axis of the source that relation a, of the target's axis a, looks at."""

    relations: tuple[Relation, Relation, Relation]
    axes: tuple[int, int, int] = (0, 1, 2)

    @property
    def count(self) -> int:
        """Pairs, at most."""
        return math.prod(relation.count for relation in self.relations)

    def pairs(self, source: Size, target: Size) -> tuple[I64, I64]:
        """Voxel numbers, (x * Y + y) * Z + z, of all pairs."""
        from_, to = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for axis, relation in enumerate(self.relations):
            s, t = relation.make()
            from_ = (from_[:, None] + s * _stride(source, self.axes[axis])).ravel()
            to = (to[:, None] + t * _stride(target, axis)).ravel()
        return from_, to


def _stride(size: Size, axis: int) -> int:
    return math.prod(size[axis + 1 :])


@dataclass(frozen=True, eq=False, repr=False)
class Listed(OneLine):
    """Pairs of voxels that are no product: at most `count`, as numbers, when they are made."""

    count: int
    make: Callable[[], tuple[I64, I64]]

    def pairs(self, source: Size, target: Size) -> tuple[I64, I64]:
        """As for a block."""
        return self.make()


Part = Block | Listed


def _each(relation: Callable[[int, int], Relation], source: Size, target: Size, axes: tuple[int, int, int] = (0, 1, 2)) -> list[Part]:
    """The same kind of relation on all axes, (size of the source's axis, size of the target's) -> relation."""
    x, y, z = (relation(source[axes[a]], target[a]) for a in range(3))
    return [Block((x, y, z), axes)]


def _shift(step: int) -> Callable[[int, int], Relation]:
    def relation(source: int, target: int) -> Relation:
        low, high = max(0, -step), min(source, target - step)

        def make() -> tuple[I64, I64]:
            at = np.arange(low, high, dtype=np.int64)
            return at, at + step

        return Relation(max(0, high - low), make)

    return relation


def _project(source: int, target: int) -> Relation:
    """Scale the axis, in float32: S > D: d = floor(s / (S/D)); S < D: every d with floor(d / (D/S)) = s."""

    def make() -> tuple[I64, I64]:
        if source >= target:
            s = np.arange(source, dtype=np.int64)
            return _paired(s, s if source == target else _scaled(s, source, target), target)
        d = np.arange(target, dtype=np.int64)
        s = _scaled(d, target, source)
        inside = s < source
        return s[inside], d[inside]

    return Relation(max(source, target), make)


def _scaled(at: I64, large: int, small: int) -> I64:
    ratio = np.float32(large) / np.float32(small)
    scaled: I64 = np.floor(at.astype(np.float32) / ratio).astype(np.int64)
    return scaled


def _of_source(function: Callable[[I64, int], I64]) -> Callable[[int, int], Relation]:
    """Every coordinate of the source with function(coordinate, size of the target)."""

    def relation(source: int, target: int) -> Relation:
        def make() -> tuple[I64, I64]:
            s = np.arange(source, dtype=np.int64)
            return s, function(s, target)

        return Relation(source, make)

    return relation


_clamp = _of_source(lambda s, size: np.minimum(s, size - 1))
_wrap = _of_source(lambda s, size: s % size)


def _unwrap(source: int, target: int) -> Relation:
    def make() -> tuple[I64, I64]:
        d = np.arange(target, dtype=np.int64)
        return d % source, d

    return Relation(target, make)


def _point(source: int, target: int) -> Relation:
    return Relation(1, lambda: (np.array([source], np.int64), np.array([target], np.int64)))


def _decode(source: int, target: int) -> Relation:
    """Set bit b of s -> target - 1 - b, for bits that are on the axis."""
    bits = range(min(target, source.bit_length()))

    def make() -> tuple[I64, I64]:
        values = [_with_bit(source, bit) for bit in bits]
        return _joined(values), _joined([np.full(len(s), target - 1 - bit, np.int64) for bit, s in enumerate(values)])

    return Relation(sum(_count_with_bit(source, bit) for bit in bits), make)


def _encode(source: int, target: int) -> Relation:
    """s stands for bit source - 1 - s -> every d with that bit set."""
    bits = min(source, 32)
    decoded = _decode(target, bits)

    def make() -> tuple[I64, I64]:
        d, s = decoded.make()
        return s + (source - bits), d

    return Relation(decoded.count, make)


def _count_with_bit(size: int, bit: int) -> int:
    """How many of 0..size - 1 have this bit set."""
    return (size >> bit + 1 << bit) + max(0, (size & (2 << bit) - 1) - (1 << bit))


def _with_bit(size: int, bit: int) -> I64:
    at = np.arange(size, dtype=np.int64)
    values: I64 = at[(at >> bit) & 1 == 1]
    return values


def _joined(parts: list[I64]) -> I64:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _element(source_element: Element, target_element: Element, source: int, target: int) -> Relation:
    """One axis of a pattern."""
    from_, to = _along(source_element, source), _along(target_element, target)
    if target_element == "?":
        return Relation(min(len(from_), target), lambda: _paired(_integers(from_), _integers(from_), target))
    unequal = target_element == "!"
    same = len(range(max(from_.start, to.start), min(from_.stop, to.stop))) if unequal else 0

    def make() -> tuple[I64, I64]:
        s, t = np.repeat(_integers(from_), len(to)), np.tile(_integers(to), len(from_))
        keep = s != t if unequal else slice(None)
        return s[keep], t[keep]

    return Relation(len(from_) * len(to) - same, make)


def _along(element: Element, size: int) -> range:
    """The coordinates of an axis that an element of a pattern means."""
    return range(element, min(element + 1, max(size, element))) if isinstance(element, int) else range(size)


def _integers(coordinates: range) -> I64:
    return np.arange(coordinates.start, coordinates.stop, dtype=np.int64)


# -- rules ---------------------------------------------------------------------------------------------------------
def _vectors(vectors: tuple[tuple[int, int, int], ...], source: Size, target: Size) -> list[Part]:
    return [
        Block((_shift(x)(source[0], target[0]), _shift(y)(source[1], target[1]), _shift(z)(source[2], target[2])))
        for x, y, z in dict.fromkeys(vectors)
    ]


def _patterns(patterns: tuple[tuple[tuple[Element, ...], tuple[Element, ...]], ...], source: Size, target: Size) -> list[Part]:
    parts: list[Part] = []
    for s, t in dict.fromkeys(patterns):
        x, y, z = (_element(s[a], t[a], source[a], target[a]) for a in range(3))
        parts.append(Block((x, y, z)))
    return parts


def _tile(source: Size, target: Size) -> list[Part]:
    return _each(_unwrap if math.prod(target) >= math.prod(source) else _wrap, source, target)


def _corner(source: bool) -> Callable[[Size, Size], list[Part]]:
    """From the first voxel to the last one, or the other way round: `source`, the source's is the last."""

    def parts(size: Size, onto: Size) -> list[Part]:
        x, y, z = (_point(size[a] - 1, 0) if source else _point(0, onto[a] - 1) for a in range(3))
        return [Block((x, y, z))]

    return parts


def _sweep(source: Size, target: Size) -> list[Part]:
    """Each voxel, clamped into the target, to the next one there: x runs first, then y, then z; from the last to none."""

    def pairs() -> tuple[I64, I64]:
        at = np.indices(source, np.int64).reshape(3, -1)
        x, y, z = (np.minimum(at[a], target[a] - 1) for a in range(3))
        raster = x + target[0] * (y + target[1] * z) + 1
        keep = np.flatnonzero(raster < math.prod(target))
        z, rest = np.divmod(raster[keep], target[0] * target[1])
        y, x = np.divmod(rest, target[0])
        return keep.astype(np.int64), (x * target[1] + y) * target[2] + z

    return [Listed(math.prod(source), pairs)]


def _rotate(source: Size, target: Size) -> list[Part]:
    """Layer z of the target shows the source's plane turned by pi/2 - pi * z / (Z - 1); float64, left to right."""

    def pairs() -> tuple[I64, I64]:
        layer = np.arange(target[2], dtype=np.int64)
        theta = np.pi / 2 - np.pi * layer / (target[2] - 1) if target[2] > 1 else np.zeros(1)
        a, b = float(max(target[0] - 1, 1)), float(max(target[1] - 1, 1))
        sx, sy = np.arange(source[0], dtype=np.int64), np.arange(source[1], dtype=np.int64)
        dx = (sx / max(source[0] - 1, 1) * a - a / 2)[:, None, None]
        dy = (sy / max(source[1] - 1, 1) * b - b / 2)[None, :, None]
        # math.cos and math.sin: the C library's, as in FEAGI, not NumPy's own.
        cos, sin = (np.array([function(angle) for angle in theta.tolist()]) for function in (math.cos, math.sin))
        x = _half_away(a / 2 + dx * cos - dy * sin)
        y = _half_away(b / 2 + dx * sin + dy * cos)
        i, j, z = np.nonzero((x >= 0) & (x < target[0]) & (y >= 0) & (y < target[1]))
        to = (x[i, j, z] * target[1] + y[i, j, z]) * target[2] + z
        depth = np.arange(source[2], dtype=np.int64)
        return (((i * source[1] + j) * source[2])[:, None] + depth).ravel(), np.repeat(to, source[2])

    return [Listed(math.prod(source) * target[2], pairs)]


def _half_away(x: NDArray[np.float64]) -> I64:
    """Rounded to the nearest integer, halves away from zero."""
    whole = np.trunc(x)
    return (whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0)).astype(np.int64)


def _bits(relation: Callable[[int, int], Relation], axis: int) -> Callable[[Size, Size], list[Part]]:
    def parts(source: Size, target: Size) -> list[Part]:
        x, y, z = ((relation if a == axis else _clamp)(source[a], target[a]) for a in range(3))
        return [Block((x, y, z))]

    return parts


def _none(source: Size, target: Size) -> list[Part]:
    return []


def _transposed(*axes: int) -> Callable[[Size, Size], list[Part]]:
    x, y, z = axes
    return lambda source, target: _each(_project, source, target, (x, y, z))


def _core(morphology: Morphology) -> Callable[[Size, Size], list[Part]]:
    return lambda source, target: _defined(morphology, source, target)


def _defined(morphology: Morphology, source: Size, target: Size) -> list[Part]:
    return _vectors(morphology.vectors, source, target) + _patterns(morphology.patterns, source, target)


_ALL: tuple[Element, ...] = ("*", "*", "*")
_ORIGIN: tuple[Element, ...] = (0, 0, 0)
CORE: dict[str, Callable[[Size, Size], list[Part]]] = {
    "block_to_block": _core(Morphology("vectors", vectors=((0, 0, 0),))),
    **{
        f"lateral_{sign}{'xyz'[axis]}": _core(Morphology("vectors", vectors=((*(0,) * axis, step, *(0,) * (2 - axis)),)))  # type: ignore[arg-type]
        for axis in range(3)
        for sign, step in (("+", 1), ("-", -1))
    },
    "0-0-0_to_all": _core(Morphology("patterns", patterns=((_ORIGIN, _ALL),))),
    "all_to_0-0-0": _core(Morphology("patterns", patterns=((_ALL, _ORIGIN),))),
    "projector": _transposed(0, 1, 2),
    "transpose_xy": _transposed(1, 0, 2),
    "transpose_xz": _transposed(2, 1, 0),
    "transpose_yz": _transposed(0, 2, 1),
    "centered_projector": lambda source, target: _each(lambda s, t: _shift((t - 1) // 2 - (s - 1) // 2)(s, t), source, target),
    "tile": _tile,
    "sweeper": _sweep,
    "first_to_last": _corner(source=False),
    "last_to_first": _corner(source=True),
    **{f"bitmask_decoder_{'xyz'[axis]}": _bits(_decode, axis) for axis in range(3)},
    **{f"bitmask_encoder_{'xyz'[axis]}": _bits(_encode, axis) for axis in range(3)},
    "rotator_z": _rotate,
    "episodic_memory": _none,
    "memory_replay": _none,
    "episodic_scan": _none,
    "associative_memory": _transposed(0, 1, 2),
}
"""What FEAGI 2.6 builds in; a genome's own definition of one of these names is passed over."""
AT_RUN_TIME = frozenset({"episodic_memory", "memory_replay", "episodic_scan"})
"""Their work is done while the brain runs; they make no synapses."""
TO_FIRST = frozenset({"first_to_last", "last_to_first"})
"""They end in the first neuron of the target's voxel; all others in the last."""


def part_count(name: str, definitions: Mapping[str, Morphology]) -> int:
    """How many parts `parts_of` makes, at most."""
    found = None if name in CORE else definitions.get(name)
    return 1 if found is None else len(found.vectors) + len(found.patterns)


def parts_of(
    name: str, definitions: Mapping[str, Morphology], source: Size, target: Size, *, between_memories: bool
) -> list[Part]:
    """The parts that make up a morphology between two areas; the union of their pairs is what connects.

    Unusable: no such morphology, or one that cannot be applied.
    """
    if name in CORE:
        if name == "associative_memory" and not between_memories:
            return []
        return CORE[name](source, target)
    found = definitions.get(name)
    if found is None:
        raise Unusable(f"there is no morphology {name!r}")
    if found.broken:
        raise Unusable(f"morphology {name!r}: {found.broken}")
    return _defined(found, source, target)


def voxel_pairs(parts: list[Part], source: Size, target: Size) -> tuple[I64, I64]:
    """Voxel numbers of all pairs, each once, sorted."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pairs = [part.pairs(source, target) for part in parts]
    voxels = math.prod(target)
    keys = sorted_unique(np.concatenate([s * voxels + t for s, t in pairs]))
    s, t = np.divmod(keys, voxels)
    return s, t
