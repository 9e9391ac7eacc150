"""Networks written as edge lists: what is delivered, and nothing lost without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpu_npu import Connectome, NetworkError
from gpu_npu.io import write

READ = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".feather": pd.read_feather}


@pytest.mark.parametrize("ending", READ)
@pytest.mark.parametrize(("weight_dtype", "psp_dtype"), [(np.float32, np.uint8), (np.uint8, np.float32), (np.float32, np.float32)])
def test_weights_keep_their_fractions(ending: str, weight_dtype: type, psp_dtype: type, tmp_path: Path) -> None:
    network = Connectome(3, 2, weight_dtype=weight_dtype, psp_dtype=psp_dtype)
    network.add_neurons(3)
    weight, psp = [0.5, 2.75] if weight_dtype is np.float32 else [3, 5], [0.25, 0.5] if psp_dtype is np.float32 else [2, 4]
    network.add_synapses([0, 1], [1, 2], weight, psp, [False, True])
    write(network, tmp_path / f"edges{ending}")
    assert READ[ending](tmp_path / f"edges{ending}")["weight"].tolist() == [w * p for w, p in zip(weight, psp, strict=True)]


@pytest.mark.parametrize("ending", READ)
def test_delays_are_not_lost_without_a_word(ending: str, tmp_path: Path) -> None:
    network = Connectome(3, 2)
    network.add_neurons(3)
    network.add_synapses([0, 1], [1, 2], 1, 1, delay=[1, 4])
    with pytest.raises(NetworkError, match=r"edges.*: synapses have delays up to 4 bursts, which an edge list does not keep; write \.npz"):
        write(network, tmp_path / f"edges{ending}")
    assert not list(tmp_path.iterdir())
    network.set_delays(1, 2, 1)
    write(network, tmp_path / f"edges{ending}")
