"""gpu-npu run: bursts of a network, and a table of what happened."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from gpu_npu import Connectome
from gpu_npu.connectome import SynapseSource
from gpu_npu.io.outputs import check_outputs
from gpu_npu.objects import OneLine
from gpu_npu.session import Place, Plan, Result, Session, Silenced, silenced
from gpu_npu.session.run import PHASE_BURSTS

from .networks import REPLACED, backend_options, file_of, small_or_streamed, tell
from .progress import Bar
from .reading import NAMES, files_read, reading_options
from .status import EXIT_STATUS, fail, told
from .stimulus import StimulusOptions, files_named, neurons
from .stop import Stop
from .table import facts_of, print_result


@dataclass(frozen=True, repr=False)
class Options(OneLine):
    """The options of the command, but those of stimuli."""

    network_name: str | None
    bursts: int | None
    silence: tuple[str, ...]
    threshold: float | None
    seed: int | None
    backend: str
    device: int | None
    ledger_window: int
    record: Path | None
    checkpoint_every: int | None
    checkpoint: Path | None
    resume: Path | None
    targets: bool
    as_json: bool
    quiet: bool
    nvtx: bool
    reading: dict[str, Any]


@click.command(short_help="Run a network and say what happened.")
@click.argument("network_name", metavar="[NETWORK]", required=False)
@click.option("--bursts", type=click.IntRange(min=1), help="Bursts of the run, with those before --resume.  [default: 1000; as begun]")
@click.option("--power", multiple=True, metavar="WHAT", help="Power neurons, driven in every burst by the network's power amount.")
@click.option("--inject", multiple=True, metavar="WHAT[:POTENTIAL]", help="Inject a constant potential.")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="--inject before every K-th burst, from the first.")
@click.option("--rate", multiple=True, metavar="WHAT:P[:POTENTIAL]", help="Inject into each neuron with probability P, burst by burst.")
@click.option("--poisson", multiple=True, metavar="WHAT:MEAN[:POTENTIAL]", help="The same with a Poisson number of impulses a burst.")
@click.option(
    "--schedule",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Inject what an .npz says (arrays burst, from 1, neuron, potential), or the spikes of a file of SONATA (.h5).",
)
@click.option("--potential", type=float, default=1.0, show_default=True, help="Potential injected where none is named.")
@click.option("--ms", type=float, default=1.0, show_default=True, help="Duration of a burst, by which spikes of SONATA are scheduled.")
@click.option("--population", metavar="NAME", help="Whose spikes those are, where their file does not say it.")
@click.option("--silence", multiple=True, metavar="WHAT", help="The synapses that leave these neurons deliver nothing.")
@click.option("--threshold", type=float, help="Threshold of all neurons, in place of what the network says.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Replaces the network's random_seed: the draws of excitability, of --rate and of --poisson.",
)
@reading_options
@backend_options
@click.option(
    "--record", type=click.Path(path_type=Path), metavar="FILE", help=f"Write the fired ids of every burst to this .npz file; {REPLACED}."
)
@click.option("--checkpoint-every", type=click.IntRange(min=1), metavar="N", help="Write a checkpoint every N bursts, and at the end.")
@click.option(
    "--checkpoint", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=f"Where to; {REPLACED}.  [default: NETWORK.ckpt]"
)
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Go on from this checkpoint, as the run was begun, in place of NETWORK.",
)
@click.option("--targets", is_flag=True, help="Grade this machine by the project's targets: times by phase, of a burst, bursts a second.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
@click.option("--nvtx", is_flag=True, help="Show builds, loads, bursts and phases to a profiler, as NVTX ranges.")
@click.pass_context
def run(context: click.Context, /, **values: Any) -> None:
    """Run NETWORK: a file of this project, an edge list (CSV, TSV, Parquet, Feather), a matrix (.npy, scipy's .npz), a connectome
    in CSR (.npz with indptr, indices, count, sign), or a built-in example (gpu-npu example lists them).

    WHAT is ids (1,2,5-8) or the labels of the file, neurons by what is known of them (cell_type=DNp01), an area by id or name
    (area:7, area:power), all, or a file of ids. Such a file is text with an id
    or a range on a line, an .npy array of ids or a mask of booleans, or an .npz with such an array: the one named in
    FILE.npz:NAME, else `stim`, else the only one. Options that take WHAT may be repeated. Random draws depend on the seed
    only and are the same on every backend.

    Ctrl-C ends the run after the current burst and prints the table of what was run; a record is complete up to there.

    A run with --checkpoint-every can go on with --resume after it ended, was interrupted or was killed, on any backend. It
    keeps the network, the stimulation and the options that it was begun with, and ends with the digest of a run that never
    stopped. Its --record is in parts, FILE.<first burst>.npz, one for each checkpoint.

    No output may be an input of the same command; but the file of --checkpoint may be that of --resume.
    """
    began = time.perf_counter()
    given = StimulusOptions(*(values.pop(option.name) for option in fields(StimulusOptions)))
    options = Options(**values)
    if options.resume is not None:
        _refuse_what_was_begun(context)
    elif options.network_name is None:
        raise click.UsageError("Missing argument 'NETWORK', or --resume FILE")
    with Bar(not options.quiet) as bar:
        bar.step(f"reading {options.network_name or options.resume}")
        plan = _plan(options)
        inputs = file_of(plan.name) if options.resume is None else [("--resume", options.resume)]
        check_outputs(plan.outputs(), [*inputs, *given.files(), *files_named(options.silence, "--silence"), *files_read(options.reading)])
        if plan.resumed is None:
            connectome, synapses = _network(options, plan.name, bar)
            stimuli = given.read(connectome)
            tell(_without_effect(context, given, plan, connectome))
        else:
            connectome, stimuli, synapses = plan.resumed.network, [], None
        bar.step(f"loading {plan.name}")
        place = Place(options.backend, options.device, options.ledger_window, options.nvtx)
        read = time.perf_counter() - began
        with Session(plan, connectome, stimuli, place, _tell, synapses) as session, Stop().listening() as stop:
            _go(session, plan, stop, bar)
            result, failure = session.result(), session.failure
    result = replace(result, load_seconds=read + result.load_seconds)
    _show(result, options)
    if failure is not None:
        fail(failure, EXIT_STATUS[OSError])
    if stop:
        raise SystemExit(128 + stop.signal)


def _plan(options: Options) -> Plan:
    """What is to be run, as it was begun where it is resumed."""
    if options.resume is None:
        plan = Plan(name=str(options.network_name))
    else:
        plan = Plan.resume(options.resume, memory_limit=options.reading["memory_limit"])
    every = options.checkpoint_every or plan.every
    if options.checkpoint is not None and every is None:
        raise click.UsageError("--checkpoint says where to; how often? Give --checkpoint-every N")
    bursts = options.bursts or plan.bursts
    if bursts < plan.behind:
        raise click.BadParameter(f"{bursts:,} are less than the {plan.behind:,} that the run has behind it", param_hint="--bursts")
    checkpoint = None
    if every is not None:
        checkpoint = options.checkpoint or options.resume or Path(f"{Path(plan.name).stem}.ckpt")
    return replace(plan, bursts=bursts, record=options.record or plan.record, checkpoint=checkpoint, every=every)


def _network(options: Options, name: str, bar: Bar) -> tuple[Connectome, SynapseSource | None]:
    """The network, with the threshold and the seed of the options, and a source of its synapses where they are many."""
    connectome, synapses = small_or_streamed(name, options.reading, bar)
    if options.silence:
        silent = tuple(neurons(text, "--silence", connectome) for text in options.silence)
        connectome, synapses = silenced(connectome, silent), None if synapses is None else Silenced(connectome, silent, synapses)
    if options.threshold is not None:
        connectome.write("threshold", np.flatnonzero(connectome.neurons.valid), options.threshold)
    if options.seed is not None:
        connectome.set_settings(replace(connectome.settings, random_seed=options.seed))
    return connectome, synapses


def _go(session: Session, plan: Plan, stop: Stop, bar: Bar) -> None:
    """The whole run."""
    bar.step("running", plan.bursts)
    session.go(stop.__bool__, bar.at)
    if plan.checkpoint is not None and session.failure is None:
        bar.step(f"writing {plan.checkpoint}")
        session.last_checkpoint()
    if session.failure is None and not stop:
        bar.step("timing phases", min(plan.bursts, PHASE_BURSTS))
        session.time_phases(stop.__bool__, bar.at)
    if plan.record is not None:
        bar.step(f"writing {plan.record}")
    session.close()


def _show(result: Result, options: Options) -> None:
    if options.as_json:
        click.echo(json.dumps(facts_of(result, graded=options.targets), indent=2))
    elif not options.quiet:
        print_result(result, graded=options.targets)


def _tell(error: OSError) -> None:
    tell([f"no checkpoint: {told(error)}; the run goes on"])


def _without_effect(context: click.Context, given: StimulusOptions, plan: Plan, connectome: Connectome) -> list[str]:
    """Options that were given and change nothing."""

    def was_given(name: str) -> bool:
        return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE

    excitability = connectome.neurons.excitability
    drawn = given.rate or given.poisson or bool(((excitability > 0) & (excitability < 1)).any())
    found = {
        "--every has no effect without --inject": was_given("every") and not given.inject,
        "--potential has no effect: each stimulus names its own": was_given("potential") and not given.take_potential,
        "--seed has no effect: nothing in this run is random": was_given("seed") and not drawn,
        "--power has no effect: the network's power amount is 0": given.power and not connectome.settings.power_amount,
        f"--checkpoint-every {plan.every} is more than the {plan.bursts:,} bursts: one checkpoint is written, at the end": (
            plan.every is not None and plan.every > plan.bursts
        ),
    }
    return [text for text, true in found.items() if true]


STIMULI = ("power", "inject", "every", "rate", "poisson", "schedule", "potential", "ms", "population")
BEGUN_WITH = ("network_name", *STIMULI, "silence", "threshold", "seed", "ledger_window", *NAMES)
"""What is in a checkpoint, and cannot be given again."""


def _refuse_what_was_begun(context: click.Context) -> None:
    given = [p for p in context.command.params if p.name in BEGUN_WITH and context.params[p.name] not in (None, ())]
    for parameter in given:
        if context.get_parameter_source(str(parameter.name)) is not click.core.ParameterSource.DEFAULT:
            what = "NETWORK" if parameter.name == "network_name" else parameter.opts[0]
            raise click.UsageError(f"{what} cannot be given with --resume: the run goes on as it was begun")
