"""The exceptions of the package: one small family, each also the standard exception a caller would catch."""

from __future__ import annotations

from typing import Any


class NpuError(Exception):
    """Base of everything this package raises on purpose.

    `problem` says what is wrong, with the value, in words that hold wherever it is read. `python` is the way out for
    somebody who calls from Python, empty where `problem` says enough. str() gives both; the command line and the HTTP
    service show `problem` and name a way out of their own.
    """

    def __init__(self, problem: str = "", *, python: str = "") -> None:
        problem = problem.encode("utf-8", "backslashreplace").decode()  # names of files and values may hold what is no text
        super().__init__(problem)
        self.problem, self.python = problem, python

    def __str__(self) -> str:
        return f"{self.problem}; {self.python}" if self.python else self.problem


def problem_of(error: BaseException) -> str:
    """What is wrong, without advice for Python where the package raised it: for a message that is read elsewhere."""
    return error.problem if isinstance(error, NpuError) else str(error)


class NetworkError(NpuError, ValueError):
    """A network, an edit or an input that is not allowed; the message names the value and the way out."""


class NeuronIndexError(NpuError, IndexError):
    """A neuron id outside the ids that the network reserves."""

    @classmethod
    def outside(cls, where: str, value: int, capacity: int) -> NeuronIndexError:
        """The error of an id that is not in 0..capacity - 1; where: what has it."""
        ids = f"the ids of this network are 0 to {capacity - 1:,}" if capacity else "this network reserves no ids"
        if value >= 2**32:
            return cls(
                f"{where}: {value} is not a neuron id but looks like a label, such as the root id of a data set; {ids},"
                " so translate each label into the position of its neuron"
            )
        return cls(f"{where}: {value} is not a neuron id; {ids}", python=f"reserve(neurons={value + 1}) makes room" if value >= 0 else "")


class CapacityError(NpuError, ValueError):
    """More neurons or synapses than the reserved capacity."""


class SumOverflowError(NpuError, OverflowError):
    """The synaptic input of a neuron in one burst could exceed the 64 bits that it is summed in."""


class EngineError(NpuError, RuntimeError):
    """Something asked of a burst engine that its state does not allow, or the failure that ended it. `ended`: the engine
    whose end the call met."""

    def __init__(self, problem: str = "", *, python: str = "", ended: object = None) -> None:
        super().__init__(problem, python=python)
        self.ended = ended


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

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameError, (self.reason, self.problem)
