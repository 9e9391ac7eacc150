"""What is kept of each id: parameters, state and flags; and the edits of neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, Flags, sorted_union
from gpu_npu.backends.base import FieldValues
from gpu_npu.backends.devices.base import Launch, Scratch
from gpu_npu.backends.executor.context import FEW, Context, Store
from gpu_npu.backends.layout import ARRAY, FLAG
from gpu_npu.connectome import NEURON_FIELDS, Area, Connectome

FIELDS = {name: field for name, field in NEURON_FIELDS.items() if name in ARRAY}
"""Those with an array of their own; the one boolean is a bit of the flags."""
AREA_FLAGS = FLAG["nonuniform"] | FLAG["mp_driven"]
BURST_FLAGS = FLAG["injected"] | FLAG["forced"]
FLAG_OF = {"mp_charge_accumulation": "accumulates", "valid": "valid", "created": "created"}


def area_flags(area: Area) -> int:
    """The bits that its neurons have from an area."""
    return (0 if area.psp_uniform else FLAG["nonuniform"]) | (FLAG["mp_driven"] if area.mp_driven_psp else 0)


class NeuronStore(Store):
    """Parameters, state and flags of all ids. An edit asks for all the memory that it takes before its first launch: it is done
    as a whole or not at all."""

    def __init__(self, context: Context, lengths: Mapping[str, int], connectome: Connectome) -> None:
        super().__init__(context, [ARRAY[name] for name in ("flags", *FIELDS)], lengths)
        self.areas = dict(connectome.areas)
        self._power: U32 = np.zeros(0, np.uint32)
        neurons = connectome.neurons
        for name, field in FIELDS.items():
            values = getattr(neurons, name)
            padded = np.full(self.arrays[name].size, field.default, field.dtype)
            padded[: values.size] = values.ravel()
            self.upload(name, padded)
        flags = np.zeros(self.neurons, np.uint8)
        flags[: len(neurons.valid)] = (
            neurons.valid * FLAG["valid"]
            | neurons.created * FLAG["created"]
            | neurons.mp_charge_accumulation * FLAG["accumulates"]
            | self._flags_of(neurons.cortical_area)
        )
        self.upload("flags", flags)

    def move_to(self, lengths: Mapping[str, int], fresh: Mapping[str, Any]) -> None:
        before = self.neurons
        super().move_to(lengths, fresh)
        for name, field in FIELDS.items():
            if field.default and name in fresh:
                self.upload(name, np.full((self.neurons - before) * field.width, field.default, field.dtype), before * field.width)

    def reset(self, state: FieldValues) -> None:
        """Set these fields of all ids."""
        for name, values in state.items():
            self.upload(name, np.ascontiguousarray(values))

    # -- areas and power -----------------------------------------------------------------------------------------
    @contextmanager
    def setting_area(self, area: int, flags: Area) -> Iterator[None]:
        """Set the flags of an area once the `with` block, which can still refuse them, is over."""
        if area_flags(flags) == area_flags(self.areas.get(area, Area())):
            yield
        else:
            with self.device.scratch() as scratch:
                writing, _ = self._area_written(scratch, area, valid_only=False, mask=AREA_FLAGS, bits=area_flags(flags))
                yield
                self.device.launch([writing])
        self.areas[area] = flags

    def set_power(self, neurons: U32) -> None:
        """Let these be the power neurons."""
        with self.device.scratch() as scratch:
            given = ((ids, bits) for ids, bits in ((self._power, 0), (neurons, FLAG["power"])) if len(ids))
            flags = ((scratch.uploaded(ids), np.full(len(ids), bits, np.uint8)) for ids, bits in given)
            launches = [self._flags_written(scratch, ids, FLAG["power"], bits) for ids, bits in flags]
            self._power = sorted_union(self._power, neurons)  # until it is done, any of them may have the flag
            self.device.launch(launches)
        self._power = neurons.copy()

    def _flags_of(self, areas: U32) -> NDArray[np.uint8]:
        """The bits that neurons of these areas have from them."""
        known, inverse = np.unique(areas, return_inverse=True)
        bits = np.array([area_flags(self.areas.get(area, Area())) for area in known.tolist()], np.uint8)
        return bits[inverse] if len(known) else np.zeros(0, np.uint8)

    # -- edits and queries ---------------------------------------------------------------------------------------
    def add(self, neurons: U32, columns: FieldValues) -> None:
        """As `Backend.add_neurons`."""
        flags = np.where(columns["mp_charge_accumulation"], FLAG["accumulates"], 0).astype(np.uint8)
        flags |= FLAG["valid"] | FLAG["created"] | self._flags_of(columns["cortical_area"])
        columns = {name: np.ascontiguousarray(columns[name]) for name in FIELDS}
        consecutive = int(neurons[-1]) - int(neurons[0]) == len(neurons) - 1 and bool((neurons[1:] > neurons[:-1]).all())
        with self.device.scratch() as scratch:
            ids = scratch.uploaded(neurons)
            launches = [self._flags_written(scratch, ids, 0xFF & ~(FLAG["power"] | BURST_FLAGS), flags)]
            if not consecutive:
                launches += [self._scattered(scratch, name, ids, values) for name, values in columns.items()]
            else:
                for name, values in columns.items():
                    self.upload(name, values.ravel(), int(neurons[0]) * FIELDS[name].width)
            self.device.launch(launches)

    def delete(self, neurons: U32) -> Flags:
        """As `Backend.delete_neurons`."""
        with self.device.scratch() as scratch:
            before = scratch.alloc(len(neurons), np.uint8)
            self.device.launch([self._flags_written(scratch, scratch.uploaded(neurons), FLAG["valid"], None, before)])
            return np.asarray(self.device.fetched(before, len(neurons)) & FLAG["valid"] != 0)

    def write(self, field: str, neurons: U32, values: NDArray[Any]) -> None:
        """As `Backend.write`."""
        with self.device.scratch() as scratch:
            ids = scratch.uploaded(neurons)
            if field in FLAG_OF:
                bit = FLAG[FLAG_OF[field]]
                launches = [self._flags_written(scratch, ids, bit, np.where(values, bit, 0).astype(np.uint8))]
            else:
                launches = [self._scattered(scratch, field, ids, np.ascontiguousarray(values))]
            if field == "cortical_area":
                launches.append(self._flags_written(scratch, ids, AREA_FLAGS, self._flags_of(values)))
            self.device.launch(launches)

    def write_area(self, field: str, area: int, value: NDArray[Any]) -> int:
        """As `Backend.write_area`."""
        flags = {"mask": 0, "bits": 0}
        if field in FLAG_OF:
            bit = FLAG[FLAG_OF[field]]
            flags = {"mask": bit, "bits": bit if value[0] else 0}
        elif field == "cortical_area":
            flags = {"mask": AREA_FLAGS, "bits": area_flags(self.areas.get(int(value[0]), Area()))}
        with self.device.scratch() as scratch:
            given = None if field in FLAG_OF else (field, np.ascontiguousarray(value))
            writing, written = self._area_written(scratch, area, valid_only=True, given=given, **flags)
            self.device.launch([writing])
            return int(self.device.fetched(written, 1)[0])

    def read(self, field: str) -> NDArray[Any]:
        """As `Backend.read`."""
        if field in FLAG_OF:
            return np.asarray(self.fetched("flags", self.neurons) & FLAG[FLAG_OF[field]] != 0)
        width = FIELDS[field].width
        values = self.fetched(field, self.neurons * width)
        return values if width == 1 else values.reshape(-1, width)

    # -- launches ------------------------------------------------------------------------------------------------
    def _scattered(self, scratch: Scratch, field: str, ids: Any, values: NDArray[Any]) -> Launch:
        """What writes values to a field of the neurons `ids` (on the device)."""
        size, array, given = values.nbytes // ids.size, self.arrays[field], scratch.uploaded(values.view(np.uint8))
        return self.context.prepared("scatter_values", n=ids.size, ids=ids, array=array, size=size, values=given, single=ids.size <= FEW)

    def _flags_written(self, scratch: Scratch, ids: Any, mask: int, bits: NDArray[np.uint8] | None, before: Any = None) -> Launch:
        """What sets the flags of `mask` as in `bits` (None: clears them) and puts into `before` what all flags were. Ids
        (on the device) are given once each."""
        new = None if bits is None else scratch.uploaded(bits)
        return self.context.prepared("write_flags", n=ids.size, ids=ids, mask=mask, bits=new, before=before, single=ids.size <= FEW)

    def _area_written(
        self, scratch: Scratch, area: int, *, valid_only: bool, mask: int, bits: int, given: tuple[str, NDArray[Any]] | None = None
    ) -> tuple[Launch, Any]:
        """What writes flags, and a value to a field, of the neurons of an area; and where it says how many these were."""
        written = scratch.alloc(1, np.uint32)
        arguments: dict[str, Any] = {"area": area, "valid_only": int(valid_only), "mask": mask, "bits": bits, "size": 0}
        if given is not None:
            field, value = given
            arguments |= {"array": self.arrays[field], "size": value.nbytes, "value": scratch.uploaded(value.ravel().view(np.uint8))}
        return self.context.prepared("write_area", written=written, **arguments), written
