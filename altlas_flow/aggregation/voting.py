"""The label that most of the weight is for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from altlas_flow.aggregation.base import Aggregator, Tally, Verdict, call
from altlas_flow.aggregation.values import check_rows, is_scored, is_scores, kind_of, scalar
from altlas_flow.aggregation.weighing import Quality, Weights
from altlas_flow.errors import BadRequest, Uncombinable, one_line

#: Share of all weight below which a difference is none: sums of floats are not exact.
EXACT = 1e-9


def vote(
    key: Callable[[Any], Any] | None = None,
    weights: Weights | None = None,
    quorum: float | None = None,
    *,
    quality: Quality | None = None,
) -> Vote:
    """The label that most models answer with.

    Settled as soon as those that are missing cannot change it. Between labels of equal weight that counts
    for which the heaviest single model is, and then the one of the model that is named first. Bad where
    answers are free text, of which no two are the same: give a `key`, or one model more to judge.

    Parameters
    ----------
    key : callable, optional
        What of an answer is the vote: the verdict is what it gives. By default the answer itself, and of
        labels with scores the (best) label. None is no vote at all, for whichever label.
    weights : mapping or sequence of numbers, optional
        By model, or in the order in which they are named.
    quorum : int or float, optional
        How many models have to answer: a count, or as a float a share; by default one.
    quality : mapping or callable, optional
        In place of `weights`: what is recorded of a model, or None.

    Returns
    -------
    Vote
        Its agreement is the share of the weight heard that is for the verdict; over rows, the mean.
    """
    return Vote(key, weights=weights, quorum=quorum, quality=quality)


class Vote(Aggregator):
    """See `vote`."""

    name = "vote"

    def __init__(self, key: Callable[[Any], Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if key is not None and not callable(key):
            raise BadRequest(f"key={one_line(repr(key), 60)} is no function: give one of an answer")
        self.key = key

    def code(self) -> tuple[Any, ...]:
        return (*super().code(), *(() if self.key is None else (self.key,)))

    def _tally(self, models: Sequence[str], rows: int | None) -> _VoteTally:
        return _VoteTally(self, models, rows)

    def _verdict(self, given: Mapping[str, Any], tally: Tally) -> Verdict:
        assert isinstance(tally, _VoteTally)
        if tally.rows is None:
            return Verdict(*tally.row(0))
        pairs = [tally.row(row) for row in range(tally.rows)]
        known = [agreement for _, agreement in pairs if agreement is not None]
        return Verdict([label for label, _ in pairs], math.fsum(known) / len(known) if known else None)


class Stand(NamedTuple):
    """How a label stands."""

    label: Any
    score: float
    heaviest: float
    first: float  # place of the first model for it


class _VoteTally(Tally):
    """Votes by model, and row by row."""

    def __init__(self, aggregator: Vote, models: Sequence[str], rows: int | None) -> None:
        super().__init__(aggregator, models, rows)
        self._key = aggregator.key
        self._places = {model: at for at, model in enumerate(self.models)}
        self._votes: dict[str, list[Any]] = {}
        self._decided_rows = 0  # from the first on; a row that is decided stays it
        self._near = EXACT * math.fsum(self.weights.values())

    def _take(self, model: str, outputs: Any) -> None:
        if self.rows is not None:
            check_rows(model, outputs, self.rows)
        answers = [outputs] if self.rows is None else outputs
        self._votes[model] = [self._label(model, answer) for answer in answers]

    def _label(self, model: str, answer: Any) -> Any:
        found = scalar(_label(answer) if self._key is None else call("vote(key=)", self._key, answer))
        try:
            hash(found)
        except TypeError:
            given = "" if self._key is None else "key= gave "
            raise Uncombinable((model,), f"{given}{kind_of(found)}, which is no label to vote by") from None
        return found

    def row(self, row: int) -> tuple[Any, float | None]:
        """The verdict of a row, and the share of weight that is for it."""
        self._check_kinds(row)
        stands = self._stands(row)
        if not stands:
            return None, None  # nobody has voted
        leader = self._leader(stands)
        return leader.label, leader.score / math.fsum(stand.score for stand in stands)

    def _decided(self) -> bool:
        waiting = [model for model in self.models if model not in self.outputs and model not in self.missing]
        rows = 1 if self.rows is None else self.rows
        while self._decided_rows < rows and self._row_decided(self._decided_rows, waiting):
            self._decided_rows += 1
        return self._decided_rows == rows

    def _row_decided(self, row: int, waiting: Sequence[str]) -> bool:
        """Whether the leader stays it, even where all that are missing vote for one other label."""
        stands = self._stands(row)
        if not stands or len({kind_of(stand.label) for stand in stands}) > 1:
            return False
        leader = self._leader(stands)
        more = math.fsum(self.weights[model] for model in waiting)
        heaviest = max(self.weights[model] for model in waiting)
        first = min(self._places[model] for model in waiting)
        rivals = [stand for stand in stands if stand is not leader]
        return all(
            self._leader(
                [
                    leader,
                    Stand(None, rival.score + more, max(rival.heaviest, heaviest), min(rival.first, first)),
                ]
            )
            is leader
            for rival in [*rivals, Stand(None, 0.0, 0.0, math.inf)]
        )

    def _stands(self, row: int) -> list[Stand]:
        supporters: dict[Any, list[str]] = {}
        for model in self.models:
            votes = self._votes.get(model)
            if votes is not None and votes[row] is not None:
                supporters.setdefault(votes[row], []).append(model)
        return [
            Stand(
                label,
                math.fsum(self.weights[model] for model in models),
                max(self.weights[model] for model in models),
                self._places[models[0]],
            )
            for label, models in supporters.items()
        ]

    def _leader(self, stands: Iterable[Stand]) -> Stand:
        stands = list(stands)
        top = max(stand.score for stand in stands) - self._near
        near = [stand for stand in stands if stand.score >= top]
        heaviest = max(stand.heaviest for stand in near) - self._near
        return min((stand for stand in near if stand.heaviest >= heaviest), key=lambda stand: stand.first)

    def _check_kinds(self, row: int) -> None:
        kinds = [
            (model, kind_of(votes[row]))
            for model in self.models
            if (votes := self._votes.get(model)) is not None and votes[row] is not None
        ]
        for (one, kind), (other, differs) in pairwise(kinds):
            if kind != differs:
                where = "" if self.rows is None else f" in row {row}"
                raise Uncombinable((one, other), f"{kind}, and {differs}{where}")


def _label(answer: Any) -> Any:
    """The label that a classifier's record is for; anything else as it is."""
    if is_scored(answer):
        return answer["label"]
    if is_scores(answer):
        return max(answer, key=lambda one: one["score"])["label"]
    return answer
