"""Requests to pipelines on a real cluster: what comes out, in what order, and what fails for itself."""

from __future__ import annotations

import asyncio
import pickle
import threading

import numpy as np
import pytest

from altlas_flow import ModelSpec, Pipeline, Stage
from altlas_flow.errors import (
    BadRequest,
    DeadlineExceeded,
    PipelineError,
    RequestCancelled,
    StageFailed,
    UnknownModel,
)
from tests.laboratory import until

pytestmark = pytest.mark.timeout(120)

LIMIT = 60  # seconds that any one wait may take


def chain(*functions, **options):
    stages, before = [], "input"
    for at, function in enumerate(functions):
        stages.append(Stage(f"s{at}", function=function, after=before))
        before = f"s{at}"
    return Pipeline(stages, **options)


def ask(flow, pipeline, inputs, **options):
    return flow.submit(pipeline, inputs, **options).result(LIMIT)


def test_outputs_pass_from_stage_to_stage(flow):
    found = ask(flow, chain(str.upper, lambda text: text + "!", len), "abc", keep=True)
    assert found.outputs == 4
    assert [response.outputs for response in found.values()] == ["ABC", "ABC!", 4]
    assert all(response.node_id and response.trace.strategy for response in found.values())


def test_several_upstreams_come_by_name_and_the_input_with_them(flow):
    pipeline = Pipeline(
        [
            Stage("both", function=lambda given: sorted(given.items()), after=("input", "up", "down")),
            Stage("up", function=str.upper),
            Stage("down", function=str.lower),
        ]
    )
    assert ask(flow, pipeline, "aB").outputs == [("down", "ab"), ("input", "aB"), ("up", "AB")]


def test_models_functions_and_pipelines_are_stages(flow):
    def lengths(texts, times=1):
        return [len(text) * times for text in texts]

    inner = Pipeline([Stage("cut", function=lambda text: text[1:])], id="inner")
    pipeline = Pipeline(
        [
            Stage("cut", pipeline=inner),
            Stage("length", ModelSpec(id="lengths", source=lengths), after="cut", parameters={"times": 3}),
            Stage(
                "both", combine=lambda outputs: outputs["cut"] * outputs["length"], after=("cut", "length")
            ),
        ]
    )
    assert ask(flow, pipeline, "abc").outputs == "bc" * 6


def test_several_outputs_are_a_dict_and_a_list_of_inputs_gives_a_list(flow):
    pipeline = Pipeline([Stage("up", function=str.upper), Stage("size", function=len)])
    assert ask(flow, pipeline, ["a", "bc"]).outputs == [{"up": "A", "size": 1}, {"up": "BC", "size": 2}]
    assert ask(flow, pipeline, []).outputs == []


def test_a_stage_of_each_takes_the_items_of_a_list(flow):
    pipeline = Pipeline(
        [Stage("words", function=str.split), Stage("size", function=len, after="words", each=True)]
    )
    assert ask(flow, pipeline, ["a bc", "", "def"]).outputs == [[1, 2], [], [3]]


def test_arrays_pass_as_they_are(flow):
    pipeline = chain(lambda n: np.arange(n), lambda array: array * 2)
    found = ask(flow, pipeline, 3).outputs
    assert isinstance(found, np.ndarray) and found.tolist() == [0, 2, 4]


def test_a_stage_that_writes_into_its_input_changes_nothing_for_others(flow):
    def spoil(given):
        given.append("spoilt")
        return len(given)

    def spoil_array(given):
        given[:] = -1
        return int(given.sum())

    pipeline = Pipeline(
        [
            Stage("words", function=str.split),
            Stage("first", function=spoil, after="words"),
            Stage("second", function=spoil, after="words"),
            Stage("array", function=lambda text: np.arange(len(text))),
            Stage("third", function=spoil_array, after="array"),
        ]
    )
    found = ask(flow, pipeline, ["a b", "c"], keep=["words", "array"])
    assert found.outputs_of("words") == [["a", "b"], ["c"]]
    assert [array.tolist() for array in found.outputs_of("array")] == [[0, 1, 2], [0]]
    assert found.outputs == [{"first": 3, "second": 3, "third": -3}, {"first": 2, "second": 2, "third": -1}]


def test_a_batched_function_gets_a_list(flow):
    pipeline = Pipeline([Stage("rank", function=lambda rows: [len(rows)] * len(rows), batched=True, batch=4)])
    assert ask(flow, pipeline, [None] * 4).outputs == [4] * 4


def test_async_functions_are_awaited(flow):
    async def later(value):
        await asyncio.sleep(0)
        return value + 1

    assert ask(flow, chain(later), 1).outputs == 2


def test_none_is_a_value_like_any_other(flow):
    assert ask(flow, chain(lambda value: None, lambda value: value is None), 1).outputs is True


def test_requests_that_wait_travel_together_and_each_gets_its_own(flow):
    pipeline = chain(lambda value: value, lambda value: value * 2)
    handles = [flow.submit(pipeline, value) for value in range(500)]
    found = [handle.result(LIMIT) for handle in handles]
    assert [one.outputs for one in found] == [value * 2 for value in range(500)]
    assert max(one["s1"].batch_size for one in found) > 1


def test_awaited_from_any_event_loop(flow):
    async def go():
        return await asyncio.gather(*(flow.submit(chain(len), "a" * n) for n in range(20)))

    assert [one.outputs for one in asyncio.run(go())] == list(range(20))


# ---------------------------------------------------------------- when, optional, retry, cache


def test_a_condition_skips_and_says_so(flow):
    pipeline = Pipeline(
        [
            Stage("size", function=len),
            Stage(
                "long",
                function=lambda given: given["input"] + "...",
                after=("input", "size"),
                when=lambda given: given["size"] > 3,
            ),
            Stage("after", function=len, after="long"),
            Stage("either", function=lambda given: given["long"] or given["input"], after=("input", "long")),
        ]
    )
    short, long = (ask(flow, pipeline, text, keep=True) for text in ("abc", "abcd"))
    assert short.outputs == {"after": None, "either": "abc"}
    assert short["long"].metadata["skipped"] == "skipped: when= said no"
    assert short["after"].metadata["skipped"] == "skipped: all that it depends on was"
    assert long.outputs == {"after": 7, "either": "abcd..."} and "skipped" not in long["long"].metadata


def test_without_an_optional_stage_the_others_go_on(flow):
    pipeline = Pipeline(
        [
            Stage("risky", function=lambda value: 1 / value, optional=True),
            Stage("after", function=lambda value: "none" if value is None else value, after="risky"),
        ]
    )
    found = ask(flow, pipeline, [0, 2], keep=True)
    assert found.ok and found.outputs == ["none", 0.5]
    assert "ZeroDivisionError" in found["risky"].metadata["forgiven"]


def test_an_optional_stage_that_nobody_can_do_is_done_without(flow):
    pipeline = Pipeline(
        [
            Stage("up", function=str.upper),
            Stage("gpu", function=str.lower, after="up", resources={"GPU": 64}, optional=True),
            Stage("show", function=str, after=("up", "gpu")),
        ]
    )
    found = ask(flow, pipeline, "a", keep=True)
    assert found.outputs == "{'up': 'A', 'gpu': None}"
    assert "GPU" in found["gpu"].metadata["forgiven"]


def test_a_failing_stage_is_named_and_what_does_not_depend_on_it_is_kept(flow):
    def refuse(text):
        raise ValueError(f"I do not like {text}")

    pipeline = Pipeline(
        [
            Stage("up", function=str.upper),
            Stage("bad", function=refuse, after="up"),
            Stage("worse", function=len, after="bad"),
            Stage("good", function=len, after="up"),
        ]
    )
    handle = flow.submit(pipeline, "a", keep=True)
    with pytest.raises(StageFailed, match=r"stage 'bad' failed.*I do not like A.*in refuse") as caught:
        handle.result(LIMIT)
    found = caught.value.result
    assert caught.value.stage == "bad" and "ValueError" in caught.value.kinds
    assert found["good"].outputs == 1 and found["up"].outputs == "A"
    assert found["bad"].error.type == "PredictError" and found["worse"].error.type == "StageFailed"
    assert handle.status == "error" and handle.response().outputs == {"worse": None, "good": 1}


def test_one_row_that_fails_costs_the_others_nothing(flow):
    handle = flow.submit(chain(lambda value: 6 // value, lambda value: value + 1), [1, 0, 3])
    found = handle.response(LIMIT)
    assert found.outputs == [7, None, 3] and found.error.stage == "s0"


def test_a_stage_that_nobody_can_do_fails_and_the_others_are_kept(flow):
    pipeline = Pipeline(
        [
            Stage("a", function=str.upper),
            Stage("gpu", function=str.lower, after="a", resources={"GPU": 64}),
            Stage("b", function=len, after="gpu"),
        ]
    )
    with pytest.raises(StageFailed, match=r"'gpu'.*GPU") as caught:
        ask(flow, pipeline, "x", keep=True)
    assert caught.value.result["a"].outputs == "X" and caught.value.result["b"].error.type == "StageFailed"


def test_what_the_next_stage_cannot_take_is_its_failure(flow):
    with pytest.raises(StageFailed, match=r"'s1'.*TypeError"):
        ask(flow, chain(len, lambda value: value + "!"), "abc")


def test_a_condition_that_raises_fails_its_stage(flow):
    pipeline = Pipeline([Stage("s", function=len, when=lambda value: value.missing)])
    with pytest.raises(StageFailed, match=r"'s'.*when=.*AttributeError"):
        ask(flow, pipeline, "abc")


def test_a_stage_tries_again_what_it_is_told_to(flow, tmp_path):
    def second_time(path):
        with open(path, "a") as file:
            file.write("x")
        with open(path) as file:
            tries = len(file.read())
        if tries < 3:
            raise OSError("not yet")
        return tries

    path = str(tmp_path / "tries")
    found = ask(flow, Pipeline([Stage("s", function=second_time, retry=3)]), path)
    assert found.outputs == 3 and found["s"].tries == 3
    with pytest.raises(StageFailed, match="not yet"):
        ask(flow, Pipeline([Stage("s", function=second_time, retry=2)]), str(tmp_path / "others"))


def test_an_answer_that_the_validator_refuses_is_a_failed_try(flow):
    pipeline = Pipeline([Stage("s", function=len, validator=lambda value: value > 2)])
    assert ask(flow, pipeline, "abc").outputs == 3
    with pytest.raises(StageFailed, match="not valid"):
        ask(flow, pipeline, "a")


def test_a_stage_that_takes_too_long_ends(flow, tmp_path):
    gate = tmp_path / "gate"
    pipeline = Pipeline([Stage("slow", function=until_there, timeout=0.2, after="input")])
    try:
        with pytest.raises(StageFailed, match=r"'slow'.*timeout of 0.2 s"):
            ask(flow, pipeline, str(gate))
    finally:
        gate.touch()


def test_known_answers_are_not_made_again(flow, tmp_path):
    def note(value, path=""):
        with open(path, "a") as file:
            file.write(f"{value}\n")
        return value * 2

    notes = tmp_path / "notes"
    stage = {"function": note, "parameters": {"path": str(notes)}, "cache": tmp_path / "kept"}
    assert ask(flow, Pipeline([Stage("s", **stage)]), [1, 2]).outputs == [2, 4]
    again = ask(flow, Pipeline([Stage("s", **stage)]), [2, 3, 1])
    assert again.outputs == [4, 6, 2] and again.notes["s"].cached == {0, 2}
    assert sorted(notes.read_text().split()) == ["1", "2", "3"]


# ---------------------------------------------------------------- given up, late, refused


def until_there(path):
    import os
    import time

    end = time.monotonic() + 60
    while not os.path.exists(path):
        assert time.monotonic() < end
        time.sleep(0.01)
    return path


def test_a_deadline_ends_it_and_frees_the_slots(flow, tmp_path):
    gate = tmp_path / "gate"
    handle = flow.submit(chain(until_there, until_there), str(gate), deadline=0.3)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        handle.result(LIMIT)
    assert handle.status == "error"
    gate.touch()
    assert ask(flow, chain(len), "ab").outputs == 2


def test_a_cancelled_pipeline_starts_no_further_stage(flow, tmp_path):
    gate, seen = tmp_path / "gate", tmp_path / "seen"

    def touch(_, path=""):
        open(path, "w").close()

    pipeline = Pipeline(
        [
            Stage("wait", function=until_there),
            Stage("touch", function=touch, after="wait", parameters={"path": str(seen)}),
        ]
    )
    handle = flow.submit(pipeline, str(gate))
    assert handle.cancel() and not handle.cancel()
    with pytest.raises(RequestCancelled):
        handle.result(LIMIT)
    until_all_is_forgotten(flow)
    gate.touch()
    assert ask(flow, chain(len), "ab").outputs == 2
    assert handle.status == "cancelled" and not seen.exists()


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (BadRequest, {"inputs": None}),
        (BadRequest, {"inputs": "a", "keep": "z"}),
        (BadRequest, {"inputs": 1, "priority": 1.5}),
        (BadRequest, {"inputs": 1, "strategy": "ROUND_ROBIN"}),
        (BadRequest, {"inputs": 1, "deadline": -1}),
    ],
    ids=["nothing", "keep", "priority", "strategy", "deadline"],
)
def test_bad_requests(flow, error, options):
    with pytest.raises(error):
        flow.submit(chain(len), options.pop("inputs"), **options)


def test_an_unknown_model_is_named_before_anything_runs(flow):
    with pytest.raises((UnknownModel, PipelineError), match="nobody-knows"):
        flow.submit(Pipeline([Stage("s", "nobody-knows")]), 1)


def test_inputs_that_cannot_be_pickled_are_told(flow):
    pipeline = chain(str)
    handles = [flow.submit(pipeline, threading.Lock() if at == 2 else at) for at in range(6)]
    with pytest.raises(BadRequest, match="cannot be sent"):
        handles.pop(2).result(LIMIT)
    assert [handle.result(LIMIT).outputs for handle in handles] == ["0", "1", "3", "4", "5"]
    lock = threading.Lock()
    handles = [flow.submit(pipeline, [lock, lock]), flow.submit(pipeline, lock), flow.submit(pipeline, 1)]
    for handle in handles[:2]:
        with pytest.raises(BadRequest, match="cannot be sent"):
            handle.result(LIMIT)
    assert handles[2].result(LIMIT).outputs == "1"


def test_strategies_of_stages(flow):
    def backwards(request, nodes):
        return sorted(nodes, key=lambda node: node.name, reverse=True)

    pipeline = Pipeline(
        [
            Stage("a", function=str.upper, strategy="ROUND_ROBIN"),
            Stage("b", function=len, after="a", strategy=backwards),
        ]
    )
    found = ask(flow, pipeline, "abc", keep=True)
    assert found["a"].trace.strategy == "ROUND_ROBIN" and found["b"].trace.strategy == "backwards"


# ---------------------------------------------------------------- any graph


class Node:
    """Does something with what it gets that tells order and names apart."""

    def __init__(self, at, fails):
        self.at, self.fails = at, fails

    def __call__(self, given):
        if isinstance(given, dict):
            given = sum((place + 1) * value for place, (_, value) in enumerate(sorted(given.items())))
        if self.fails and given % 3 == 0:
            raise ValueError("divisible")
        return (given * 31 + self.at) % 1_000_003


def plainly(graph, value):
    """The same graph, one stage after the other, in this process; None where one before it failed."""
    done = {"input": value}
    for name, after, node in graph:
        given = {one: done[one] for one in after}
        if any(one is None for one in given.values()):
            done[name] = None
            continue
        try:
            done[name] = node(given if len(after) > 1 else given[after[0]])
        except ValueError:
            done[name] = None
    return done


def random_graph(seed):
    rng = np.random.default_rng(seed)
    found, names = [], ["input"]
    for at in range(int(rng.integers(1, 31))):
        count = min(len(names), int(rng.integers(1, 5)))
        after = tuple(str(name) for name in rng.choice(names, count, replace=False))
        found.append((f"n{at}", after, Node(at, rng.random() < 0.1)))
        names.append(f"n{at}")
    return found, [int(value) for value in rng.integers(0, 1000, int(rng.integers(1, 6)))]


# not hypothesis: Dask draws random numbers meanwhile, in threads of this process
@pytest.mark.parametrize(
    "seed", [0, 1, 2, *(pytest.param(one, marks=pytest.mark.long) for one in range(3, 10))]
)
def test_any_graph_is_what_a_plain_evaluation_gives(flow, seed):
    graph, values = random_graph(seed)
    pipeline = Pipeline([Stage(name, function=node, after=after) for name, after, node in graph])
    found = flow.submit(pipeline, values, keep=True).response(LIMIT)
    expected = [plainly(graph, value) for value in values]
    for name, _, _ in graph:
        assert found.outputs_of(name) == [one[name] for one in expected], name
    assert found.ok == all(value is not None for one in expected for value in one.values())


def passages(dask_scheduler):
    return [str(key) for key in dask_scheduler.tasks if str(key).startswith("altlas-passage")]


def until_all_is_forgotten(flow):
    until(lambda: not flow.client.run_on_scheduler(passages))


def test_nothing_of_a_pipeline_stays_on_the_cluster(flow):
    ask(flow, chain(str.upper, len), ["a"] * 100)
    until_all_is_forgotten(flow)


def test_a_result_holds_its_own_rows_alone(flow):
    pipeline = chain(lambda value: [value] * 10)
    results = [handle.result(LIMIT) for handle in [flow.submit(pipeline, at) for at in range(200)]]
    assert max(one["s0"].batch_size for one in results) > 1, "none travelled together"
    assert all(len(one._outputs["s0"]) == 1 for one in results)


def test_requests_that_carry_one_object_do_not_see_what_others_do_to_it(flow):
    def grows(given):
        given["l"].append(1)
        return len(given["l"])

    shared = {"l": []}
    pipeline = chain(grows)
    assert ask(flow, pipeline, [shared, shared, shared]).outputs == [1, 1, 1]
    handles = [flow.submit(pipeline, shared) for _ in range(30)]
    assert {handle.result(LIMIT).outputs for handle in handles} == {1}


@pytest.mark.parametrize("after", [False, True], ids=["first", "second"])
def test_a_row_that_fails_does_not_have_the_others_written_into_twice(flow, after):
    def makes(at):
        return {"n": 0, "of": [at], "bad": at == 5}

    def counts(rows):
        for row in rows:
            row["n"] += 1
            row["of"].append("seen")
        if any(row["bad"] for row in rows):
            raise ValueError("bad")
        return [(row["n"], len(row["of"])) for row in rows]

    make = [Stage("make", function=makes)] if after else []
    before = "make" if after else "input"
    pipeline = Pipeline([*make, Stage("count", function=counts, batched=True, after=before)])
    handles = [flow.submit(pipeline, at if after else makes(at)) for at in range(8)]
    found = [handle.response(LIMIT) for handle in handles]
    assert [at for at, one in enumerate(found) if one.error is not None] == [5]
    assert {one.outputs for one in found if one.error is None} == {(1, 2)}
    model = ModelSpec(id="counts", source=counts)
    handles = [flow.submit(model, makes(at)) for at in range(8)]
    found = [handle.response(LIMIT) for handle in handles]
    assert [one.outputs for one in found if one.error is None] == [(1, 2)] * 7


def test_answers_that_are_one_object_are_not_to_the_next_stage(flow):
    kept = {"n": []}

    class Held:
        def __init__(self):
            self.n = []

    held = Held()

    def same(rows):
        answer = {"n": []}
        return [answer for _ in rows]

    def grows(given):
        numbers = given["n"] if isinstance(given, dict) else given.n
        numbers.append(1)
        return len(numbers)

    then = Stage("grow", function=grows, after="same")
    # what comes before a stage's model is a function of its own, too
    inputs = Stage("grow", function=lambda length: length, inputs=grows, after="same")
    for first in (
        Stage("same", function=same, batched=True),
        Stage("same", function=lambda at: kept),
        Stage("same", function=lambda at: held),
    ):
        for second in (then, inputs):
            pipeline = Pipeline([first, second])
            assert ask(flow, pipeline, list(range(4))).outputs == [1] * 4
            handles = [flow.submit(pipeline, at) for at in range(6)]
            assert [handle.result(LIMIT).outputs for handle in handles] == [1] * 6


def test_a_try_again_gets_what_the_first_one_got(flow):
    def pops(given):
        if len(given) == 3:
            given.pop()
            raise ValueError("once")
        return given

    with pytest.raises(StageFailed, match="once"):
        ask(flow, Pipeline([Stage("s", function=pops, retry=2)]), [[1, 2, 3]])


def test_a_failure_before_an_optional_stage_is_a_failure(flow):
    pipeline = Pipeline(
        [
            Stage("a", function=lambda value: 1 / value),
            Stage("b", function=str, after="a", optional=True),
            Stage("c", function=str, after="b"),
        ]
    )
    for keep in (False, True):
        with pytest.raises(StageFailed, match="'a' failed"):
            flow.submit(pipeline, 0, keep=keep).result(LIMIT)
    assert flow.submit(pipeline, [0, 1]).response(LIMIT).outputs == ["None", "1.0"]


def test_known_answers_are_those_of_the_same_question(flow):
    inputs = ["ab", "c", "def"]
    assert ask(flow, Pipeline([Stage("s", function=len, cache=True, each=True)]), [inputs]).outputs == [
        [2, 1, 3]
    ]
    assert ask(flow, Pipeline([Stage("s", function=len, cache=True)]), [inputs]).outputs == [3]
    pipeline = Pipeline([Stage("s", function=len, cache=True, validator=lambda size: size != 3)])
    with pytest.raises(StageFailed, match="not valid"):
        ask(flow, pipeline, [inputs])
    spoilt = Pipeline(
        [
            Stage("make", function=lambda text: list(text), cache=True),
            Stage("spoil", function=lambda letters: letters.append("x") or len(letters), after="make"),
        ]
    )
    assert [ask(flow, spoilt, "ab").outputs for _ in range(4)] == [3, 3, 3, 3]


class Shut:
    """Pickles, and cannot be opened."""

    def __reduce__(self):
        return int, ("no number",)


def test_one_that_cannot_be_opened_costs_the_others_nothing(flow):
    pipeline = chain(lambda value: value, lambda value: Shut() if value == 3 else value)
    handles = [flow.submit(pipeline, Shut() if at == 5 else at) for at in range(8)]
    found = [handle.response(LIMIT) for handle in handles]
    assert [one.ok for one in found] == [at not in (3, 5) for at in range(8)]
    assert [one.outputs for one in found if one.ok] == [0, 1, 2, 4, 6, 7]


@pytest.mark.parametrize("parameters", [{"k": {(1, 2): 3}}, {"k": {1: "a"}}], ids=["tuple", "int"])
def test_parameters_of_any_kind_go_and_cost_others_nothing(flow, parameters):
    def kinds(value, k=None):
        return sorted(map(str, k))

    for _ in range(2):
        pipeline = Pipeline([Stage("s", function=kinds, parameters=parameters)])
        assert ask(flow, pipeline, 1).outputs == sorted(map(str, parameters["k"]))


def test_many_requests_to_a_pipeline_fail_each_for_itself(flow):
    pipeline = Pipeline([Stage("n", function=int)])
    found = flow.submit_many(pipeline, ["1", "x", "3"]).result(LIMIT)
    assert [one.outputs for one in found] == [1, None, 3] and [one.ok for one in found] == [True, False, True]
    with pytest.raises(StageFailed):
        flow.submit_many(pipeline, ["x"], raise_on_error=True).result(LIMIT)

    async def go():
        return await flow.submit_many(pipeline, ["4"])

    assert asyncio.run(go())[0].outputs == 4


def test_a_failed_pipeline_pickles_without_what_others_made(flow):
    with pytest.raises(StageFailed) as caught:
        ask(flow, chain(lambda value: 1 / value), 0)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.stage, error.result, error.nodes) == ("s0", None, caught.value.nodes)


def test_waiting_that_is_given_up_leaves_nothing(flow, tmp_path):
    gate = tmp_path / "gate"
    handle = flow.submit(chain(until_there), str(gate))

    async def poll():
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(handle.settled(), 0.005)

    try:
        asyncio.run(poll())
        assert not handle._waiters
    finally:
        gate.touch()
    assert handle.result(LIMIT).ok


def test_what_was_done_is_shown_with_time_and_rows(flow):
    pipeline = Pipeline(
        [Stage("up", function=str.upper), Stage("<size>"[1:5], function=len, after="up")], id="<b>"
    )
    found = ask(flow, pipeline, ["a", "bc"])
    assert [(stage.name, stage.rows, stage.failed) for stage in found.report.stages] == [
        ("up", 2, 0),
        ("size", 2, 0),
    ]
    html = found._repr_html_()
    assert "<svg" in html and "2 rows" in html and "<b>" not in html
    assert "2 rows" in found.mermaid()
