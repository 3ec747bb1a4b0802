"""What runs on workers for a pipeline: one stage, for the rows of one piece."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from distributed import get_worker, secede

from altlas_flow.cluster.keys import ANNOTATION
from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.worker.envelope import complaint, portable
from altlas_flow.cluster.worker.plugin import current_plugin, still_wanted
from altlas_flow.errors import (
    AltlasError,
    DeadlineExceeded,
    HostClosed,
    InputError,
    InvalidAnswer,
    NodeFault,
    PredictError,
    describe,
    kinds_of,
    located,
)
from altlas_flow.models.faults import of_the_node
from altlas_flow.models.files import names_files
from altlas_flow.models.host import ModelHost
from altlas_flow.models.work import Predictions
from altlas_flow.pipeline.cache import ABSENT, cache_for, key_of
from altlas_flow.pipeline.routing import Aside, tell
from altlas_flow.pipeline.rows import SKIPPED, Fault, Note, StageRows, Taken, take, together
from altlas_flow.pipeline.step import Failed, Step
from altlas_flow.pipeline.watched import How, Watched

#: Steps that a worker keeps opened, and bytes of one that it does not.
OPENED, LARGE = 256, 100_000
#: Types of answers that any process can open.
SIMPLE = frozenset({str, bytes, int, float, bool, type(None)})

_opened: OrderedDict[bytes, Step] = OrderedDict()
_lock = Lock()


def run_stage(
    packed: Packed,
    lenient: bool,
    priority: int,
    copied: Collection[int],
    *upstream: StageRows | Packed,
    traces: Packed | None = None,
) -> StageRows:
    """Do one stage for the rows of a piece; takes a slot of the worker's host.

    Parameters
    ----------
    packed : Packed
        The `Step`.
    lenient : bool
        Faults of the node are those of their rows; otherwise they are raised, for another node may do it.
    priority : int
        Of its batches on the host.
    copied : collection of int
        Places of what others get as well, or another try may: `when` and `inputs` may write into it. What
        models write into, the host copies.
    *upstream : StageRows
        What it depends on; `Packed` where it came from the client.
    traces : Packed, optional
        Where requests are traced: their contexts, each with how many rows it has.

    Raises
    ------
    NodeFault, HostClosed, ModelLoadError, UnsafeModel, ParameterError
        Where the whole stage cannot be done here, and is not optional.
    """
    worker, plugin = get_worker(), current_plugin()
    key = str(worker.get_current_task())
    said = (worker.state.tasks[key].annotations or {}).get(ANNOTATION) or {}
    # out of the worker's thread pool before any waiting, as parts of frames and envelopes do
    secede()
    step = opened(packed)
    touched = copied if step.when is not None or step.inputs is not None else ()
    given = [
        one.open(copied=at in touched) if isinstance(one, Packed) else one.copied() if at in touched else one
        for at, one in enumerate(upstream)
    ]
    host = plugin.host
    assert host is not None
    work = StageWork(step, given, host, str(worker.name))
    work.note.trace = said.get("trace") or {}
    how = How(
        lenient,
        priority,
        still_wanted(),
        None if lenient else Watched(key, plugin, bool(said.get("solo"))),
        None if traces is None else [one for one, count in traces.open() for _ in range(count)],
    )
    try:
        with host.parts:
            rows = work.run(how)
    except AltlasError as error:
        work.tell(error)
        raise
    finally:
        plugin.told(key, work.note.rows, work.predict_s)
    work.tell()
    return rows


def opened(packed: Packed) -> Step:
    """A step, opened once for all pieces that pass through it."""
    with _lock:
        found = _opened.get(packed.data)
        if found is None:
            found = _opened[packed.data] = packed.open()
            if len(packed.data) > LARGE:
                del _opened[packed.data]  # as with inputs that stand in it: it will not come again
            elif len(_opened) > OPENED:
                _opened.popitem(last=False)
        else:
            _opened.move_to_end(packed.data)
        return found


class StageWork:
    """A stage and its rows on a worker.

    Parameters
    ----------
    step : Step
    upstream : sequence of StageRows
    host : ModelHost
    node : str
    """

    def __init__(self, step: Step, upstream: Sequence[StageRows], host: ModelHost, node: str) -> None:
        self.step, self.host, self.node, self.upstream = step, host, node, upstream
        self.count = len(upstream[0])
        self.note = Note(step.spec.id, node, began=time.time())
        self.predict_s = 0.0
        self.faults: dict[int, Fault] = {}
        self.skipped: dict[int, str] = {}
        self.asked: Sequence[int] = ()  # rows that the model was asked for

    def tell(self, error: AltlasError | None = None) -> None:
        """Say what came of choosing the model, where it was chosen; `error`: what ended the whole stage."""
        if self.step.chosen is None or not len(self.asked):
            return
        task, of = self.step.chosen
        faults = {**self.faults, **self.note.forgiven}
        if error is not None:
            faults = dict.fromkeys(self.asked, Fault(self.step.name, self.step.spec.id, self.node, error))
        rows = [row for row in self.asked if row not in self.note.cached]  # what was known says nothing
        choices = self.upstream[self.step.labels.index(of)]
        tell(task, self.step.spec.id, choices, rows, self.predict_s, faults)

    def run(self, how: How) -> StageRows:
        """Outputs of all rows; see `run_stage`."""
        started = time.perf_counter()
        taken = take(self.step.labels, self.upstream)
        self.faults, self.skipped = taken.faults, taken.skipped
        inputs, at = self._inputs(taken)
        self.asked = at
        outputs: Any = [None] * self.count
        if len(at):
            try:
                found = self._answers(inputs, at, how)
            except AltlasError as error:
                if not self.step.optional or isinstance(error, HostClosed):
                    raise
                for row in at:
                    self._fail(row, error)
            else:
                outputs = self._spread(found, at)
        self.note.seconds = max(0.0, time.perf_counter() - started - self.note.queue)
        return self._close(outputs)

    def _close(self, outputs: Any) -> StageRows:
        """What goes on: with an optional stage nothing has failed."""
        step, note = self.step, self.note
        faults = self.faults
        if step.optional and faults:
            note.forgiven, faults = faults, {}
            if isinstance(outputs, np.ndarray):
                outputs = list(outputs)
            for row in note.forgiven:
                outputs[row] = None
        note.skipped = self.skipped
        notes = {**together(self.upstream), step.name: note}
        return StageRows(outputs, faults, frozenset(self.skipped), notes)

    def _inputs(self, taken: Taken) -> tuple[Any, Sequence[int]]:
        """What the model gets, and for which rows."""
        step = self.step
        if step.when is None and step.inputs is None:
            return taken.values, taken.at
        inputs: list[Any] = []
        at: list[int] = []
        for row, value in zip(taken.at, taken.values, strict=True):
            try:
                if step.when is not None and not step.when(value):
                    self.skipped[row] = SKIPPED
                    continue
                inputs.append(value if step.inputs is None else step.inputs(value))
                at.append(row)
            except InputError as error:
                self._fail(row, error, phase="input")
            except Exception as error:
                # functions of the user's own may fail on a row in any way
                which = "inputs=" if len(inputs) == len(at) and step.when is None else "when= or inputs="
                self._fail(row, InputError(f"{which} failed: {located(error)}"), cause=error, phase="input")
        return inputs, at

    def _aside(self, aside: Aside, inputs: Any, at: Sequence[int]) -> list[Any]:
        outputs: list[Any] = []
        for row, value in zip(at, inputs, strict=True):
            try:
                outputs.append(aside.one(value, row, self.upstream, self.node))
            except AltlasError as error:
                outputs.append(None)
                self._fail(row, error)
        aside.close()
        self.note.rows = len(at)
        return outputs

    def _answers(self, inputs: Any, at: Sequence[int], how: How) -> Any:
        """Answers to inputs, known ones from the cache; at rows that fail, nothing that means anything."""
        if self.step.aside is not None:
            return self._aside(self.step.aside, inputs, at)
        cache = cache_for(self.step.cache)
        if cache is None:
            return self._ask(inputs, at, how)
        spec = self.step.spec
        keys = [
            # a file that is read here is not in the input that names it
            None if names_files(spec, [value]) else key_of(self.step.asked, self.step.parameters, value)
            for value in inputs
        ]
        found = [ABSENT if key is None else cache.get(key) for key in keys]
        absent = [place for place, answer in enumerate(found) if answer is ABSENT]
        self.note.cached = frozenset(at[place] for place, answer in enumerate(found) if answer is not ABSENT)
        if absent:
            answers = self._ask([inputs[place] for place in absent], [at[place] for place in absent], how)
            for place, answer in zip(absent, answers, strict=True):
                found[place] = answer
                key = keys[place]
                if key is not None and at[place] not in self.faults:
                    cache.put(key, answer)
        return found

    def _ask(self, inputs: Any, at: Sequence[int], how: How) -> Any:
        """Predict; a stage of `each` predicts the items of its inputs."""
        if not self.step.each:
            return self._predict(inputs, at, how)
        items: list[Any] = []
        owners: list[int] = []
        bounds = [0]
        for row, value in zip(at, inputs, strict=True):
            if isinstance(value, (list, tuple, np.ndarray)):
                items += list(value)
                owners += [row] * len(value)
            else:
                text = f"each=True needs a list of inputs, and got a {type(value).__name__}"
                self._fail(row, InputError(text), phase="input")
            bounds.append(len(items))
        answers = self._predict(items, owners, how) if items else []
        return [answers[low:high] for low, high in pairwise(bounds)]

    def _predict(self, inputs: Any, at: Sequence[int], how: How) -> Any:
        """Predict rows, those whose errors the stage names again."""
        step = self.step
        rows = [(value,) for value in inputs] if step.boxed else inputs
        limit = step.retry.tries or 1
        answers: Any = None
        todo: list[int] | None = None  # places; None: all
        for tries in range(1, limit + 1):
            self.note.tries = tries
            asked = rows if todo is None else [rows[place] for place in todo]
            result = self._host_predict(asked, at if todo is None else [at[place] for place in todo], how)
            outputs, errors = result.outputs, dict[int, BaseException](result.errors)
            if step.boxed and not isinstance(outputs, np.ndarray):
                errors.update({i: one.error for i, one in enumerate(outputs) if type(one) is Failed})
            if todo is None:
                answers = outputs
            else:
                answers = list(answers)
                for place, output in zip(todo, outputs, strict=True):
                    answers[place] = output
            if step.validator is not None:
                errors.update(self._invalid(outputs, errors))
            where = todo if todo is not None else range(len(rows))
            failed = {where[place]: error for place, error in errors.items()}
            if not failed:
                break
            if not how.lenient:
                self._refuse_faults_of_the_node(failed)
            again = [place for place, error in failed.items() if _named(step, error)]
            last = tries >= limit
            for place, error in failed.items():
                if last or place not in again:
                    self._fail(at[place], error)
            if last or not again:
                break
            todo = sorted(again)
        return self._sendable(answers, at)

    def _host_predict(self, rows: Any, at: Sequence[int], how: How) -> Predictions:
        step, note = self.step, self.note
        started = time.perf_counter()
        try:
            with how.watched.over(at) if how.watched is not None else nullcontext() as watch:
                result = self.host.predict(
                    step.spec,
                    rows,
                    parameters=step.parameters,
                    batch=step.spec.batch if step.batch is None else step.batch,
                    priority=how.priority,
                    timeout=step.timeout,
                    wanted=how.wanted,
                    watch=watch,
                    traces=None if how.traces is None else [how.traces[row] for row in at],
                )
        except TimeoutError as error:
            late = DeadlineExceeded(f"it gave no answer within its timeout of {step.timeout} s")
            late.kinds = kinds_of(error)
            return Predictions([None] * len(rows), dict.fromkeys(range(len(rows)), late))
        took = time.perf_counter() - started
        self.predict_s += result.predict_s
        note.rows += len(rows)
        note.load = max(note.load, result.load_s)
        note.queue += max(0.0, took - result.predict_s - result.load_s)
        note.stats = {
            "tokens": result.tokens,
            "padded": result.padded,
            "truncated": result.truncated,
            "predict_s": self.predict_s,
            "load_s": note.load,
            "budget": result.budget,
            "settled": result.settled,
        }
        return result

    def _invalid(self, outputs: Any, errors: Mapping[int, BaseException]) -> dict[int, BaseException]:
        """Answers that the stage's validator refuses, by place."""
        found: dict[int, BaseException] = {}
        for place, output in enumerate(outputs):
            if place not in errors and (fault := complaint(self.step.validator, output)) is not None:
                text = f"model {self.step.spec.id!r}: the answer is not valid: {fault}"
                found[place] = InvalidAnswer(text)
        return found

    def _refuse_faults_of_the_node(self, failed: dict[int, BaseException]) -> None:
        for error in failed.values():
            if of_the_node(error):
                raise NodeFault(self.node, describe(error)) from error

    def _sendable(self, answers: Any, at: Sequence[int]) -> Any:
        """The answers, without those that no other process could open."""
        if isinstance(answers, np.ndarray):
            if not answers.dtype.hasobject:
                return answers
            answers = list(answers)
        if set(map(type, answers)) <= SIMPLE:
            return answers
        for place, answer in enumerate(answers):
            if at[place] in self.faults:
                answers[place] = None  # it may hold an error of the user's own
                continue
            if _is_plain(answer):
                continue
            try:
                # opened as well: what fails there would cost others theirs. And it is nobody's but the next
                # stage's then: a function may answer with what it keeps
                answers[place] = Packed.of(answer).open(copied=True)
            except Exception as error:
                # a model may answer with anything at all
                answers[place] = None
                text = f"its answer cannot be sent: {describe(error)}"
                self._fail(at[place], PredictError(self.step.spec.id, text))
        return answers

    def _spread(self, answers: Any, at: Sequence[int]) -> Any:
        """Answers at the places of their rows."""
        if len(at) == self.count:
            return answers
        outputs: list[Any] = [None] * self.count
        for row, answer in zip(at, answers, strict=True):
            outputs[row] = answer
        return outputs

    def _fail(
        self, row: int, error: BaseException, *, cause: BaseException | None = None, phase: str = "predict"
    ) -> None:
        if isinstance(error, AltlasError) and error.kinds:
            typed = error  # it knows already what caused it
        else:
            typed = portable(self.step.spec.id, error)
        if cause is not None:
            typed.kinds = kinds_of(cause)
        self.faults.setdefault(row, Fault(self.step.name, self.step.spec.id, self.node, typed, phase))


def _named(step: Step, error: BaseException) -> bool:
    """Whether the stage wants to try again after such an error."""
    kinds = set(kinds_of(error))
    if isinstance(error, AltlasError):
        kinds.update(error.kinds)
    return bool(kinds.intersection(step.retry.on)) or isinstance(error, (DeadlineExceeded, InvalidAnswer))


def _is_plain(answer: Any) -> bool:
    """Whether any process can open an answer: a plain value, or a list or record of such."""
    if isinstance(answer, np.ndarray):
        return not answer.dtype.hasobject
    kind = type(answer)
    if kind is dict:
        return all(type(key) is str for key in answer) and set(map(type, answer.values())) <= SIMPLE
    return kind in SIMPLE or (kind in (list, tuple) and set(map(type, answer)) <= SIMPLE)
