"""The NPU: a network on a backend. npu.py makes one; bursts, edits and queries are parts that share its Resident.

    calls.py                       one call at a time, whatever the thread; shown to a profiler
    resident.py admission.py       the network where it runs; additions under way, and proof that sums fit
    bursts.py edits.py queries.py  what an NPU does
    results.py views.py            what it hands out
    snapshot.py                    a run in flight, and its file
    sizing.py                      the memory that a network will need
"""

from .npu import NPU
from .results import BurstResult, Digest, RunResult
from .sizing import MemoryPlan, plan_memory
from .snapshot import Snapshot
from .views import FireCandidateList, FireLedger, FireQueue, NeuronArrayView

__all__ = [
    "NPU",
    "BurstResult",
    "Digest",
    "FireCandidateList",
    "FireLedger",
    "FireQueue",
    "MemoryPlan",
    "NeuronArrayView",
    "RunResult",
    "Snapshot",
    "plan_memory",
]
