"""The proof that synaptic sums fit, against Python's big integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu import NPU, Connectome
from gpu_npu.arrays import spread
from gpu_npu.connectome import Area, NetworkError, Rules, SumOverflowError, SynapseBatch
from gpu_npu.connectome.sums import Arithmetic, check_sums, largest_sums, largest_terms

N = 6
AREAS = {0: Area(), 1: Area(psp_uniform=False), 2: Area(mp_driven_psp=True), 3: Area(psp_uniform=False, mp_driven_psp=True)}
NEURON_AREAS = np.array([0, 1, 2, 3, 1, 77], np.uint32)  # an area that was never set has the defaults
# 46340**2 < 2**31: no product is too large for a non-uniform network, and sums of a few still pass 2**63 / 2**32.
SYNAPSES = st.lists(
    st.tuples(st.integers(0, N - 1), st.integers(0, N - 1), st.integers(0, 46340), st.integers(0, 46340), st.booleans()), max_size=40
)


def batch_of(rows: list[tuple[int, int, int, int, bool]]) -> SynapseBatch:
    source, target, weight, psp, inhibitory = ([row[i] for row in rows] for i in range(5))
    return SynapseBatch(
        np.array(source, np.uint32),
        np.array(target, np.uint32),
        np.array(weight, np.uint16),
        np.array(psp, np.uint16),
        np.array(inhibitory, np.bool_),
        spread(1, len(rows), np.uint8),
    )


def excites(n: int) -> tuple[Any, Any]:
    """Type and delay of n synapses."""
    return np.zeros(n, np.bool_), spread(1, n, np.uint8)


def by_hand(
    rows: list[tuple[int, int, int, int, bool]], areas: dict[int, Area], bits: int, reach: dict[tuple[int, int], int], neuron_areas: Any
) -> tuple[int, int]:
    simple: dict[Any, int] = {}
    exact: dict[Any, int] = {}
    least_psp = 255 if any(area.mp_driven_psp for area in areas.values()) else 0
    for source, target, weight, psp, inhibitory in rows:
        area = areas.get(int(neuron_areas[source]), Area())
        top = max(weight, reach.get((int(neuron_areas[source]), int(neuron_areas[target])), 0))
        m = top * (255 if area.mp_driven_psp else psp)
        k = 1 if area.psp_uniform else sum(row[0] == source for row in rows)
        key = target, inhibitory
        simple[key] = simple.get(key, 0) + max(weight, *reach.values(), 0) * max(psp, least_psp)
        exact[key] = exact.get(key, 0) + ((m << bits) + k // 2) // k
    largest = max(exact.values(), default=0)
    return max(simple.values(), default=0) if bits else largest, largest


REACHES = st.dictionaries(st.tuples(st.sampled_from([0, 1, 2, 77]), st.sampled_from([0, 1, 3])), st.integers(0, 46340), max_size=3)


@given(SYNAPSES, st.integers(0, 40), st.sampled_from([0, 32]), REACHES)
def test_largest_sums(rows: list[tuple[int, int, int, int, bool]], cut: int, bits: int, reach: dict[tuple[int, int], int]) -> None:
    areas = AREAS if bits else {0: Area(), 2: Area(mp_driven_psp=True)}
    wanted = by_hand(rows, areas, bits, reach, NEURON_AREAS)
    batches = [batch_of(rows[:cut]), batch_of(rows[cut:])]
    found = largest_sums(batches, NEURON_AREAS, areas, arithmetic(areas), reach)
    assert found == wanted and all(type(value) is int for value in found)
    assert wanted[1] <= wanted[0] << bits


@given(SYNAPSES, REACHES, st.permutations([0, 1, 2, 3, 1, 77]))
def test_the_simple_bound_holds_wherever_neurons_move(
    rows: list[tuple[int, int, int, int, bool]], reach: dict[tuple[int, int], int], moved: list[int]
) -> None:
    simple, _ = largest_sums([batch_of(rows)], NEURON_AREAS, AREAS, arithmetic(AREAS), reach)
    assert largest_sums([batch_of(rows)], np.array(moved, np.uint32), AREAS, arithmetic(AREAS), reach)[1] <= simple << 32


def test_fractions_carry_into_whole_units() -> None:
    rows = [(1, 2, 2, 1, False)] * 3
    areas = {1: AREAS[1]}
    assert largest_sums([batch_of(rows)], NEURON_AREAS, areas, arithmetic(areas)) == (6, 3 * (((2 << 32) + 1) // 3))


def test_sums_beyond_64_bits_do_not_wrap() -> None:
    rows = [(0, 1, 65535, 32767, False)] * 70_000
    assert largest_sums([batch_of(rows)], NEURON_AREAS, AREAS, arithmetic(AREAS)) == (70_000 * 65535 * 32767, 70_000 * 65535 * 32767 << 32)
    assert 70_000 * 65535 * 32767 << 32 > 2**78


def test_sums_have_fraction_bits_where_something_is_divided_or_has_fractions() -> None:
    assert arithmetic({}) == Arithmetic(False, 0, 65535**2)
    driven = {0: Area(), 1: Area(mp_driven_psp=True)}
    assert arithmetic(driven) == Arithmetic(False, 0, 65535**2)
    assert arithmetic(AREAS) == Arithmetic(False, 32, 65535**2)
    assert Arithmetic.of(np.uint8, np.uint8, driven, Rules(mp_driven_rounding=False)) == Arithmetic(True, 32, 255**2)
    assert Arithmetic.of(np.uint8, np.float32, {}, Rules()).real


def test_terms_with_fractions_are_summed_as_they_are_delivered() -> None:
    """Each to the nearest 2^-32; three times a third of 1.5 is not quite 1.5, and the bound is above."""
    batch = SynapseBatch(*(np.array(x) for x in ([1] * 3, [2] * 3)), *np.float32([[1.5] * 3, [1] * 3]), *excites(3))
    real = Arithmetic.of(np.float32, np.float32, AREAS, Rules())
    assert largest_sums([batch], NEURON_AREAS, {1: AREAS[1]}, real) == (6, 3 << 31)
    tiny = SynapseBatch(*(np.array(x) for x in ([0], [2])), *np.float32([[2.0**-20], [2.0**-13]]), *excites(1))
    assert largest_sums([tiny], NEURON_AREAS, {}, real) == (1, 0)
    large = SynapseBatch(*(np.array(x) for x in ([0, 0], [2, 2])), *np.float32([[2.0**20] * 2, [2.0**10] * 2]), *excites(2))
    with pytest.raises(SumOverflowError, match="neuron 2: "):
        check_sums([large], NEURON_AREAS, AREAS, real, 2)
    beyond = SynapseBatch(large.source, large.target, *np.float32([[3e38] * 2, [1e3] * 2]), large.inhibitory, large.delay)
    with pytest.raises(NetworkError, match=r"weight 3.0+5\d+e\+38 \* psp 1000\.0 = inf is not below"):
        check_sums([beyond], NEURON_AREAS, {}, real, 2)



def arithmetic(areas: dict[int, Area], dtype: Any = np.uint16) -> Arithmetic:
    return Arithmetic.of(dtype, dtype, areas, Rules())


def untouchable() -> Iterator[SynapseBatch]:
    pytest.fail("uniform networks need no look at their synapses")
    yield batch_of([])


def test_a_uniform_network_is_proven_without_a_look() -> None:
    """While even the largest products that the dtypes allow cannot reach 2**63 together."""
    most, areas = (2**63 - 1) // 65535**2, {0: Area()}
    u16, u8 = arithmetic(areas), arithmetic(areas, np.uint8)
    assert check_sums(untouchable(), NEURON_AREAS, areas, u16, most) is None
    assert check_sums([batch_of([(0, 1, 2, 3, True)])], NEURON_AREAS, areas, u16, most + 1) == 6
    assert check_sums(untouchable(), NEURON_AREAS, areas, u8, 2**46) is None
    assert check_sums([batch_of([(0, 1, 2, 3, True)])], NEURON_AREAS, areas, u8, 2**48) == 6


def test_the_limit_is_exact() -> None:
    # 2**31 - 1 whole units fit 63 bits with 32 of fraction; one more does not.
    rows = [(0, 4, 65535, 32767, False), (0, 4, 65535, 1, False), (0, 4, 1, 32767, False), (0, 4, 1, 1, True)]
    total = sum(weight * psp for _, _, weight, psp, inhibitory in rows if not inhibitory)
    assert total == 2**31 - 1
    assert check_sums([batch_of(rows)], NEURON_AREAS, {1: AREAS[1]}, arithmetic(AREAS), len(rows)) == total
    with pytest.raises(SumOverflowError, match=rf"^neuron 4: its synaptic input in one burst could reach {2**63} .*less than {2**63}"):
        check_sums([batch_of([*rows, (5, 4, 1, 1, False)])], NEURON_AREAS, AREAS, arithmetic(AREAS), len(rows) + 1)


def test_a_fraction_is_what_counts_not_the_simple_bound() -> None:
    """A source of a non-uniform area shares out: its 40 synapses to one target are worth one."""
    rows = [(1, 2, 32768, 32768, False)] * 40
    assert check_sums([batch_of(rows)], NEURON_AREAS, AREAS, arithmetic(AREAS), 40) == 40 * 2**30
    with pytest.raises(SumOverflowError, match="neuron 2: "):
        check_sums([batch_of([(0, *row[1:]) for row in rows])], NEURON_AREAS, AREAS, arithmetic(AREAS), 40)


def test_a_product_that_is_too_large_is_named() -> None:
    good = [(0, 1, 65535, 32768, False)]
    assert check_sums([batch_of(good)], NEURON_AREAS, AREAS, arithmetic(AREAS), 1) == 65535 * 32768
    rows = [(0, 1, 1, 1, False), (5, 3, 65535, 32769, True)]
    with pytest.raises(NetworkError, match=rf"synapse 5 -> 3: weight 65535 \* psp 32769 = {65535 * 32769} is not below 2\*\*31"):
        check_sums([batch_of(rows)], NEURON_AREAS, AREAS, arithmetic(AREAS), 2)
    # The psp that is stored does not matter where the potential drives it.
    assert check_sums([batch_of([(2, 3, 65535, 65535, True)])], NEURON_AREAS, AREAS, arithmetic(AREAS), 1) == 65535 * 65535


def test_a_weight_counts_as_what_a_rule_can_make_of_it() -> None:
    rows = [(0, 4, 1, 32767, False)] * 2
    assert check_sums([batch_of(rows)], NEURON_AREAS, AREAS, arithmetic(AREAS), 2, {(0, 2): 65535}) == 2 * 65535 * 32767
    with pytest.raises(
        SumOverflowError, match=rf"neuron 4: its synaptic input in one burst could reach {2 * 65535 * 32767 << 32} .* plasticity rules"
    ):
        check_sums([batch_of(rows)], NEURON_AREAS, AREAS, arithmetic(AREAS), 2, {(0, 1): 65535})
    rows = [(0, 4, 1, 32769, False)]
    with pytest.raises(NetworkError, match=r"weight 65535 \* psp 32769 .* \(the weight is 1; a plasticity rule can raise it\)"):
        check_sums([batch_of(rows)], NEURON_AREAS, AREAS, arithmetic(AREAS), 1, {(0, 1): 65535})

# -- float32 -----------------------------------------------------------------------------------------------------------
def of_float32(weight: float, count: int) -> Connectome:
    """`count` synapses from ids of their own to neuron 0, float32 weights and psps."""
    network = Connectome(count + 3, count + 10, weight_dtype=np.float32, psp_dtype=np.float32)
    network.add_neurons(count + 3)
    network.add_synapses(np.arange(1, count + 1), 0, weight, 1.0)
    return network


def test_many_products_that_are_too_large_for_a_sum_do_not_wrap() -> None:
    """Each below 2**31, as plasticity of another pair of areas makes them: together beyond 2**64."""
    weight, psp = np.full(20, 3e38, np.float32), np.full(20, 3e38, np.float32)
    assert largest_terms(weight, psp, 0, 0, True).tolist() == [2.0**32] * 20
    network = of_float32(1.0, 20)
    simple, exact = largest_sums(network.synapses, network.neurons.cortical_area, {}, network.arithmetic, {(1, 2): 2**60})
    assert (simple, exact) == (20 * 2**32, 20 * 2**32)


def test_rounding_to_float32_counts() -> None:
    """One synapse at a time, each of whose weight * psp rounds up by less than one: the bound is never below the sum."""
    network = of_float32(1.0, 1)
    with NPU.from_connectome(network, backend="reference") as npu:
        bound = npu._resident.bound
        before = bound._bound
        assert before is not None
        npu.reserve(synapses=1000)
        for source in (2, 3):
            npu.add_synapse(source, 0, 16_777_219, 3)  # float32 has 16,777,220
        assert bound._bound is not None and bound._bound >= before + 2 * 16_777_220 * 3
    driven = Arithmetic(True, 32, 255 * 65535)  # whole weights, potentials that are not rounded
    terms = largest_terms(np.full(1, 65535, np.uint16), np.full(1, 65535, np.uint16), 0, 0, driven.real)
    assert terms[0] > np.float32(65535) * np.float32(65535)


def test_updates_of_float32_weights_do_not_prove_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with NPU.from_connectome(of_float32(1.0, 5), backend="reference") as npu:
        monkeypatch.setattr(npu._resident, "proven", lambda *_: pytest.fail("it looked at the whole network"))
        assert npu.update_weight(1, 0, 1000.0)
        npu.add_synapses([6], [1], 1.0, 100.0)
        assert npu.update_weights([6, 2], [1, 0], [1000.0, 2.5]).all()
