"""gpu-npu serve: a network as a service, until it is told to end."""

from __future__ import annotations

import math
import stat
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from gpu_npu import NPU, BurstEngine, CheckpointError, Connectome, EngineError, MissingPackageError, NpuError
from gpu_npu.extras import install_command
from gpu_npu.io.outputs import check_outputs
from gpu_npu.npu.snapshot import Snapshot
from gpu_npu.objects import OneLine
from gpu_npu.streams.places import cortical_ids

from .networks import REPLACED, backend_options, file_of, read, tell
from .progress import Bar
from .reading import files_read, reading_options
from .status import fail, program, status_of, told
from .stimulus import files_named, neurons
from .stop import Stop
from .streams import FORM, Address, Streams, address

if TYPE_CHECKING:
    from gpu_npu.service.server import Server
    from gpu_npu.service.service import Service

PORT = 8765
SHORTEST_TOKEN = 16
SWITCH = 1e-4
"""Seconds after which a thread that runs Python makes room for another; a burst takes its lock several times."""
LOOKS = 0.2
"""Seconds between looks at whether it is time to end."""
NOTE = "serve"
"""The name under which a service is noted in its checkpoints."""
FILE = click.Path(dir_okay=False, path_type=Path)


def hertz(value: str) -> float:
    """A number of Hz, or max."""
    try:
        return math.inf if value == "max" else float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither a number of Hz nor max") from error


def read_token(path: Path | None) -> str | None:
    """The token in this file. FileNotFoundError and its like; UsageError for one that is too short or no word of ASCII."""
    if path is None:
        return None
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        tell([f"{path}: others on this machine can read the token; chmod 600 {path} keeps it"])
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise click.BadParameter(
            f"{path}: a token is {SHORTEST_TOKEN} or more letters, digits or signs, without a space; openssl rand -hex 32 makes one",
            param_hint="--token-file",
        )
    return token


token_option = click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="GPU_NPU_TOKEN_FILE",
    metavar="FILE",
    help="Holds the bearer token that every request must bring (also: GPU_NPU_TOKEN_FILE).",
)


Ids = Mapping[int, bytes] | None
"""Number of an area -> its cortical id, where a genome or an export gave them."""


@dataclass(frozen=True, repr=False)
class Options(OneLine):
    """The options of the command."""

    network_name: str | None
    frequency: float
    paused: bool
    power: tuple[str, ...]
    host: str
    port: int
    token_file: Path | None
    publish: tuple[Address, ...]
    sense: tuple[Address, ...]
    checkpoint: Path | None
    checkpoint_every: float | None
    resume: Path | None
    backend: str
    device: int | None
    ledger_window: int
    reading: dict[str, Any]

    @property
    def kept(self) -> Path | None:
        """The file of checkpoints."""
        return self.checkpoint or self.resume

    @property
    def between_checkpoints(self) -> float:
        """Seconds."""
        return self.checkpoint_every or math.inf

    def check(self) -> None:
        """UsageError: options that do not go together. OSError: an output that is an input, or cannot be written."""
        if (self.network_name is None) == (self.resume is None):
            raise click.UsageError("either a NETWORK or --resume FILE is needed")
        if self.checkpoint_every is not None and self.kept is None:
            raise click.UsageError("--checkpoint-every needs --checkpoint FILE")
        if self.kept is not None:
            tokens = [] if self.token_file is None else [("--token-file", self.token_file)]
            inputs = [*file_of(self.network_name), *files_named(self.power, "--power"), *files_read(self.reading), *tokens]
            check_outputs([("--checkpoint", self.kept)], inputs)


@click.command(short_help="Run a network as a service with HTTP control.")
@click.argument("network_name", metavar="[NETWORK]", required=False)
@click.option("--frequency", type=hertz, default="30", show_default=True, metavar="HZ|max", help="Bursts a second.")
@click.option("--paused", is_flag=True, help="Begin paused, and wait for POST /start.")
@click.option("--power", multiple=True, metavar="WHAT", help="Power neurons, as for run.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; one that is not loopback needs --token-file.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Port to listen at; 0 takes any free one.")
@token_option
@click.option("--publish", multiple=True, type=address, metavar="URL", help=f"Send what fires to subscribers at {FORM}.")
@click.option("--sense", multiple=True, type=address, metavar="URL", help=f"Take sensory input at {FORM}.")
@click.option(
    "--checkpoint", type=FILE, metavar="FILE", help=f"Written by POST /checkpoint and at the end; {REPLACED}.  [default: --resume]"
)
@click.option("--checkpoint-every", type=click.FloatRange(min=1), metavar="SECONDS", help="Write it every so often, too.")
@click.option("--resume", type=FILE, metavar="FILE", help="Go on from this checkpoint, in place of a NETWORK.")
@backend_options
@reading_options
def serve(**values: Any) -> None:
    """Run NETWORK (as for run) until SIGTERM or Ctrl-C, which end the service after the current burst, with exit status 0.

    Control is by HTTP and JSON: GET /status and /metrics (Prometheus), POST /start, /pause, /step, /inject, /parameters,
    /power and /checkpoint, PUT /frequency; /docs shows what they take (/openapi.json). gpu-npu top shows it live. There is no TLS:
    beyond this machine, put a proxy or an SSH tunnel in front.

    --publish and --sense may be repeated. Without a HOST a stream is on loopback; a token does not protect it.

    If a checkpoint cannot be written, the service says so and goes on; if the last one cannot, the exit status is 11. If the
    engine fails, the service ends with the exit status of what went wrong.
    """
    try:
        from gpu_npu.service.app import make_app
        from gpu_npu.service.server import Server, is_loopback, resolve
        from gpu_npu.service.service import Service
    except ImportError as problem:
        raise MissingPackageError(f"serve needs packages that cannot be imported ({problem}): {install_command('serve')}") from problem
    options = Options(**values)
    options.check()
    token = read_token(options.token_file)
    ip = resolve(options.host, options.port)[1]
    local = is_loopback(ip)
    sys.setswitchinterval(SWITCH)
    if token is None and not local:
        raise click.UsageError(f"--host {options.host} is not loopback: others could control the network; give a --token-file")
    try:
        with ExitStack() as stack:
            stop = stack.enter_context(Stop().listening())
            npu, name, ids = _network(options)
            stack.callback(npu.close)
            engine = stack.enter_context(BurstEngine(npu, options.frequency))
            streams = Streams(engine, ids)
            notes = {NOTE: {"network": name, "cortical_ids": None if ids is None else {area: text.hex() for area, text in ids.items()}}}
            service = Service(engine, name, streams.moved, options.kept, notes)
            opened = streams.open(options.publish, options.sense)
            hosts = frozenset({"localhost", "127.0.0.1", "::1", ip, options.host.lower()}) if local else None
            server = stack.enter_context(Server(make_app(service, token=token, hosts=hosts), ip, options.port))
            stack.callback(engine.stop)  # before the server ends, so that no request waits for a burst
            if not options.paused:
                engine.start()
            where = f"[{ip}]" if ":" in ip else ip
            for line in opened:
                click.echo(line)
            click.echo(f"serving {name} on {npu.backend} at http://{where}:{server.port} ({program()} top shows it, SIGTERM ends it)")
            _serve(service, server, stop, options)
    except EngineError as failure:
        cause = failure.__cause__
        if isinstance(cause, (NpuError, OSError, MemoryError)):
            fail(failure, status_of(cause))
        raise


def _network(options: Options) -> tuple[NPU, str, Ids]:
    """The network in an NPU, its name, and its cortical ids."""
    place = {"backend": options.backend, "device": options.device}
    with Bar() as bar:
        bar.step(f"reading {options.resume or options.network_name}")
        if options.resume is not None:
            return _resumed(options.resume, options, **place)
        return _loaded(str(options.network_name), options, fire_ledger_window=options.ledger_window, **place)


def _serve(service: Service, server: Server, stop: Stop, options: Options) -> None:
    """Until a signal, or the end of the engine or of the server; with checkpoints on the way and at the end."""
    due = time.monotonic() + options.between_checkpoints
    while not stop and server.alive and service.engine.state not in ("stopped", "failed"):
        time.sleep(LOOKS)
        if time.monotonic() >= due:
            due = time.monotonic() + options.between_checkpoints
            with suppress(EngineError):  # it has ended, or one that was asked for is being written
                service.checkpoint().add_done_callback(_tell)
    abandoned = not stop and not server.alive
    if options.kept is not None and service.engine.state not in ("stopped", "failed"):
        service.last_checkpoint()
    if abandoned:
        raise EngineError("the HTTP server ended")


def _loaded(name: str, options: Options, **place: Any) -> tuple[NPU, str, Ids]:
    """The network of this name in an NPU."""
    made = read(name, options.reading)
    connectome, ids = (made, None) if isinstance(made, Connectome) else (made.connectome, cortical_ids(made))
    driven = _driven(connectome, options.power)
    npu = NPU.from_connectome(connectome, **place)
    npu.set_power_neurons(driven)
    return npu, name, ids


def _resumed(path: Path, options: Options, **place: Any) -> tuple[NPU, str, Ids]:
    """The run in a checkpoint, its power neurons too where no others are named; of a service, or of anything else."""
    snapshot = Snapshot.read(path, memory_limit=options.reading["memory_limit"])
    try:
        noted = snapshot.notes.get(NOTE, {"network": str(path), "cortical_ids": None})
        name, texts = str(noted["network"]), noted["cortical_ids"]
        ids = None if texts is None else {int(area): bytes.fromhex(text) for area, text in texts.items()}
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: its note of a service cannot be read: {error!r:.200}") from error
    driven = _driven(snapshot.network, options.power)
    npu = NPU.from_snapshot(snapshot, **place)
    if options.power:
        npu.set_power_neurons(driven)
    return npu, name, ids


def _driven(connectome: Connectome, power: tuple[str, ...]) -> NDArray[np.uint32]:
    return np.concatenate([np.zeros(0, np.uint32), *(neurons(text, "--power", connectome) for text in power)])


def _tell(written: Future[int]) -> None:
    """Say it where a checkpoint could not be written."""
    error = written.exception()
    if error is not None:
        click.echo(f"Note: no checkpoint: {told(error)}; the service goes on", err=True)
