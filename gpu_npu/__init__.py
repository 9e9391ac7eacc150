"""A neural processing unit for large spiking connectomes: exact to the bit on every backend, editable while it runs.

docs/glossary.md explains the words (burst, candidate, psp, mapping, power neuron, fire ledger, ...), docs/semantics.md says
what a burst computes.
"""

from gpu_npu.checkpoint import Snapshot
from gpu_npu.connectome import (
    COUNTERS,
    NEURON_FIELDS,
    STATE_FIELDS,
    SYNAPSE_FIELDS,
    Area,
    BackendUnavailableError,
    CapacityError,
    CheckpointError,
    Connectome,
    CustomRule,
    DeviceMemoryError,
    EngineError,
    FileFormatError,
    FrameError,
    KernelError,
    MissingPackageError,
    NetworkError,
    NeuronArray,
    NeuronIndexError,
    NpuError,
    PairRule,
    PlasticityRule,
    Rules,
    Settings,
    SumOverflowError,
    SynapseArray,
    SynapseBatch,
    SynapseSource,
    WindowRule,
)
from gpu_npu.engine import BurstEngine, EngineStatus
from gpu_npu.fire import BurstResult, Digest, FireCandidateList, FireLedger, FireQueue, RunResult
from gpu_npu.npu import NPU

__version__ = "0.1.0"

__all__ = [
    "COUNTERS",
    "NEURON_FIELDS",
    "NPU",
    "STATE_FIELDS",
    "SYNAPSE_FIELDS",
    "Area",
    "BackendUnavailableError",
    "BurstEngine",
    "BurstResult",
    "CapacityError",
    "CheckpointError",
    "Connectome",
    "CustomRule",
    "DeviceMemoryError",
    "Digest",
    "EngineError",
    "EngineStatus",
    "FileFormatError",
    "FireCandidateList",
    "FireLedger",
    "FireQueue",
    "FrameError",
    "KernelError",
    "MissingPackageError",
    "NetworkError",
    "NeuronArray",
    "NeuronIndexError",
    "NpuError",
    "PairRule",
    "PlasticityRule",
    "Rules",
    "RunResult",
    "Settings",
    "Snapshot",
    "SumOverflowError",
    "SynapseArray",
    "SynapseBatch",
    "SynapseSource",
    "WindowRule",
    "__version__",
]
