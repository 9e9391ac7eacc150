"""What waits between two bursts: calls, injections and steps, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition
from typing import Any

import numpy as np

from gpu_npu.arrays import F32, U32
from gpu_npu.errors import EngineError, NetworkError, NeuronIndexError
from gpu_npu.npu import NPU
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import OneLine, described

MOST_STAGED = 2**24
"""Potentials and forced neurons that may wait for one burst."""
MOST_SUBMITTED = 2**16
"""Calls that may wait, submitted and steps; and as many injections."""

Injection = tuple[U32, F32 | None]
"""Neurons, and the potential of each; None: to be forced."""


@dataclass(frozen=True, repr=False)
class Call(OneLine):
    """function(npu, ...) between two bursts."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    future: Future[Any]

    def make(self, npu: NPU) -> None:
        """Call; the future has the result or the error."""
        if self.future.set_running_or_notify_cancel():
            try:
                result = self.function(npu, *self.args, **self.kwargs)
            except BaseException as error:
                self.future.set_exception(error)
            else:
                self.future.set_result(result)


class Steps:
    """Bursts that step() still wants."""

    def __init__(self, n: int) -> None:
        self.n = self.left = n
        self.future: Future[BurstResult] = Future()

    def __repr__(self) -> str:
        return described(self, f"{self.left:,} of {self.n:,} bursts left")


class Calls:
    """The queue of an engine. The condition is held by whoever calls anything but `apply`, which the burst thread calls."""

    def __init__(self, npu: NPU, condition: Condition) -> None:
        self._npu, self._condition = npu, condition
        self._queue: deque[Call | Injection] = deque()
        self._count = 0
        """Calls in the queue, which somebody may be waiting for; the others are injections."""
        self.steps: deque[Steps] = deque()
        self._staged = self._applied = 0
        """Potentials waiting in the queue or the NPU, and those of them that are in the NPU already."""

    def __len__(self) -> int:
        return len(self._queue)

    def __repr__(self) -> str:
        return described(self, f"{self._count:,} calls, {self._injections:,} injections and {len(self.steps):,} steps wait")

    @property
    def pressing(self) -> bool:
        """Whether a wait, for a deadline or a start, must be left for what is in the queue. An injection has time, many have not."""
        return self._count > 0 or self._injections >= MOST_SUBMITTED // 2

    @property
    def _injections(self) -> int:
        return len(self._queue) - self._count

    def submit(self, call: Call) -> None:
        """Let a call wait for its turn. EngineError where too many do."""
        self._check_room()
        self._queue.append(call)
        self._count += 1

    def step(self, steps: Steps) -> None:
        """Let steps wait for their bursts. EngineError where too many calls wait."""
        self._check_room()
        self.steps.append(steps)

    def _check_room(self) -> None:
        if self._count + len(self.steps) >= MOST_SUBMITTED:
            raise EngineError(f"{MOST_SUBMITTED:,} calls already wait for their turn between bursts")

    def inject(self, injection: Injection) -> None:
        """Let an injection, whose arrays were checked and copied, wait for its turn. EngineError where too many do."""
        count = len(injection[0])
        if self._staged + count > MOST_STAGED:
            raise EngineError(f"{count:,} more potentials do not fit: {self._staged:,} of {MOST_STAGED:,} already wait for the next burst")
        if self._injections >= MOST_SUBMITTED:
            raise EngineError(f"{MOST_SUBMITTED:,} injections already wait for their turn between bursts")
        self._staged += count
        self._queue.append(injection)

    def apply(self) -> int:
        """Make the calls that wait, in the order of submission; what comes meanwhile has another turn. How many injections the
        NPU refused."""
        refused, injections = 0, list[Injection]()
        for _ in range(len(self._queue)):
            call = self._queue.popleft()
            if not isinstance(call, Call):
                injections.append(call)
                self._applied += len(call[0])
                continue
            refused += stage(self._npu, injections)
            injections.clear()
            with self._condition:
                self._count -= 1
            call.make(self._npu)
        return refused + stage(self._npu, injections)

    def burst_done(self) -> None:
        """What is in the NPU was taken by a burst."""
        self._staged -= self._applied
        self._applied = 0

    def next_steps(self) -> Steps | None:
        """The steps that the next burst is for; those whose future was cancelled are dropped."""
        while self.steps and self.steps[0].future.cancelled():
            self.steps.popleft()
        return self.steps[0] if self.steps else None

    def stepped(self, steps: Steps) -> Future[BurstResult] | None:
        """A burst of these steps is over. Their future, where it was the last: then they are in front, as no pause cut them off."""
        steps.left -= 1
        return None if steps.left else self.steps.popleft().future

    def cut_steps(self, keep: Steps | None) -> list[Steps]:
        """Take out all steps but these; returns those."""
        cut = [steps for steps in self.steps if steps is not keep]
        self.steps = deque(steps for steps in self.steps if steps is keep)
        return cut

    def clear(self) -> list[Future[Any]]:
        """Nothing waits any more; the futures of what did."""
        waiting = [call.future for call in self._queue if isinstance(call, Call)] + [steps.future for steps in self.steps]
        self._queue.clear()
        self.steps.clear()
        self._count = 0
        return waiting


def stage(npu: NPU, injections: Sequence[Injection]) -> int:
    """Inject and force, with one call of the NPU for all. How many it refused, as the network has changed since they came."""
    refused = 0
    for forces in (False, True):
        kind = [injection for injection in injections if (injection[1] is None) is forces]
        if kind and not _staged(npu, _joined(kind)):
            refused += sum(not _staged(npu, injection) for injection in kind) if len(kind) > 1 else 1
    return refused


def _joined(kind: Sequence[Injection]) -> Injection:
    """One injection that does what these do in turn."""
    if len(kind) == 1:
        return kind[0]
    potentials = [potential for _, potential in kind if potential is not None]
    return np.concatenate([neurons for neurons, _ in kind]), np.concatenate(potentials) if potentials else None


def _staged(npu: NPU, injection: Injection) -> bool:
    """Whether the NPU has taken it."""
    neurons, potentials = injection
    try:
        if potentials is None:
            npu.force_fire(neurons)
        else:
            npu.inject(neurons, potentials)
    except (NetworkError, NeuronIndexError):
        return False
    return True
