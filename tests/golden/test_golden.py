"""Every backend gives the golden cases, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from golden_cases import CASES, FOLDER, PLASTIC_CASES, load_case, run_case
from scalar_model import WORD, draw

from gpu_npu.backends.base import Platform
from gpu_npu.backends.reference.bursts import excitability_draw


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, backend_factory: Callable[[], Platform]) -> None:
    run_case(load_case(name), backend_factory())


@pytest.mark.parametrize("name", PLASTIC_CASES)
def test_plastic_cases_are_plastic(name: str) -> None:
    assert load_case(name).connectome.plasticity


def test_table_of_the_excitability_draw() -> None:
    with np.load(FOLDER / "table_random.npz", allow_pickle=False) as table:
        for neuron, burst, h in zip(table["neuron"], table["burst"], table["h"], strict=True):
            expected = np.float32(h) / np.float32(2**32)
            assert excitability_draw(np.array([neuron], np.uint32), int(burst) % WORD, 0)[0] == expected
            assert float(draw(int(neuron), int(burst) % WORD, 0)) == expected
