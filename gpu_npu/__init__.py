"""A neural processing unit for large spiking connectomes: exact to the bit on every backend, editable while it runs."""

from gpu_npu.connectome import (
    NEURON_FIELDS,
    STATE_FIELDS,
    Area,
    BackendUnavailableError,
    CapacityError,
    Connectome,
    DeviceMemoryError,
    EngineError,
    FileFormatError,
    KernelError,
    NetworkError,
    NeuronArray,
    NeuronIndexError,
    NpuError,
    Rules,
    Settings,
    SumOverflowError,
    SynapseArray,
    SynapseBatch,
)
from gpu_npu.engine import BurstEngine, EngineStatus
from gpu_npu.fire import BurstResult, Digest, FireCandidateList, FireLedger, FireQueue, RunResult
from gpu_npu.npu import NPU

__version__ = "0.1.0"

__all__ = [
    "NEURON_FIELDS",
    "NPU",
    "STATE_FIELDS",
    "Area",
    "BackendUnavailableError",
    "BurstEngine",
    "BurstResult",
    "CapacityError",
    "Connectome",
    "DeviceMemoryError",
    "Digest",
    "EngineError",
    "EngineStatus",
    "FileFormatError",
    "FireCandidateList",
    "FireLedger",
    "FireQueue",
    "KernelError",
    "NetworkError",
    "NeuronArray",
    "NeuronIndexError",
    "NpuError",
    "Rules",
    "RunResult",
    "Settings",
    "SumOverflowError",
    "SynapseArray",
    "SynapseBatch",
    "__version__",
]
