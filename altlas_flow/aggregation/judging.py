"""Whether the answer of a small model, or of several, is good enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from altlas_flow.aggregation.base import Aggregator, call
from altlas_flow.aggregation.values import is_number, is_scored, is_scores, kind_of, probabilities, scalar
from altlas_flow.errors import BadRequest, NoQuorum, one_line

SCORE, AGREEMENT = "score", "agreement"
#: Digits of an agreement that count: two thirds are two thirds, however weights were added up.
DIGITS = 6


class Judgement(TypedDict):
    """What a small model answered, and whether that will do.

    Attributes
    ----------
    accepted : bool
    verdict : Any
        The answer; of several models the one that was made of theirs.
    score : float or None
        What was compared with the threshold; None where there is no answer, or `accept` said yes or no.
    """

    accepted: bool
    verdict: Any
    score: float | None


@dataclass(frozen=True)
class Judge:
    """Says whether answers will do; picklable.

    Parameters
    ----------
    accept : "score", "agreement" or callable
        The answer's own score, the share of the models that agree with the verdict, or a function of the
        answer (of several models: of their answers by name): True, False, or a score.
    threshold : float
        The score that is enough.
    combine : Aggregator, optional
        How the answers of several models become one; without it there is one model.
    """

    accept: str | Callable[[Any], Any]
    threshold: float
    combine: Aggregator | None = None

    def __call__(self, given: Any) -> Judgement:
        """Judge what one model answered, or several by name; None is no answer, and never accepted.

        Raises
        ------
        BadRequest
            Where an answer has no score.
        Uncombinable, AggregationFailed
        """
        verdict, agreement = given, None
        if self.combine is not None:
            try:
                verdict, agreement = self._combined(self.combine, given)
            except NoQuorum:
                verdict = None
        if verdict is None:
            return Judgement(accepted=False, verdict=None, score=None)
        if callable(self.accept):
            said = scalar(call("cascade(accept=)", self.accept, given))
            if isinstance(said, bool):
                return Judgement(accepted=said, verdict=verdict, score=None)
            if not is_number(said):
                raise BadRequest(
                    f"accept= gave {kind_of(said)}: have it give True or False, or a score as a number"
                )
            score = float(said)
        elif self.accept == AGREEMENT:
            if agreement is None:
                raise BadRequest("combine= tells no agreement of these answers: give a function as accept=")
            score = round(agreement, DIGITS)
            return Judgement(accepted=score >= round(self.threshold, DIGITS), verdict=verdict, score=score)
        else:
            score = score_of(verdict)
        return Judgement(accepted=score >= self.threshold, verdict=verdict, score=score)

    def digest_parts(self) -> list[Any]:
        """What decides how it judges."""
        return [self.accept, self.threshold, self.combine]

    @staticmethod
    def _combined(combine: Aggregator, given: Mapping[str, Any]) -> tuple[Any, float | None]:
        tally = combine.begin(list(given))
        for model, answer in given.items():
            if answer is None:
                tally.miss(model, "it has no answer")
            else:
                tally.add(model, answer)
        found = tally.verdict()
        return found.outputs, found.agreement


def score_of(answer: Any) -> float:
    """How sure an answer is by what it says itself.

    A number is its own score; a label has the one beside it, and labels with scores, or a map of labels to
    numbers, the highest.

    Raises
    ------
    BadRequest
        Where it has none.

    Examples
    --------
    >>> score_of({"label": "good", "score": 0.75}), score_of({"good": 0.5, "bad": 0.25}), score_of(0.125)
    (0.75, 0.5, 0.125)
    """
    answer = scalar(answer)
    if isinstance(answer, Mapping) and "score" in answer:
        answer = scalar(answer["score"])
    elif is_scores(answer):
        return max(probabilities("small", answer).values())
    elif isinstance(answer, Mapping) and answer:
        numbers = [scalar(one) for one in answer.values()]
        if all(map(is_number, numbers)):
            return float(max(numbers))
    if is_number(answer):
        return float(answer)
    shown = one_line(repr(answer), 60)
    what = "a label" if is_scored(answer) else kind_of(answer)
    raise BadRequest(
        f"the small model's answer, {what} ({shown}), has no score: have it answer with one, "
        "or give a function of the answer as accept="
    )
