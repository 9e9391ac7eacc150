"""Areas, rules and settings refuse what is not allowed and hold float32 values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpu_npu.connectome import Area, NetworkError, Rules, Settings


def test_defaults_are_those_of_the_semantics() -> None:
    assert Area() == Area(name="", psp_uniform=True, mp_driven_psp=False, power=False)
    assert Settings() == Settings(Rules("candidate", False, -math.inf, math.inf), 1.0, 1.0, 0)


@pytest.mark.parametrize(
    ("preset", "rules"),
    [
        ("seed", Rules()),
        ("feagi-2.6", Rules("burst", True, 0.0, 255.0, "candidates", mp_driven_rounding=False)),
        ("feagi-2.6-fp32", Rules("burst", True, -math.inf, math.inf, "candidates", mp_driven_rounding=False)),
    ],
)
def test_presets(preset: str, rules: Rules) -> None:
    assert Rules.preset(preset) == rules


def test_unknown_preset() -> None:
    with pytest.raises(NetworkError, match=r"'feagi-3'.*'seed'"):
        Rules.preset("feagi-3")


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Area, {"name": 3}, "3 is not a string"),
        (Area, {"name": "area \ud800"}, r"'area \\ud800' has a lone surrogate"),
        (Area, {"power": 1}, "power: 1 is not True or False"),
        (Rules, {"refractory_clock": "sun"}, "'sun'"),
        (Rules, {"reset": "none"}, "reset: 'none' is not one of 'all', 'candidates'"),
        (Rules, {"rectify_input": 2}, "rectify_input: 2"),
        (Rules, {"potential_floor": 2.0, "potential_ceiling": 1.0}, "floor 2.0 is above potential_ceiling 1.0"),
        (Rules, {"potential_floor": math.inf}, "potential_floor: inf"),
        (Rules, {"potential_ceiling": -math.inf}, "potential_ceiling: -inf"),
        (Rules, {"potential_ceiling": math.nan}, "potential_ceiling: nan"),
        (Settings, {"contribution_scale": 1e300}, r"contribution_scale: 1e\+300 is not a finite"),
        (Settings, {"contribution_scale": 10**400}, "contribution_scale: 1000"),
        (Settings, {"power_amount": "1"}, "power_amount: '1' is not a real"),
        (Settings, {"power_amount": True}, "power_amount: True"),
        (Settings, {"random_seed": 2**32}, "random_seed: 4294967296"),
        (Settings, {"random_seed": -1}, "random_seed: -1"),
        (Settings, {"random_seed": 1.0}, "random_seed: 1.0"),
        (Settings, {"rules": "seed"}, "'seed' is not a Rules"),
    ],
)
def test_refused(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        kind(**arguments)


def test_reals_become_float32_and_settle() -> None:
    settings = Settings(contribution_scale=1 / 65025, power_amount=1e-40, random_seed=np.int64(7))  # type: ignore[arg-type]
    assert settings.contribution_scale == float(np.float32(1 / 65025)) != 1 / 65025
    assert settings.power_amount == 0.0
    assert type(settings.random_seed) is int
    assert math.copysign(1, Settings(power_amount=-0.0).power_amount) == 1
    assert Settings(power_amount=-(2.0**-126)).power_amount == -(2.0**-126)
