"""What is predicted step by step: given up between two steps, and heard while it grows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from altlas_flow.errors import DeadlineExceeded, RequestCancelled
from altlas_flow.models.batching import Batch, execute
from altlas_flow.models.host import ModelHost
from altlas_flow.models.pieces import Piece, Pieces
from altlas_flow.models.runtimes.base import Control, Prepared
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.watch import Watch
from altlas_flow.models.work import Work

LONG = 60.0
#: Tokens of a text that nobody would wait for.
ENDLESS = 15_000


class Spells:
    """A runtime that answers with its texts, letter by letter, and does as the test says between them."""

    def __init__(self, between: Callable[[int], None] = lambda step: None) -> None:
        self.between, self.batches = between, []
        self.batches: list[list[str]] = []

    def predict_steps(self, items: Sequence[str], parameters: Any, control: Control) -> list[str]:
        self.batches.append(list(items))
        texts = [""] * len(items)
        for step in range(max(map(len, items))):
            self.between(step)
            for at, item in enumerate(items):
                if step < len(item) and control.wanted(at):
                    if item[step] == "!":
                        raise ValueError("no such letter")
                    texts[at] += item[step]
                    control.emit(at, item[step])
        return texts


def work_of(texts: list[str], watch: Watch | None = None) -> Work:
    return Work(Prepared(texts), {}, watch=watch)


def run(runtime: Any, *works: Work) -> None:
    batch = Batch(100)
    for work in works:
        batch.add(work, work.take(len(work.items)))
    execute(runtime, batch, model="spells")
    assert all(work.done.is_set() for work in works)


def test_a_row_that_is_cancelled_between_two_steps_fails_and_the_others_are_answered() -> None:
    watch, other = Watch(3, "call"), Watch(1, "other")

    def between(step: int) -> None:
        if step == 2:
            watch.cancel([1])

    mine, theirs = work_of(["abcd", "efgh", "ij"], watch), work_of(["klmn"], other)
    run(Spells(between), mine, theirs)
    assert [mine.result.outputs[at] for at in (0, 2)] == ["abcd", "ij"]
    assert theirs.result.outputs == ["klmn"] and not theirs.result.errors
    assert list(mine.result.errors) == [1]
    assert isinstance(mine.result.errors[1], RequestCancelled)
    assert watch.pieces.read(1) == Piece(1, 0, "ef")  # nothing came after it


def test_a_row_is_given_up_when_its_deadline_passes() -> None:
    now = [0.0]
    watch = Watch(2, "call", deadlines=[2.5, 9.0], clock=lambda: now[0])

    def between(step: int) -> None:
        now[0] = float(step)

    work = work_of(["abcdef", "ghijkl"], watch)
    run(Spells(between), work)
    assert isinstance(work.result.errors[0], DeadlineExceeded)
    assert watch.pieces.read(0) == Piece(1, 0, "abc")
    assert work.result.outputs[1] == "ghijkl"


def test_a_call_that_was_given_up_ends_without_a_watch_too() -> None:
    work, steps = work_of(["abcd"]), []

    def between(step: int) -> None:
        steps.append(step)
        if step == 1:
            work.fail(CancelledError())

    runtime = Spells(between)
    run(runtime, work)
    assert isinstance(work.result.errors[0], RequestCancelled)


def test_a_batch_that_fails_is_halved_and_its_rows_begin_again() -> None:
    watch = Watch(4, "call")
    work, runtime = work_of(["ab", "cd", "e!", "gh"], watch), Spells()
    run(runtime, work)
    assert [work.result.outputs[at] for at in (0, 1, 3)] == ["ab", "cd", "gh"]
    assert list(work.result.errors) == [2] and isinstance(work.result.errors[2], ValueError)
    assert [len(batch) for batch in runtime.batches] == [4, 2, 2, 1, 1]
    # each time that a row was begun is another run, and its text begins anew
    assert [watch.pieces.read(at) for at in (0, 3)] == [Piece(2, 0, "ab"), Piece(3, 0, "gh")]


def test_pieces_are_read_from_where_one_was() -> None:
    pieces, told = Pieces(), []
    assert pieces.read(0) is None
    pieces.begin(0)
    assert pieces.read(0) is None
    pieces.listen(0, lambda: told.append(pieces.read(0)))
    pieces.add(0, "ab")
    pieces.add(1, "other")
    pieces.add(0, "c€")
    assert told == [Piece(1, 0, "ab"), Piece(1, 0, "abc€")]
    assert pieces.read(0, 1, 2) == Piece(1, 2, "c€")
    assert pieces.read(0, 1, 4) is None
    pieces.listen(0, None)
    pieces.begin(0)
    assert pieces.read(0, 1, 4) is None
    pieces.add(0, "x")
    assert pieces.read(0, 1, 4) == Piece(2, 0, "x")
    assert len(told) == 2
    with pytest.raises(UnicodeEncodeError):
        pieces.add(0, "\ud800")


@pytest.fixture
def now() -> list[float]:
    """What the host's clock says."""
    return [0.0]


@pytest.fixture
def host(now: list[float]) -> Iterator[ModelHost]:
    made = ModelHost(node="node-a", threads=1, clock=lambda: now[0])
    yield made
    made.close()


def writer(folder: Path) -> ModelSpec:
    return ModelSpec(id="writer", task="text-generation", source=str(folder))


class Held:
    """Holds a row at its first piece, in the thread that predicts it."""

    def __init__(self, watch: Watch, row: int = 0) -> None:
        self.first, self.goes_on = threading.Event(), threading.Event()
        self.watch, self.heard = watch, 0
        watch.pieces.listen(row, self._hear)

    def _hear(self) -> None:
        self.heard += 1
        self.first.set()
        assert self.goes_on.wait(LONG)


@pytest.mark.parametrize("ended", ["cancelled", "late", "given up"])
def test_a_generation_that_nobody_wants_ends_at_its_next_token_and_its_slot_is_free(
    host: ModelHost, now: list[float], tiny_generator_folder: Path, ended: str
) -> None:
    spec = writer(tiny_generator_folder)
    watch = Watch(1, "call", deadlines=[10.0], clock=lambda: now[0])
    held, wanted = Held(watch), [True]

    def predict() -> Any:
        try:
            return host.predict(
                spec,
                ["hello"],
                parameters={"max_new_tokens": ENDLESS},
                watch=watch,
                wanted=lambda: wanted[0],
            )
        except CancelledError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(predict)
        assert held.first.wait(LONG)
        if ended == "cancelled":
            watch.cancel([0])
        elif ended == "late":
            now[0] = 10.0
        else:
            wanted[0] = False
            assert isinstance(call.result(LONG), CancelledError)  # whoever waited waits no more
        held.goes_on.set()
        found = call.result(LONG)
    # the one slot there is
    assert host.predict(spec, ["x"], parameters={"max_new_tokens": 3}, timeout=LONG).outputs
    assert held.heard == 1
    if ended != "given up":
        assert isinstance(found.errors[0], RequestCancelled if ended == "cancelled" else DeadlineExceeded)


def test_rows_of_several_calls_are_generated_together_and_one_that_leaves_changes_no_other(
    host: ModelHost, tiny_generator_folder: Path
) -> None:
    spec, parameters = writer(tiny_generator_folder), {"max_new_tokens": 30}
    alone = [host.predict(spec, [text], parameters=parameters).outputs[0] for text in ("on", "the", "way")]
    watches = [Watch(1, str(n)) for n in range(4)]
    first = Held(watches[0])
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(host.predict, spec, ["hello"], parameters=parameters, watch=watches[0])]
        assert first.first.wait(LONG)
        for text, watch in zip(("on", "the", "way"), watches[1:], strict=True):
            calls.append(pool.submit(host.predict, spec, [text], parameters=parameters, watch=watch))
        leaves = Held(watches[2])
        while host.state()["waiting_rows"] < 3:
            assert not calls[-1].done()
        first.goes_on.set()
        assert leaves.first.wait(LONG)
        watches[2].cancel([0])
        leaves.goes_on.set()
        found = [call.result(LONG) for call in calls]
    assert [one.outputs[0] for at, one in enumerate(found) if at in (1, 3)] == [alone[0], alone[2]]
    assert isinstance(found[2].errors[0], RequestCancelled)
    assert [watch.sizes[0] for watch in watches] == [1, 3, 3, 3]
