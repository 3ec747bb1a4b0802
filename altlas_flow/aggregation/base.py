"""What all aggregators share: who was asked, who answered, and how many have to.

A tally goes through these states::

    open -> settled -> complete

*open* while an answer that is missing may change the verdict, *settled* when none can any more, *complete*
when all that were asked have answered, or will not. Answers are taken in each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from altlas_flow.aggregation.weighing import Quality, Weights, needed_of, weights_of
from altlas_flow.errors import AggregationFailed, AltlasError, BadRequest, NoQuorum, located, names


@dataclass(frozen=True)
class Verdict:
    """What came of the answers.

    Attributes
    ----------
    outputs : Any
    agreement : float or None
        From 0 to 1, the share of weight that agrees with the verdict; None where it means nothing. Over
        rows: the mean.
    """

    outputs: Any
    agreement: float | None = None


class Aggregator(ABC):
    """A recipe of how answers become one; picklable, and it keeps nothing of what it was fed.

    Parameters
    ----------
    quorum : int or float, optional
        How many of the models that are asked have to answer: a count, or as a float a share of them, such
        as 0.5; by default one.
    weights : mapping or sequence of numbers, optional
        By model, or in the order in which the models are named; all are equal by default. Only their
        proportions count.
    quality : mapping or callable, optional
        In place of `weights`: what is recorded of a model, a number from 0 up, or None. Those of which
        nothing is recorded have the mean of the others.
    """

    #: What it is called in errors, and in `label`.
    name: str = ""
    quorum: float | None = None
    weights: Weights | None = None
    quality: Quality | None = None

    def __init__(
        self,
        *,
        quorum: float | None = None,
        weights: Weights | None = None,
        quality: Quality | None = None,
    ) -> None:
        if weights is not None and quality is not None:
            raise BadRequest(f"{self.name}() takes weights or quality: leave one of them out")
        needed_of(quorum)
        self.quorum, self.weights, self.quality = quorum, weights, quality

    def begin(self, models: Sequence[str], rows: int | None = None) -> Tally:
        """Begin to collect.

        Parameters
        ----------
        models : sequence of str
            Those that are asked, in the order that decides between equals.
        rows : int, optional
            Where each was asked for a list of so many, and answers with as many: these are then combined row
            by row.

        Returns
        -------
        Tally

        Raises
        ------
        BadRequest
            Where there are no models, one comes twice, or weights and quorum do not fit them.
        """
        return self._tally(models, rows)

    def check(self, models: Sequence[str]) -> None:
        """See that the quorum and weights fit those whose answers it is written for, and name no others.

        What `begin` finds out beyond that may change until then: what is recorded, whether a `Stacking` is
        fitted.

        Raises
        ------
        BadRequest
        """
        needed_of(self.quorum, len(models))
        for name in self.weights if isinstance(self.weights, Mapping) else ():
            if name not in models:
                near = get_close_matches(str(name), models, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {names(models)}"
                raise BadRequest(f"weights have one for {name!r}, which is not asked: {hint}")
        weights_of(self.weights, None, models)

    def combine(self, outputs: Mapping[str, Any], rows: int | None = None) -> Any:
        """All answers at once; None is that of a model that has none.

        Raises
        ------
        NoQuorum, Uncombinable, AggregationFailed, BadRequest
        """
        tally = self.begin(list(outputs), rows)
        for model, given in outputs.items():
            if given is None:
                tally.miss(model, "it has no answer")
            else:
                tally.add(model, given)
        return tally.verdict().outputs

    def label(self) -> dict[str, Any]:
        """What it is, as JSON can hold it: the same for the same recipe, but for what `code` gives."""
        said: dict[str, Any] = {"aggregator": self.name}
        if self.quorum is not None:
            said["quorum"] = self.quorum
        if self.weights is not None:
            given = self.weights
            said["weights"] = (
                {str(model): float(weight) for model, weight in given.items()}
                if isinstance(given, Mapping)
                else [float(weight) for weight in given]
            )
        return said

    def code(self) -> tuple[Any, ...]:
        """What was given that JSON cannot hold, and that belongs to the recipe: functions, estimators."""
        return () if self.quality is None else (self.quality,)

    def digest_parts(self) -> dict[str, Any]:
        """What decides how it combines; of a class that derives from it, too."""
        return vars(self)

    def _tally(self, models: Sequence[str], rows: int | None) -> Tally:
        return Tally(self, models, rows)

    @abstractmethod
    def _verdict(self, given: Mapping[str, Any], tally: Tally) -> Verdict:
        """Of what was answered, in declared order."""

    def __repr__(self) -> str:
        said = [f"{key}={value!r}" for key, value in self.label().items() if key != "aggregator"]
        return f"af.{self.name}({', '.join(said)})"


class Tally:
    """Answers of one question as they arrive, in any order.

    Attributes
    ----------
    models : tuple of str
    rows : int or None
    weights : dict of str to float
    needed : int
        How many have to answer.
    outputs : dict of str to Any
        By model, of those that answered.
    missing : dict of str to str
        Those that will not, and why.
    """

    def __init__(self, aggregator: Aggregator, models: Sequence[str], rows: int | None) -> None:
        if isinstance(models, str) or not models:
            raise BadRequest("no models are named: give a list of at least one")
        names = tuple(models)
        if twice := [name for at, name in enumerate(names) if name in names[:at]]:
            raise BadRequest(f"model {twice[0]!r} is named twice: name each once")
        self.aggregator, self.models, self.rows = aggregator, names, rows
        self.weights = call(
            f"{aggregator.name}(quality=)", weights_of, aggregator.weights, aggregator.quality, names
        )
        self.needed = needed_of(aggregator.quorum, len(names))
        self.outputs: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        self._failures: dict[str, AltlasError] = {}

    def add(self, model: str, outputs: Any) -> None:
        """A model has answered.

        What is wrong with the answer is raised by `verdict`: it must not cost the others theirs.
        """
        self._heard(model)
        self.outputs[model] = outputs
        try:
            self._take(model, outputs)
        except AltlasError as error:
            self._failures[model] = error

    def miss(self, model: str, reason: str) -> None:
        """A model will not answer."""
        self._heard(model)
        self.missing[model] = reason

    @property
    def complete(self) -> bool:
        """Whether all that were asked have answered, or will not."""
        return len(self.outputs) + len(self.missing) == len(self.models)

    @property
    def settled(self) -> bool:
        """Whether nothing that may still arrive can change the verdict."""
        if self.complete:
            return True
        return len(self.outputs) >= self.needed and not self._failures and self._decided()

    def verdict(self) -> Verdict:
        """Of what has arrived so far.

        Raises
        ------
        NoQuorum
            Where too few have answered.
        Uncombinable
            Where answers do not go together.
        AggregationFailed
            Where a function that was given raises.
        """
        given = {model: self.outputs[model] for model in self.models if model in self.outputs}
        if len(given) < self.needed:
            silent = [model for model in self.models if model not in given and model not in self.missing]
            raise NoQuorum(
                len(given), self.needed, {**self.missing, **dict.fromkeys(silent, "no answer yet")}
            )
        for model in self.models:
            if model in self._failures:
                raise self._failures[model]
        found: Verdict = call(f"{self.aggregator.name}()", self.aggregator._verdict, given, self)
        return found

    def _heard(self, model: str) -> None:
        if model not in self.models:
            raise BadRequest(f"model {model!r} was not asked: those that were are {', '.join(self.models)}")
        if model in self.outputs or model in self.missing:
            raise BadRequest(f"model {model!r} has answered already: an answer counts once")

    def _take(self, model: str, outputs: Any) -> None:
        """What is to be done with an answer at once."""

    def _decided(self) -> bool:
        """Whether what is missing cannot change the verdict; asked where the quorum is there."""
        return False


def call(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call somebody else's code; what that raises is an `AggregationFailed` which names its line."""
    try:
        return function(*arguments)
    except AltlasError:
        raise
    except Exception as error:
        # whatever a function of the user's own raises
        raise AggregationFailed(what, located(error)) from error
