"""Stacking: an estimator that was fitted on the outputs of models decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from altlas_flow.aggregation.base import call
from altlas_flow.aggregation.values import check_rows, is_scored, is_scores, kind_of, probabilities, scalar
from altlas_flow.errors import BadRequest, Uncombinable, one_line


class Stacking:
    """A scikit-learn estimator over the outputs of several models; picklable.

    Each answer becomes numbers: a number itself, an array its entries, a map of labels the number of each
    label, a label (with a score or without) a column a label. (Wolpert, "Stacked generalization", Neural
    Networks 5, 1992.)

    Parameters
    ----------
    estimator : scikit-learn estimator, optional
        A copy of it is fitted; by default a logistic regression.
    """

    def __init__(self, estimator: Any = None) -> None:
        if estimator is not None and not (hasattr(estimator, "fit") and hasattr(estimator, "predict")):
            raise BadRequest(
                f"{one_line(repr(estimator), 60)} is no estimator: give one of scikit-learn, "
                "with fit and predict"
            )
        self.estimator = estimator
        self._fitted: Any = None
        self._columns: dict[str, _Columns] = {}

    def fit(self, outputs: Mapping[str, Any], targets: Any) -> Stacking:
        """Fit on rows that the models have not been trained on.

        Parameters
        ----------
        outputs : mapping
            By model, its answers to the rows: a list or an array.
        targets : sequence
            What would be right, row by row.

        Returns
        -------
        Stacking
            Itself.

        Raises
        ------
        BadRequest, Uncombinable
        AggregationFailed
            Where the estimator raises.
        """
        count = len(targets)
        if not outputs or not count:
            raise BadRequest("a Stacking is fitted on outputs by model, and at least one row: give both")
        for model, answers in outputs.items():
            check_rows(model, answers, count)
        columns = {model: _Columns.of(model, answers) for model, answers in outputs.items()}
        table = np.hstack([columns[model].table(model, answers) for model, answers in outputs.items()])
        self._fitted = call("Stacking.fit()", _fitted, self.estimator, table, targets)
        self._columns = columns
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Those that it was fitted on; none before that."""
        return tuple(self._columns)

    def check(self, models: Sequence[str]) -> None:
        """See that it was fitted on these models.

        Raises
        ------
        BadRequest
        """
        if self._fitted is None:
            raise BadRequest("this Stacking is not fitted: call its fit(outputs by model, targets) first")
        if set(models) != set(self._columns):
            raise BadRequest(
                f"this Stacking was fitted on the models {', '.join(self._columns)}, not on "
                f"{', '.join(models)}: ask those, or fit it again"
            )

    def predict(self, outputs: Mapping[str, Any]) -> list[Any]:
        """What the estimator makes of answers, row by row.

        Parameters
        ----------
        outputs : mapping
            By model, its answers: a list or an array.

        Raises
        ------
        BadRequest
            Where it is not fitted, or not on these models.
        Uncombinable, AggregationFailed
        """
        self.check(list(outputs))
        count = len(outputs[next(iter(self._columns))])
        for model, answers in outputs.items():
            check_rows(model, answers, count)
        if not count:
            return []
        table = np.hstack([columns.table(model, outputs[model]) for model, columns in self._columns.items()])
        predicted = call("Stacking.predict()", self._fitted.predict, table)
        return list(np.asarray(predicted).tolist())

    def __repr__(self) -> str:
        on = f"fitted on {', '.join(self._columns)}" if self._columns else "not fitted"
        return f"<Stacking: {one_line(repr(self._fitted or self.estimator), 80)}, {on}>"


def _fitted(estimator: Any, table: np.ndarray, targets: Any) -> Any:
    try:
        from sklearn.base import clone
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise BadRequest("a Stacking needs scikit-learn: pip install scikit-learn") from error
    made = LogisticRegression(max_iter=1000) if estimator is None else clone(estimator)
    return made.fit(table, np.asarray(targets))


@dataclass(frozen=True)
class _Columns:
    """How the answers of one model become numbers.

    Attributes
    ----------
    kind : str
        ``numbers``, ``map`` or ``labels``.
    labels : tuple
        Of the last two: a column each.
    width : int
    """

    kind: str
    labels: tuple[Any, ...]
    width: int

    @classmethod
    def of(cls, model: str, answers: Any) -> _Columns:
        sample = scalar(answers[0])
        if is_scored(sample) or isinstance(sample, (str, bool)):
            seen = dict.fromkeys(_scored(model, answer)[0] for answer in answers)
            labels = tuple(sorted(seen, key=repr))
            return cls("labels", labels, len(labels))
        if isinstance(sample, Mapping) or is_scores(sample):
            labels = tuple(dict.fromkeys(label for answer in answers for label in _map(model, answer)))
            return cls("map", labels, len(labels))
        return cls("numbers", (), _numbers(model, sample).size)

    def table(self, model: str, answers: Any) -> np.ndarray:
        """Shape (rows, width)."""
        table = np.zeros((len(answers), self.width))
        places = {label: at for at, label in enumerate(self.labels)}
        for row, answer in enumerate(answers):
            if self.kind == "numbers":
                found = _numbers(model, answer)
                if found.size != self.width:
                    raise Uncombinable(
                        (model,), f"{found.size} numbers in row {row}, {self.width} in the others"
                    )
                table[row] = found
                continue
            shares = dict([_scored(model, answer)]) if self.kind == "labels" else _map(model, answer)
            for label, share in shares.items():
                if label in places:  # one that was not there to be learnt tells nothing
                    table[row, places[label]] = share
        return table


def _map(model: str, answer: Any) -> dict[Any, float]:
    if not (isinstance(answer, Mapping) or is_scores(answer)) or is_scored(answer):
        raise Uncombinable((model,), f"{kind_of(answer)} among maps of labels")
    return probabilities(model, answer)


def _scored(model: str, answer: Any) -> tuple[Any, float]:
    """A label, and its score; 1 where it has none."""
    answer = scalar(answer)
    if is_scored(answer):
        ((label, share),) = probabilities(model, [answer]).items()
        return label, share
    if isinstance(answer, (str, bool, int)):
        return answer, 1.0
    raise Uncombinable((model,), f"{kind_of(answer)} among labels")


def _numbers(model: str, answer: Any) -> np.ndarray:
    answer = scalar(answer)
    if isinstance(answer, (Real, list, tuple, np.ndarray)):
        try:
            found = np.asarray(answer).ravel()
        except ValueError:
            raise Uncombinable((model,), "rows of unequal length") from None
        if found.dtype.kind in "iufb":
            return found.astype(np.float64)
    raise Uncombinable((model,), f"{kind_of(answer)}, of which no numbers can be made")
