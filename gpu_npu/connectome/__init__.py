"""The network as data: neurons, synapses, areas and settings, with the checks that guard them."""

from gpu_npu.errors import (
    BackendUnavailableError,
    CapacityError,
    CheckpointError,
    DeviceMemoryError,
    EngineError,
    FileFormatError,
    FrameError,
    KernelError,
    MissingPackageError,
    NetworkError,
    NeuronIndexError,
    NpuError,
    SumOverflowError,
)

from .annotations import Annotations
from .connectome import Connectome
from .fields import COUNTERS, NEURON_FIELDS, STATE_FIELDS, SYNAPSE_FIELDS
from .neurons import NeuronArray
from .plasticity import CustomRule, FeagiRule, PairRule, PlasticityRule, WindowRule
from .settings import Area, Rules, Settings
from .synapses import SynapseArray, SynapseBatch, SynapseChain, SynapseSource, SynapseWrapper

__all__ = [
    "COUNTERS",
    "NEURON_FIELDS",
    "STATE_FIELDS",
    "SYNAPSE_FIELDS",
    "Annotations",
    "Area",
    "BackendUnavailableError",
    "CapacityError",
    "CheckpointError",
    "Connectome",
    "CustomRule",
    "DeviceMemoryError",
    "EngineError",
    "FeagiRule",
    "FileFormatError",
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
    "Settings",
    "SumOverflowError",
    "SynapseArray",
    "SynapseBatch",
    "SynapseChain",
    "SynapseSource",
    "SynapseWrapper",
    "WindowRule",
]
