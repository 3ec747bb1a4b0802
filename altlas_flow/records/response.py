"""`InferenceResponse`: the answer to one request, or why there is none."""

from __future__ import annotations

from copy import copy
from typing import Any

from pydantic import Field, PrivateAttr, ValidationInfo, field_serializer, field_validator

from altlas_flow import errors
from altlas_flow.errors import AltlasError, BadRequest, RequestError, describe, root_cause
from altlas_flow.records.base import Record, short
from altlas_flow.records.html import facts
from altlas_flow.records.jsonable import decode, encode, encode_rows
from altlas_flow.records.trace import Trace


class ErrorRecord(Record):
    """An error that JSON can hold.

    Attributes
    ----------
    type : str
        Name of its class.
    message : str
        One line.
    args : list
        What its class takes, for the errors of altlas_flow where JSON can hold that; else empty.
    root_cause : str
        What began it, in one line; empty where that is the error itself.
    tries : int
    nodes : list of str
        Where the request was tried.
    """

    type: str = Field(min_length=1)
    message: str
    args: list[Any] = Field(default=[])
    root_cause: str = ""
    tries: int = 0
    nodes: list[str] = Field(default=[])
    _error: BaseException | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, error: BaseException) -> ErrorRecord:
        """The record of `error`, which keeps `error` itself until it leaves as JSON."""
        origin = root_cause(error)
        record = cls(
            type=type(error).__name__,
            message=describe(error),
            args=_arguments(error),
            root_cause=getattr(error, "root_cause", "") or ("" if origin is error else describe(origin)),
            tries=getattr(error, "tries", 0),
            nodes=list(getattr(error, "nodes", ())),
        )
        record._error = error
        return record

    def exception(self) -> AltlasError:
        """The error itself, or one as like it as can be made: with its tries, nodes and root cause.

        An error that is not of altlas_flow is a `RequestError` of its text, caused by it where it is known.
        """
        kept = self._error
        if isinstance(kept, AltlasError):
            found, cause = _copy(kept), kept.__cause__
        else:
            found, cause = self._rebuilt(), kept
        found.tries, found.nodes, found.root_cause = self.tries, tuple(self.nodes), self.root_cause
        found.__cause__ = cause
        return found

    def _rebuilt(self) -> AltlasError:
        kind = getattr(errors, self.type, None)
        if isinstance(kind, type) and issubclass(kind, AltlasError):
            try:
                found = kind(*self.args)
            except (TypeError, ValueError, AttributeError):
                pass  # the arguments are of another version, or were written by hand
            else:
                if str(found) == self.message:
                    return found
        return RequestError(self.message)

    @field_validator("args", mode="before")
    @classmethod
    def _decode(cls, value: Any, info: ValidationInfo) -> Any:
        return decode(value, "error.args") if info.mode == "json" else value

    @field_serializer("args", when_used="json")
    def _encode(self, value: Any) -> Any:
        return encode(value, "error.args")

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        if not isinstance(self._error, AltlasError):
            # ours pickle; others may not, and would take the response with them
            state = {**state, "__pydantic_private__": {"_error": None}}
        return state

    def __repr__(self) -> str:
        return f"<ErrorRecord of {self._label()}>"

    def _label(self) -> str:
        known = self.message.startswith(f"{self.type}:") or self.message == self.type
        return self.message if known else f"{self.type}: {self.message}"


def _copy(error: AltlasError) -> AltlasError:
    # a raised error holds the frames that it came through, and they would hold its record
    try:
        return copy(error).with_traceback(error.__traceback__)
    except TypeError:
        return error  # its class is not ours, and takes something else than its args


def _arguments(error: BaseException) -> list[Any]:
    if not isinstance(error, AltlasError):
        return []
    try:
        encode(error.args, "args")
    except BadRequest:
        return []
    return list(error.args)


class InferenceResponse(Record):
    """The answer to one request, or the error that it ended with.

    Attributes
    ----------
    request_id : str
    model_id : str
    node_id : str, optional
        Name of the worker that answered.
    outputs : Any
        What the model gave: one answer for a single input, a list or array for a list of inputs.
    error : ErrorRecord, optional
        Why there is no answer; an exception is taken, too.
    latency : float
        Seconds from submission to the answer.
    queue_time : float
        Seconds of waiting on the worker.
    load_time : float
        Seconds of loading the model, where this request caused it.
    batch_size : int
        Rows of the batch it was predicted in.
    tries : int
        How often it was tried.
    trace : Trace, optional
        Why it went where it went.
    metadata : dict
        The request's.
    decision_id : str, optional
        Of the choice of its model, where that was chosen.
    """

    request_id: str
    model_id: str
    node_id: str | None = None
    outputs: Any = None
    error: ErrorRecord | None = None
    latency: float = Field(default=0.0, ge=0, description="seconds of at least 0")
    queue_time: float = Field(default=0.0, ge=0, description="seconds of at least 0")
    load_time: float = Field(default=0.0, ge=0, description="seconds of at least 0")
    batch_size: int = Field(default=0, ge=0, description="a whole number of at least 0")
    tries: int = Field(default=1, ge=0, description="a whole number of at least 0")
    trace: Trace | None = None
    metadata: dict[str, Any] = Field(default={})
    decision_id: str | None = None

    @classmethod
    def build(
        cls,
        request_id: str,
        model_id: str,
        *,
        node_id: str | None = None,
        outputs: Any = None,
        error: BaseException | ErrorRecord | None = None,
        latency: float = 0.0,
        queue_time: float = 0.0,
        load_time: float = 0.0,
        batch_size: int = 0,
        tries: int = 1,
        trace: Trace | None = None,
        metadata: dict[str, Any] | None = None,
        decision_id: str | None = None,
    ) -> InferenceResponse:
        """A response of values known to be good: nothing is checked or copied."""
        response: InferenceResponse = cls._of(
            {
                "request_id": request_id,
                "model_id": model_id,
                "node_id": node_id,
                "outputs": outputs,
                "error": ErrorRecord.of(error) if isinstance(error, BaseException) else error,
                "latency": latency,
                "queue_time": queue_time,
                "load_time": load_time,
                "batch_size": batch_size,
                "tries": tries,
                "trace": trace,
                "metadata": {} if metadata is None else metadata,
                "decision_id": decision_id,
            }
        )
        return response

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    def raise_for_error(self) -> None:
        """Raise the error that the request ended with; nothing where it was answered.

        Raises
        ------
        AltlasError
            Of its own type where that is known, else `RequestError`.
        """
        if self.error is not None:
            raise self.error.exception()

    @field_validator("error", mode="before")
    @classmethod
    def _take_error(cls, value: Any) -> Any:
        return ErrorRecord.of(value) if isinstance(value, BaseException) else value

    @field_validator("outputs", "metadata", mode="before")
    @classmethod
    def _decode(cls, value: Any, info: ValidationInfo) -> Any:
        return decode(value, str(info.field_name)) if info.mode == "json" else value

    @field_serializer("outputs", "metadata", when_used="json")
    def _encode(self, value: Any, info: Any) -> Any:
        return (encode_rows if info.field_name == "outputs" else encode)(value, info.field_name)

    def __repr__(self) -> str:
        where = "" if self.node_id is None else f" on {self.node_id}"
        what = short(self.outputs) if self.error is None else self.error._label()
        return f"<InferenceResponse of {self.model_id}{where} in {self.latency:.3f} s: {what}>"

    def _repr_html_(self) -> str:
        """What came, and why it came from where it did; everything is escaped."""
        pairs = [
            ("outputs", None if self.outputs is None else short(self.outputs, 300)),
            ("error", None if self.error is None else self.error._label()),
            ("latency", f"{self.latency:.3g} s"),
            ("request", self.request_id),
            ("decision", self.decision_id),
        ]
        what = "answer" if self.ok else "no answer"
        where = f" on node {self.node_id}" if self.node_id else ""
        return facts(
            f"{what} of {self.model_id}{where}", pairs, self.trace._repr_html_() if self.trace else ""
        )
