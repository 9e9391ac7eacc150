"""The control plane as its OpenAPI describes it, with generated requests, right and wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from gpu_npu import BurstEngine
from gpu_npu.connectome.generators import fixed_out_degree

pytest.importorskip("fastapi", reason="needs the extra serve")
if not os.environ.get("CI"):
    pytest.importorskip("schemathesis")

import schemathesis  # noqa: E402

from gpu_npu.service.app import make_app  # noqa: E402
from gpu_npu.service.server import Server  # noqa: E402
from gpu_npu.service.service import Service  # noqa: E402


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    path = tmp_path_factory.mktemp("fuzzed") / "run.ckpt"
    network = fixed_out_degree(100, 5, seed=1, weight=(1, 20), threshold=20.0)
    with (
        BurstEngine(network, backend="reference") as engine,
        Server(make_app(Service(engine, "random", checkpoint=path)), "127.0.0.1", 0) as server,
    ):
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        assert engine.state in ("running", "paused")
        assert server.alive
        engine.stop()


FUZZED = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
MODES = list(schemathesis.GenerationMode)
OPERATIONS = 11


def fuzz(api: schemathesis.BaseSchema, mode: schemathesis.GenerationMode, chosen: settings) -> None:
    """No 500, and every answer is one that OpenAPI foretells. A request of the right form may still name what is not there,
    so it need not be accepted; one of the wrong form must not be."""
    not_held_to = schemathesis.checks.CHECKS.get_by_names(["positive_data_acceptance"])
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == OPERATIONS
    for operation in operations:

        @chosen
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(excluded_checks=not_held_to)

        try:
            ask()
        except Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE
            assert not operation.body and not operation.query  # there is nothing that could be wrong


@pytest.mark.parametrize("mode", MODES)
def test_fuzzed(api: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    fuzz(api, mode, settings(FUZZED, max_examples=12, derandomize=True))


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_fuzzed_for_long(api: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    fuzz(api, mode, settings(FUZZED, max_examples=1000))
