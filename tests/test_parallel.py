"""Several models that are asked the same at once, on a real cluster."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
import uuid

import dask
import pytest

import altlas_flow as af
from altlas_flow.aggregation import Aggregator, Verdict
from altlas_flow.errors import (
    AggregationFailed,
    BadRequest,
    ClusterLost,
    NoQuorum,
    Overloaded,
    ParameterError,
    RequestCancelled,
    Uncombinable,
    UnknownModel,
)
from altlas_flow.parallel.fanout import FanOut
from tests.cluster.stages import named, quiet, waiting_rows
from tests.laboratory import LIMIT, Lab, laboratory, until

pytestmark = pytest.mark.timeout(120)


def model(function, name=None, **fields):
    return af.ModelSpec(id=name or f"{function.__name__}-{uuid.uuid4().hex[:8]}", source=function, **fields)


def answering(answer, **fields):
    """A model that answers each row the same."""

    def answers(rows, said=answer):
        return [said] * len(rows)

    return model(answers, **fields)


def failing(**fields):
    def fails(rows):
        raise ValueError("it cannot")

    return model(fails, **fields)


class Gates:
    """Models that wait for a file; they say in others that they began."""

    def __init__(self, folder):
        self.folder = folder

    def model(self, name, answer="late", **fields):
        folder, limit = self.folder, LIMIT

        def waits(rows, said=answer, name=name):
            import os
            import time

            (folder / f"began-{name}").write_text(os.environ.get("STAGE_NAME", "?"))
            end = time.monotonic() + limit
            while not (folder / "open").exists():
                assert time.monotonic() < end
                time.sleep(0.002)
            return [said] * len(rows)

        return model(waits, f"{name}-{uuid.uuid4().hex[:8]}", **fields)

    def began(self, name):
        """Where it began, if it did."""
        path = self.folder / f"began-{name}"
        return path.read_text() if path.exists() else ""

    def open(self):
        (self.folder / "open").touch()


@pytest.fixture
def gates(tmp_path):
    made = Gates(tmp_path)
    yield made
    made.open()


@pytest.fixture
def lab(flow):
    return Lab(flow, None)


# ---------------------------------------------------------------- answers


@pytest.mark.long
def test_a_model_does_not_wait_behind_another_that_was_asked_the_same(tmp_path):
    """Both nodes are busy by then: the one where something has run for a while is done sooner."""
    (tmp_path / "before").mkdir()
    (tmp_path / "beside").mkdir()
    before, beside = Gates(tmp_path / "before"), Gates(tmp_path / "beside")
    quick = answering("quick")
    with laboratory(named("ab")) as lab:
        try:
            running = lab.flow.submit(before.model("before"), "x")
            until(lambda: before.began("before"))
            asked = lab.flow.fan_out([beside.model("slow"), quick], "x", combine="first")
            until(lambda: beside.began("slow"))
            before.open()
            assert asked.result(LIMIT).outputs == "quick"
            assert running.result(LIMIT).node_id != beside.began("slow")
        finally:
            before.open()
            beside.open()


def test_all_are_asked_and_an_error_of_one_costs_the_others_nothing(flow):
    cat, bad, dog = answering("cat"), failing(), answering("dog")
    found = flow.ask([cat, bad, dog], "x")
    assert [(one.model_id, one.outputs) for one in found] == [(cat.id, "cat"), (dog.id, "dog")]
    assert found.outputs == {cat.id: "cat", dog.id: "dog"}
    assert list(found.missing) == [bad.id] and "it cannot" in found.missing[bad.id]
    assert not found.ok and found.agreement is None
    assert found[dog.id] is found[1] and len(found) == 2 and found[-1].outputs == "dog"
    with pytest.raises(KeyError, match="it cannot"):
        _ = found[bad.id]
    assert flow.ask([cat.id, dog.id], "x").ok


def test_the_first_answer_counts_and_the_others_are_given_up(gates):
    """One node can do what has to wait, so that the quick model waits behind none of it."""
    with laboratory({**named("a", resources={"slow": 1}), **named("b")}) as lab:
        held = [gates.model(name, resources={"slow": 1}) for name in "abc"]
        quick = answering("quick")
        assert lab.flow.submit(quick, "x").result(LIMIT).ok
        first = lab.flow.submit(gates.model("first", resources={"slow": 1}), "x")
        until(lambda: gates.began("first"))
        asked = lab.flow.fan_out([quick, *held], "x", combine=af.first())
        found = asked.result(LIMIT)
        assert found.outputs == "quick" and [one.model_id for one in found] == [quick.id]
        assert set(found.missing) == {one.id for one in held} and found.ok
        assert set(found.missing.values()) == {"not waited for: the verdict was settled"}
        assert [handle.status for handle in asked.handles] == ["completed", *["cancelled"] * 3]
        # what has not begun leaves its worker, and never does
        until(lambda: waiting_rows(lab) == 0)
        gates.open()
        assert first.result(LIMIT).ok
        quiet(lab)
        assert [gates.began(name) for name in "abc"] == ["", "", ""]


def test_a_vote_is_over_before_the_last_has_voted(flow, gates):
    models = [answering("cat"), answering("cat"), gates.model("late", "dog")]
    found = flow.ask(models, "x", combine=af.vote(weights=[1, 1, 1.5]))
    assert (found.outputs, found.agreement, len(found)) == ("cat", 1.0, 2)
    gates.open()
    found = flow.ask(models, "x", combine=af.vote(), early_stopping=False)
    assert (found.outputs, len(found)) == ("cat", 3)
    assert found.agreement == pytest.approx(2 / 3)


def test_a_list_of_inputs_is_combined_row_by_row(flow):
    def upper(rows):
        return [row.upper() for row in rows]

    def title(rows):
        return [row.title() for row in rows]

    found = flow.ask([model(upper), model(title), answering("B")], ["aa", "b"], combine=af.vote())
    assert found.outputs == ["AA", "B"]
    assert found.agreement == pytest.approx((1 / 3 + 1) / 2)
    assert flow.ask([model(len_of)], ["a", "bb"], combine=lambda outputs: sum(outputs.values())).outputs == [
        1,
        2,
    ]


def len_of(rows):
    return [len(row) for row in rows]


def test_embeddings_of_the_flow_are_averaged(flow):
    import numpy as np

    def ones(rows):
        return np.ones((len(rows), 4), np.float32)

    def threes(rows):
        return np.full((len(rows), 4), 3, np.float32)

    found = flow.ask([model(ones), model(threes)], ["a", "b"], combine=af.average([3, 1]))
    np.testing.assert_allclose(found.outputs, np.full((2, 4), 1.5))


def test_the_default_is_the_settings(flow):
    models = [answering("cat"), answering("dog"), answering("dog")]
    assert flow.ask(models, "x").outputs == dict(
        zip([m.id for m in models], ["cat", "dog", "dog"], strict=True)
    )
    with (
        dask.config.set({"altlas.default-aggregation-strategy": "majority-vote"}),
        af.connect(flow.client) as other,
    ):
        assert af.settings.DEFAULT_AGGREGATION_STRATEGY == "MAJORITY_VOTE"
        assert other.ask(models, "x").outputs == "dog"
        assert other.ask(models, "x", combine="ALL_RESPONSES").outputs.keys() == {m.id for m in models}


# ---------------------------------------------------------------- what is asked


def test_parameters_are_for_all_and_under_its_id_for_one(flow):
    def warm(rows, temperature=1.0, top=0):
        return [f"{temperature} {top}" for _ in rows]

    one, two = model(warm, "warm-one"), model(warm, "warm-two")
    found = flow.ask([one, two], "x", parameters={"temperature": 0.5, "warm-two": {"top": 3}})
    assert found.outputs == {"warm-one": "0.5 0", "warm-two": "0.5 3"}
    assert flow.ask([one, two], "x", top=2).outputs == {"warm-one": "1.0 2", "warm-two": "1.0 2"}


def test_parameters_for_a_model_that_is_not_asked_are_refused(flow):
    def warm(rows, temperature=1.0, options=None):
        return [str(options) for _ in rows]

    one, two = model(warm, "stranger-one"), model(warm, "stranger-two")
    with pytest.raises(BadRequest, match="'stranger-tow', which is not asked: did you mean 'stranger-two'"):
        flow.fan_out([one, two], "x", parameters={"stranger-tow": {"temperature": 1}})
    with pytest.raises(BadRequest, match=r"'zz', which is not asked: those are minilm$"):
        flow.fan_out(["minilm"], "x", parameters={"zz": {"temperature": 1}})
    # a mapping may be what a function takes
    assert flow.ask([one], "x", parameters={"options": {"a": 1}}).outputs == {"stranger-one": "{'a': 1}"}


def test_a_parameter_that_no_model_takes_is_said_as_submit_says_it(flow):
    def warm(rows, temperature=1.0):
        return [row.upper() for row in rows]

    def plain(rows):
        return list(rows)

    one, two = model(warm, "taking-one"), model(plain, "taking-two")
    for options in ({"zz": {"temperature": 1}}, {"heat": 1}):
        with pytest.raises(ParameterError, match=f"does not know parameter '{next(iter(options))}'"):
            flow.ask([one, two], "x", parameters=options)
    # one of them takes it: the other is missing, and says why
    found = flow.ask([one, two], "x", temperature=2)
    assert list(found.missing) == [two.id] and "does not know parameter" in found.missing[two.id]
    with pytest.raises(NoQuorum, match="does not know parameter"):
        flow.ask([one, two], "x", combine=af.vote(quorum=2), temperature=2)


def test_each_of_them_may_be_hedged(flow):
    before = flow.hedges.requests
    assert len(flow.ask([answering("a"), answering("b")], 2, hedge=True)) == 2
    assert flow.hedges.requests == before + 2


def test_what_is_wrong_with_the_question_is_raised_before_anybody_is_asked(flow, gates):
    counted, plain = gates.model("counted"), answering("x")

    def ask(*arguments, **options):
        return lambda: flow.fan_out(*arguments, **options)

    for wrong, error, match in [
        (ask([], "x"), BadRequest, "at least one"),
        (ask([counted, counted.id], "x"), BadRequest, "named twice"),
        (ask(counted.id, "x"), BadRequest, "no list of models"),
        (ask([counted, 5], "x"), BadRequest, "a int is no model"),
        (ask([counted, "nobody-knows"], "x"), UnknownModel, "nobody-knows"),
        (ask([counted, "minilm"], "x", temperature=1), ParameterError, "temperature"),
        (ask([counted, "minilm"], "x", parameters={"minilm": {"heat": 1}}), ParameterError, "heat"),
        (ask([counted], "x", parameters=5), BadRequest, "no mapping"),
        (ask([counted, plain], "x", deadline=-1), BadRequest, "deadline=-1"),
        (ask([counted, plain], "x", retry=3), BadRequest, "retry=3"),
        (ask([counted, plain], "x", priority="high"), BadRequest, "priority"),
        (ask([counted], "x", combine="best"), BadRequest, "MAJORITY_VOTE"),
        (ask([counted], "x", combine=af.vote(weights=[1, 2])), BadRequest, "1 models"),
        (ask([counted], "x", early_stopping="yes"), BadRequest, "early_stopping"),
        (ask([counted], af.InferenceRequest(inputs="x"), priority=3), BadRequest, "leave the rest out"),
    ]:
        with pytest.raises(error, match=match):
            wrong()
    assert flow._transport.open == 0
    assert not flow._referee._open
    assert not gates.began("counted")


def test_a_request_says_all_but_the_models(flow):
    def warm(rows, temperature=1.0):
        return [f"{row} at {temperature}" for row in rows]

    one, two = model(warm), model(warm)
    request = af.InferenceRequest(inputs="x", parameters={"temperature": 0.7}, metadata={"mine": 1})
    found = flow.ask([one, two], request)
    assert [response.outputs for response in found] == ["x at 0.7"] * 2
    assert [response.request_id for response in found] == [f"{request.request_id}-{m.id}" for m in (one, two)]
    assert [response.metadata for response in found] == [{"mine": 1}] * 2
    assert request.model_id is None


# ---------------------------------------------------------------- time


def test_what_is_there_at_the_deadline_is_combined_and_the_rest_is_named(flow, gates):
    quick, late = answering("quick"), gates.model("late")
    assert flow.ask([quick], "x").ok  # it is loaded
    found = flow.ask([quick, late], "x", deadline=1.5)
    assert found.outputs == {quick.id: "quick"}
    assert "not answered within 1.5 s" in found.missing[late.id] and not found.ok
    with pytest.raises(NoQuorum, match="1 of 2 models answered, and 2 are needed") as caught:
        flow.ask([quick, late], "x", combine=af.vote(quorum=2), deadline="1500ms")
    assert [one.outputs for one in caught.value.responses] == ["quick"]
    assert list(caught.value.missing) == [late.id]
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.responses == caught.value.responses and str(again) == str(caught.value)


def test_waiting_may_end_before_the_verdict_which_comes_all_the_same(flow, gates):
    asked = flow.fan_out([gates.model("late")], "x")
    with pytest.raises(TimeoutError, match="they go on"):
        asked.result(0.01)
    with pytest.raises(BadRequest, match="timeout='1'"):
        asked.result("1")
    assert (asked.status, asked.done()) == ("pending", False) and not asked._waiters
    gates.open()
    assert asked.result(LIMIT)[0].outputs == "late"
    assert (asked.status, asked.done()) == ("settled", True)


# ---------------------------------------------------------------- what goes wrong


def test_where_nobody_answers_the_error_says_why_of_each(flow):
    one, two = failing(), failing()
    with pytest.raises(NoQuorum, match="it cannot") as caught:
        flow.ask([one, two], "x", combine=af.first())
    assert caught.value.responses == () and set(caught.value.missing) == {one.id, two.id}
    assert type(caught.value.__cause__).__name__ == "PredictError"


def test_answers_of_two_kinds_are_an_error_that_holds_them(flow):
    text, number, bad = answering("cat"), answering(3), failing()
    with pytest.raises(Uncombinable, match="a text, and a number") as caught:
        flow.ask([text, bad, number], "x", combine=af.vote(), early_stopping=False)
    assert caught.value.models == (text.id, number.id)
    assert [one.outputs for one in caught.value.responses] == ["cat", 3]
    assert list(caught.value.missing) == [bad.id]


class Leaving(Aggregator):
    """Of the user's own; it ends its thread, or would."""

    name = "leaving"

    def _verdict(self, given, tally):
        raise SystemExit(3)


class Picky(Aggregator):
    name = "picky"

    def _verdict(self, given, tally):
        return Verdict(sorted(given))


def test_an_aggregator_that_raises_fails_its_own_question_alone(flow):
    cat = answering("cat")
    with pytest.raises(AggregationFailed, match=r"vote\(key=\).*test_parallel.py") as caught:
        flow.ask([cat], "x", combine=af.vote(lambda answer: answer["label"]))
    assert [one.outputs for one in caught.value.responses] == ["cat"]
    with pytest.raises(AggregationFailed, match=r"af.leaving\(\) failed: SystemExit"):
        flow.ask([cat], "x", combine=Leaving())
    assert flow.ask([cat], "x", combine=Picky()).outputs == [cat.id]


def test_a_function_that_would_wait_for_its_own_flow_is_told(flow):
    cat = answering("cat")
    with pytest.raises(BadRequest, match="never return"):
        flow.ask([cat], "x", combine=lambda outputs: flow.ask([cat], "y").outputs)
    assert flow.ask([cat], "x").ok


def test_a_model_that_cannot_be_loaded_is_missing(flow):
    class Unloadable:
        def __call__(self, rows):
            return rows

        def __setstate__(self, state):
            raise OSError("no weights")

        def __getstate__(self):
            return {"some": 1}

    cat, broken = answering("cat"), model(Unloadable(), f"broken-{uuid.uuid4().hex[:8]}")
    found = flow.ask([broken, cat], "x")
    assert found.outputs == {cat.id: "cat"}
    assert "no weights" in found.missing[broken.id]


def test_one_for_which_there_is_no_room_is_missing(flow, monkeypatch):
    cat, full = answering("cat"), answering("dog")
    submit = flow.submit

    def crowded(asked, *arguments, **options):
        if asked == full.id:
            raise Overloaded("too much waits")
        return submit(asked, *arguments, **options)

    monkeypatch.setattr(flow, "submit", crowded)
    found = flow.ask([full, cat], "x")
    assert (found.outputs, found.missing) == ({cat.id: "cat"}, {full.id: "too much waits"})


def test_what_breaks_off_the_sending_leaves_nothing_under_way(flow, lab, gates, monkeypatch):
    late, other = gates.model("late"), answering("cat")
    submit, sent = flow.submit, []

    def interrupted(asked, *arguments, **options):
        if asked == other.id:
            raise KeyboardInterrupt
        sent.append(submit(asked, *arguments, **options))
        return sent[-1]

    monkeypatch.setattr(flow, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flow.ask([late, other], "x")
    assert [handle.status for handle in sent] == ["cancelled"]
    assert not flow._referee._open
    gates.open()
    quiet(lab)


def test_a_parameter_that_only_the_worker_can_refuse_costs_its_model_alone(flow):
    def warm(rows, temperature=1.0):
        return [temperature] * len(rows)

    one, other = model(warm), answering("cat")
    found = flow.ask([one, other], "x", temperature=0.5)
    assert found.outputs == {one.id: 0.5}
    assert "temperature" in found.missing[other.id]


def test_cancelled_it_gives_up_all_of_them(flow, lab, gates):
    asked = flow.fan_out([gates.model("a"), gates.model("b"), gates.model("c")], "x")
    assert asked.cancel() and not asked.cancel()
    assert {handle.status for handle in asked.handles} == {"cancelled"} and asked.status == "cancelled"
    with pytest.raises(RequestCancelled):
        asked.result(LIMIT)
    gates.open()
    quiet(lab)


def test_interrupted_it_leaves_nothing_under_way(flow, lab, gates, monkeypatch):
    asked = []

    def interrupted(self, timeout=None):
        asked.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(FanOut, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flow.ask([gates.model("a")], "x")
    assert asked[0].status == "cancelled"
    gates.open()
    quiet(lab)


def test_a_member_that_is_given_up_by_hand_is_missing(flow, gates):
    quick, late = answering("quick"), gates.model("late")
    asked = flow.fan_out([quick, late], "x")
    assert asked.handles[1].cancel()
    found = asked.result(LIMIT)
    assert found.outputs == {quick.id: "quick"} and "cancelled" in found.missing[late.id]


# ---------------------------------------------------------------- threads and loops


def test_it_is_awaited_from_any_event_loop(flow, gates):
    cat, late = answering("cat"), gates.model("late")

    async def several():
        slow = flow.fan_out([late], "x")
        waiting = [asyncio.ensure_future(wait(slow)) for _ in range(3)]
        answers = await asyncio.gather(*(flow.fan_out([cat], "x") for _ in range(5)))
        waiting[0].cancel()  # leaves the verdict to the others
        gates.open()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        return [one.outputs[cat.id] for one in answers], found

    async def wait(asked):
        return (await asked)[0].outputs

    answers, (first, *others) = asyncio.run(several())
    assert answers == ["cat"] * 5
    assert isinstance(first, asyncio.CancelledError) and others == ["late", "late"]

    async def on_the_clients_own():
        asked = flow.fan_out([cat], "x")
        if not asked.done():
            with pytest.raises(BadRequest, match="never return"):
                asked.result()
        return (await asked).outputs

    assert flow.client.sync(on_the_clients_own) == {cat.id: "cat"}


def test_hundreds_at_once_get_each_its_own(flow, lab):
    def echo(rows):
        return list(rows)

    def negative(rows):
        return [-row for row in rows]

    models, found, wrong = [model(echo), model(negative), failing()], {}, []
    for spec in models:
        flow.prepare(spec)

    def ask(numbers):
        try:
            asked = {
                n: flow.fan_out(models, n, combine=lambda outputs: list(outputs.values())) for n in numbers
            }
            found.update({n: one.result(LIMIT).outputs for n, one in asked.items()})
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(range(at, 300, 4),)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not wrong
    assert found == {n: [n, -n] for n in range(300)}
    assert not flow._referee._open
    quiet(lab)


def referees():
    return [thread for thread in threading.enumerate() if thread.name == "altlas-referee"]


def test_a_flow_that_closes_ends_what_it_asked_and_its_thread(flow, lab, gates):
    before, late = referees(), gates.model("late")
    other = af.connect(flow.client)  # the client lives on, and its transport
    assert referees() == before  # nothing was asked
    asked = [other.fan_out([late], n) for n in range(3)]
    (mine,) = [thread for thread in referees() if thread not in before]
    caught = []

    def wait():
        try:
            asked[0].result(LIMIT)
        except ClusterLost as error:
            caught.append((error, time.monotonic()))

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: asked[0]._waiters)
    closed = time.monotonic()
    other.close()
    waiter.join(LIMIT)
    ((error, told),) = caught
    assert "the flow was closed" in str(error) and told - closed < 1
    assert {one.status for one in asked} == {"failed"}
    assert {handle.status for one in asked for handle in one.handles} == {"cancelled"}
    mine.join(LIMIT)
    assert not mine.is_alive()
    gates.open()
    quiet(lab)
    assert flow.ask([answering("cat")], "x").ok


def test_a_flow_that_nobody_holds_leaves_no_thread(flow):
    import gc

    before = referees()
    other = af.connect(flow.client)
    assert other.ask([answering("cat")], "x").ok
    (mine,) = [thread for thread in referees() if thread not in before]
    flow._transport.users -= 1  # it is never released: nobody has closed it
    del other
    gc.collect()
    mine.join(LIMIT)
    assert not mine.is_alive()


# ---------------------------------------------------------------- workers that go


def test_a_worker_that_dies_costs_its_own_model_at_most(gates):
    def kills(rows):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    with laboratory(named("ab")) as lab:
        cat, killer, late = answering("cat"), model(kills), gates.model("late")
        found = lab.flow.ask([killer, cat], "x", idempotent=False, combine=af.every())
        assert killer.id in found.missing and "died" in found.missing[killer.id]
        lab.await_hosts(2)
        asked = lab.flow.fan_out([late, cat], "x")
        lab.kill(until(lambda: gates.began("late")))
        gates.open()
        found = asked.result(LIMIT)  # elsewhere
        assert found.outputs == {late.id: "late", cat.id: "cat"}


# ---------------------------------------------------------------- shown


def test_what_is_shown_is_one_line_and_escaped_html(flow):
    nasty = answering("<b>cat</b>\n& dog", name="<i>-" + uuid.uuid4().hex[:8])
    found = flow.ask([nasty, failing(name="bad-" + uuid.uuid4().hex[:8])], "x", combine=af.vote())
    assert "\n" not in repr(found) and "1 of 2 models" in repr(found) and "agreement 1.00" in repr(found)
    html = found._repr_html_()
    assert "<b>" not in html and "<i>" not in html
    assert "&lt;b&gt;cat" in html and "it cannot" in html
