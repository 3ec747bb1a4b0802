"""The program that learns, its log and its state, without a cluster."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from altlas_flow.errors import ReplayError, SelectionError
from altlas_flow.history import frames
from altlas_flow.learning.book import Book
from altlas_flow.learning.lessons import ARMS, CHOSE, TOLD, checked, logged_of, of_text, to_text
from altlas_flow.learning.program import GATHER, LESSONS, SAVE, SETTLED, SNAPSHOT, Program
from altlas_flow.learning.tutor import Tutor
from altlas_flow.selection import wire
from altlas_flow.selection.features import known

pytestmark = pytest.mark.timeout(60)

ADMIT = (ARMS, "t", [["a", None, None, None], ["b", 0.5, 0.1, 1.0]])


def choice(at, model="a", vector=None, **features):
    return (CHOSE, "t", [1.0, 0.0, 0.0], f"d{at}", model, {"a": 0.25, "b": 0.75}, features, vector)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Running:
    """A program, the clock that it goes by, and what it said."""

    def __init__(self, path):
        self.clock, self.said = Clock(), []
        self.program = Program(str(path), self.said.append, clock=self.clock)
        self.number = 0

    def teach(self, *lessons):
        if ADMIT in lessons:
            self.ask("admit", task="t", arms=ADMIT[2])
            self.said[:] = [one for one in self.said if one[0] not in (SNAPSHOT, frames.ANSWER)]
        self.number += 1
        self.program.take((LESSONS, self.number, [one for one in lessons if one is not ADMIT]))

    def after(self, seconds):
        self.clock.now += seconds
        self.program.work()

    def of(self, kind):
        return [rest for first, *rest in self.said if first == kind]

    def ask(self, name, **arguments):
        self.program.take((frames.ASK, 99, name, arguments))
        kind, number, value = self.said[-1]
        assert number == 99
        return value if kind == frames.ANSWER else SelectionError(value)


@pytest.fixture
def running(tmp_path):
    made = Running(tmp_path / "history.sqlite")
    yield made
    made.program.close()


def test_lessons_are_settled_at_once_learned_soon_and_kept_after_a_while(running, tmp_path):
    assert running.of(frames.OPENED) == [["", ""]]
    running.teach(ADMIT, choice(1, length=3.0), (TOLD, "d1", {"quality": 0.75, "latency": 0.5}))
    assert running.of(SETTLED) == [[1]] and not running.of(SNAPSHOT)
    assert running.program.patience() == pytest.approx(GATHER)
    running.after(GATHER)
    [(task, version, data)] = running.of(SNAPSHOT)
    snapshot = wire.from_bytes(data)
    assert (task, version) == ("t", snapshot.version) and snapshot.arms == ("a", "b")
    assert snapshot.tries.tolist() == [1, 0]
    assert not (tmp_path / "history.sqlite.selector").exists()
    running.after(SAVE)
    assert (tmp_path / "history.sqlite.selector").exists() and running.program.patience() is None


def test_an_outcome_that_comes_before_its_decision_waits_for_it(running, tmp_path):
    """Workers tell by streams of their own: that of the one that chose may be the slower one."""
    running.teach(ADMIT, (TOLD, "d1", {"latency": 0.5}), (TOLD, "d1", {"quality": 1.0}))
    running.teach((TOLD, "nothing", {"quality": 1.0}))
    running.teach(choice(1, length=3.0), choice(2, length=4.0))
    running.after(GATHER)
    rows = {row["model"]: row for row in running.ask("report", task="t")}
    assert (rows["a"]["decisions"], rows["a"]["outcomes"], rows["a"]["quality"]) == (2, 1, 1.0)
    running.program.close()
    again = Running(tmp_path / "history.sqlite")
    logged = logged_of(again.ask("decisions", task="t"), "latency")
    assert [one.outcome for one in logged] == [0.5], "the log has them in an order that can be read"
    again.program.close()


def test_an_outcome_that_waits_for_its_decision_outlives_the_program(running, tmp_path):
    """It is settled, so nobody sends it again; sent again, it is kept once."""
    running.teach(ADMIT, (TOLD, "d1", {"latency": 0.5}))
    running.teach((TOLD, "d1", {"latency": 0.5}))
    assert running.of(SETTLED) == [[1], [2]]
    assert len(running.program._book.latest("", 10)) == 1
    running.program._book.close()  # killed
    again = Running(tmp_path / "history.sqlite")
    again.teach(choice(1, length=3.0))
    assert {row["model"]: row["outcomes"] for row in again.ask("report", task="t")} == {"a": 1, "b": 0}
    again.program.close()


def test_what_clients_send_may_be_anything(running):
    good = choice(2, length=1.0)
    running.teach(ADMIT, choice(1, vector=np.ones(8, dtype="<f4").tobytes()))
    bad = [
        (),
        None,
        ("nothing",),
        (ARMS, "t", [["c", "x", "y", "z"]]),
        (TOLD, "d1", {"quality": -1.0}),
        (TOLD, "d1", {"speed": 1.0}),
        (TOLD, "d1", {"quality": float("nan")}),
        (TOLD, 7, {}),
        choice(3, model="stranger"),
        (CHOSE, "t", [1.0], "d4", "a", {"a": 1.0}, {}, None),
        (CHOSE, "t", [1.0, 0.0, 0.0], "d4", "a", {"a": 0.0}, {}, None),
        (CHOSE, "t", [1.0, 0.0, 0.0], "d4", "a", {"a": 1.0}, {"x": float("inf")}, None),
        (CHOSE, "t", [1.0, 0.0, 0.0], "d4", "a", {"a": 1.0}, {}, b"123"),
        (CHOSE, "unheard", [1.0, 0.0, 0.0], "d4", "a", {"a": 1.0}, {}, None),
        choice(5, vector=np.ones(9, dtype="<f4").tobytes()),
    ]
    running.teach(*bad, good)
    faults = [text for (text,) in running.of(frames.FAULT)]
    assert sum(int(text.split(" times: ")[0]) if " times: " in text else 1 for text in faults) == len(bad)
    assert running.of(SETTLED)[-1] == [2]
    assert sum(row["decisions"] for row in running.ask("report", task="t")) == 2


def test_what_comes_twice_counts_once_and_what_is_not_known_is_said(running):
    running.teach(ADMIT, choice(1))
    for _ in range(2):
        running.teach(choice(1), (TOLD, "d1", {"quality": 1.0}))
    assert running.ask("told", outcomes=[("d1", {"quality": 0.5}), ("d9", {"quality": 0.5})]) == ["d9"]
    [row, _] = running.ask("report", task="t")
    assert (row["decisions"], row["outcomes"], row["quality"]) == (1, 1, 0.5)
    assert isinstance(running.ask("nothing"), SelectionError)


def test_models_are_admitted_before_the_answer_comes(running):
    assert running.ask("admit", task="t", arms=ADMIT[2]) is None
    assert running.said[-2][0] == SNAPSHOT


def learned(tmp_path, count=80):
    """A folder with a log and a state of which a part is in the log alone."""
    made, rng = Running(tmp_path / "history.sqlite"), random.Random(1)
    made.teach(ADMIT)
    for at in range(count):
        model = rng.choice("ab")
        made.teach(choice(at, model, length=rng.random()), (TOLD, f"d{at}", {"quality": float(model == "a")}))
        if at == count // 2:
            made.after(GATHER)
            made.after(SAVE)
    made.after(GATHER)
    return made


def expectation(tutor):
    snapshot = tutor.learners["t"].snapshot
    return snapshot.plain().values["quality"].tolist(), len(tutor.learners["t"].seen)


def test_a_program_that_ends_without_a_word_is_gone_on_from(tmp_path):
    made = learned(tmp_path)
    report = made.ask("report", task="t")
    made.program._book.close()  # no more than that comes to pass where it is killed
    again = Running(tmp_path / "history.sqlite")
    assert again.of(frames.OPENED) == [["", ""]]
    assert again.ask("report", task="t") == report
    assert len(again.ask("decisions", task="t")) == 161
    again.program.close()


@pytest.mark.long
def test_of_200_damaged_states_all_are_made_anew_from_the_log(tmp_path):
    made = learned(tmp_path)
    made.program.close()
    book = Book(tmp_path / "history.sqlite")
    whole = book.state.read_bytes()
    right, said = book.recall(0)
    assert not said
    for seed in range(200):
        rng = random.Random(seed)
        damaged = bytearray(whole)
        if seed % 4 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        book.state.write_bytes(damaged)
        tutor, said = book.recall(0)
        assert expectation(tutor)[1] == expectation(right)[1]
        np.testing.assert_allclose(expectation(tutor)[0], expectation(right)[0], atol=0.05)
        assert "learned again from the log" in said
    book.state.write_bytes(whole)
    assert book.recall(0)[1] == ""
    book.close()


def test_a_damaged_row_of_the_log_costs_itself_alone(tmp_path):
    made = learned(tmp_path)
    book = made.program._book
    book._database.execute("UPDATE lessons SET body = replace(body, 'd7', 'd8') WHERE number = 16")
    assert len(list(book.since(0))) == 160
    book._database.execute(
        "UPDATE lessons SET body = '{', checksum = ? WHERE number = 17", (zlib.crc32(b"{"),)
    )
    assert len(list(book.since(0))) == 159
    made.program.close()


def test_a_damaged_log_is_set_aside_and_what_was_learned_goes_on(tmp_path):
    made = learned(tmp_path)
    report = made.ask("report", task="t")
    made.program.close()
    log = tmp_path / "history.sqlite.lessons"
    log.write_bytes(b"\xff" * log.stat().st_size)
    again = Running(tmp_path / "history.sqlite")
    [(said, fault)] = again.of(frames.OPENED)
    assert "set aside" in said and not fault
    assert again.ask("report", task="t") == report
    assert len(list(tmp_path.glob("*.lessons.damaged-*"))) == 1
    again.program.close()


def test_a_log_that_another_program_has_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("altlas_flow.learning.book.LOCK_LIMIT", 0.1)
    made = learned(tmp_path)
    with pytest.raises(BlockingIOError):
        Running(tmp_path / "history.sqlite")
    made.program.close()
    Running(tmp_path / "history.sqlite").program.close()


@pytest.mark.parametrize("features", [{"float32": 1.0}, {"float32": "AAAA"}])
def test_features_of_any_name_are_kept(running, features):
    running.teach(ADMIT, choice(1, **features))
    assert dict(running.ask("decisions", task="t")[1][6]) == features


def test_one_figure_that_is_far_off_leaves_chances_chances(running):
    running.teach(ADMIT, *(choice(at, "ab"[at % 2], n=float(at)) for at in range(40)))
    running.teach(*((TOLD, f"d{at}", {"quality": at % 2, "latency": 0.1}) for at in range(40)))
    running.teach(choice(99, n=1e15), (TOLD, "d99", {"quality": 1.0, "latency": 1e9}))
    running.after(GATHER)
    snapshot = wire.from_bytes(running.of(SNAPSHOT)[-1][2])
    for values in snapshot.expect(known({"n": 3.0})).values.values():
        assert np.isfinite(values).all()


def test_without_a_file_it_learns_and_says_what_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    made = Running(tmp_path / "file" / "history.sqlite")
    [(_, fault)] = made.of(frames.OPENED)
    assert "lost with the scheduler" in fault
    made.teach(ADMIT, choice(1), (TOLD, "d1", {"quality": 1.0}))
    made.after(GATHER)
    assert made.of(SNAPSHOT)
    made.program.close()


def test_the_same_lessons_give_the_same_bytes():
    def taught():
        tutor, rng = Tutor(), random.Random(3)
        tutor.take(ADMIT)
        for at in range(60):
            tutor.take(choice(at, rng.choice("ab"), length=rng.random()))
            tutor.take((TOLD, f"d{at}", {"quality": rng.random()}))
            if at % 10 == 0:
                tutor.learn()
        return tutor.to_bytes(1)

    assert taught() == taught()


def test_lessons_are_the_same_after_a_round_trip():
    lesson = choice(1, vector=np.arange(8, dtype="<f4").tobytes(), length=1.5, language="en")
    assert tuple(checked(of_text(to_text(lesson)))) == lesson
    told = (TOLD, "d1", {"quality": 1.0})
    assert of_text(to_text(told)) == told


def test_a_log_becomes_decisions_with_their_outcomes():
    lessons = [
        choice(1),
        choice(2, "b"),
        choice(3),
        (TOLD, "d2", {"quality": 0.5}),
        (TOLD, "d1", {"failed": 1.0}),
    ]
    found = logged_of([*lessons, (TOLD, "d2", {"quality": 0.75}), (TOLD, "d9", {"quality": 0.1})], "quality")
    assert [(one.model, one.outcome) for one in found] == [("a", 0.0), ("b", 0.75)]
    with pytest.raises(ReplayError, match="give quality"):
        logged_of(lessons, "speed")
