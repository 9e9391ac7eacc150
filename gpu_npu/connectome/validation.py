"""Checks of what a network may hold: the fields of neurons, and synapses. Nothing returned shares memory with the caller's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import Counts, spread
from gpu_npu.checks import LARGEST, SMALLEST_NORMAL, as_array, check_flags, check_ids, check_integers, check_reals, shaped
from gpu_npu.errors import NetworkError

from .fields import COUNT_TYPES, INFINITY, NEURON_FIELDS, SYNAPSE_FIELDS, CountType, DelayType, Field, largest_count
from .neurons import NeuronArray
from .synapses import SynapseArray, SynapseBatch, check_ends


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
    """One of COUNT_TYPES, given as NumPy takes a dtype: a type, an np.dtype or a name."""
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    for allowed in COUNT_TYPES:
        if dtype is not None and found == allowed:
            return allowed
    raise NetworkError(f"{what}: {dtype!r} is none of uint8, uint16 and float32")


def check_learns(*dtypes: CountType) -> None:
    """NetworkError where weights or psps of these dtypes are none that plasticity rules other than FeagiRules change."""
    if np.float32 in dtypes:
        raise NetworkError("plasticity: rules but FeagiRules change weights that are whole numbers; here weights or psps are float32")


def check_delay_dtype(dtype: Any) -> DelayType:
    """np.uint8 or np.uint16, given as NumPy takes a dtype."""
    found = check_count_dtype(dtype, "delay_dtype")
    if found is np.float32:
        raise NetworkError(f"delay_dtype: {dtype!r} is neither uint8 nor uint16")
    return np.uint8 if found is np.uint8 else np.uint16


def check_delays(delay: ArrayLike, dtype: DelayType, n: int) -> Counts:
    """n delays of this dtype; one value serves all, and takes the memory of one. NetworkError: as `check_weights`, or below 1."""
    one = as_array(delay, "delay").ndim == 0
    checked = check_weights(delay, dtype, 1 if one else n, "delay", least=1)
    return spread(checked[0], n, dtype) if one else checked


def check_weights(weight: ArrayLike, dtype: Any, n: int, what: str = "weight", least: int = 0) -> Counts:
    """n weights (or psps, or delays) of this dtype; one value serves all. NetworkError: reals where the dtype is one of integers,
    outside the dtype, below `least`, another length."""
    array, most = as_array(weight, what), largest_count(dtype)
    if dtype is np.float32:
        return shaped(check_reals(array, 0, INFINITY, what), (n,), what, dtype)
    try:
        return shaped(check_integers(array, least, most, what), (n,), what, dtype)
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


def _column(name: str, array: NDArray[Any], dtype: Any, n: int) -> NDArray[Any]:
    if name in ("source", "target"):
        return shaped(array, (n,), name, dtype)
    if name == "delay":
        return check_delays(array, dtype, n)
    return shaped(check_flags(array, name), (n,), name, dtype) if dtype is np.bool_ else check_weights(array, dtype, n, name)


# -- arrays that may have been written by hand ---------------------------------------------------------------------
def check_neuron_array(neurons: NeuronArray) -> None:
    """See that dtypes, shapes and values are what the mutators of a Connectome would have left."""
    for name in NEURON_FIELDS:
        _check_column(name, neurons[name], neurons.capacity)
    for name in ("valid", "created"):
        _check_array(name, neurons[name], (neurons.capacity,), np.bool_)
    ghosts = np.flatnonzero(neurons.valid & ~neurons.created)
    if ghosts.size:
        raise NetworkError(f"neuron {ghosts[0]} is valid but was never created")


def check_synapse_array(synapses: SynapseArray) -> None:
    """The same of synapses."""
    if not 0 <= synapses.count <= synapses.capacity:
        raise NetworkError(f"synapse count {synapses.count} is outside 0..{synapses.capacity}")
    dtypes = {**synapses.dtypes, "valid": np.bool_}
    for array, (name, dtype) in zip(synapses.arrays(), dtypes.items(), strict=True):
        _check_array(name, array, (synapses.capacity,), dtype)
        if dtype is np.float32 or name == "delay":
            check_weights(array[: synapses.count], dtype, synapses.count, name, least=int(name == "delay"))
    check_ends(synapses, synapses.neuron_capacity)


def _check_array(name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise NetworkError(f"{name}: an array of {array.dtype} of shape {array.shape}, where {np.dtype(dtype)} of shape {shape} is needed")
    if array.dtype == np.bool_ and array.size and int(array.view(np.uint8).max()) > 1:
        bad = int(np.argmax(array.view(np.uint8) > 1))
        raise NetworkError(f"{name}[{bad}]: {array.view(np.uint8)[bad]} where 0 or 1 is needed")


def _check_column(name: str, array: NDArray[Any], capacity: int) -> None:
    field = NEURON_FIELDS[name]
    _check_array(name, array, (capacity,) if field.width == 1 else (capacity, field.width), field.dtype)
    if field.dtype is np.float32:
        settled = check_field(name, array, capacity)
        bad = np.flatnonzero(settled.view(np.uint32) != array.view(np.uint32))
        if bad.size:
            raise NetworkError(f"{name}[{bad[0]}]: {array[bad[0]]} is subnormal or -0; write 0", python="Connectome.write() does so")
