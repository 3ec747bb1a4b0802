"""What all records share: errors of one line, JSON both ways, equality, short texts."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from altlas_flow.errors import BadRequest, names, one_line
from altlas_flow.records.jsonable import same


class Record(BaseModel):
    """Base of the records; a wrong field is a `BadRequest` that names it and says what it takes."""

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), ser_json_inf_nan="strings"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: Any) -> Any:
        try:
            return handler(data)
        except ValidationError as error:
            raise BadRequest(explain(cls, error)) from error

    if not TYPE_CHECKING:
        # as pydantic's, but for the kind of the error; its signatures are long

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Any:
            """From JSON, as pydantic does; what is wrong with it is a `BadRequest`."""
            try:
                return super().model_validate_json(json_data, **options)
            except ValidationError as error:
                # all else was explained already: this is no JSON
                raise BadRequest(f"{cls.__name__}: {one_line(error.errors()[0]['msg'])}") from error

        def model_dump_json(self, **options: Any) -> str:
            """As JSON, as pydantic does, arrays and tables too; what cannot be is a `BadRequest`."""
            try:
                return super().model_dump_json(**options)
            except PydanticSerializationError as error:
                raise self._unwritable(error) from error

    def _unwritable(self, error: PydanticSerializationError) -> BadRequest:
        """Why JSON refuses; pydantic keeps the error itself only where it makes plain values."""
        try:
            self.model_dump(mode="json")
        except PydanticSerializationError as again:
            cause: BaseException | None = again
            while cause is not None:
                if isinstance(cause, BadRequest):
                    return BadRequest(f"{type(self).__name__}: {cause}")
                cause = cause.__cause__
        return BadRequest(f"{type(self).__name__} cannot be written as JSON: {one_line(error, 200)}")

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Any:
        """A record of all its `fields`, which are known to be good: no checks, and so a few µs."""
        record = cls.__new__(cls)
        # what pydantic's model_construct does, without its look at each field
        put = object.__setattr__
        put(record, "__dict__", fields)
        put(record, "__pydantic_fields_set__", set(fields))
        put(record, "__pydantic_extra__", None)
        put(record, "__pydantic_private__", None)
        return record

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or type(self) is not type(other):
            return NotImplemented
        return same(self._comparable(), other._comparable())

    def _comparable(self) -> dict[str, Any]:
        return self.__dict__

    def __str__(self) -> str:
        return repr(self)


def explain(kind: type[BaseModel], error: ValidationError, label: str | None = None) -> str:
    """One line out of pydantic's several: a fault, where it is, and what is taken there.

    Of several that which is no field comes first: mistyped, it is what makes another one missing.
    """
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    label = label or kind.__name__
    if first["type"] == "extra_forbidden":
        return f"{label}: {place} is no field: {_nearest(place, tuple(kind.model_fields))}{more}"
    if not first["loc"]:
        return f"{label}: {one_line(first['msg'])}{more}"
    field = kind.model_fields.get(str(first["loc"][0]))
    takes = f": give {field.description}" if field is not None and field.description else ""
    if first["type"] == "missing":
        return f"{label}: {place} is missing{takes}{more}"
    shown = one_line(repr(first["input"]), 60)
    what = one_line(first["msg"].removeprefix("Value error, "))
    return f"{label}: {place} is {shown}: {what}{takes}{more}"


@lru_cache(maxsize=256)
def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"use one of {names(known, 20)}"


def short(value: object, limit: int = 80) -> str:
    """`repr` of `value` on one line, cut at `limit` characters; of long sequences only the beginning."""
    if isinstance(value, (str, bytes, list, tuple)) and len(value) > limit:
        text = repr(value[:limit])
    else:
        text = repr(value)
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
