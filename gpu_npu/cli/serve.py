"""gpu-npu serve: a network as a service, until it is told to end."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from gpu_npu import BurstEngine, Connectome, EngineError, MissingPackageError, NpuError

from .networks import backend_options, read
from .progress import Bar
from .run import Stop
from .status import fail, status_of
from .stimulus import Stimuli
from .streams import FORM, Address, Streams, address

PORT = 8765
SHORTEST_TOKEN = 16
LOOKS = 0.2
"""Seconds between looks at whether it is time to end."""


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


@click.command(short_help="Run a network as a service with HTTP control.")
@click.argument("network_name", metavar="NETWORK")
@click.option("--frequency", type=hertz, default="30", show_default=True, metavar="HZ|max", help="Bursts a second.")
@click.option("--paused", is_flag=True, help="Wait for a start.")
@click.option("--power", multiple=True, metavar="WHAT", help="Power neurons, as for run.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; elsewhere than on loopback a token is demanded.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@token_option
@click.option("--publish", multiple=True, type=address, metavar="URL", help=f"Send what fires to subscribers at {FORM}.")
@click.option("--sense", multiple=True, type=address, metavar="URL", help=f"Take sensory input at {FORM}.")
@backend_options
def serve(
    network_name: str,
    frequency: float,
    paused: bool,
    power: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    publish: tuple[Address, ...],
    sense: tuple[Address, ...],
    backend: str,
    device: int | None,
    ledger_window: int,
) -> None:
    """Run NETWORK (as for run) until SIGTERM or Ctrl-C, which end it after the burst at hand, with exit status 0.

    Control is by HTTP and JSON: GET /status and /metrics (Prometheus), POST /start, /pause, /step, /inject, /parameters and
    /power, PUT /frequency; /openapi.json says what they take. gpu-npu top shows it live. There is no TLS: beyond this
    machine, let a proxy or an SSH tunnel see to it.

    --publish and --sense may be repeated. Without a HOST a stream is on loopback; a token does not protect it.

    An engine that fails ends the service, with the exit status of what went wrong.
    """
    try:
        from gpu_npu.service.app import make_app
        from gpu_npu.service.server import Server, is_loopback, resolve
        from gpu_npu.service.service import Service
    except ImportError as problem:
        raise MissingPackageError(f"serve needs packages that cannot be imported ({problem}): pip install gpu-npu[serve]") from problem
    token = read_token(token_file)
    ip = resolve(host, port)[1]
    if token is None and not is_loopback(ip):
        raise click.UsageError(f"--host {host} is not loopback: others could control the network; give a --token-file")
    with ExitStack() as stack:
        stop = stack.enter_context(Stop().listening())
        with Bar() as bar:
            bar.step(f"reading {network_name}")
            made = read(network_name)
            connectome = made if isinstance(made, Connectome) else made.connectome
            driven = _driven(connectome, power)
            bar.step(f"loading {network_name}")
            engine = BurstEngine(
                connectome, frequency, power_neurons=driven, backend=backend, device=device, fire_ledger_window=ledger_window
            )
        stack.callback(engine.close)
        streams = Streams(engine, made)
        service = Service(engine, network_name, streams.moved)
        opened = streams.open(publish, sense)
        hosts = frozenset({"localhost", "127.0.0.1", "::1", ip, host.lower()}) if is_loopback(ip) else None
        server = stack.enter_context(Server(make_app(service, token=token, hosts=hosts), host, port))
        stack.callback(engine.stop)  # before the server ends, so that no request waits for a burst
        if not paused:
            engine.start()
        for line in opened:
            click.echo(line)
        where = f"[{ip}]" if ":" in ip else ip
        click.echo(
            f"serving {network_name} on {engine.npu.backend} at http://{where}:{server.port} (gpu-npu top shows it, SIGTERM ends it)"
        )
        while not stop and server.alive and engine.state not in ("stopped", "failed"):
            time.sleep(LOOKS)
        if not stop and not server.alive:
            raise EngineError("the HTTP server ended")
    try:
        engine.wait()
    except EngineError as failure:
        fail(
            failure, status_of(failure.__cause__) if isinstance(failure.__cause__, (NpuError, OSError, MemoryError)) else status_of(failure)
        )


def _driven(connectome: Connectome, power: tuple[str, ...]) -> NDArray[np.uint32]:
    stimuli = Stimuli(connectome, 0.0)
    return np.concatenate([np.zeros(0, np.uint32), *(stimuli.neurons(text, "--power") for text in power)])
