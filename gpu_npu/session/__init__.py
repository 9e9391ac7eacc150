"""Runs as people mean them: a network, its stimuli, so many bursts, what is recorded, checkpoints, and what came of it.

    from gpu_npu.session import Inject, Plan, Poisson, run
    result = run(network, [Inject("1,2,5-8"), Poisson("area:cortex", 0.1)], 500)
    print(result.fired, result.digest, *result.notes)

The command `gpu-npu run` is this room with options and a table. The NPU is known here by its public names alone.
"""

from .activity import Activity
from .experiment import Experiment, Silenced, Trials, experiment, silenced
from .result import Note, Result
from .run import Place, Plan, Session, resume, run
from .stimuli import Inject, Poisson, Power, Rate, Schedule, Stimulus
from .targets import Target, neurons_of

__all__ = [
    "Activity",
    "Experiment",
    "Inject",
    "Note",
    "Place",
    "Plan",
    "Poisson",
    "Power",
    "Rate",
    "Result",
    "Schedule",
    "Session",
    "Silenced",
    "Stimulus",
    "Target",
    "Trials",
    "experiment",
    "neurons_of",
    "resume",
    "run",
    "silenced",
]
