"""gpu-npu doctor: what works here, and what to do about the rest."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

import gpu_npu
from gpu_npu.doctor import NEVER, Diagnosis, examine

from .progress import Bar
from .status import NOT_WORKING


@click.command(short_help="What works on this machine, and how to fix the rest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
def doctor(as_json: bool) -> None:
    """Try every backend on a small network against the reference, and say what the machine has.

    Exit status 0 if the best available backend works: the first of cuda, cpu and reference that lacks nothing.
    """
    with Bar() as bar:
        bar.step("looking around")
        diagnosis = examine(bar.step)
    if as_json:
        click.echo(json.dumps(_facts(diagnosis), indent=2))
    else:
        _print(diagnosis)
    if not diagnosis.healthy:
        raise SystemExit(NOT_WORKING)


def _facts(diagnosis: Diagnosis) -> dict[str, object]:
    backends = {check.backend: {"status": check.status, "detail": check.detail, "fix": check.fix} for check in diagnosis.backends}
    return {
        "version": gpu_npu.__version__,
        "healthy": diagnosis.healthy,
        "best": diagnosis.best.backend,
        "backends": backends,
        "machine": diagnosis.machine,
        "kernel_digest": diagnosis.kernel_digest,
        "validated": None if diagnosis.validation.device is None else asdict(diagnosis.validation),
    }


def _print(diagnosis: Diagnosis) -> None:
    passed = diagnosis.validation
    validated = NEVER if passed.device is None else f"passed on {passed.device}, {passed.date} (commit {passed.commit})"
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in diagnosis.backends:
        table.add_row(check.backend, f"{check.status}: {check.detail}")
        if check.fix:
            table.add_row("", f"fix: {check.fix}")
    table.add_row("best", f"{diagnosis.best.backend}, which {'works' if diagnosis.healthy else 'does NOT work'}")
    table.add_row("", "")
    for label, text in diagnosis.machine.items():
        table.add_row(label, text)
    table.add_row("kernels", f"{diagnosis.kernel_digest[:16]}: {validated}")
    table.add_row("gpu-npu", gpu_npu.__version__)
    Console(highlight=False, markup=False).print(table)
