"""Records that travel between client, scheduler and workers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class InferenceResponse(BaseModel):
    """The answer to one request.

    Attributes
    ----------
    request_id : str
    model_id : str
    node_id : str
        Name of the worker that answered.
    outputs : Any
        What the model gave: one answer for a single input, a list or array for a list of inputs.
    latency : float
        Seconds on the worker, waiting included.
    load_time : float
        Seconds of loading the model, where this request caused it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    request_id: str
    model_id: str
    node_id: str
    outputs: Any = None
    latency: float = Field(default=0.0, ge=0)
    load_time: float = Field(default=0.0, ge=0)

    def __repr__(self) -> str:
        outputs = repr(self.outputs)
        short = outputs if len(outputs) <= 80 else outputs[:79] + "…"
        return f"<InferenceResponse of {self.model_id} on {self.node_id} in {self.latency:.3f} s: {short}>"
