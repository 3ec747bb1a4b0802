"""How a choice is to be made, as people say it: checked once, and then the same for many inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altlas_flow.errors import BadRequest, SelectionError, one_line
from altlas_flow.records.decision import AdvancedModelSelectionStrategy
from altlas_flow.selection.features import NAME_LIMIT, Known, known, vector_of
from altlas_flow.selection.goal import Goal, goal_of
from altlas_flow.selection.language import language_of

#: What may be said of a choice beside the task and the inputs.
CHOOSE = frozenset({"context", "embed", "language", "strategy", "weights", "constraints", "explore"})
#: Those of them that are no model's parameters, as far as anybody knows.
OF_CHOICE = frozenset({"constraints", "explore", "weights"})
#: The least part of decisions that goes to models by chance.
EXPLORE = 0.01
#: Characters of a token, about.
TOKEN = 4.0
#: Feature that says which kind of its task an input is.
SUBTYPE = "subtype"

#: Feature that says how many requests of the task the client had under way: others wait behind them.
UNDER_WAY = "under_way"
#: Feature that says in which language a text is.
LANGUAGE = "language"
#: Feature that tells rows of a frame, which come in batches, from requests: latencies differ.
IN_ROWS = "in_rows"

#: What is known of an input, or a function of the input that says it.
Context = Mapping[str, Any] | Callable[[Any], Mapping[str, Any] | None] | None


@dataclass(frozen=True)
class Wanted:
    """How a choice is to be made.

    Attributes
    ----------
    goal : Goal
    strategy : AdvancedModelSelectionStrategy
    explore : float
    """

    goal: Goal
    strategy: AdvancedModelSelectionStrategy
    explore: float


def wanted(
    *,
    strategy: AdvancedModelSelectionStrategy | str = AdvancedModelSelectionStrategy.HYBRID,
    weights: Mapping[str, float] | None = None,
    constraints: Mapping[str, Any] | None = None,
    explore: float = EXPLORE,
) -> Wanted:
    """Read what people say of a choice.

    Raises
    ------
    SelectionError
    """
    return Wanted(goal_of(weights, constraints), strategy_of(strategy), explore_of(explore))


def options_of(choose: Any) -> dict[str, Any]:
    """What was given as `choose=`: names that `select` takes.

    Raises
    ------
    BadRequest
    """
    if choose is None:
        return {}
    if not isinstance(choose, Mapping) or not set(choose) <= CHOOSE:
        raise BadRequest(
            f"choose={one_line(repr(choose), 80)}: give a mapping of {', '.join(sorted(CHOOSE))}"
        )
    return dict(choose)


def task_of(task: Any) -> str:
    """The name of a task.

    Raises
    ------
    SelectionError
    """
    if not isinstance(task, str) or not 0 < len(task) <= NAME_LIMIT:
        raise SelectionError(f"task={task!r:.80} is no name: give a text such as 'summarise'")
    return task


def features_of(
    inputs: Any,
    context: Context = None,
    *,
    in_rows: bool = False,
    vector: Any = None,
    language: bool = False,
    under_way: int = 0,
) -> Known:
    """What is known of an input: what the context says, and what can be seen, where that does not say it.

    Parameters
    ----------
    inputs : Any
    context : mapping or callable, optional
    in_rows : bool
        It is a row among others, not a request.
    vector : array, shape (wide,), optional
        Its embedding.
    language : bool
        Whether the language of a text is a feature.
    under_way : int
        Requests of the task that have no answer yet.

    Raises
    ------
    FeatureError, SelectionError
    """
    said = context(inputs) if callable(context) else context
    if vector is not None and (said is None or isinstance(said, Mapping)):
        said = {"embedding": vector_of(vector, "the model"), **(said or {})}
    features = known(said)
    length = length_of(inputs)
    if length is not None:
        features.setdefault("input_length", length)
    if language and LANGUAGE not in features and (found := language_of(inputs)) is not None:
        features[LANGUAGE] = found
    features.setdefault(IN_ROWS, float(in_rows))
    features.setdefault(UNDER_WAY, float(under_way))
    return features


def language_asked(value: Any) -> bool:
    """Whether the language is to be a feature.

    Raises
    ------
    SelectionError
    """
    if not isinstance(value, bool):
        raise SelectionError(
            f"language={one_line(repr(value), 60)} is neither True nor False: True to have it found, or "
            'context={"language": ...} where it is known'
        )
    return value


def subtype_of(features: Known) -> str | None:
    """Which kind of its task an input is, where that is said."""
    found = features.get(SUBTYPE)
    return found if isinstance(found, str) else None


def length_of(inputs: Any) -> float | None:
    """Tokens of a text, or of the longest of several, about; None where there is no text."""
    if isinstance(inputs, str):
        return len(inputs) / TOKEN
    if isinstance(inputs, Sequence) and inputs and all(isinstance(item, str) for item in inputs):
        return max(map(len, inputs)) / TOKEN
    return None


def strategy_of(value: AdvancedModelSelectionStrategy | str) -> AdvancedModelSelectionStrategy:
    """A strategy by its name.

    Raises
    ------
    SelectionError
    """
    try:
        return AdvancedModelSelectionStrategy(value)
    except ValueError as error:
        shown = one_line(repr(value), 60)
        raise SelectionError(
            f"strategy={shown} is not known: there are {', '.join(AdvancedModelSelectionStrategy)}"
        ) from error


def explore_of(value: float) -> float:
    """The part of decisions that goes to models by chance.

    Raises
    ------
    SelectionError
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise SelectionError(f"explore={value!r}: give a number from 0 to 1")
    return float(value)
