"""JSON from a file: every way in which it can be wrong is one ValueError."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parse_json(text: str | bytes) -> Any:
    """The value. ValueError: no JSON, nested too deep to be read, or a number that float64 does not hold (1e400, NaN)."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deep to be read") from error


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        _refuse(number)
    return value


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"{number:.40} is no number that can be held")
