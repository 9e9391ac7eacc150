"""The doors: what passes comes out in the right dtype and settled; what does not is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpu_npu.checks import check_area_id, check_ids, check_potentials, check_unique, settle
from gpu_npu.connectome import NEURON_FIELDS, NetworkError, NeuronIndexError
from gpu_npu.connectome.validation import check_field, check_scalar, check_synapses, check_weights

TINY = 2.0**-126
LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64, ">i4"])
def test_ids_of_any_integer_dtype(dtype: Any) -> None:
    given_ids = np.array([3, 0, 3, 9], dtype)
    ids = check_ids(given_ids[::2], 10)
    assert ids.dtype == np.uint32 and ids.flags.c_contiguous and ids.tolist() == [3, 3]
    assert check_ids(given_ids, 10).tolist() == [3, 0, 3, 9]


def test_ids_are_a_copy() -> None:
    mine = np.array([1, 2], np.uint32)
    ids = check_ids(mine, 3)
    mine[0] = 0
    assert ids.tolist() == [1, 2]


def test_no_ids_and_one_id() -> None:
    assert check_ids([], 0).shape == (0,)
    assert check_ids(5, 6).tolist() == [5]
    assert check_ids(np.uint8(5), 6).tolist() == [5]


@pytest.mark.parametrize("ids", [[0, 1, -7], [0, 1, 90210], np.array([0, 1, 2**63], np.uint64), np.array([0, 1, 1000], np.int16)])
def test_id_out_of_range_is_named(ids: Any) -> None:
    with pytest.raises(NeuronIndexError, match=rf"^target\[2\]: {ids[2]} is not a neuron id \(this network reserves 1,000 ids .*reserve\("):
        check_ids(ids, 1000, "target")


def test_one_id_out_of_range() -> None:
    with pytest.raises(NeuronIndexError, match="^neurons.*: 10 is not a neuron id .*reserves 10 ids"):
        check_ids(10, 10)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.0], "float64"),
        ([True], "bool"),
        (["1"], "<U1"),
        ([None], "object"),
        ([2**70], f"object .first value {2**70}"),
        ([1j], "complex128"),
        ([[1, 2]], r"shape \(1, 2\)"),
        ([[1, 2], [3]], "not an array of numbers"),
    ],
)
def test_ids_that_are_none(ids: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=f"^neurons: .*{message}"):
        check_ids(ids, 10)


def test_unique() -> None:
    check_unique(np.array([], np.uint32))
    check_unique(np.array([5, 1, 3], np.uint32))
    with pytest.raises(NetworkError, match=r"^neurons\[3\]: 7 is given more than once"):
        check_unique(np.array([9, 7, 1, 7, 9, 7], np.uint32))


@pytest.mark.parametrize("area", [-1, 2**32, 1.0, True, "1"])
def test_area_ids(area: Any) -> None:
    assert check_area_id(np.uint32(7)) == 7
    with pytest.raises(NetworkError, match=f"area {area!r}"):
        check_area_id(area)


@given(arrays(np.float32, 50, elements=st.floats(width=32, allow_nan=False)))
def test_settle(x: Any) -> None:
    """Against the definition, one number at a time."""
    for before, after in zip(x.tolist(), settle(x), strict=True):
        wanted = 0.0 if abs(before) < TINY else max(-LARGEST, min(LARGEST, before))
        assert np.float32(wanted).tobytes() == after.tobytes()


@pytest.mark.parametrize("name", NEURON_FIELDS)
def test_defaults_pass_their_own_door(name: str) -> None:
    field = NEURON_FIELDS[name]
    value = check_field(name, [field.default] * 3 if field.width == 3 else field.default, 4)
    assert value.dtype == field.dtype and (value == field.default).all()
    assert value.shape == ((4,) if field.width == 1 else (4, 3))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("threshold", [0, np.nan, 1], r"threshold\[1\]: nan is not a finite"),
        ("threshold", [0, 0, np.inf], r"threshold\[2\]: inf is not a finite"),
        ("threshold", [1e300, 0, 0], r"threshold\[0\]: 1e\+300 is not a finite"),
        ("membrane_potential", -np.inf, r"^membrane_potential: -inf is not a finite"),
        ("threshold_limit", [0, -np.inf, 0], r"threshold_limit\[1\]: -inf is not"),
        ("threshold_limit", [0, np.nan, 0], r"threshold_limit\[1\]: nan is not"),
        ("leak_coefficient", [0, 1.5, 0], r"leak_coefficient\[1\]: 1.5 is outside 0..1"),
        ("leak_coefficient", [0, 0, -1], r"leak_coefficient\[2\]: -1 is outside 0..1"),
        ("excitability", 1.0000000001, r"^excitability: 1.0000000001 is outside 0..1"),
        ("refractory_period", [0, 65536, 0], r"refractory_period\[1\]: 65536 is outside 0..65535"),
        ("snooze_period", -1, r"^snooze_period: -1 is outside 0..65535"),
        ("refractory_period", [1.0, 2.0, 3.0], r"refractory_period: dtype float64 \(first value .*1.0.*integers"),
        ("refractory_period", True, "refractory_period: dtype bool"),
        ("threshold", True, "threshold: dtype bool"),
        ("threshold", "high", "threshold: dtype <U4"),
        ("threshold", 1j, "threshold: dtype complex128"),
        ("mp_charge_accumulation", 2, "mp_charge_accumulation: 2 is outside 0..1"),
        ("mp_charge_accumulation", 1.0, "mp_charge_accumulation: dtype float64"),
        ("cortical_area", 2**32, "cortical_area: 4294967296 is outside"),
        ("threshold", [1, 2], "threshold: 2 values for 3"),
        ("threshold", [[1, 2, 3]], r"threshold: an array of shape \(1, 3\)"),
        ("coordinates", [[1, 2, 3], [1, -2, 3], [0, 0, 0]], r"coordinates\[1, 1\]: -2 is outside"),
        ("coordinates", [[1, 2], [1, 2], [1, 2]], r"coordinates: an array of shape \(3, 2\)"),
        ("coordinates", [[1, 2, 3]], "coordinates: 1 values for 3"),
        ("coordinates", 1, r"coordinates: an array of shape \(\)"),
        ("wait", 1, "'wait' is not a field.*threshold"),
    ],
)
def test_field_refused(name: str, values: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        check_field(name, values, 3)


def test_fields_become_float32_and_settle() -> None:
    values = check_field("threshold", [0.1, -0.0, 1e-40, TINY], 4)
    assert values.tobytes() == np.array([0.1, 0.0, 0.0, TINY], np.float32).tobytes()
    assert check_field("threshold_limit", [np.inf, 1, 2.0**100], 3).tolist() == [np.inf, 1, 2.0**100]
    assert check_field("coordinates", (1, 2, 3), 2).tolist() == [[1, 2, 3], [1, 2, 3]]
    assert check_field("mp_charge_accumulation", [1, 0], 2).tolist() == [True, False]
    assert check_field("threshold", [], 0).shape == (0,)


@given(
    st.sampled_from([name for name in NEURON_FIELDS if name != "coordinates"]),
    st.one_of(
        st.floats(), st.integers(-2, 2**33), st.booleans(), st.sampled_from([-0.0, 1e-40, TINY, LARGEST, 1e39, np.float32(0.5), np.int8(1)])
    ),
)
def test_the_quick_door_for_one_value_is_the_same_door(name: str, value: Any) -> None:
    field = NEURON_FIELDS[name]
    try:
        slow = check_field(name, value, 1)
    except NetworkError as error:
        with pytest.raises(NetworkError) as quick:
            check_scalar(field, value)
        assert str(quick.value) == str(error)
    else:
        assert np.array([check_scalar(field, value)], field.dtype).tobytes() == slow.tobytes()


def test_potentials() -> None:
    assert check_potentials(2, 3).tolist() == [2, 2, 2]
    with pytest.raises(NetworkError, match=r"potentials\[1\]: nan"):
        check_potentials([0, np.nan], 2)
    with pytest.raises(NetworkError, match="potentials: 3 values for 2"):
        check_potentials([0, 1, 2], 2)


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 255), (np.uint16, 65535)])
def test_weights(dtype: Any, high: int) -> None:
    assert check_weights([0, high], dtype, 2).dtype == dtype
    for bad in (-1, high + 1):
        with pytest.raises(NetworkError, match=rf"^weight\[1\]: {bad} is outside 0..{high}"):
            check_weights([0, bad], dtype, 2)
    with pytest.raises(NetworkError, match="weight: dtype float32"):
        check_weights(np.float32([1]), dtype, 1)


def test_synapses_broadcast_scalars() -> None:
    batch = check_synapses(1, [2, 3], 4, 5, [0, 1], 10, np.uint8, np.uint16)
    assert batch.source.tolist() == [1, 1] and batch.target.tolist() == [2, 3] and batch.weight.tolist() == [4, 4]
    assert batch.inhibitory.tolist() == [False, True] and batch.inhibitory.dtype == np.bool_ and batch.psp.dtype == np.uint16
    assert len(check_synapses(1, 2, 3, 4, True, 10, np.uint8, np.uint8)) == 1
    assert len(check_synapses([], [], [], [], [], 10, np.uint8, np.uint8)) == 0
    assert len(check_synapses([], [], 1, 1, False, 10, np.uint8, np.uint8)) == 0


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"target": [1, 2]}, NetworkError, "target: 2 values for 3 synapses"),
        ({"weight": [1, 2, 3, 4]}, NetworkError, "weight: 4 values for 3 synapses"),
        ({"inhibitory": [True]}, NetworkError, "inhibitory: 1 values for 3 synapses"),
        ({"source": [1, 10, 2]}, NeuronIndexError, r"source\[1\]: 10 is not a neuron id .*reserves 10 ids"),
        ({"target": [1, 2, -1]}, NeuronIndexError, r"target\[2\]: -1 is"),
        ({"target": 99}, NeuronIndexError, r"target.*: 99 is"),
        ({"source": [1.0, 2.0, 3.0]}, NetworkError, "source: dtype float64"),
        ({"weight": 256}, NetworkError, "weight: 256 is outside 0..255"),
        ({"psp": [1, 70000, 1]}, NetworkError, r"psp\[1\]: 70000 is outside 0..65535"),
        ({"psp": 1.0}, NetworkError, "psp: dtype float64"),
        ({"inhibitory": [0, 1, 2]}, NetworkError, r"inhibitory\[2\]: 2 is outside 0..1"),
        ({"inhibitory": 1.0}, NetworkError, "inhibitory: dtype float64"),
    ],
)
def test_synapses_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"source": [1, 2, 3], "target": [1, 2, 3], "weight": 1, "psp": 1, "inhibitory": False}
    with pytest.raises(error, match=message):
        check_synapses(**(good | changed), capacity=10, weight_dtype=np.uint8, psp_dtype=np.uint16)
