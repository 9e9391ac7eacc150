"""HTTP: what can be asked of the service, and how it answers. OpenAPI at /openapi.json."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

import gpu_npu
from gpu_npu import NPU, BurstEngine, EngineError, NpuError
from gpu_npu.checks import check_ids
from gpu_npu.errors import problem_of

from .bodies import BODIES, Change, Frequency, Injection, InvalidBody, Name, Parameter, Power, Steps, told
from .guard import Guard
from .metrics import Metrics
from .pages import add_pages
from .reading import Reader
from .service import Busy, Service, ServiceStatus

T = TypeVar("T")
TURN = 10.0
"""Seconds in which a call must have had its turn between bursts."""
LOOK = 1.0
"""Seconds in which a look at the network must have had it; else the status has what was seen before."""


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
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    return _problem(422, told(problems))


HANDLERS = {
    RequestValidationError: _invalid,
    InvalidBody: _answer(422),
    NpuError: _answer(400),
    EngineError: _answer(409),
    Busy: _answer(503),
    OSError: _not_written,
}


def make_app(service: Service, *, token: str | None = None, hosts: frozenset[str] | None = None) -> FastAPI:
    """The application: token, where one is demanded; hosts, the names under which the service may be addressed. Its lifespan
    ends what it started."""
    reader = Reader()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        reader.close()

    app = FastAPI(
        title="gpu-npu",
        version=gpu_npu.__version__,
        summary="Control of a burst engine",
        docs_url=None,  # these pages would load their scripts from elsewhere; ours are in pages.py
        redoc_url=None,
        responses={status: {"model": Problem, "description": why} for status, why in ANSWERS.items()},
        lifespan=lifespan,
    )
    app.add_middleware(Guard, token=token, hosts=hosts)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    _add_looks(app, service)
    _add_control(app, service.engine, reader)
    _add_work(app, service, reader)
    add_pages(app)
    app.openapi()  # made now: it takes a while, which bursts would notice
    return app


def _takes(name: str) -> dict[str, Any]:
    """What OpenAPI says of the body of this name: FastAPI would read it, on the thread of all requests."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": BODIES[name].model_json_schema()}}}}


async def _body(request: Request, reader: Reader, name: str) -> Any:
    """The body of this name."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidBody("body: the content-type application/json is needed")
    return await _outcome(request, reader.read(name, await request.body()))


async def _outcome(request: Request, work: Future[T], patience: float | None = None) -> T:
    """The result of work, which is cancelled where its client leaves, or where its patience (seconds) is over: Busy."""
    result, left = asyncio.wrap_future(work), asyncio.ensure_future(_left(request))
    try:
        waiting: set[asyncio.Future[Any]] = {result, left}
        await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise Busy("the client left" if left.done() else f"the engine was busy for {patience:g} seconds")
        return result.result()
    finally:
        left.cancel()
        result.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _add_looks(app: FastAPI, service: Service) -> None:
    """What only looks, and answers always."""
    metrics = Metrics(service)

    async def look() -> None:
        with suppress(EngineError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(service.look())), LOOK)

    @app.get("/status")
    async def status() -> ServiceStatus:
        """How it goes: the engine, its streams, memory, and what fired by area."""
        await look()
        return service.status()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """The same for Prometheus."""
        await look()
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


def _add_control(app: FastAPI, engine: BurstEngine, reader: Reader) -> None:
    """What lets the engine run and rest."""

    def state() -> State:
        return State(state=engine.state, frequency=engine.frequency)

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

    @app.put("/frequency", openapi_extra=_takes("Frequency"))
    async def frequency(request: Request) -> State:
        """Set the target frequency."""
        wanted: Frequency = await _body(request, reader, "Frequency")
        engine.frequency = wanted.hertz
        return state()


def _add_work(app: FastAPI, service: Service, reader: Reader) -> None:
    """What takes the engine some time. A client that leaves cancels it."""
    engine = service.engine

    @app.post("/step", response_model_exclude_none=True, openapi_extra=_takes("Steps"))
    async def step(request: Request) -> Burst:
        """Compute bursts of a paused engine; says what the last one fired."""
        steps: Steps = await _body(request, reader, "Steps")
        result, known = await _outcome(request, service.step(steps.n)), engine.npu.annotations
        fired = result.fired_neurons.tolist()
        return Burst(burst=result.burst, fired_neurons=fired, fired_labels=None if known.labels is None else list(map(known.name, fired)))

    @app.post("/inject", openapi_extra=_takes("Injection"))
    async def inject(request: Request) -> Done:
        """Stage sensory input for the next burst."""
        injection: Injection = await _body(request, reader, "Injection")
        neurons, potentials = injection.neurons, injection.potentials
        if not (engine.force_fire(neurons) if potentials is None else engine.inject(neurons, potentials)):
            raise EngineError("the engine is ending, and no burst will take this")
        return Done(neurons=len(neurons))

    @app.get("/parameters/{name}")
    async def parameters(request: Request, name: Parameter, neurons: Annotated[list[Name], Query(min_length=1, max_length=1000)]) -> Values:
        """A parameter of some neurons, as it now is."""
        named = [int(one) if one.isdecimal() else one for one in neurons]
        ids = check_ids(named, engine.npu.neuron_capacity, find=engine.npu.annotations.finder)
        found: list[Any] = await _outcome(request, engine.submit(lambda npu: getattr(npu.neuron_array, name)[ids].tolist()), TURN)
        return Values(values=[None if value == float("inf") else value for value in found])

    @app.post("/parameters", openapi_extra=_takes("Change"))
    async def set_parameter(request: Request) -> Done:
        """Set a parameter, between two bursts."""
        change: Change = await _body(request, reader, "Change")
        changed = service.set_parameter(change.name, change.neurons, change.area, change.values)
        return Done(neurons=await _outcome(request, changed, TURN))

    @app.post("/checkpoint")
    async def checkpoint(request: Request) -> Checkpoint:
        """Write the run to the file that the service was given for it; answers when it is on the disk."""
        return Checkpoint(burst=await _outcome(request, service.checkpoint()))

    @app.post("/power", openapi_extra=_takes("Power"))
    async def power(request: Request) -> Done:
        """Set what drives, between two bursts."""
        power: Power = await _body(request, reader, "Power")

        def change(npu: NPU) -> int:
            if power.neurons is not None:
                npu.set_power_neurons(power.neurons)
            if power.amount is not None:
                npu.set_power_amount(power.amount)
            return npu.statistics()["power_neurons"]

        return Done(neurons=await _outcome(request, engine.submit(change), TURN))
