"""The first answer that will do, and all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from altlas_flow.aggregation.base import Aggregator, Tally, Verdict, call
from altlas_flow.errors import AltlasError, BadRequest


def first(valid: Callable[[Any], Any] | None = None) -> First:
    """The first valid answer counts; the others are not waited for.

    Good where models are equally good and one has to be quick; it costs the work of all of them.

    Parameters
    ----------
    valid : callable, optional
        Of the outputs; what it gives False for is not taken. What it raises is an error of its own. By
        default whatever is no error is taken.
    """
    return First(valid)


def prefer(valid: Callable[[Any], Any] | None = None) -> Prefer:
    """The answer of the model that is named first counts, and where it has none that of the next.

    Those after one that has answered are not waited for; at a deadline, what is there by then counts.

    Parameters
    ----------
    valid : callable, optional
        As of `first`.
    """
    return Prefer(valid)


def every(quorum: float | None = None) -> Every:
    """All answers, as a dict by model in the order in which the models are named.

    Parameters
    ----------
    quorum : int or float, optional
        How many have to answer: a count, or as a float a share; by default one.
    """
    return Every(quorum=quorum)


class First(Aggregator):
    """See `first`."""

    name = "first"

    def __init__(self, valid: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        if valid is not None and not callable(valid):
            raise BadRequest(f"valid={valid!r} is no function: give one of the outputs")
        self.valid = valid

    def code(self) -> tuple[Any, ...]:
        return () if self.valid is None else (self.valid,)

    def _tally(self, models: Sequence[str], rows: int | None) -> Tally:
        return _FirstTally(self, models, rows)

    def _verdict(self, given: Mapping[str, Any], tally: Tally) -> Verdict:
        return Verdict(tally.outputs[next(iter(tally.outputs))])  # in order of arrival


class Prefer(First):
    """See `prefer`."""

    name = "prefer"

    def _tally(self, models: Sequence[str], rows: int | None) -> Tally:
        return _PreferTally(self, models, rows)

    def _verdict(self, given: Mapping[str, Any], tally: Tally) -> Verdict:
        return Verdict(next(iter(given.values())))  # in declared order


class _FirstTally(Tally):
    """Answers that are not valid are missing ones."""

    _broken: AltlasError | None = None

    def add(self, model: str, outputs: Any) -> None:
        aggregator = self.aggregator
        valid = aggregator.valid if isinstance(aggregator, First) else None
        try:
            taken = valid is None or call(f"{aggregator.name}(valid=)", _truth, valid, outputs)
        except AltlasError as error:
            # the next answer may be one that it can judge
            self._broken = self._broken or error
            self.miss(model, str(error))
            return
        if taken:
            super().add(model, outputs)
        else:
            self.miss(model, "its answer is not valid: valid= refused it")

    def verdict(self) -> Verdict:
        if not self.outputs and self._broken is not None:
            raise self._broken
        return super().verdict()

    def _decided(self) -> bool:
        return True


class _PreferTally(_FirstTally):
    def _decided(self) -> bool:
        return next(model for model in self.models if model not in self.missing) in self.outputs


def _truth(valid: Callable[[Any], Any], outputs: Any) -> bool:
    return bool(valid(outputs))


class Every(Aggregator):
    """See `every`."""

    name = "every"

    def _verdict(self, given: Mapping[str, Any], tally: Tally) -> Verdict:
        return Verdict(dict(given))
