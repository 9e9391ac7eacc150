"""The doors: what passes comes out in the right dtype and settled; what does not is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpu_npu.checks import check_area_id, check_ids, check_potentials, check_unique, settle
from gpu_npu.connectome import NEURON_FIELDS, SYNAPSE_FIELDS, NetworkError, NeuronIndexError, SynapseBatch
from gpu_npu.connectome.fields import synapse_dtypes
from gpu_npu.connectome.validation import check_count_dtype, check_field, check_scalar, check_synapses, check_weights

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


@pytest.mark.parametrize(
    ("ids", "way_out"),
    [
        ([0, 1, 90210], r"; reserve\(neurons=90211\) makes room"),
        (np.array([0, 1, 1000], np.int16), r"; reserve\(neurons=1001\) makes room"),
        ([0, 1, -7], ""),
    ],
)
def test_id_out_of_range_is_named(ids: Any, way_out: str) -> None:
    with pytest.raises(
        NeuronIndexError, match=rf"^target\[2\]: {ids[2]} is not a neuron id; the ids of this network are 0 to 999{way_out}$"
    ):
        check_ids(ids, 1000, "target")


@pytest.mark.parametrize("label", [720575940379810000, 2**63, 2**32])
def test_a_root_id_is_taken_for_the_label_that_it_is(label: int) -> None:
    with pytest.raises(NeuronIndexError, match=rf"{label} .* looks like a label.*ids of this network are 0 to 999.*position") as caught:
        check_ids(np.array([0, label], np.uint64), 1000)
    assert "reserve" not in str(caught.value)


@pytest.mark.parametrize("kind", [list, np.array])
def test_a_mask_means_the_neurons_where_it_is_true(kind: Any) -> None:
    ids = check_ids(kind([False, True, False, True]), 4)
    assert ids.dtype == np.uint32 and ids.tolist() == [1, 3]
    assert check_ids(kind([False] * 4), 4).tolist() == []
    with pytest.raises(NetworkError, match="^fired: a mask of 3 booleans; a mask has one for each of the 4 ids"):
        check_ids(kind([True] * 3), 4, "fired")


def checked(*values: Any, capacity: int, psp_dtype: Any = np.uint8) -> SynapseBatch:
    return check_synapses(dict(zip(SYNAPSE_FIELDS, (*values, 1), strict=True)), capacity, synapse_dtypes(np.uint8, psp_dtype))


def test_masks_are_ends_of_synapses() -> None:
    mask = np.array([False, True, True, False])
    batch = checked(mask, [0, 3], [5, 6], 1, False, capacity=4)
    assert batch.source.tolist() == [1, 2] and batch.target.tolist() == [0, 3] and batch.weight.tolist() == [5, 6]
    with pytest.raises(NetworkError, match="target: 3 values for 2 synapses"):
        checked(mask, [0, 3, 1], 5, 1, False, capacity=4)


def test_what_is_masked_is_not_taken() -> None:
    ids = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
    with pytest.raises(NetworkError, match=r"^neurons: 1 of 3 values are masked.*\.compressed\(\)"):
        check_ids(ids, 10)
    assert check_ids(ids.compressed(), 10).tolist() == [1, 3] and check_ids(np.ma.masked_array([1, 2]), 10).tolist() == [1, 2]
    for check in (
        check_potentials,
        lambda values, n: check_field("threshold", values, n),
        lambda values, n: check_weights(values, np.uint8, n),
    ):
        with pytest.raises(NetworkError, match="1 of 3 values are masked"):
            check(ids, 3)


@pytest.mark.parametrize("dtype", [np.uint16, "uint16", np.dtype("uint16"), "u2", np.dtype(np.uint16).type])
def test_dtypes_of_weights_as_numpy_takes_them(dtype: Any) -> None:
    assert check_count_dtype(dtype, "weight_dtype") is np.uint16


@pytest.mark.parametrize("dtype", [None, "uint32", "weights", float, np.int16, 16, ">u2"])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(NetworkError, match="^weight_dtype: .* is none of uint8, uint16 and float32"):
        check_count_dtype(dtype, "weight_dtype")


def test_a_weight_that_another_dtype_would_take() -> None:
    with pytest.raises(NetworkError, match=r'^psp\[1\]: 400 is outside 0\.\.255, as .* in uint8; .*psp_dtype="uint16" takes up to 65535'):
        check_weights([1, 400], np.uint8, 2, "psp")
    for value, dtype in ((70_000, np.uint8), (70_000, np.uint16), (-1, np.uint8)):
        with pytest.raises(NetworkError, match=r"outside 0\.\.(255|65535)$"):
            check_weights([value], dtype, 1)


def test_one_id_out_of_range() -> None:
    with pytest.raises(NeuronIndexError, match="^neurons.*: 10 is not a neuron id; the ids of this network are 0 to 9;"):
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
    batch = checked(1, [2, 3], 4, 5, [0, 1], capacity=10, psp_dtype=np.uint16)
    assert batch.source.tolist() == [1, 1] and batch.target.tolist() == [2, 3] and batch.weight.tolist() == [4, 4]
    assert batch.inhibitory.tolist() == [False, True] and batch.inhibitory.dtype == np.bool_ and batch.psp.dtype == np.uint16
    assert len(checked(1, 2, 3, 4, True, capacity=10)) == 1
    assert len(checked([], [], [], [], [], capacity=10)) == 0
    assert len(checked([], [], 1, 1, False, capacity=10)) == 0


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"target": [1, 2]}, NetworkError, "target: 2 values for 3 synapses"),
        ({"weight": [1, 2, 3, 4]}, NetworkError, "weight: 4 values for 3 synapses"),
        ({"inhibitory": [True]}, NetworkError, "inhibitory: 1 values for 3 synapses"),
        ({"source": [1, 10, 2]}, NeuronIndexError, r"source\[1\]: 10 is not a neuron id; the ids of this network are 0 to 9;"),
        ({"target": [1, 2, -1]}, NeuronIndexError, r"target\[2\]: -1 is"),
        ({"target": 99}, NeuronIndexError, r"target.*: 99 is"),
        ({"source": [1.0, 2.0, 3.0]}, NetworkError, "source: dtype float64"),
        ({"weight": 256}, NetworkError, "weight: 256 is outside 0..255"),
        ({"psp": [1, 70000, 1]}, NetworkError, r"psp\[1\]: 70000 is outside 0..65535"),
        ({"psp": 1.0}, NetworkError, "psp: dtype float64"),
        ({"inhibitory": [0, 1, 2]}, NetworkError, r"inhibitory\[2\]: 2 is outside 0..1"),
        ({"inhibitory": 1.0}, NetworkError, "inhibitory: dtype float64"),
        ({"delay": 0}, NetworkError, r"delay: 0 is outside 1\.\.255"),
        ({"delay": [1, 2, 0]}, NetworkError, r"delay\[2\]: 0 is outside 1\.\.255"),
        ({"delay": 256}, NetworkError, 'delay: 256 .* keeps a delay in uint8; a network made with delay_dtype="uint16" takes up to 65535'),
        ({"delay": 1.5}, NetworkError, "delay: dtype float64"),
        ({"delay": [1, 2]}, NetworkError, "delay: 2 values for 3 synapses"),
    ],
)
def test_synapses_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"source": [1, 2, 3], "target": [1, 2, 3], "weight": 1, "psp": 1, "inhibitory": False, "delay": 1}
    with pytest.raises(error, match=message):
        check_synapses(good | changed, 10, synapse_dtypes(np.uint8, np.uint16))
