"""Choosing models for tasks, and learning from what comes of it, on real clusters."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sqlite3
import uuid
from contextlib import closing, suppress

import dask
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import altlas_flow as af
from altlas_flow import AdvancedModelSelectionStrategy, InferenceRequest, get_enhanced_orchestrator
from altlas_flow.cli import cli
from altlas_flow.errors import (
    BadRequest,
    FeatureError,
    NoModelFits,
    NothingServes,
    PredictError,
    ReplayError,
    RequestError,
    SelectionError,
    SpecError,
    UnknownDecision,
)
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(180)


def served(task, name, function, **fields):
    return af.ModelSpec(id=f"{name}-{uuid.uuid4().hex[:6]}", source=function, serves=(task,), **fields)


def short(rows):
    return [row[:8] for row in rows]


def whole(rows):
    return [row.upper() for row in rows]


def breaks(rows):
    raise ValueError("it cannot")


@pytest.fixture
def task():
    return f"shorten-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cluster with a history."""
    folder = tmp_path_factory.mktemp("kept")
    with laboratory({"a": {}, "b": {}}, history=str(folder / "history.sqlite")) as lab:
        lab.history = folder / "history.sqlite"
        yield lab


def learning(dask_scheduler):
    return dask_scheduler.plugins["altlas-control"].learning


def await_learned(lab, task, decisions):
    """Wait until so many outcomes have been learned."""
    until(lambda: lab.flow.models_report(task)["outcomes"].sum() >= decisions)


# ---------------------------------------------------------------- as the samples have it


@pytest.fixture(scope="module")
def enhanced():
    """The orchestrator of this process, with models under the ids of the samples."""
    with pytest.MonkeyPatch.context():
        orchestrator = get_enhanced_orchestrator()

        async def begin():
            await orchestrator.start()
            for name, function in (("model1", short), ("model2", whole)):
                spec = af.ModelSpec(id=name, source=function, task="text-generation")
                orchestrator.flow.register(spec, replace=True)

        asyncio.run(begin())
        yield orchestrator
        asyncio.run(orchestrator.stop())


def test_choosing_models_as_the_samples_have_it(enhanced):
    async def sample():
        orchestrator = get_enhanced_orchestrator()
        model_ids = await orchestrator.select_models_advanced(
            task_type="text-generation",
            strategy=AdvancedModelSelectionStrategy.CONTEXT_AWARE,
            context={"input_length": 5000, "language": "en"},
            top_k=2,
        )
        request = InferenceRequest(inputs="tell me a story", task_type="text-generation")
        return model_ids, await orchestrator.run_distributed_inference(request)

    model_ids, response = asyncio.run(sample())
    assert isinstance(model_ids, list) and set(model_ids) == {"model1", "model2"}
    decision = model_ids.decision
    assert decision.models == tuple(model_ids) and decision.features["input_length"] == 5000
    assert sum(decision.probabilities.values()) == pytest.approx(1.0)
    assert response.model_id in model_ids
    assert any("chosen for 'text-generation'" in note for note in response.trace.notes)


# ---------------------------------------------------------------- requests, outcomes, feedback


def test_a_request_that_names_a_task_is_answered_by_what_is_learned_to_be_the_best(kept, task):
    small = kept.flow.register(served(task, "small", short, declared={"cost": 1.0}))
    large = kept.flow.register(served(task, "large", whole, declared={"cost": 3.0}))
    chosen = []
    for at in range(60):
        handle = kept.flow.submit(task=task, inputs="a text that is long enough")
        response = handle.result(LIMIT)
        assert handle.decision.id == response.request_id and response.model_id == handle.decision.model
        chosen.append(response.model_id)
        score = 1.0 if response.model_id == large.id else 0.2
        kept.flow.feedback(response if at % 2 else response.request_id, score)
    await_learned(kept, task, 60)
    report = kept.flow.models_report(task)
    assert set(report.index) == {small.id, large.id} and report["decisions"].sum() == 60
    assert report.loc[large.id, "quality"] == 1.0 and report.loc[large.id, "cost"] == 3.0
    assert (report["latency_p50"].dropna() > 0).all()
    until(lambda: kept.flow.select(task, "another text").probabilities.get(large.id, 0.0) > 0.8)
    decision = kept.flow.select(task, "another text", explore=0)
    assert decision.model == large.id and decision.probabilities == {large.id: 1.0}
    [estimate] = [one for one in decision.estimates if one.model == large.id]
    assert estimate.quality[0] > 0.9 and f"quality {estimate.quality[0]:.2f}" in str(decision)


def test_what_fails_counts_as_failed_and_what_is_cancelled_as_nothing(kept, task):
    bad = kept.flow.register(served(task, "bad", breaks))
    handle = kept.flow.submit(task=task, inputs="x")
    with pytest.raises(Exception, match="it cannot"):
        handle.result(LIMIT)
    await_learned(kept, task, 1)
    report = kept.flow.models_report(task)
    assert report.loc[bad.id, "errors"] == 1 and np.isnan(report.loc[bad.id, "quality"])


def test_what_fails_is_left_though_nobody_says_how_good_answers_are(kept, task):
    good, bad = (kept.flow.register(served(task, *one)) for one in (("good", short), ("bad", breaks)))
    chosen = []

    def left():
        handle = kept.flow.submit(task=task, inputs="x")
        with suppress(PredictError):
            handle.result(LIMIT)
        chosen.append(handle.decision.model)
        return len(chosen) > 40 and chosen[-20:].count(good.id) >= 19

    until(left)
    found = {one.model: one.quality for one in kept.flow.select(task, record=False).estimates}
    assert found[bad.id][0] < 0.5 < found[good.id][0]


def test_feedback_of_a_whole_frame_from_another_client(kept, task):
    kept.flow.register(served(task, "one", short))
    ids = [kept.flow.submit(task=task, inputs=f"text {at}").result(LIMIT).request_id for at in range(10)]
    await_learned(kept, task, 10)
    with af.connect(kept.client.scheduler.address) as other:
        other.feedback(pd.DataFrame({"id": ids[::-1], "score": np.linspace(0, 1, 10)}))
        other.feedback(pd.DataFrame({"id": ids[:1], "score": [1.0]}))  # twice: it counts once
        with pytest.raises(UnknownDecision, match="'nobody'"):
            other.feedback("nobody", 0.5)
    report = kept.flow.models_report(task)
    assert report["quality"].iloc[0] == pytest.approx(0.5) and report["decisions"].iloc[0] == 10


def test_clients_share_what_is_learned(kept, task):
    good, bad = (kept.flow.register(served(task, name, short)) for name in ("good", "bad"))
    for _ in range(40):
        decision = kept.flow.select(task)
        kept.flow.feedback(decision, float(decision.model == good.id))
    await_learned(kept, task, 40)
    with af.connect(kept.client.scheduler.address) as other:
        until(lambda: other.select(task, explore=0, record=False).estimates[0].quality is not None)
        decision = other.select(task, explore=0)
        assert decision.model == good.id
        assert {estimate.model for estimate in decision.estimates} == {good.id, bad.id}


# ---------------------------------------------------------------- which may be chosen


def test_models_come_and_go_while_the_cluster_lives(kept, task):
    first = kept.flow.register(served(task, "first", short))
    assert kept.flow.select(task).model == first.id
    second = kept.flow.register(served(task, "second", whole))

    def seen():
        return {estimate.model for estimate in kept.flow.select(task).estimates}

    until(lambda: seen() == {first.id, second.id})
    gone = first.model_copy(update={"serves": ()})
    kept.flow.register(gone, replace=True)
    until(lambda: kept.flow.select(task, explore=0).probabilities == {second.id: 1.0})


def test_a_model_that_no_node_can_do_is_not_chosen(kept, task):
    able = kept.flow.register(served(task, "able", short))
    kept.flow.register(served(task, "gpu", short, resources={"GPU": 1}))
    decision = kept.flow.select(task)
    assert decision.probabilities == {able.id: 1.0}
    assert "no node can do it" in str(decision)


def test_specialities_fit_the_subtype(kept, task):
    law = kept.flow.register(served(task, "law", short, specialities=("legal",)))
    kept.flow.register(served(task, "any", short))
    decision = kept.flow.select(task, context={"subtype": "legal"}, strategy="specialized")
    assert decision.probabilities == {law.id: 1.0}
    plain = kept.flow.select(task, context={"subtype": "legal"}, strategy="context-aware")
    assert len(plain.probabilities) == 2
    assert len(kept.flow.select(task, context={"subtype": "medical"}).probabilities) == 2


def test_constraints_say_which_one_excludes_whom(kept, task):
    kept.flow.register(served(task, "dear", short, declared={"quality": 0.9, "cost": 5.0}))
    kept.flow.register(served(task, "poor", short, declared={"quality": 0.3, "cost": 0.1}))
    with pytest.raises(NoModelFits) as caught:
        kept.flow.select(task, constraints={"quality": 0.95})
    assert len(caught.value.why) == 2 and "is asked for" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"task": "nothing-does-that"}, NothingServes, "no model serves the task 'nothing-does-that'"),
        ({"task": ""}, SelectionError, "is no name"),
        ({"strategy": "BEST"}, SelectionError, "there are MULTI_OBJECTIVE"),
        ({"context": {"x": float("nan")}}, FeatureError, "'x' is nan"),
        ({"weights": {"speed": 1}}, SelectionError, "weights name 'speed'"),
        ({"constraints": {"latency": 1}}, SelectionError, "is not known"),
        ({"explore": 2}, SelectionError, "from 0 to 1"),
        ({"top_k": 0}, SelectionError, "at least 1"),
    ],
)
def test_bad_arguments_of_a_choice(kept, task, arguments, error, text):
    kept.flow.register(served(task, "one", short))
    with pytest.raises(error, match=text) as caught:
        kept.flow.select(**{"task": task, **arguments})
    assert "\n" not in str(caught.value)


def test_bad_feedback(kept, task):
    kept.flow.register(served(task, "one", short))
    decision = kept.flow.select(task)
    for given in ((decision, 1.5), (decision, float("nan")), (decision,), (object(), 1.0)):
        with pytest.raises(SelectionError):
            kept.flow.feedback(*given)
    with pytest.raises(SelectionError, match="no column 'score'"):
        kept.flow.feedback(pd.DataFrame({"id": [decision.id]}))
    with pytest.raises(SpecError, match="or task= to have one chosen"):
        kept.flow.submit(inputs="x")
    with pytest.raises(BadRequest, match="constraints"):
        kept.flow.submit(task=task, inputs="x", choose={"stratgy": "HYBRID"})
    with pytest.raises(RequestError, match="names no model"):
        kept.flow.submit(InferenceRequest(inputs="x"))


# ---------------------------------------------------------------- what is kept


def test_the_log_is_beside_the_history_file_and_can_be_replayed(kept, task):
    from altlas_flow.selection.replay import always

    good, _ = (kept.flow.register(served(task, name, short)) for name in ("good", "bad"))
    rng = np.random.default_rng(0)
    for _ in range(150):
        decision = kept.flow.select(task, context={"size": float(rng.random())}, explore=0.5)
        kept.flow.feedback(decision, 0.9 if decision.model == good.id else 0.1)
    await_learned(kept, task, 150)
    found = kept.flow.replay(task, always(good.id))
    assert found.decisions == 150 and found.snips.value == pytest.approx(0.9)
    with closing(sqlite3.connect(f"{kept.history}.lessons")) as database:
        rows = database.execute("SELECT body FROM lessons WHERE task = ? ORDER BY number", (task,)).fetchall()
    mine = [lesson for (body,) in rows if (lesson := json.loads(body))[0] == "chose"]
    assert len(mine) == 150 and all(sum(one[5].values()) == pytest.approx(1.0) for one in mine)


def test_a_program_that_is_killed_loses_no_lesson(kept, task):
    good, _ = (kept.flow.register(served(task, name, short)) for name in ("good", "bad"))
    for at in range(60):
        decision = kept.flow.select(task)
        kept.flow.feedback(decision, float(decision.model == good.id))
        if at in (20, 40):
            pid = kept.client.run_on_scheduler(lambda dask_scheduler: learning(dask_scheduler)._child.pid)
            os.kill(pid, signal.SIGKILL)
            until(
                lambda old=pid: (
                    kept.client.run_on_scheduler(
                        lambda dask_scheduler: getattr(learning(dask_scheduler)._child, "pid", None)
                    )
                    not in (None, old)
                )
            )
    await_learned(kept, task, 60)
    assert kept.flow.models_report(task)["decisions"].sum() == 60


@pytest.mark.long
def test_a_scheduler_that_is_started_again_goes_on_where_the_last_one_was(tmp_path, task):
    good, bad = served(task, "good", short), served(task, "bad", short)

    def expectations(flow):
        decision = flow.select(task, context={"size": 3.0})
        return {one.model: (one.quality, one.probability) for one in decision.estimates}

    def life(damage=None):
        if damage is not None:
            damage()
        with laboratory({"a": {}}, history=str(tmp_path / "history.sqlite")) as lab:
            for spec in (good, bad):
                lab.flow.register(spec)
            yield lab

    for lab in life():
        for at in range(60):
            decision = lab.flow.select(task, context={"size": float(at % 7)})
            lab.flow.feedback(decision, float(decision.model == good.id))
        await_learned(lab, task, 60)
    for lab in life():
        first = expectations(lab.flow)
        assert lab.flow.models_report(task)["outcomes"].sum() == 60
        assert first[good.id][0][0] > 0.8 > 0.3 > first[bad.id][0][0]
    state = tmp_path / "history.sqlite.selector"

    def tear():
        state.write_bytes(state.read_bytes()[:-100])

    for lab in life(tear):
        again = expectations(lab.flow)
        assert lab.flow.models_report(task)["outcomes"].sum() == 60
        assert again[good.id][0][0] == pytest.approx(first[good.id][0][0], abs=0.05)


@pytest.mark.long
def test_without_a_history_it_is_said_once_that_nothing_is_kept(task, monkeypatch):
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(logging.getLogger("altlas_flow.cluster.choosing"), "handlers", [handler])
    with dask.config.set({"altlas.history": None}), laboratory({"a": {}}) as lab:
        lab.flow.register(served(task, "one", short))
        for _ in range(3):
            lab.flow.select(task)
        folder = lab.client.run_on_scheduler(lambda dask_scheduler: str(learning(dask_scheduler)._folder))
        assert os.stat(folder).st_mode & 0o077 == 0
    assert said == ["what is learned of models lasts as long as the scheduler: set altlas.history to keep it"]
    assert not os.path.exists(folder)


def test_what_was_told_is_in_what_is_asked_for_next(kept, task):
    kept.flow.register(served(task, "one", short))
    for asked in range(1, 21):
        response = kept.flow.submit(task=task, inputs="x").result(LIMIT)
        kept.flow.feedback(response, 0.5)
        report = kept.flow.models_report(task)
        assert report["decisions"].sum() == report["outcomes"].sum() == asked
        assert sum(map(sum, kept.flow.choices_over_time(task).counts)) == asked
    rows = pd.DataFrame({"text": ["x", "y"] * 20})
    for asked in range(1, 11):
        chosen = kept.flow.map(rows, task=task, input="text", output="short")
        kept.flow.feedback(chosen.assign(score=0.5))
        assert kept.flow.models_report(task)["decisions"].sum() == 20 + 40 * asked


@pytest.mark.long
def test_a_question_does_not_wait_for_a_stream_that_lost_what_was_told(kept, task, monkeypatch):
    kept.flow.register(served(task, "one", short))
    kept.flow.select(task)
    assert kept.flow.models_report(task)["decisions"].sum() == 1
    monkeypatch.setattr(kept.flow._transport.choosing(), "flush", lambda mark: None)
    assert kept.flow.models_report(task)["decisions"].sum() == 1  # in the end it is told what is known


# ---------------------------------------------------------------- what goes wrong


def test_an_id_that_is_given_twice_makes_two_decisions(kept, task):
    kept.flow.register(served(task, "one", short))
    kept.flow.register(served(task, "two", whole))
    responses = [
        kept.flow.submit(InferenceRequest(request_id="mine", inputs="x" * 20, task_type=task)).result(LIMIT)
        for _ in range(8)
    ]
    assert len({response.decision_id for response in responses}) == 8
    for response in responses:
        kept.flow.feedback(response, 0.5)
    await_learned(kept, task, 8)
    report = kept.flow.models_report(task)
    chosen = pd.Series([response.model_id for response in responses]).value_counts()
    assert report["outcomes"][report["outcomes"] > 0].to_dict() == chosen.to_dict()


def test_a_request_that_is_not_sent_is_no_decision(kept, task):
    kept.flow.register(served(task, "one", short))
    with pytest.raises(BadRequest):
        kept.flow.submit(task=task, inputs="x", hedge=True, idempotent=False)
    kept.flow.submit(task=task, inputs="x").result(LIMIT)
    await_learned(kept, task, 1)
    assert kept.flow.models_report(task)["decisions"].sum() == 1


@pytest.mark.long
def test_a_snapshot_that_cannot_be_read_ends_no_request(kept, task):
    kept.flow.register(served(task, "one", short))
    kept.flow.select(task)

    def damage(dask_scheduler, name=task):
        found = learning(dask_scheduler)._snapshots
        found[name] = found[name][0] + 1000, b"damaged"

    kept.client.run_on_scheduler(damage)
    handle = kept.flow.submit(af.ModelSpec(id=f"slow-{task}", source=waits), "x")

    def refused():
        try:
            kept.flow.select(task)
        except SelectionError:
            return True
        return False

    until(refused)
    assert handle.result(LIMIT).outputs == "x"


def waits(rows):
    import time

    time.sleep(2)
    return rows


def test_what_anybody_sends_ends_nothing(kept, task):
    kept.flow.register(served(task, "one", short))
    kept.flow.select(task)
    bad = [["arms", task, [["x", "y", "z", "w"]]], ["chose"], None, ["told", "x", {"quality": 1e200}]]
    kept.client._send_to_scheduler({"op": "altlas-taught", "lessons": bad})
    kept.flow.feedback(kept.flow.select(task), 1.0)
    await_learned(kept, task, 1)
    assert kept.flow.select(task).models


def test_on_the_clients_own_event_loop_choosing_never_waits(kept, task):
    one = kept.flow.register(served(task, "one", short))

    async def choose():
        return kept.flow.select(task)

    with pytest.raises(SelectionError, match="to_thread"):
        kept.client.sync(choose)
    kept.flow.select(task)
    assert kept.client.sync(choose).model == one.id


def test_a_model_may_have_parameters_of_these_names(kept):
    def says(rows, task=None, choose=None):
        return [f"{task} {choose}" for _ in rows]

    handle = kept.flow.submit(af.ModelSpec(id="says", source=says), "x", task="translate", choose="me")
    assert handle.result(LIMIT).outputs == "translate me" and handle.decision is None


# ---------------------------------------------------------------- on the command line


def say(*arguments, code=0):
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.output


def test_the_commands_explain_a_choice_and_replay_a_log(kept, task):
    good, bad = (kept.flow.register(served(task, name, short)) for name in ("good", "bad"))
    for _ in range(60):
        decision = kept.flow.select(task, explore=0.5)
        kept.flow.feedback(decision, 0.9 if decision.model == good.id else 0.1)
    await_learned(kept, task, 60)
    until(lambda: "quality 0.9" in str(kept.flow.select(task, record=False)))  # learned a moment later
    address = kept.client.scheduler.address
    assert say("select", "--task", task, "--scheduler", address) == f"{good.id}\n"
    text = say("select", "--task", task, "--explain", "--context", '{"length": 3}', "--scheduler", address)
    assert text.startswith(f"{task}: ") and good.id in text and bad.id in text and "quality 0.9" in text
    assert kept.flow.models_report(task)["decisions"].sum() == 60  # nothing was logged
    said = say("replay", kept.history, "--policy", f"always:{good.id}", "--task", task)
    assert said.startswith("60 decisions") and "SNIPS  0.9" in said
    assert "60 decisions" in say("replay", kept.history, "--policy", "uniform", "--task", task)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--policy", "uniform", "--task", "nothing"), "name one of them with --task"),
        (("--policy", "best", "--task", "TASK"), "give uniform, or always:MODEL"),
    ],
)
def test_a_log_that_cannot_be_replayed(kept, task, arguments, text):
    kept.flow.register(served(task, "one", short))
    kept.flow.feedback(kept.flow.select(task), 1.0)
    await_learned(kept, task, 1)
    given = [task if one == "TASK" else one for one in arguments]
    said = say("replay", kept.history, *given, code=2)
    assert said.startswith("error: ") and said.count("\n") == 1 and text in said


def test_a_policy_that_is_none(kept, task):
    kept.flow.register(served(task, "one", short))
    kept.flow.feedback(kept.flow.select(task), 1.0)
    await_learned(kept, task, 1)
    with pytest.raises(ReplayError, match="give a function"):
        kept.flow.replay(task, "always:one")
    with pytest.raises(ReplayError, match="no decision of the task 'nothing'"):
        kept.flow.replay("nothing", lambda features, models: {})


def test_a_file_that_is_no_log(tmp_path):
    (tmp_path / "file").write_text("no database")
    assert "has no log of decisions" in say("replay", tmp_path / "file", "--policy", "uniform", code=2)


def test_a_choice_on_the_command_line_that_cannot_be_made(kept):
    address = kept.client.scheduler.address
    assert "no model serves" in say("select", "--task", "nothing", "--scheduler", address, code=2)
    said = say("select", "--task", "x", "--context", "{", "--scheduler", address, code=2)
    assert "is no JSON" in said
