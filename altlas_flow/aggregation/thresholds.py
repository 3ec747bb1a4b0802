"""Which score is good enough: how often the large model would be asked, and how many answers were right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

from altlas_flow.aggregation.base import call
from altlas_flow.aggregation.values import is_number, is_scored, is_scores, scalar
from altlas_flow.errors import BadRequest, TargetUnreachable, one_line

SHARE, QUALITY = "share", "quality"
#: What two shares or qualities may differ by and be one: sums of floats are not exact.
NEAR = 1e-9


class Point(NamedTuple):
    """What a threshold would have made of a sample.

    Attributes
    ----------
    threshold : float
        Scores of at least it are accepted; infinite: none is.
    share : float
        Of the sample, how much goes to the large model, from 0 to 1.
    quality : float or None
        How much of the sample is answered right; None where no truths were given.
    """

    threshold: float
    share: float
    quality: float | None = None


def curve_of(
    scores: Sequence[float | None],
    small: Sequence[float] | None = None,
    large: Sequence[float] | None = None,
) -> tuple[Point, ...]:
    """What each threshold that makes a difference would have made of a sample, fewest large calls first.

    Rows of equal scores go the same way, whatever the threshold.

    Parameters
    ----------
    scores : sequence of float or None
        Row by row; None and NaN are never accepted.
    small, large : sequence of float, optional
        How right the answers are, from 0 to 1.

    Returns
    -------
    tuple of Point
        The last one accepts nothing.
    """
    count = len(scores)
    known = sorted((score, row) for row, score in enumerate(scores) if score is not None and score == score)
    groups = [(score, [row for _, row in rows]) for score, rows in groupby(known, key=lambda one: one[0])]
    # how many rows are below each score, and what it is worth to have the large one do them
    below = list(accumulate((len(rows) for _, rows in groups), initial=count - len(known)))
    thresholds = [*(score for score, _ in groups), math.inf]
    if small is None or large is None:
        return tuple(Point(at, asked / count) for at, asked in zip(thresholds, below, strict=True))
    scored = {row for _, row in known}
    first = math.fsum(small[row] if row in scored else large[row] for row in range(count))
    gains = [math.fsum(large[row] - small[row] for row in rows) for _, rows in groups]
    right = accumulate(gains, initial=first)
    return tuple(
        Point(at, asked / count, worth / count)
        for at, asked, worth in zip(thresholds, below, right, strict=True)
    )


def choose(curve: Sequence[Point], target: Any) -> Point:
    """The point of a curve that a target asks for.

    Parameters
    ----------
    curve : sequence of Point
    target : float or mapping
        A number, or ``{"share": 0.2}``: as many rows as may be go to the large model, and no more than that
        share. ``{"quality": 0.95}``: as few as may be, so that at least that much is right.

    Raises
    ------
    TargetUnreachable
        With the best that can be reached.
    BadRequest
    """
    what, wanted = target_of(target)
    if what == SHARE:
        if fitting := [point for point in curve if point.share <= wanted + NEAR]:
            return max(fitting, key=lambda point: point.share)
        raise TargetUnreachable(what, wanted, min(point.share for point in curve))
    qualities = [point.quality for point in curve if point.quality is not None]
    if not qualities:
        raise BadRequest("a quality cannot be reached without truths: calibrate(sample, truths=...)")
    enough = [point for point in curve if point.quality is not None and point.quality >= wanted - NEAR]
    if enough:
        return min(enough, key=lambda point: point.share)
    raise TargetUnreachable(what, wanted, max(qualities))


def target_of(target: Any) -> tuple[str, float]:
    """What is wished for, and how much of it.

    Raises
    ------
    BadRequest
    """
    given = {SHARE: target} if is_number(target) else target
    if isinstance(given, Mapping) and len(given) == 1:
        ((what, wanted),) = given.items()
        if what in (SHARE, QUALITY) and is_number(wanted) and 0 <= wanted <= 1:
            return str(what), float(wanted)
    raise BadRequest(
        f"target={one_line(repr(target), 60)} is none: give {{'share': 0.2}} or {{'quality': 0.95}}, "
        "from 0 to 1"
    )


def rightness(
    answers: Sequence[Any], truths: Sequence[Any], right: Callable[[Any, Any], Any] | None = None
) -> list[float]:
    """How right each answer is, from 0 to 1.

    Parameters
    ----------
    answers, truths : sequence
    right : callable, optional
        Of an answer and its truth: whether it is right, or how much. By default an answer is right whose
        label is that of the truth: of labels with scores and maps of labels the best one, else all of it.

    Raises
    ------
    BadRequest
        Where `right` gives no number from 0 to 1.
    AggregationFailed
        Where it raises.
    """
    if right is None:
        return [
            float(_same(label_of(answer), label_of(truth)))
            for answer, truth in zip(answers, truths, strict=True)
        ]
    found = []
    for answer, truth in zip(answers, truths, strict=True):
        worth = scalar(call("calibrate(right=)", right, answer, truth))
        if not isinstance(worth, bool) and not (is_number(worth) and 0 <= worth <= 1):
            shown = one_line(repr(worth), 60)
            raise BadRequest(f"right= gave {shown}: give True or False, or a number from 0 to 1")
        found.append(float(worth))
    return found


def label_of(answer: Any) -> Any:
    """The label that an answer is for; what has no labels is one itself."""
    answer = scalar(answer)
    if is_scored(answer):
        return scalar(answer["label"])
    if is_scores(answer):
        return max(answer, key=lambda one: float(one["score"]))["label"]
    if isinstance(answer, Mapping) and answer and all(map(is_number, map(scalar, answer.values()))):
        return max(answer, key=lambda label: float(answer[label]))
    return answer


def _same(one: Any, other: Any) -> bool:
    found: Any = one == other
    # of arrays: all their entries
    return bool(found.all()) if hasattr(found, "all") else bool(found)
