"""Networks to edge lists: a row for each synapse, its neurons by their labels. What else a network holds is not in such a file.

NetworkError from every writer: delays above one burst, which would be lost.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Connectome
from gpu_npu.connectome.synapses import SynapseArray
from gpu_npu.errors import NetworkError

from .atomic import replacing
from .formats import Given, missing

COLUMNS = ("source", "target", "weight", "excitatory")
"""excitatory: 1, or -1 where the synapse inhibits; weight: what is delivered, in the network's unit of potential."""


def _check(network: Connectome, path: Path) -> None:
    longest = network.synapses.delay_range[1]
    if longest > 1:
        raise NetworkError(f"{path}: synapses have delays up to {longest} bursts, which an edge list does not keep; write .npz")


def _is_real(network: Connectome) -> bool:
    """Whether what is delivered may have fractions."""
    return network.settings.contribution_scale != 1 or np.float32 in (network.weight_dtype, network.psp_dtype)


def _rows(network: Connectome) -> Iterator[list[NDArray[Any]]]:
    labels = network.annotations.labels
    scale = float(str(np.float32(network.settings.contribution_scale)))  # 0.1 where that is the nearest of 32 bits
    synapses: SynapseArray = network.synapses
    for batch in synapses:
        ends = [ids if labels is None else labels[ids] for ids in (batch.source, batch.target)]
        product = batch.weight.astype(np.float64 if _is_real(network) else np.int64) * batch.psp
        yield [*ends, product if scale == 1 else product * scale, np.where(batch.inhibitory, -1, 1)]


def write_csv(network: Connectome, path: Path) -> None:
    """As CSV. OSError: not writable."""
    _check(network, path)
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for columns in _rows(network):
            writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
        text.detach()


def write_parquet(network: Connectome, path: Path) -> None:
    """As Parquet. MissingPackageError, OSError."""
    _write_arrow(network, path, lambda pa, file, schema: pa.parquet.ParquetWriter(file, schema))


def write_feather(network: Connectome, path: Path) -> None:
    """As Feather, which is an Arrow file. MissingPackageError, OSError."""
    _write_arrow(network, path, lambda pa, file, schema: pa.ipc.new_file(file, schema))


def _write_arrow(network: Connectome, path: Path, opened: Callable[[Any, Any, Any], Any]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise missing(error, f"writing {Given(path).name}") from error
    _check(network, path)
    labels = network.annotations.labels
    of_ids = pa.uint32() if labels is None else pa.string() if labels.dtype.kind == "U" else pa.uint64()
    types = (of_ids, of_ids, pa.float64() if _is_real(network) else pa.int64(), pa.int8())
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    with replacing(path) as file, opened(pa, file, schema) as writer:
        for columns in _rows(network):
            arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
