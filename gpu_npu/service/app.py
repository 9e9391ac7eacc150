"""HTTP: what can be asked of the service, and how it answers. OpenAPI at /openapi.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, ConfigDict, Field, model_validator

import gpu_npu
from gpu_npu import NEURON_FIELDS, NPU, EngineError, NpuError
from gpu_npu.checks import check_ids
from gpu_npu.errors import problem_of
from gpu_npu.timing import HIGHEST_HZ, LOWEST_HZ

from .guard import Guard
from .metrics import Metrics
from .pages import add_pages
from .service import Busy, Service, ServiceStatus

MOST_STEPS = 1000
MOST_IDS = 2**18
"""Neurons that a request may name."""

AreaId = Annotated[int, Field(ge=0, lt=2**32)]
Id = Annotated[int, Field(ge=0, lt=2**64)] | Annotated[str, Field(min_length=1, max_length=256)]
"""An id, or a label: as text, or as an integer from 2^32 on."""
Ids = Annotated[list[Id], Field(max_length=MOST_IDS, fail_fast=True)]
"""The first that is wrong is told, not each of them: an error costs a thousand times what a number does."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**32), le=2**32)]
Value = bool | Whole | Number | None
"""Of a parameter; null is infinity, which JSON has not."""
Parameter = Annotated[str, Field(pattern=f"^({'|'.join(name for name, field in NEURON_FIELDS.items() if field.width == 1)})$")]


class Body(BaseModel):
    """A body has what is asked for, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _not_too_many(cls, body: Any) -> Any:
        """Before each that is unknown becomes an error."""
        if isinstance(body, dict) and len(body) > len(cls.model_fields):
            raise ValueError(f"{len(body):,} entries; {', '.join(cls.model_fields)} are known")
        return body


class Steps(Body):
    """Bursts to compute."""

    n: int = Field(1, ge=1, le=MOST_STEPS)


class Frequency(Body):
    """Bursts a second; null is as fast as it goes."""

    hertz: float | None = Field(ge=LOWEST_HZ, le=HIGHEST_HZ)


class Injection(Body):
    """Neurons, and one potential or one for each; without potentials the neurons are made to fire."""

    neurons: Ids = Field(min_length=1)
    potentials: Number | Annotated[list[Number], Field(max_length=MOST_IDS, fail_fast=True)] | None = None


class Change(Body):
    """A parameter of neurons, or of all neurons of an area: one value, or for neurons one for each."""

    name: Parameter
    neurons: Ids | None = Field(None, min_length=1)
    area: AreaId | None = None
    values: Value | Annotated[list[Value], Field(max_length=MOST_IDS, fail_fast=True)]

    @model_validator(mode="after")
    def _one_of_both(self) -> Change:
        if (self.neurons is None) == (self.area is None):
            raise ValueError("either neurons or area is needed")
        return self


class Power(Body):
    """What drives: the potential that power neurons receive in every burst, and the list of them. What is absent stays."""

    amount: Number | None = None
    neurons: Ids | None = None


class Burst(BaseModel):
    """What a burst fired."""

    burst: int
    fired_neurons: list[int]
    fired_labels: list[str] | None = None
    """The same by their labels, where the network has them: as text, for numbers of JSON have 53 bits."""


class Values(BaseModel):
    """A parameter of neurons, in the order asked for; null is infinity."""

    values: list[bool | int | float | None]


class Done(BaseModel):
    """Neurons it was done to; of `/power`: how many are power neurons now."""

    neurons: int


class State(BaseModel):
    """The state of the engine after it."""

    state: Literal["paused", "running", "stopped", "failed"]
    frequency: float | None


class Checkpoint(BaseModel):
    """The last burst in it."""

    burst: int


class Problem(BaseModel):
    """Why not."""

    detail: str


ANSWERS = {
    400: "the network or the engine does not take it",
    401: "without the token",
    403: "from another site, or for another host",
    408: "the body did not arrive",
    409: "not in this state of the engine",
    413: "too big",
    422: "not what is asked for",
    503: "the engine is busy",
    507: "a file cannot be written",
}
MOST_TOLD = 500
"""Characters of a reason."""


def _problem(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason.encode("ascii", "backslashreplace").decode()[:MOST_TOLD]}, status)


def _answer(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: _problem(status, problem_of(error))


def _not_written(request: Request, error: Exception) -> JSONResponse:
    """Why a file cannot be written; where it lies is nobody's business."""
    return _problem(507, getattr(error, "strerror", None) or ANSWERS[507])


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What is wrong where. What was sent is not sent back: it may be large, or no JSON."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    return _problem(422, "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in problems[:3]))


def make_app(service: Service, *, token: str | None = None, hosts: frozenset[str] | None = None) -> FastAPI:
    """The application: token, where one is demanded; hosts, the names under which the service may be addressed."""
    app = FastAPI(
        title="gpu-npu",
        version=gpu_npu.__version__,
        summary="Control of a burst engine",
        docs_url=None,  # these pages would load their scripts from elsewhere; ours are in pages.py
        redoc_url=None,
        responses={status: {"model": Problem, "description": why} for status, why in ANSWERS.items()},
    )
    app.add_middleware(Guard, token=token, hosts=hosts)
    engine, metrics = service.engine, Metrics(service)

    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NpuError, _answer(400))
    app.add_exception_handler(EngineError, _answer(409))
    app.add_exception_handler(Busy, _answer(503))
    app.add_exception_handler(OSError, _not_written)

    def state() -> State:
        return State(state=engine.state, frequency=engine.frequency)

    @app.get("/status")
    def status() -> ServiceStatus:
        """How it goes: the engine, its streams, memory, and what fired by area."""
        return service.status()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def prometheus() -> Response:
        """The same for Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    @app.post("/start")
    def start() -> State:
        """Run, or go on."""
        engine.start()
        return state()

    @app.post("/pause")
    def pause() -> State:
        """No further bursts; answers after the one at hand."""
        engine.pause()
        return state()

    @app.post("/step", response_model_exclude_none=True)
    def step(steps: Steps) -> Burst:
        """Compute bursts of a paused engine; says what the last one fired."""
        result, known = engine.step(steps.n), engine.npu.annotations
        fired = result.fired_neurons.tolist()
        return Burst(burst=result.burst, fired_neurons=fired, fired_labels=None if known.labels is None else list(map(known.name, fired)))

    @app.put("/frequency")
    def frequency(frequency: Frequency) -> State:
        """Set the target frequency."""
        engine.frequency = frequency.hertz
        return state()

    @app.post("/inject")
    def inject(injection: Injection) -> Done:
        """Stage sensory input for the next burst."""
        neurons, potentials = injection.neurons, injection.potentials
        if not (engine.force_fire(neurons) if potentials is None else engine.inject(neurons, potentials)):
            raise EngineError("the engine is ending, and no burst will take this")
        return Done(neurons=len(injection.neurons))

    @app.get("/parameters/{name}")
    def parameters(name: Parameter, neurons: Annotated[list[Id], Query(min_length=1, max_length=1000)]) -> Values:
        """A parameter of some neurons, as it now is."""
        named = [int(one) if str(one).isdecimal() else one for one in neurons]  # a query has texts alone
        ids = check_ids(named, engine.npu.neuron_capacity, find=engine.npu.annotations.finder)
        found: list[Any] = service.call(lambda npu: getattr(npu.neuron_array, name)[ids]).tolist()
        return Values(values=[None if value == float("inf") else value for value in found])

    @app.post("/parameters")
    def set_parameter(change: Change) -> Done:
        """Set a parameter, between two bursts."""
        values: Any = np.inf if change.values is None else change.values
        if isinstance(values, list):
            values = [np.inf if value is None else value for value in values]
        return Done(neurons=service.set_parameter(change.name, change.neurons, change.area, values))

    @app.post("/checkpoint")
    def checkpoint() -> Checkpoint:
        """Write the run to the file that the service was given for it; answers when it is on the disk."""
        return Checkpoint(burst=service.checkpoint().result())

    @app.post("/power")
    def power(power: Power) -> Done:
        """Set what drives, between two bursts."""

        def change(npu: NPU) -> int:
            if power.neurons is not None:
                npu.set_power_neurons(power.neurons)
            if power.amount is not None:
                npu.set_power_amount(power.amount)
            return npu.statistics()["power_neurons"]

        return Done(neurons=service.call(change))

    add_pages(app)
    app.openapi()  # made now: it takes a while, which bursts would notice
    return app
