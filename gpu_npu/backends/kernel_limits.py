"""What kernels do not have, and the reference does."""

from __future__ import annotations

from collections.abc import Iterable

from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import FeagiRule, PlasticityRule, WindowRule
from gpu_npu.errors import NetworkError


def refusal(shape: NetworkShape, rules: Iterable[PlasticityRule] = ()) -> str:
    """Why kernels do not run a network of this shape with these rules; empty where they do."""
    # A weight is brought up to date when its source fires, not when the spike arrives.
    for rule in rules:
        if shape.longest_delay > 1 and isinstance(rule, WindowRule | FeagiRule):
            there = f"here the longest is {shape.longest_delay} bursts"
            return f"its kernels have no {type(rule).__name__} where a delay is above 1, and {there}"
    return ""


def check_kernels(shape: NetworkShape, rules: Iterable[PlasticityRule], name: str) -> None:
    """NetworkError for such a network on the backend `name`."""
    if problem := refusal(shape, rules):
        raise NetworkError(f"{name}: {problem}; the backend reference runs it", python='take backend="reference"')
