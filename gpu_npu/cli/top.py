"""gpu-npu top: a service, live in a terminal."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpu_npu import FileFormatError

from .serve import PORT, read_token, token_option
from .terminal import shown

PATIENCE = 3.0
"""Seconds for an answer."""
AREAS_SHOWN = 12
BAR = 24


class Watched:
    """The status of a service, asked for over and over, and what changed between two answers."""

    def __init__(self, url: str, token: str | None) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or (443 if parts.scheme == "https" else PORT)
        except ValueError as error:
            raise click.BadParameter(f"{url!r}: {error}", param_hint="URL") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise click.BadParameter(f"{url!r} is not like http://127.0.0.1:{PORT}", param_hint="URL")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._connection = kind(parts.hostname, port, timeout=PATIENCE)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def status(self) -> dict[str, Any]:
        """The answer to GET /status. OSError: no answer; FileFormatError: one that is no status of such a service."""
        try:
            self._connection.request("GET", "/status", headers=self._headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ConnectionError(f"{self.url} does not answer: {why}") from error
        finally:
            self._connection.close()  # asked once a second: nothing is kept open
        if answer.status == 401:
            raise FileFormatError(f"{self.url} demands a token: --token-file FILE")
        try:
            status = json.loads(text)
            told = status["detail"] if answer.status != 200 else status["engine"]["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{self.url} answers, but is no gpu-npu service") from error
        if answer.status != 200:
            raise ConnectionError(f"{self.url} answers with {answer.status}: {told}")
        return dict(status)


@click.command(short_help="Watch a service live.")
@click.argument("url", default=f"http://127.0.0.1:{PORT}")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look once, over one interval, print it and end.")
@token_option
def top(url: str, interval: float, once: bool, token_file: Path | None) -> None:
    """Show the service at URL, a gpu-npu serve: bursts/s, burst time, lateness, what fires by area, streams, memory.

    If the service goes away, top says so and waits for it. Ctrl-C ends top.
    """
    watched = Watched(url, read_token(token_file))
    console = Console(highlight=False, markup=False)
    before = watched.status()
    if once:
        time.sleep(interval)
        console.print(picture(before, watched.status(), interval))
        return
    asked = time.monotonic()
    shown = picture(before, before, 1.0)
    with suppress(KeyboardInterrupt), Live(shown, console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(shown, refresh=True)
            time.sleep(interval)
            try:
                status = watched.status()
            except (OSError, FileFormatError) as error:
                shown = Group(
                    Text(f"{error}; the last that was seen, {time.monotonic() - asked:,.0f} s ago:"), picture(before, before, 1.0)
                )
                continue
            moment = time.monotonic()
            shown = picture(before, status, moment - asked)
            before, asked = status, moment


def picture(before: dict[str, Any], status: dict[str, Any], seconds: float) -> Group:
    """A status, with rates since the one before it, which is so many seconds older."""
    engine, old = status["engine"], before["engine"]
    if engine["bursts"] < old["bursts"]:  # another service answers now
        before, old = status, engine
    bursts, fired = engine["bursts"] - old["bursts"], engine["fired"] - old["fired"]
    target = "as fast as it goes" if engine["frequency"] is None else f"target {engine['frequency']:g} Hz"
    late = engine["lateness_seconds"]
    rows = [
        ("network", f"{status['network']}: {status['neurons']:,} neurons, {status['synapses']:,} synapses on {status['backend']}"),
        ("state", engine["state"] + (f": {engine['error']}" if engine["error"] else "")),
        ("bursts/s", f"{bursts / seconds:,.1f} ({target}); burst {engine['burst']:,}"),
        ("fired", f"{fired / bursts if bursts else 0:,.1f} a burst"),
        ("µs a burst", _times(engine["burst_seconds"])),
        ("µs late", _times(late) if late["count"] else "no deadlines"),
        ("overruns", f"{engine['overruns']:,}; {engine['missed']:,} deadlines missed"),
        ("input", f"{engine['sensory_injections']:,} potentials; {engine['refused']:,} refused; {engine['waiting']:,} waiting, calls too"),
        ("memory", f"{sum(status['memory'].values()):,} bytes of network, {status['process_bytes']:,} of the process"),
    ]
    for kind in ("sinks", "sources"):
        for name, counters in engine[kind].items():
            rows.append((f"{kind[:-1]} {name}", ", ".join(f"{what} {count:,}" for what, count in counters.items())))
    facts = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for row in rows:
        facts.add_row(*map(shown, row))
    return Group(facts, Text(), _areas(before, status, seconds))


def _times(summary: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {summary[key] * 1e6:,.0f}" for name, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"), ("max", "max"))
    )


def _areas(before: dict[str, Any], status: dict[str, Any], seconds: float) -> Table:
    """What fires by area, the most first."""
    earlier = {area["id"]: area["fired"] for area in before["areas"]}
    rates = [((area["fired"] - earlier.get(area["id"], 0)) / seconds, area) for area in status["areas"]]
    rates.sort(key=lambda rate: (-rate[0], rate[1]["id"]))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("area")
    table.add_column("name")
    table.add_column("fired/s", justify="right")
    table.add_column("")
    most = max((rate for rate, _ in rates), default=0) or 1
    for rate, area in rates[:AREAS_SHOWN]:
        table.add_row(str(area["id"]), shown(area["name"]), f"{rate:,.0f}", "█" * round(BAR * rate / most))
    if len(rates) > AREAS_SHOWN:
        table.add_row("", f"and {len(rates) - AREAS_SHOWN:,} more", "", "")
    return table
