"""`InferenceRequest`: what is asked for, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from pydantic import ConfigDict, Field, ValidationInfo, field_serializer, field_validator

from altlas_flow.errors import BadRequest
from altlas_flow.records.base import Record, short
from altlas_flow.records.jsonable import decode, encode, encode_rows
from altlas_flow.records.naming import is_name, name_of

_SECONDS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "milli", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "μs", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_TIME = re.compile(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*([a-zµμ]*)\s*", re.IGNORECASE)


class DistributionStrategy(StrEnum):
    """Which node a request goes to; also found by ``"least-loaded"`` or ``"least_loaded"``."""

    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_LOADED = "LEAST_LOADED"
    CAPABILITY_BASED = "CAPABILITY_BASED"
    LATENCY_OPTIMIZED = "LATENCY_OPTIMIZED"
    MODEL_SPECIFIC = "MODEL_SPECIFIC"

    @classmethod
    def _missing_(cls, value: object) -> DistributionStrategy | None:
        name = str(value).strip().upper().replace("-", "_")
        return cls.__members__.get(name)


class ResultAggregationStrategy(StrEnum):
    """How the answers of several models become one; also found by ``"majority-vote"``.

    Each stands for an aggregator with its defaults: `altlas_flow.first`, `every`, `vote`, `average`, and
    `ensemble`, which is then the mean of class probabilities.
    """

    FIRST_RESPONSE = "FIRST_RESPONSE"
    ALL_RESPONSES = "ALL_RESPONSES"
    MAJORITY_VOTE = "MAJORITY_VOTE"
    WEIGHTED_AVERAGE = "WEIGHTED_AVERAGE"
    ENSEMBLE = "ENSEMBLE"

    @classmethod
    def _missing_(cls, value: object) -> ResultAggregationStrategy | None:
        name = str(value).strip().upper().replace("-", "_")
        return cls.__members__.get(name)


class RetryPolicy(Record):
    """How often a request is tried, and after which errors; frozen.

    Parameters
    ----------
    tries : int, optional
        In all, at least 1; None: the setting ``altlas.tries``.
    on : tuple of str
        Names of error types that are tried again although they are not of the node, such as
        ``"TimeoutError"``; ``"Exception"`` for all. Error classes are taken, too.
    """

    model_config = ConfigDict(frozen=True)

    tries: int | None = Field(default=None, ge=1, description="a whole number of at least 1")
    on: tuple[str, ...] = Field(default=(), description='names of error types such as "TimeoutError"')

    @field_validator("on", mode="before")
    @classmethod
    def _take_classes(cls, value: Any) -> Any:
        given = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
        found = [item.__name__ if isinstance(item, type) else item for item in given]
        if not all(isinstance(item, str) and item.isidentifier() for item in found):
            raise ValueError("that is no name of an error type")
        return tuple(found)

    def names(self, error: BaseException) -> bool:
        """Whether `on` names the type of `error`, a base of it, or that of one of its causes."""
        seen: set[int] = set()
        cause: BaseException | None = error
        while self.on and cause is not None and id(cause) not in seen:
            if any(kind.__name__ in self.on for kind in type(cause).__mro__):
                return True
            seen.add(id(cause))
            cause = cause.__cause__
        return False


class InferenceRequest(Record):
    """One request. The same after a JSON round trip, arrays and Arrow data included.

    Parameters
    ----------
    inputs : Any
        One input, or a list of them.
    model_id : str, optional
        None where the call names the models.
    parameters : dict
        Of the prediction.
    request_id : str
        By default a new one; a task's id is its request's.
    strategy : DistributionStrategy, str or callable, optional
        How the node is chosen; a name that is not known is looked up where the request is placed.
    priority : int
        Higher goes first.
    deadline : float, str or timedelta, optional
        Seconds from submission to the answer, above 0; ``"300ms"`` is taken, too.
    retry : RetryPolicy
    validator : callable, pydantic model class or str, optional
        What answers have to pass; as text ``"package.module:name"``.
    idempotent : bool
        Whether it may be executed again where nobody knows whether it was.
    hedge : bool
        Whether it may be sent to a second node where it is late; not with ``idempotent=False``.
    task_type : str, optional
        Such as ``text-generation``; what models are chosen by.
    metadata : dict
        The caller's own; it comes back with the response.

    Raises
    ------
    BadRequest
        Where a field is wrong; its text names the field.
    """

    request_id: str = Field(
        default_factory=lambda: uuid4().hex, min_length=1, description="a text that is not empty, or nothing"
    )
    model_id: str | None = Field(default=None, min_length=1, description="the id of a registered model")
    inputs: Any = Field(description="one input, or a list of them")
    parameters: dict[str, Any] = Field(default={}, description="a mapping of names to values")
    strategy: DistributionStrategy | str | Callable[..., Any] | None = Field(
        default=None, description="a DistributionStrategy, a strategy's name, or a callable"
    )
    priority: int = Field(
        default=0, ge=-1000, le=1000, description="a whole number from -1000 to 1000; higher goes first"
    )
    deadline: float | None = Field(default=None, description='seconds above 0, such as 0.5 or "300ms"')
    retry: RetryPolicy = Field(default=RetryPolicy(), description="a RetryPolicy(tries=…, on=(…))")
    validator: str | Callable[..., Any] | None = Field(
        default=None, description="a callable, a pydantic model class, or 'package.module:name'"
    )
    idempotent: bool = Field(default=True, description="True or False")
    hedge: bool = Field(default=False, description="True or False")
    task_type: str | None = Field(default=None, description='a text such as "text-generation"')
    metadata: dict[str, Any] = Field(default={}, description="a mapping of names to values")

    model_config = ConfigDict(validate_assignment=True)

    @field_validator("inputs", "parameters", "metadata", mode="before")
    @classmethod
    def _decode(cls, value: Any, info: ValidationInfo) -> Any:
        return decode(value, str(info.field_name)) if info.mode == "json" else value

    @field_serializer("inputs", "parameters", "metadata", when_used="json")
    def _encode(self, value: Any, info: Any) -> Any:
        return (encode_rows if info.field_name == "inputs" else encode)(value, info.field_name)

    # plain: pydantic would try the members of the union one after the other
    @field_validator("strategy", mode="plain")
    @classmethod
    def _check_strategy(cls, value: Any) -> Any:
        if isinstance(value, str) and not isinstance(value, DistributionStrategy):
            name = value.strip()
            try:
                return DistributionStrategy(name)
            except ValueError:
                if name:
                    return name  # perhaps an entry point's: whoever places it knows
        elif value is None or isinstance(value, DistributionStrategy) or callable(value):
            return value
        raise ValueError("that is no strategy")

    @field_validator("validator", mode="plain")
    @classmethod
    def _check_validator(cls, value: Any) -> Any:
        if value is None or callable(value) or (isinstance(value, str) and is_name(value)):
            return value
        raise ValueError("that is no validator")

    @field_serializer("strategy", "validator", when_used="json")
    def _name_callable(self, value: Any, info: Any) -> Any:
        if value is None or isinstance(value, str):
            return value.value if isinstance(value, DistributionStrategy) else value
        return name_of(value, info.field_name)

    @field_validator("deadline", mode="before")
    @classmethod
    def _parse_deadline(cls, value: Any) -> float | None:
        return None if value is None else seconds(value)

    def _comparable(self) -> dict[str, Any]:
        # a callable and its name are the same: JSON has the name
        fields = dict(self.__dict__)
        for name in ("strategy", "validator"):
            if callable(fields[name]):
                with suppress(BadRequest):
                    fields[name] = name_of(fields[name], name)
        return fields

    def __repr__(self) -> str:
        wanted = f" for {self.model_id}" if self.model_id is not None else ""
        return f"<InferenceRequest {self.request_id}{wanted}: {short(self.inputs)}>"


def seconds(value: Any) -> float:
    """A time above 0 in seconds, of a number, a text such as ``"300ms"``, or a timedelta.

    Raises
    ------
    ValueError
    """
    # not by dask.utils: a record is read where there is no Dask
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, str):
        match = _TIME.fullmatch(value)
        unit = _SECONDS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise ValueError("that is no time")
        found = float(match[1]) * unit
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("that is no time")
    else:
        found = float(value)
    if not (math.isfinite(found) and found > 0):
        raise ValueError("that is no time above 0")
    return found


def limit_of(deadline: Any) -> float | None:
    """Seconds of a deadline, where there is one.

    Raises
    ------
    BadRequest
    """
    if deadline is None:
        return None
    try:
        return seconds(deadline)
    except ValueError as error:
        text = f'deadline={deadline!r}: {error}: give seconds above 0, such as 0.5 or "300ms"'
        raise BadRequest(text) from error
