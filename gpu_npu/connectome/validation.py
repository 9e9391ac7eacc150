"""Checks of what a network may hold: the fields of neurons, and synapses. Nothing returned shares memory with the caller's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import Counts
from gpu_npu.checks import LARGEST, SMALLEST_NORMAL, as_array, check_flags, check_ids, check_integers, check_reals, shaped
from gpu_npu.errors import NetworkError

from .fields import NEURON_FIELDS, SYNAPSE_FIELDS, CountType, Field
from .synapses import SynapseBatch


def field_named(name: str) -> Field:
    """The entry of NEURON_FIELDS; NetworkError for a name that is none."""
    try:
        return NEURON_FIELDS[name]
    except (KeyError, TypeError):
        raise NetworkError(f"{name!r} is not a field of a neuron; these are: {', '.join(NEURON_FIELDS)}") from None


def check_field(name: str, values: ArrayLike, n: int) -> NDArray[Any]:
    """Values of a field for n neurons: shape (n,) or (n, 3), dtype of the field; one value (or triple) serves all.

    NetworkError: another length, a dtype that does not fit, NaN, infinite (+inf is allowed for threshold_limit) or
    outside the range of the field. Reals are rounded to float32 and settled.
    """
    field = field_named(name)
    array = as_array(values, name)
    if field.dtype is np.float32:
        array = check_reals(array, field.minimum, field.maximum, name, plus_infinity=name == "threshold_limit")
    elif field.dtype is np.bool_:
        array = check_flags(array, name)
    else:
        array = check_integers(array, int(field.minimum), int(field.maximum), name)
    return shaped(array, (n,) if field.width == 1 else (n, field.width), name, field.dtype)


def check_scalar(field: Field, value: Any) -> Any:
    """One value of a field of width 1, quickly where it is a plain number in range; else by `check_field`."""
    kind = type(value)
    if field.dtype is np.float32:
        if (kind is float or kind is int) and field.minimum <= value <= field.maximum:
            if value == 0:
                return 0.0
            if SMALLEST_NORMAL <= abs(value) <= LARGEST:
                return value
    elif kind is (bool if field.dtype is np.bool_ else int) and field.minimum <= value <= field.maximum:
        return value
    return check_field(field.name, value, 1)[0]


def check_count_dtype(dtype: Any, what: str) -> CountType:
    """np.uint8 or np.uint16, given as NumPy takes a dtype: a type, an np.dtype or a name."""
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    for allowed in (np.uint8, np.uint16):
        if dtype is not None and found == allowed:
            return allowed
    raise NetworkError(f"{what}: {dtype!r} is neither uint8 nor uint16")


def check_weights(weight: ArrayLike, dtype: Any, n: int, what: str = "weight") -> Counts:
    """n weights (or psps) of this dtype; one value serves all. NetworkError: floats, outside the dtype, another length."""
    array, most = as_array(weight, what), int(np.iinfo(dtype).max)
    try:
        return shaped(check_integers(array, 0, most, what), (n,), what, dtype)
    except NetworkError as error:
        if array.dtype.kind in "iu" and array.size and most < int(array.max()) <= 65535:
            wider = f'a network made with {what}_dtype="uint16" takes up to 65535'
            raise NetworkError(f"{error.problem}, as this network keeps a {what} in uint8", python=wider) from None
        raise


def check_synapses(given: Mapping[str, ArrayLike], capacity: int, dtypes: Mapping[str, type[np.generic]]) -> SynapseBatch:
    """Synapses between reserved ids as a batch: a value for all or an array, all of one length, for each of SYNAPSE_FIELDS.

    dtypes: of the fields in this network. NetworkError, NeuronIndexError: as for ids, weights and flags; the message names
    the array and the place in it.
    """
    arrays = {name: as_array(given[name], name) for name in SYNAPSE_FIELDS}
    for name in ("source", "target"):
        ids = check_ids(arrays[name], capacity, name)  # of a mask as many as it has True
        arrays[name] = ids if arrays[name].ndim else ids.reshape(())
    n = next((len(array) for array in arrays.values() if array.ndim), 1)
    for name, array in arrays.items():
        if array.ndim and len(array) != n:
            raise NetworkError(f"{name}: {len(array):,} values for {n:,} synapses; give one value or one for each")
    return SynapseBatch(*(_column(name, array, dtypes[name], n) for name, array in arrays.items()))


def _column(name: str, array: NDArray[Any], dtype: type[np.generic], n: int) -> NDArray[Any]:
    if name in ("source", "target"):
        return shaped(array, (n,), name, dtype)
    return shaped(check_flags(array, name), (n,), name, dtype) if dtype is np.bool_ else check_weights(array, dtype, n, name)
