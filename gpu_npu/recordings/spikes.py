"""Spikes of trials as tables: in the columns of the published whole-brain model of the fly, and as SONATA has them."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import I64, U32, Indices
from gpu_npu.checks import check_path
from gpu_npu.connectome import Annotations
from gpu_npu.errors import MissingPackageError, NetworkError
from gpu_npu.extras import install_command
from gpu_npu.io.atomic import replacing
from gpu_npu.objects import OneLine

COLUMNS = ("t", "trial", "flywire_id", "exp_name")
"""t: seconds since the trial began; flywire_id: the label of the neuron, or its id where there are none."""


@dataclass(frozen=True, repr=False)
class Spikes(OneLine):
    """Which neuron fired in which burst of which trial, in the order of trials and bursts.

    burst : (n,) from 1. trial : (n,) from 0. neuron : (n,) ids. ms : duration of a burst.
    """

    burst: I64
    trial: I64
    neuron: U32
    ms: float
    annotations: Annotations
    name: str = ""

    def __len__(self) -> int:
        return len(self.burst)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """When each spike was, since its trial began; 0 in the first burst."""
        return (self.burst - 1).astype(np.float64) * (self.ms * 1e-3)

    @property
    def labels(self) -> NDArray[Any]:
        """Of the neuron of each spike."""
        labels = self.annotations.labels
        return self.neuron.astype(np.int64) if labels is None else labels[self.neuron]

    def write(self, path: str | os.PathLike[str]) -> None:
        """To a file, by the end of its name: .parquet, .csv (both in COLUMNS), or .h5 (SONATA, of one trial).

        NetworkError: another end, or several trials for SONATA. MissingPackageError, OSError.
        """
        path = check_path(path)
        writers = {".parquet": self._write_parquet, ".csv": self._write_csv, ".h5": self._write_sonata}
        if path.suffix.lower() not in writers:
            raise NetworkError(f"{path}: spikes are written to a file whose name ends in {', '.join(writers)}")
        writers[path.suffix.lower()](path)

    def _write_csv(self, path: Path) -> None:
        with replacing(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(COLUMNS)
            rows = zip(self.seconds.tolist(), self.trial.tolist(), self.labels.tolist(), strict=True)
            writer.writerows((t, trial, label, self.name) for t, trial, label in rows)
            text.detach()

    def _write_parquet(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise _missing(error, "tables") from error
        labels = self.labels
        if labels.dtype.kind == "u" and not (labels > np.iinfo(np.int64).max).any():
            labels = labels.astype(np.int64)  # as root ids are elsewhere
        names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(self), np.int32)), pa.array([self.name]))
        columns = (pa.array(self.seconds), pa.array(self.trial), pa.array(labels), names.cast(pa.string()))
        with replacing(path) as file:
            pq.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True))), file)

    def _write_sonata(self, path: Path) -> None:
        if len(self) and int(self.trial.max()) > 0:
            raise NetworkError(f"{path}: a file of SONATA holds one trial, and there are several; write .parquet or .csv")
        try:
            import h5py
        except ImportError as error:
            raise _missing(error, "sonata") from error
        with replacing(path) as file, h5py.File(file, "w") as hdf:
            hdf.attrs["magic"], hdf.attrs["version"] = np.uint32(0x0A7A), np.array([0, 1], np.uint32)
            for population, node, chosen in self._populations():
                group = hdf.create_group(f"spikes/{population}")
                group["node_ids"], group["timestamps"] = node, self.seconds[chosen] * 1e3
                group["timestamps"].attrs["units"] = "ms"
                group.attrs.create("sorting", 2, dtype=h5py.enum_dtype({"none": 0, "by_id": 1, "by_time": 2}, basetype="u1"))

    def _populations(self) -> list[tuple[str, NDArray[np.uint64], Indices]]:
        """Name of each population, the ids of its nodes, and which spikes are its."""
        names = self.annotations.columns.get("population")
        if names is None:
            return [("neurons", self.neuron.astype(np.uint64), np.arange(len(self)))]
        labels, found = self.annotations.labels, []
        for name in dict.fromkeys(names.tolist()):
            inside = np.flatnonzero(names == name)
            nodes = np.zeros(len(names), np.uint64)
            nodes[inside] = np.arange(len(inside))
            if labels is not None and labels.dtype.kind == "U":
                parts = [label.rpartition("/") for label in labels[inside].tolist()]
                if all(population == name and node.isdecimal() for population, _, node in parts):
                    nodes[inside] = [int(node) for _, _, node in parts]
            chosen = np.flatnonzero(names[self.neuron] == name)
            found.append((name, nodes[self.neuron[chosen]], chosen))
        return found


def _missing(error: ImportError, extra: str) -> MissingPackageError:
    return MissingPackageError(f"writing spikes needs {error.name}, which is not installed: {install_command(extra)}")
