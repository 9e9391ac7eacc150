"""The exceptions of the package: one small family, each also the standard exception a caller would catch."""


class NpuError(Exception):
    """Base of everything this package raises on purpose."""


class NetworkError(NpuError, ValueError):
    """A network, an edit or an input that is not allowed; the message names the value and the way out."""


class NeuronIndexError(NpuError, IndexError):
    """A neuron id outside the ids that the network reserves."""


class CapacityError(NpuError, ValueError):
    """More neurons or synapses than the reserved capacity."""


class SumOverflowError(NpuError, OverflowError):
    """A synaptic sum that cannot be proven to fit its 64-bit accumulator."""


class EngineError(NpuError, RuntimeError):
    """Something asked of a burst engine that its state does not allow, or the failure that ended it."""


class FileFormatError(NpuError, ValueError):
    """A file that is truncated, corrupt or of another format."""


class CheckpointError(FileFormatError):
    """A checkpoint that is truncated, corrupt or of another version."""


class BackendUnavailableError(NpuError, RuntimeError):
    """An explicitly chosen backend that cannot run here; the message says what is missing."""


class KernelError(NpuError, RuntimeError):
    """A kernel that does not compile, load or launch."""


class DeviceMemoryError(NpuError, MemoryError):
    """The device has less memory than is needed; both are named."""


class MissingPackageError(NpuError, ImportError):
    """An optional package that is not installed; the message names the extra that brings it."""


class FrameError(NetworkError):
    """A message of a stream that is refused. `reason`: "malformed", "oversized", or "unknown" (what it names is not here)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
