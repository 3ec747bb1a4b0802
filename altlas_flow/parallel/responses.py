"""What comes of asking several models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from altlas_flow.errors import one_line
from altlas_flow.records import InferenceResponse
from altlas_flow.records.base import short
from altlas_flow.records.html import rows

#: Why a model is missing that was given up since its answer could not change the verdict.
NOT_NEEDED = "not waited for: the verdict was settled"


class Responses(Sequence[InferenceResponse]):
    """The answers of several models, in the order in which those were named, and their verdict.

    Indexed by position, or by the id of a model.

    Attributes
    ----------
    outputs : Any
        The verdict: what the aggregator made of the answers.
    agreement : float or None
        From 0 to 1, how far the models agree with it; see the aggregator.
    missing : dict of str to str
        Models whose answers do not count in it, and why.
    latency : float
        Seconds from the question to the verdict.
    """

    def __init__(
        self,
        responses: Sequence[InferenceResponse],
        outputs: Any,
        *,
        agreement: float | None = None,
        missing: Mapping[str, str] | None = None,
        latency: float = 0.0,
    ) -> None:
        self._responses = tuple(responses)
        self.outputs, self.agreement, self.latency = outputs, agreement, latency
        self.missing = dict(missing or {})

    @property
    def ok(self) -> bool:
        """Whether no model failed or was late; those that were not waited for did neither."""
        return all(reason == NOT_NEEDED for reason in self.missing.values())

    def __len__(self) -> int:
        return len(self._responses)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, str):
            for response in self._responses:
                if response.model_id == at:
                    return response
            raise KeyError(f"no answer of {at!r}: {self.missing.get(at, 'it was not asked')}")
        return self._responses[at]

    def __iter__(self) -> Iterator[InferenceResponse]:
        return iter(self._responses)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        agreed = "" if self.agreement is None else f", agreement {self.agreement:.2f}"
        lacking = "; ".join(f"{model}: {reason}" for model, reason in self.missing.items())
        said = f"{len(self)} of {len(self) + len(self.missing)} models in {self.latency:.3f} s{agreed}"
        without = f" (without {lacking})" if lacking else ""
        return one_line(f"<Responses of {said}: {short(self.outputs)}{without}>")

    def _repr_html_(self) -> str:
        """The verdict, and who answered what; everything is escaped."""
        lines = [
            (one.model_id, one.node_id or "", f"{1000 * one.latency:.0f} ms", short(one.outputs))
            for one in self._responses
        ]
        lines += [(model, "", "", reason) for model, reason in self.missing.items()]
        agreed = "" if self.agreement is None else f", agreement {self.agreement:.2f}"
        asked = f"{len(self)} of {len(self) + len(self.missing)} models in {1000 * self.latency:.0f} ms"
        title = f"verdict of {asked}{agreed}: {short(self.outputs, 200)}"
        return rows(title, ("model", "node", "latency", "answer"), lines)
