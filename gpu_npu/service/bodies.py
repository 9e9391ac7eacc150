"""What requests bring in their bodies, as JSON of a form that is known. Imported by the process that reads them, too."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gpu_npu import NEURON_FIELDS
from gpu_npu.timing import HIGHEST_HZ, LOWEST_HZ

MOST_STEPS = 1000
MOST_IDS = 2**18
"""Neurons that a request may name."""
MOST_TOLD = 3
"""Problems of a body that are told."""
MOST_PROBLEMS = 1000
"""That are looked at: each costs a thousand times what a number does."""


class InvalidBody(Exception):
    """A body that is not what the path takes."""


def _array(values: Any) -> Any:
    """An array in place of a list of numbers of one kind: it goes from process to process, and into the NPU, at once."""
    if isinstance(values, list) and set(map(type, values)) in ({int}, {float}):
        return np.array(values)
    return values


def _infinite(value: Any) -> Any:
    """Null is infinity, which JSON has not."""
    if isinstance(value, list):
        return [np.inf if one is None else one for one in value] if None in value else value
    return np.inf if value is None else value


AreaId = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
"""An id or a label in a query, which has texts alone."""
Id = Annotated[int, Field(ge=0, lt=2**64)] | Name
"""An id, or a label: as text, or as an integer from 2^32 on."""
Ids = Annotated[list[Id], Field(max_length=MOST_IDS, fail_fast=True), AfterValidator(_array)]
"""The first that is wrong is told, not each of them."""
SomeIds = Annotated[list[Id], Field(min_length=1, max_length=MOST_IDS, fail_fast=True), AfterValidator(_array)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Numbers = Annotated[list[Number], Field(max_length=MOST_IDS, fail_fast=True)]
Whole = Annotated[int, Field(ge=-(2**32), le=2**32)]
Value = bool | Whole | Number | None
"""Of a parameter."""
Values = Annotated[list[Value], Field(max_length=MOST_IDS, fail_fast=True)]
Parameter = Annotated[str, Field(pattern=f"^({'|'.join(name for name, field in NEURON_FIELDS.items() if field.width == 1)})$")]


class Body(BaseModel):
    """A body has what is asked for, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Steps(Body):
    """Bursts to compute."""

    n: int = Field(1, ge=1, le=MOST_STEPS)


class Frequency(Body):
    """Bursts a second; null is as fast as it goes."""

    hertz: float | None = Field(ge=LOWEST_HZ, le=HIGHEST_HZ)


class Injection(Body):
    """Neurons, and one potential or one for each; without potentials the neurons are made to fire."""

    neurons: SomeIds
    potentials: Annotated[Number | Numbers | None, AfterValidator(_array)] = None


class Change(Body):
    """A parameter of neurons, or of all neurons of an area: one value, or for neurons one for each."""

    name: Parameter
    neurons: SomeIds | None = None
    area: AreaId | None = None
    values: Annotated[Value | Values, AfterValidator(_infinite), AfterValidator(_array)]

    @model_validator(mode="after")
    def _one_of_both(self) -> Change:
        if (self.neurons is None) == (self.area is None):
            raise ValueError("either neurons or area is needed")
        return self


class Power(Body):
    """What drives: the potential that power neurons receive in every burst, and the list of them. What is absent stays."""

    amount: Number | None = None
    neurons: Ids | None = None


BODIES: dict[str, type[Body]] = {body.__name__: body for body in (Steps, Frequency, Injection, Change, Power)}


def parse(name: str, text: bytes) -> Body:
    """The body of this name in BODIES. InvalidBody says what is wrong where."""
    try:
        return BODIES[name].model_validate_json(text)
    except ValidationError as error:
        count = error.error_count()
        if count > MOST_PROBLEMS:
            raise InvalidBody(f"body: {count:,} values or entries are wrong") from None
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidBody(told([{**one, "loc": ("body", *one["loc"])} for one in found[:MOST_TOLD]])) from None


def told(problems: Any) -> str:
    """Problems that pydantic found: what is wrong where. What was sent is not sent back: it may be large, or no JSON."""
    return "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in problems[:MOST_TOLD])
