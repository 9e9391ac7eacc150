"""Float32 weights and psps as integers of one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu import NetworkError
from gpu_npu.genome.pack import LARGEST_COUNT, Packed, pack_synapses

real = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda value: value == 0 or abs(value) > 1e-15)


def pack(weight: Any, psp: Any, inhibitory: Any = None, **options: Any) -> Packed:
    return pack_synapses(weight, psp, np.zeros(len(weight), np.bool_) if inhibitory is None else inhibitory, **options)


@pytest.mark.parametrize(
    ("weight", "packed", "unit"),
    [
        ([1, 2, 255], [1, 2, 255], 1),
        ([0, 65535], [0, 65535], 1),
        ([0.5, 2], [1, 4], 0.5),
        ([0.5, 2.7], [5, 27], 0.1),
        ([1 / 3, 1], [1, 3], 1 / 3),
        ([1e6, 5e5], [2, 1], 500_000),
        ([65536, 3 * 65536], [1, 3], 65536),
        ([100_000.5, 200_001], [1, 2], 100_000.5),
        ([0.001, 65.535], [1, 65535], 0.001),
        ([0, 0], [0, 0], 1),
        ([], [], 1),
    ],
)
def test_one_unit_makes_them_whole(weight: list[float], packed: list[int], unit: float) -> None:
    for mode in ("scale", "refuse"):
        as_weight, as_psp = pack(weight, [1] * len(weight), fractions=mode), pack([1] * len(weight), weight, fractions=mode)
        assert as_weight.weight.tolist() == packed and as_psp.psp.tolist() == packed
        assert as_weight.weight_unit == as_psp.psp_unit == unit and as_weight.scale == as_psp.scale == np.float32(unit)
        assert as_weight.counts["weight_rounded"] == as_psp.counts["psp_rounded"] == 0
        assert as_weight.weight.dtype == (np.uint8 if max(packed, default=0) < 256 else np.uint16)


def test_signs() -> None:
    packed = pack([1, -1, 1, -1, 1], [2, 2, -2, -2, -2], [0, 0, 0, 0, 1])
    assert packed.inhibitory.tolist() == [False, True, True, False, False]
    assert packed.weight.tolist() == [1] * 5 and packed.psp.tolist() == [2] * 5 and packed.counts["negative_psp"] == 3


def test_what_has_no_unit() -> None:
    weight = [np.pi, 1e6, 0.25]
    with pytest.raises(NetworkError, match="weight 0.25: no common scale"):
        pack(weight, [1, 1, 1], fractions="refuse")
    packed = pack(weight, [1, 1, 1])
    assert packed.weight_unit == 1 and packed.weight.tolist() == [3, 65535, 0] and packed.counts["weight_rounded"] == 3
    assert packed.counts["fractional_weight"] == 2 and packed.counts["weight_over"] == 1
    assert pack([np.pi, 1], [1, 1]).weight_unit == 2**-14 and pack([np.pi, 1], [1, 1]).weight.tolist() == [51472, 16384]
    packed = pack(weight, [1.5, 70_000, 1], fractions="round")
    assert packed.weight.tolist() == [3, 65535, 0] and packed.psp.tolist() == [2, 65535, 1] and packed.scale == 1
    assert packed.counts["weight_rounded"] == 3 and packed.counts["psp_rounded"] == 2


def test_psps_that_the_potential_replaces() -> None:
    """The potential knows no psp unit, so the weight carries it: 3 * V = 6 * V * 0.5. Their own psps are not looked at."""
    packed = pack([3, 3], [0.5, -np.pi], mp_driven=[False, True])
    assert packed.weight.tolist() == [3, 6] and packed.psp[0] == 1 and packed.scale == 0.5
    assert not packed.inhibitory.any() and packed.counts["fractional_psp"] == 1 and packed.counts["psp_rounded"] == 0


def test_products_of_networks_with_a_non_uniform_area() -> None:
    assert pack([65535], [65535]).psp.tolist() == [65535]
    narrow = pack([65535, 1], [65535, 1], narrow=True)
    assert int(narrow.weight[0]) * int(narrow.psp[0]) < 2**31 and narrow.psp.tolist() == [16384, 0] or narrow.psp.tolist() == [32768, 1]
    with pytest.raises(NetworkError, match=r"synapse 0: weight 65535 and psp 65535 .* 2\*\*31"):
        pack([65535, 1], [65535, 1], narrow=True, fractions="refuse")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number(value: float) -> None:
    with pytest.raises(NetworkError, match=r"psp\[1\]"):
        pack([1, 1], [1, value])
    with pytest.raises(NetworkError, match=r"weight\[0\]"):
        pack([value, 1], [1, 1])


def test_a_scale_that_float32_does_not_have() -> None:
    with pytest.raises(NetworkError, match="contribution_scale"):
        pack([1e-30], [1e-30])


def test_an_unknown_mode() -> None:
    with pytest.raises(NetworkError, match="'drop' is not one of 'scale', 'round', 'refuse'"):
        pack([1], [1], fractions="drop")


@given(st.lists(st.tuples(real, st.booleans()), max_size=8), st.booleans())
def test_nothing_is_off_by_more_than_half_a_unit_unless_it_is_cut(values: list[tuple[float, bool]], narrow: bool) -> None:
    weight = np.array([value for value, _ in values], np.float32)
    packed = pack(weight, np.full(len(weight), 3), [flag for _, flag in values], narrow=narrow)
    exact = packed.weight.astype(np.float64) * packed.weight_unit
    cut = (packed.weight == LARGEST_COUNT) & (np.abs(weight) > LARGEST_COUNT)
    off = np.where(cut, 0, np.abs(exact - np.abs(weight)))
    assert (off <= packed.weight_unit * (0.5 + 2**-20) + np.abs(weight) * 2**-24).all()
    assert packed.counts["weight_rounded"] == np.count_nonzero(exact.astype(np.float32) != np.abs(weight))
    if packed.counts["weight_rounded"] and not narrow:  # as fine as 16 bits allow
        assert packed.weight.max() > LARGEST_COUNT // 2 - 1
    assert packed.inhibitory.tolist() == [bool(flag) ^ (value < 0) for value, flag in values]
