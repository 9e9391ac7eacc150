"""What the stores of a network share: a device, the State that its kernels are given, and launches by argument names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.backends.devices.base import Device, Launch
from gpu_npu.backends.layout import STATE_DTYPE, Array
from gpu_npu.errors import KernelError

FEW = 64
"""Up to so many items one block is launched: waking other cores takes a CPU longer than the work, and a GPU does not care."""


class Context:
    """A device and a State. `state`: of dtype STATE_DTYPE, shape (1,); kernels get it as it is when they run."""

    def __init__(self, device: Device, state: NDArray[np.void] | None = None) -> None:
        self.device = device
        self.state = np.zeros(1, STATE_DTYPE) if state is None else state

    def prepared(self, kernel: str, *, single: bool = False, **arguments: Any) -> Launch:
        """A launch of a kernel by the names of its parameters; the State goes by itself. Pointers that are not given are null.

        A number becomes what the kernel takes; an array of size 1 is read at the time of the launch. KernelError where a
        name is not one of the kernel's, or a value is missing.
        """
        found = self.device.kernel(kernel)
        if unknown := sorted(set(arguments) - set(found.names)):
            raise KernelError(f"{kernel} takes {', '.join(found.names)}, and not {', '.join(unknown)}")
        args: list[Any] = []
        for name, code in zip(found.names, found.arguments, strict=True):
            value = self.state if code == "state" else arguments.get(name)
            if value is None and not code.startswith("*"):
                raise KernelError(f"{kernel} needs {name}")
            args.append(np.dtype(code).type(value) if isinstance(value, int | float) else value)
        return Launch(kernel, tuple(args), single)

    def launch(self, kernel: str, *, items: int | None = None, **arguments: Any) -> None:
        """Run a kernel now; `items`: how many there are to be done, few of which one block does sooner."""
        self.device.launch([self.prepared(kernel, single=items is not None and items <= FEW, **arguments)])


class Store:
    """Some of the device arrays of layout.py: whoever has them allocates, grows and binds them, and no one else."""

    def __init__(self, context: Context, arrays: Sequence[Array], lengths: Mapping[str, int]) -> None:
        """`lengths`: of the axes."""
        self.context, self.device, self.state = context, context.device, context.state
        self._kept, self._lengths = arrays, lengths
        self.arrays = {array.name: self.device.alloc(array.size(lengths), array.dtype) for array in arrays}
        self.bind()

    def bind(self) -> None:
        """Write where the arrays lie into the State; an empty one is a null pointer."""
        for name, array in self.arrays.items():
            self.state[name] = self.device.address(array) if array.nbytes else 0

    @property
    def neurons(self) -> int:
        """Ids reserved."""
        return self._lengths["neuron"]

    def fetched(self, name: str, count: int, at: int = 0) -> NDArray[Any]:
        """Items of an array, on the host."""
        return self.device.fetched(self.arrays[name], count, at)

    def upload(self, name: str, values: NDArray[Any], at: int = 0) -> None:
        """Set items of an array."""
        self.device.upload(self.arrays[name], values, at)

    def larger(self, lengths: Mapping[str, int]) -> list[tuple[Array, int]]:
        """The arrays that need more room where axes have these lengths, and how many items they then have."""
        return [(array, array.size(lengths)) for array in self._kept if array.size(lengths) > self.arrays[array.name].size]

    def move_to(self, lengths: Mapping[str, int], fresh: Mapping[str, Any]) -> None:
        """Copy what is kept to larger arrays, and give the old ones back."""
        for array in self._kept:
            if array.name in fresh:
                for to, at, count in array.moves(self._lengths, lengths):
                    self.device.copy(fresh[array.name], to, self.arrays[array.name], at, count)
        self.device.release(*(self.arrays[name] for name in fresh if name in self.arrays))
        self.arrays.update({name: array for name, array in fresh.items() if name in self.arrays})
        self._lengths = lengths
        self.bind()
