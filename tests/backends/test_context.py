"""Launches by the names of parameters, and arrays that grow along their axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DeviceFactory
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu import KernelError
from gpu_npu.backends.executor.context import Context, Store
from gpu_npu.backends.kernels import kernels
from gpu_npu.backends.layout import ARRAY, ARRAYS, AXES, PLASTIC, Array, axis_lengths
from gpu_npu.backends.shape import NetworkShape


def test_arguments_go_where_their_names_say(device_factory: DeviceFactory) -> None:
    context = Context(device_factory())
    ids, array, values = (context.device.alloc(3, dtype) for dtype in (np.uint32, np.float32, np.float32))
    for name, host in ((ids, np.array([2, 0, 1], np.uint32)), (array, np.array([5, 6, 7], np.float32))):
        context.device.upload(name, host)
    context.launch("gather_values", values=values, size=4, array=array, ids=ids, n=3)
    assert context.device.fetched(values, 3).tolist() == [7, 5, 6]
    cell = np.zeros(1, np.uint64)
    launch = context.prepared("gather_values", n=cell, ids=ids, array=array, size=4, values=values)
    context.device.zero(values)
    cell[0] = 2
    context.device.launch([launch])
    assert context.device.fetched(values, 3).tolist() == [7, 5, 0]
    context.device.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1, "ids": None, "arrays": None}, "gather_values takes n, ids, array, size, values, and not arrays"),
        ({"n": 1}, "gather_values needs size"),
        ({"size": 1}, "gather_values needs n"),
    ],
)
def test_a_name_that_is_wrong_or_missing(arguments: dict[str, Any], message: str, device_factory: DeviceFactory) -> None:
    with pytest.raises(KernelError, match=message):
        Context(device_factory()).prepared("gather_values", **arguments)


def test_every_parameter_has_a_name_of_its_own() -> None:
    for name, kernel in kernels().items():
        assert len(set(kernel.names)) == len(kernel.names) == len(kernel.arguments), name
    assert kernels()["inject"].names == ("base", "ids", "potentials", "first", "n")


def test_every_axis_is_said_and_used() -> None:
    assert {axis for array in (*ARRAYS, *PLASTIC) for axis in array.axes} == set(AXES)
    assert set(axis_lengths(NetworkShape(1, 1), apart=True, second=True)) <= set(AXES)


@given(
    before=st.lists(st.integers(0, 4), min_size=0, max_size=4),
    more=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_what_an_array_holds_keeps_its_place(before: list[int], more: list[int]) -> None:
    axes = tuple("abcd"[: len(before)])
    array = Array("any", "i8", axes, "neurons", "")
    old = dict(zip(axes, before, strict=True))
    new = {axis: length + extra for (axis, length), extra in zip(old.items(), more, strict=False)}
    held = np.arange(1, array.size(old) + 1)
    moved = np.zeros(array.size(new), int)
    for to, at, count in array.moves(old, new):
        moved[to : to + count] = held[at : at + count]
    expected = np.zeros(tuple(new.values()), int)
    expected[tuple(slice(0, length) for length in before)] = held.reshape(tuple(before))
    np.testing.assert_array_equal(moved, expected.ravel())


def test_a_store_grows_along_every_axis(device_factory: DeviceFactory) -> None:
    few, many = (axis_lengths(NetworkShape(*sizes, 3), apart=True, second=True) for sizes in ((70, 5_000), (5_000, 90_000)))
    context = Context(device_factory())
    names = ("coordinates", "queue", "queue_task", "tile_count", "fired_bits", "arrivals")
    store = Store(context, [ARRAY[name] for name in names], few)
    for name in names:
        store.upload(name, np.arange(ARRAY[name].size(few)).astype(ARRAY[name].dtype))
    fresh = {array.name: context.device.alloc(size, array.dtype) for array, size in store.larger(many)}
    assert set(fresh) == set(names)
    store.move_to(many, fresh)
    for name in names:
        axes = ARRAY[name].axes
        whole = store.fetched(name, ARRAY[name].size(many)).reshape([many[axis] for axis in axes])
        held = whole[tuple(slice(0, few[axis]) for axis in axes)]
        assert held.ravel().tolist() == np.arange(held.size).astype(held.dtype).tolist(), name
        assert np.count_nonzero(whole) == np.count_nonzero(held), name
        assert context.state[name][0] == context.device.address(store.arrays[name])
    assert store.larger(many) == []
    context.device.close()
