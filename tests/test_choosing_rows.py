"""Choosing models for the rows of frames and for stages of pipelines, on a real cluster."""

from __future__ import annotations

import os
import signal
import uuid

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import altlas_flow as af
from altlas_flow import EnhancedModelOrchestrator, InferenceRequest
from altlas_flow.errors import (
    BadRequest,
    NoQuorum,
    NothingServes,
    ParameterError,
    PipelineError,
    SelectionError,
    SpecError,
)
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(180)


def told_a_task(rows, task="transcribe"):
    return [f"{task} {row}" for row in rows]


def upper(rows):
    return [row.upper() for row in rows]


def lower(rows):
    return [row.lower() for row in rows]


def picky(rows):
    """Refuses what begins with x."""
    if any(row.startswith("x") for row in rows):
        raise ValueError("it begins with x")
    return [row.title() for row in rows]


def breaks(rows):
    raise ValueError("it cannot")


def letters(rows):
    """An embedding: how often each of eight letters comes."""
    return np.array([[row.count(letter) for letter in "abcdefgh"] for row in rows], dtype=np.float32)


def kills_once(rows):
    """Kills its worker once, at a row that says where that is noted."""
    for row in rows:
        if row.startswith("/") and not os.path.exists(row):
            with open(row, "w") as file:
                file.write("killed")
            os.kill(os.getpid(), signal.SIGKILL)
    return [row.upper() for row in rows]


def language_of(row):
    return {"language": "de" if "ü" in row else "en"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A cluster with a history."""
    folder = tmp_path_factory.mktemp("kept")
    with laboratory({"a": {}, "b": {}}, history=str(folder / "history.sqlite")) as made:
        yield made


@pytest.fixture
def task():
    return f"write-{uuid.uuid4().hex[:6]}"


def served(lab, task, **functions):
    """Register functions as models that serve a task; their ids by name."""
    found = {}
    for name, function in functions.items():
        spec = af.ModelSpec(id=f"{name}-{uuid.uuid4().hex[:6]}", source=function, serves=(task,))
        found[name] = lab.flow.register(spec).id
    return found


def texts(count):
    return [f"Text {number}" for number in range(count)]


def is_right(row):
    """Whether an answer is that of the model which is said to have given it."""
    made = {"upper": str.upper, "lower": str.lower, "picky": str.title, "kills": str.upper}
    return row["answer"] == made[row["model"].rpartition("-")[0]](row["text"])


# ---------------------------------------------------------------- rows of frames


def test_each_row_of_a_frame_gets_a_model_and_what_is_said_of_it_is_learned(lab, task):
    names = served(lab, task, upper=upper, lower=lower)
    frame = pd.DataFrame({"text": texts(300)})
    found = lab.flow.map(frame, task=task, input="text")
    assert list(found.columns) == ["text", "answer", "model", "decision_id"]
    assert found["decision_id"].is_unique and set(found["model"]) == set(names.values())
    assert found.apply(is_right, axis=1).all()
    until(lambda: lab.flow.models_report(task)["outcomes"].sum() == 300)
    scores = found.assign(score=(found["model"] == names["upper"]).astype(float))
    lab.flow.feedback(scores)
    until(lambda: lab.flow.models_report(task)["quality"].notna().all())

    def liked():
        again = lab.flow.map(frame, task=task, input="text")
        return (again["model"] == names["upper"]).mean() > 0.8

    until(liked)
    decision = lab.flow.select(task, "Text", record=False)
    assert decision.features["in_rows"] == 0.0, "a request is no row"


@pytest.mark.long
def test_the_language_of_rows_and_requests_is_a_feature_where_it_is_asked_for(lab, task):
    pytest.importorskip("py3langid")
    served(lab, task, upper=upper)
    english, german = "The dog sleeps under the old table.", "Der Hund schläft unter dem alten Tisch."
    handles = [lab.flow.submit(task=task, inputs=english, choose={"language": True}) for _ in range(4)]
    features = [handle.decision.features for handle in handles]
    assert [one["language"] for one in features] == ["en"] * 4
    assert features[0]["under_way"] == 0.0 and max(one["under_way"] for one in features) > 0.0
    for handle in handles:
        handle.result()
    until(lambda: lab.flow.select(task, record=False).features["under_way"] == 0.0)
    frame = pd.DataFrame({"text": [german] * 5 + [english] * 3})
    lab.flow.map(frame, task=task, input="text", choose={"language": True})

    def counted():
        rows = lab.flow.models_report(task, by="language")["decisions"]
        return rows.groupby("language").sum().to_dict() == {"de": 5, "en": 7}

    until(counted)
    with pytest.raises(PipelineError, match="neither True nor False"):
        lab.flow.map(frame, task=task, input="text", choose={"language": "de"})


def test_a_lazy_frame_and_its_own_name_of_the_answers(lab, task):
    names = served(lab, task, upper=upper, lower=lower)
    frame = dd.from_pandas(pd.DataFrame({"text": texts(40)}), npartitions=2)
    mapped = lab.flow.map(frame, task=task, input="text", output="said")
    found = mapped.compute()
    assert list(found.columns) == ["text", "said", "model", "decision_id"]
    assert found.rename(columns={"said": "answer"}).apply(is_right, axis=1).all()
    assert set(found["model"]) <= set(names.values())


def test_rows_that_fail_are_dead_letters_and_count_against_the_model_that_failed(lab, task, tmp_path):
    names = served(lab, task, picky=picky, upper=upper)
    rows = [f"{'x' if number % 4 == 0 else 'y'}{number}" for number in range(200)]
    frame = pd.DataFrame({"text": rows})
    summary = lab.flow.run(frame, task=task, input="text", to=tmp_path / "out", progress=False)
    found = pd.read_parquet(tmp_path / "out")
    letters = pd.read_parquet(tmp_path / "out" / "_dead_letters")
    assert summary.rows == len(found) and summary.dead_letters == len(letters) > 0
    assert len(found) + len(letters) == 200
    assert found.apply(is_right, axis=1).all()
    assert letters["error"].str.contains("begins with x").all()
    assert set(letters["model"]) == {names["picky"]}
    until(lambda: lab.flow.models_report(task)["outcomes"].sum() >= 200)
    report = lab.flow.models_report(task)
    assert report.loc[names["picky"], "errors"] >= len(letters), "first rows were tried for their types, too"
    assert report.loc[names["upper"], "errors"] == 0


def test_a_job_goes_on_where_it_was_and_chooses_nothing_twice(lab, task, tmp_path):
    served(lab, task, upper=upper, lower=lower)
    frame, to = pd.DataFrame({"text": texts(60)}), tmp_path / "out"
    lab.flow.run(frame, task=task, input="text", to=to, part_rows=20, progress=False)
    first = pd.read_parquet(to)
    again = lab.flow.run(frame, task=task, input="text", to=to, part_rows=20, progress=False)
    assert pd.read_parquet(to).equals(first), "what was committed stays"
    assert (again.rows_done, again.rows) == (0, 60)


@pytest.mark.long
def test_rows_have_one_model_each_also_where_a_worker_dies(lab, task, tmp_path):
    served(lab, task, kills=kills_once, lower=lower)
    rows = [*texts(100), *(str(tmp_path / f"mark{number}") for number in range(3)), *texts(100)]
    found = lab.flow.map(pd.DataFrame({"text": rows}), task=task, input="text", part_rows=20)
    assert len(found) == len(rows) and found.apply(is_right, axis=1).all()
    assert found["decision_id"].is_unique
    until(lambda: len(lab.flow.nodes()) == 2)


# ---------------------------------------------------------------- stages


def test_a_stage_that_names_a_task_in_a_pipeline_of_a_request(lab, task):
    names = served(lab, task, upper=upper, lower=lower)
    clean = af.Stage("clean", function=str.strip)
    write = af.Stage("write", task=task, after="clean", choose={"context": language_of})
    count = af.Stage("count", function=len, after="write")
    pipeline = af.Pipeline([clean, write, count], id="writer", output=["write", "count"])
    result = lab.flow.submit(pipeline, "  Grün ").result(LIMIT)
    assert result.outputs["write"] in ("GRÜN", "grün") and result.outputs["count"] == 4
    asked = [name for name in names.values() if not result[f"write.{name}"].metadata.get("skipped")]
    assert len(asked) == 1
    until(lambda: lab.flow.models_report(task)["outcomes"].sum() == 1)
    report = lab.flow.models_report(task, by="language")
    assert report["decisions"].sum() == 1 and set(report.index.get_level_values("language")) == {"de"}


def test_a_model_that_comes_later_takes_part(lab, task):
    first = served(lab, task, upper=upper)
    pipeline = af.Pipeline([af.Stage("write", task=task, choose={"explain": True})])
    assert lab.flow.submit(pipeline, "a").result(LIMIT).outputs["model"] == first["upper"]
    second = served(lab, task, lower=lower)

    def both():
        answers = [lab.flow.submit(pipeline, "a") for _ in range(10)]
        return {one.result(LIMIT).outputs["model"] for one in answers} == {first["upper"], second["lower"]}

    until(both)


def test_a_stage_with_a_task_in_a_file(lab, task, tmp_path):
    served(lab, task, upper=upper)
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        f"stages:\n  write:\n    task: {task}\n    choose:\n      explore: 0.1\n"
        f"      weights: {{quality: 1, latency: 0.5}}\n      context: {__name__}:language_of\n"
    )
    pipeline = af.Pipeline.load(path)
    assert af.Pipeline.from_dict(pipeline.to_dict()).to_dict() == pipeline.to_dict()
    assert task in pipeline.mermaid() and task in pipeline.svg()
    assert lab.flow.submit(pipeline, "a").result(LIMIT).outputs == "A"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"task": ""}, "no name"),
        ({"task": "t", "model": "m"}, "takes one of"),
        ({"task": "t", "choose": {"wieghts": {}}}, "wieghts"),
        ({"task": "t", "choose": {"weights": {"speed": 1}}}, "speed"),
        ({"task": "t", "choose": {"context": 3}}, "context"),
        ({"task": "t", "choose": {"context": {"a": float("nan")}}}, "finite"),
        ({"task": "t", "choose": {"embed": 3}}, "embed"),
        ({"task": "t", "choose": {"explain": 3}}, "explain"),
        ({"function": len, "choose": {"explore": 0.1}}, "choose="),
    ],
)
def test_a_stage_that_cannot_be_meant(fields, text):
    with pytest.raises(PipelineError, match=text):
        af.Stage("s", **fields)


def test_what_cannot_be_chosen_for(lab, task):
    frame = pd.DataFrame({"text": ["a"]})
    with pytest.raises(PipelineError, match="no model serves"):
        lab.flow.map(frame, task=task, input="text")
    with pytest.raises(BadRequest, match="leave one of them out"):
        lab.flow.map(frame, "m", task=task, input="text")
    with pytest.raises(SpecError):
        lab.flow.map(frame, input="text")
    served(lab, task, upper=upper)
    with pytest.raises(PipelineError, match="no option of a choice"):
        lab.flow.map(frame, task=task, input="text", choose={"wieghts": 1})
    stage = af.Stage("write", task=task, choose={"context": lambda row: {"a": row["b"]}})
    with pytest.raises(af.AltlasError, match="context= failed"):
        lab.flow.submit(af.Pipeline([stage]), "a").result(LIMIT)


# ---------------------------------------------------------------- embeddings, several at once, reports


@pytest.mark.long
def test_an_embedding_by_a_registered_model_is_a_feature(lab, task):
    names = served(lab, task, upper=upper, lower=lower)
    embed = lab.flow.register(af.ModelSpec(id=f"letters-{uuid.uuid4().hex[:6]}", source=letters)).id
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice(list("abcdefgh"), 12)) for _ in range(300)]
    right = [names["upper" if row.count("a") > row.count("b") else "lower"] for row in rows]
    frame, how = pd.DataFrame({"text": rows}), {"embed": embed, "explore": 0.3}

    def taught():
        found = lab.flow.map(frame, task=task, input="text", choose=how)
        lab.flow.feedback(found.assign(score=(found["model"] == right).astype(float)))
        many_a = lab.flow.select(task, "aaaaaaacdefg", embed=embed, explore=0, record=False)
        many_b = lab.flow.select(task, "bbbbbbbcdefg", embed=embed, explore=0, record=False)
        asked = lab.flow.submit(task=task, inputs="aaaaaaacdefg", choose={"embed": embed, "explore": 0})
        chosen = many_a.model, many_b.model, asked.result(LIMIT).model_id
        return chosen == (names["upper"], names["lower"], names["upper"])

    until(taught)
    with pytest.raises(SelectionError, match="both vectors"):
        lab.flow.select(task, "a", embed=embed, context={"vector": [0.0] * 8})


def test_several_at_once_until_one_of_them_is_known_to_be_enough(lab, task):
    names = served(lab, task, upper=upper, lower=lower)
    first = lab.flow.ask(task=task, inputs="Text")
    assert len(first) + len(first.missing) == 2, "nothing is known yet: they have company"
    assert first.outputs == first[0].outputs

    def alone():
        found = lab.flow.ask(task=task, inputs="Text")
        return len(found) == 1 and not found.missing

    until(alone)
    with pytest.raises(ParameterError, match="does not know parameter 'task'"):
        lab.flow.ask([names["upper"]], "Text", task=task)
    told = served(lab, task + "-told", told=told_a_task)["told"]
    said = lab.flow.ask([told], "Text", task="translate", combine="FIRST_RESPONSE").outputs
    assert said == "translate Text", "beside models it is a parameter, as Whisper's is"
    with pytest.raises(BadRequest, match="no models are named"):
        lab.flow.ask(inputs="Text")


def test_what_the_chosen_one_cannot_answer_the_next_one_does(lab, task):
    served(lab, task, breaks=breaks, upper=upper)
    for _ in range(6):
        assert lab.flow.ask(task=task, inputs="Text").outputs == "TEXT"
    until(lambda: lab.flow.models_report(task)["errors"].sum() >= 0)


@pytest.mark.asyncio
async def test_racing_without_naming_models(lab, task):
    served(lab, task, upper=upper, lower=lower)
    orchestrator = EnhancedModelOrchestrator(flow=lab.flow)
    request = InferenceRequest(task_type=task, inputs="Text")
    responses = await orchestrator.run_optimized_parallel_inference(request, timeout=LIMIT)
    assert responses.outputs in ("TEXT", "text") and responses[0].outputs == responses.outputs
    every = await orchestrator.run_optimized_parallel_inference(request, early_stopping=False)
    assert every[0].outputs in ("TEXT", "text")
    with pytest.raises(BadRequest, match="task_type"):
        await orchestrator.run_optimized_parallel_inference(InferenceRequest(inputs="Text"))
    unknown = InferenceRequest(task_type=f"{task}-not", inputs="Text")
    with pytest.raises(NothingServes):
        await orchestrator.run_optimized_parallel_inference(unknown)


def test_all_that_were_asked_at_once_fail(lab, task):
    served(lab, task, breaks=breaks)
    with pytest.raises(NoQuorum, match="it cannot"):
        lab.flow.ask(task=task, inputs="Text")


def test_the_report_by_slices_and_the_picture_of_choices(lab, task):
    names = served(lab, task, upper=upper, lower=lower)
    name = f"<b>&{uuid.uuid4().hex[:4]}"
    lab.flow.register(af.ModelSpec(id=name, source=upper, serves=(task,)))
    for number in range(24):
        language = "en" if number % 2 else "de"
        asked = {"context": {"language": language, "size": number}, "explore": 1.0}
        lab.flow.submit(task=task, inputs="Text", choose=asked).result(LIMIT)
    until(lambda: lab.flow.models_report(task)["outcomes"].sum() == 24)
    report = lab.flow.models_report(task, by="language")
    assert report.groupby("language")["decisions"].sum().to_dict() == {"de": 12, "en": 12}
    assert report.groupby("language")["share"].sum().round(6).eq(1.0).all()
    assert "&lt;b&gt;&amp;" in report.to_html() and "<b>&" not in report.to_html()
    quarters = lab.flow.models_report(task, by="size").groupby("size")["decisions"].sum()
    assert quarters.sum() == 24 and len(quarters) == 4
    with pytest.raises(SelectionError, match="no decision has that feature"):
        lab.flow.models_report(task, by="colour")
    course = lab.flow.choices_over_time(task, windows=4)
    assert set(course.models) == {*names.values(), name} and len(course.frame) == 4
    assert course.frame.sum(axis=1).round(6).eq(1.0).all()
    assert sum(map(sum, course.counts)) == 24
    svg = course.svg()
    assert "&lt;b&gt;&amp;" in svg and "<b>&" not in svg and course._repr_html_().count("<svg") == 1
    with pytest.raises(SelectionError, match="windows"):
        lab.flow.choices_over_time(task, windows=0)
