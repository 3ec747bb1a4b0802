"""`Choices`: the part of a `Flow` that chooses models for tasks, and learns from what comes of it."""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.client.handle import Handle
from altlas_flow.cluster.client.transport import Transport
from altlas_flow.errors import ReplayError, SelectionError, UnknownDecision
from altlas_flow.models.spec import ModelSpec
from altlas_flow.records import AdvancedModelSelectionStrategy, Decision, InferenceResponse
from altlas_flow.selection.features import vector_of
from altlas_flow.selection.wanted import EXPLORE, features_of, language_asked, subtype_of, task_of, wanted

if TYPE_CHECKING:
    import pandas as pd

    from altlas_flow.cluster.choosing import Choice
    from altlas_flow.learning.course import Course
    from altlas_flow.selection.replay import Policy, Replay


#: Seconds that an embedding may take that a choice waits for.
EMBED_LIMIT = 60.0


class Selected(list[str]):
    """Ids of models, the first of which was drawn.

    Attributes
    ----------
    decision : Decision
        Why.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.models)
        self.decision = decision


class Choices(ABC):
    """Chooses among the models that serve a task; a `Flow` is one."""

    _transport: Transport

    @abstractmethod
    def _check_open(self) -> None:
        """Raise `ConnectError` where the flow is closed."""

    @abstractmethod
    def submit(self, model: Any = None, inputs: Any = None, **options: Any) -> Any:
        """Ask for one prediction."""

    @abstractmethod
    def _find(self, model: str | ModelSpec) -> ModelSpec:
        """The spec that is meant."""

    def select(
        self,
        task: str,
        inputs: Any = None,
        *,
        context: Mapping[str, Any] | None = None,
        embed: str | ModelSpec | None = None,
        language: bool = False,
        strategy: AdvancedModelSelectionStrategy | str = AdvancedModelSelectionStrategy.HYBRID,
        weights: Mapping[str, float] | None = None,
        constraints: Mapping[str, Any] | None = None,
        explore: float = EXPLORE,
        top_k: int = 1,
        record: bool = True,
    ) -> Decision:
        """Choose a model for a task, by what all clients have learned so far.

        Parameters
        ----------
        task : str
            What the models shall do: the ``task`` of their specs, or one that they ``serve``.
        inputs : Any, optional
            Its length is a feature, ``input_length`` in tokens (about), and so is how many requests of this
            client for the task have no answer yet, ``under_way``, where the context does not say them.
        context : mapping, optional
            What is known of the input: numbers, words, and at most one vector. The word ``subtype`` says what
            kind of the task it is: models with that speciality are preferred by HYBRID and SPECIALIZED.
        embed : str or ModelSpec, optional
            A model that embeds texts: the embedding of the inputs is a feature. It is asked and waited for
            before the choice is made.
        language : bool
            Whether the language of a text is a feature (extra ``language``), where the context does not say
            it.
        strategy : AdvancedModelSelectionStrategy or str
            HYBRID: specialities, constraints, then what is worth most for this input. SPECIALIZED: the same.
            CONTEXT_AWARE: without specialities. MULTI_OBJECTIVE: without models that others are better than
            in every respect. ADAPTIVE: whatever the input.
        weights : mapping, optional
            How much ``quality``, ``latency`` and ``cost`` count; the last two in units of what is usual.
        constraints : mapping, optional
            What must hold: ``{"latency_p95": "300ms", "cost_per_1k": 2.0, "quality": 0.8}``.
        explore : float
            The least part of decisions that goes to models by chance; 0: the best is taken.
        top_k : int
            Models that are named at most.
        record : bool
            False: only look; the decision is not logged, and nothing can be said of it.

        Returns
        -------
        Decision
            Its ``model`` was drawn; printed, it says why. Tell what came of it by `feedback`.

        Raises
        ------
        NothingServes, NoModelFits, FeatureError, SelectionError, ClusterLost
        """
        choice = self._choose(
            task,
            inputs,
            context=context,
            embed=embed,
            language=language,
            strategy=strategy,
            weights=weights,
            constraints=constraints,
            explore=explore,
            top_k=top_k,
        )
        if record:
            self._transport.choosing().use(choice)
        return choice.decision

    def _choose(
        self,
        task: str,
        inputs: Any = None,
        *,
        context: Mapping[str, Any] | None = None,
        embed: str | ModelSpec | None = None,
        language: bool = False,
        strategy: AdvancedModelSelectionStrategy | str = AdvancedModelSelectionStrategy.HYBRID,
        weights: Mapping[str, float] | None = None,
        constraints: Mapping[str, Any] | None = None,
        explore: float = EXPLORE,
        top_k: int = 1,
        request_id: str | None = None,
    ) -> Choice:
        """As `select`, but nothing follows from it yet."""
        self._check_open()
        task = task_of(task)
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise SelectionError(f"top_k={top_k!r}: give a whole number of at least 1")
        vector = None if embed is None else self._embedding(embed, inputs)
        choosing = self._transport.choosing()
        features = features_of(
            inputs,
            context,
            vector=vector,
            language=language_asked(language),
            under_way=choosing.under_way[task],
        )
        how = wanted(strategy=strategy, weights=weights, constraints=constraints, explore=explore)
        own = os.urandom(16).hex()
        if request_id is not None and len(request_id) == len(own) and not choosing.made(request_id):
            own = request_id  # one that was made by chance, too
        return choosing.choose(
            task,
            features,
            how.goal,
            how.strategy,
            explore=how.explore,
            id=own,
            top=top_k,
            subtype=subtype_of(features),
        )

    def _together(
        self, task: str, inputs: Any, choose: Mapping[str, Any], within: float | None
    ) -> tuple[tuple[str, ...], Choice]:
        """Models to ask at once, the chosen one first; nothing follows from it yet."""
        from altlas_flow.selection.together import together

        choice = self._choose(task, inputs, **choose)
        limit = math.inf if within is None else within
        return together(choice.snapshot, choice.features, choice.decision, within=limit), choice

    def _embedding(self, model: str | ModelSpec, inputs: Any) -> Any:
        """The embedding of inputs, of several their mean."""
        if threading.get_ident() == self._transport.thread:
            raise SelectionError(
                "embed= waits for a model, which an event loop must not: use asyncio.to_thread"
            )
        try:
            found = self.submit(model, inputs).result(EMBED_LIMIT).outputs
        except TimeoutError as late:
            raise SelectionError(
                f"embed={model!r} gave no embedding within {EMBED_LIMIT:.0f} s: see whether it runs"
            ) from late
        vector = vector_of(found, model)
        return vector.mean(axis=0) if vector.ndim == 2 else vector

    def feedback(
        self,
        what: Any,
        score: float | None = None,
        *,
        cost: float | None = None,
        latency: float | None = None,
        failed: bool | None = None,
    ) -> None:
        """Say how good an answer was: in any order, hours late, twice, or never.

        Parameters
        ----------
        what : str, Decision, InferenceResponse, Handle, or pandas.DataFrame
            A decision or a response, or its id; a frame has the columns ``id`` (or
            ``decision_id``, as `map` adds it) and ``score``.
        score : float, optional
            0 to 1.
        cost, latency : float, optional
            Where they are others than what was recorded.
        failed : bool, optional
            It gave no answer that can be used: a score of 0.

        Raises
        ------
        UnknownDecision
            Where a decision is not known, or none of the latest; what is known of the others is taken in.
        SelectionError
            Where a figure is out of range; then nothing is taken in.
        """
        from altlas_flow.selection.selector import checked

        self._check_open()
        if hasattr(what, "columns"):
            if (score, cost, latency, failed) != (None, None, None, None):
                raise SelectionError("a frame says all itself: leave the other arguments out")
            outcomes = [(id, checked(value, None, None, None, name)) for name, id, value in _rows(what)]
        else:
            values = checked(score, latency, cost, failed)
            if not values:
                raise SelectionError("feedback says nothing: give a score from 0 to 1")
            outcomes = [(_id_of(what), values)]
        unknown = self._transport.choosing().feedback(outcomes)
        if unknown:
            raise UnknownDecision(unknown[0], len(outcomes) - len(unknown))

    def models_report(self, task: str, by: str | None = None) -> pd.DataFrame:
        """Of each model of a task: its share of the latest decisions, and what came of them.

        Parameters
        ----------
        task : str
        by : str, optional
            A feature, such as ``"language"`` or ``"input_length"``: each of its words, and each quarter of
            its numbers, has rows of its own.

        Returns
        -------
        pandas.DataFrame
            By ``model``, and by the slice: ``decisions``, ``outcomes``, ``share``, ``latency_p50`` and
            ``latency_p95`` (seconds), ``errors``, ``cost`` and ``quality`` (means, with their standard errors
            as ``cost_error`` and ``quality_error``). A table in notebooks; ``.to_html()`` escapes what it
            shows.

        Raises
        ------
        NothingServes, SelectionError, ClusterLost
        """
        import pandas as pd

        self._check_open()
        rows = self._transport.choosing().report(task, by)
        index = ["model"] if by is None else ["model", by]
        columns = ["decisions", "outcomes", "share", "latency_p50", "latency_p95", "errors"]
        columns += ["cost", "cost_error", "quality", "quality_error"]
        frame = pd.DataFrame(rows, columns=index + columns).set_index(index)
        return frame.astype(dict.fromkeys(columns[2:], "float64"))

    def choices_over_time(self, task: str, windows: int = 40) -> Course:
        """Which models of a task were chosen, over its latest decisions.

        Parameters
        ----------
        task : str
        windows : int
            Parts of equally many decisions.

        Returns
        -------
        Course
            A picture in notebooks, and ``.svg()``; ``.frame`` has the shares.

        Raises
        ------
        NothingServes, SelectionError, ClusterLost
        """
        from altlas_flow.learning.course import Course

        self._check_open()
        found = self._transport.choosing().course(task, windows)
        counts = tuple(map(tuple, found["counts"]))
        return Course(task, tuple(found["models"]), tuple(found["first"]), counts)

    def replay(self, task: str, policy: Policy, *, objective: str = "quality") -> Replay:
        """What another way of choosing would have got on the logged decisions of a task.

        Parameters
        ----------
        task : str
        policy : callable
            ``policy(features, models)``: the chance of each model, such as ``always("small")`` and ``evenly``
            of `altlas_flow.selection.replay`.
        objective : "quality", "latency" or "cost"
            What is reckoned; decisions of which it is not known are left out.

        Raises
        ------
        ReplayError, SelectionError, ClusterLost
        """
        from altlas_flow.learning.lessons import logged_of
        from altlas_flow.selection.replay import replay

        self._check_open()
        lessons = self._transport.choosing().decisions(task)
        if not lessons:
            raise ReplayError(f"no decision of the task {task!r} is in the log: record some, or name another")
        return replay(logged_of(lessons, objective), policy)

    def prepare_task(self, task: str) -> None:
        """Know what has been learned of a task, so that choosing makes no trip for a moment.

        Raises
        ------
        NothingServes, SelectionError, ClusterLost
        """
        self._check_open()
        for model in self._transport.choosing().models(task):
            self._find(model)

    def _decided(self, handle: Handle, choice: Choice) -> Handle:
        """A request whose model was chosen: what comes of it is told."""
        handle._decision = choice.decision
        from altlas_flow.cluster.client.choosing import follow

        self._transport.choosing().use(choice)
        follow(self._transport, handle, choice.decision)
        return handle


def _id_of(what: Any) -> str:
    if isinstance(what, Decision):
        return what.id
    if isinstance(what, Handle):
        return what.decision.id if what.decision is not None else what.request_id
    if isinstance(what, InferenceResponse):
        return what.decision_id or what.request_id
    if isinstance(what, str) and what:
        return what
    raise SelectionError(
        f"a {type(what).__name__} is no decision: give a decision, a response (of several one: answer[0]), "
        "the id of one, or a frame"
    )


def _rows(frame: Any) -> list[tuple[str, str, Any]]:
    """What each row is called, its decision, its score."""
    name = "decision_id" if "decision_id" in frame.columns else "id"
    missing = [one for one in (name, "score") if one not in frame.columns]
    if missing:
        raise SelectionError(
            f"the frame has no column {missing[0]!r}: give the columns 'id' (or 'decision_id') and 'score'"
        )
    known = frame[[name, "score"]].dropna()
    rows = zip(known.index, known[name], known["score"], strict=True)
    return [(f"row {label!r}: score", _id_of(id), score) for label, id, score in rows]
