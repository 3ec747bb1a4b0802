"""Pipelines as they are written: checked before anything runs, laid flat, told apart."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import altlas_flow as af
from altlas_flow import Pipeline, RetryPolicy, Stage
from altlas_flow.errors import PipelineError, StageFailed
from altlas_flow.pipeline.flat import flatten
from altlas_flow.pipeline.order import in_order
from altlas_flow.pipeline.step import compile_pipeline

pytestmark = pytest.mark.timeout(60)


def same(value):
    return value


def no_models(model):
    raise AssertionError(f"no model is to be looked up, and {model} was")


def refused(text, stages, **options):
    with pytest.raises(PipelineError, match=text) as caught:
        Pipeline(stages, **options)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- what is refused


def test_stages_that_wait_for_each_other_are_named():
    a, b, c = (Stage(name, function=same, after=after) for name, after in ("ab", "bc", "ca"))
    refused("wait for each other: a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c", [a, b, c])


def test_an_unknown_stage_is_named_with_those_that_there_are():
    refused(
        "'b'.*after 'x'.*there are a, b", [Stage("a", function=same), Stage("b", function=same, after="x")]
    )


def test_two_stages_of_one_name():
    refused("two stages 'a'", [Stage("a", function=same), Stage("a", function=same)])


def test_no_stages():
    refused("no stages", [])


def test_an_output_that_is_no_stage():
    refused("output='z'", [Stage("a", function=same)], output="z")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("one of model, task, function, combine, pipeline, and has none", {}),
        ("has model and function", {"model": "m", "function": same}),
        ("function=3 is no function", {"function": 3}),
        ("cannot import", {"function": "no_such_module_at_all:f"}),
        ("'a' twice", {"function": same, "after": ("a", "a")}),
        ("retry=0", {"function": same, "retry": 0}),
        ("timeout='soon'", {"function": same, "timeout": "soon"}),
        ("cache=3", {"function": same, "cache": 3}),
        ("batch=0", {"function": same, "batch": 0}),
        ("optional='yes'", {"function": same, "optional": "yes"}),
        ("parameters=3", {"function": same, "parameters": 3}),
        ("resources= is for functions", {"model": "m", "resources": {"GPU": 1}}),
        ("batched= is for functions", {"model": "m", "batched": True}),
        ("is no Pipeline", {"pipeline": same}),
        ("takes a callable", {"function": same, "validator": 3}),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_a_stage_that_cannot_be_meant(text, options):
    with pytest.raises(PipelineError, match=text) as caught:
        Stage("s", **options)
    assert str(caught.value).startswith("stage 's': ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["input", "", "a.b", "a b", 3], ids=repr)
def test_names_that_a_stage_cannot_have(name):
    with pytest.raises(PipelineError, match="stage"):
        Stage(name, function=same)


def test_parameters_that_a_function_does_not_take():
    pipeline = Pipeline([Stage("cut", function=lambda text, at=1: text[:at], parameters={"to": 2})])
    with pytest.raises(PipelineError, match=r"'cut'.*unexpected keyword argument 'to'"):
        compile_pipeline(pipeline, no_models)


def test_options_of_a_pipeline_in_a_pipeline_belong_to_its_stages():
    inner = Pipeline([Stage("a", function=same)])
    with pytest.raises(PipelineError, match="retry= is for the stages"):
        Stage("s", pipeline=inner, retry=2)


def test_what_cannot_be_sent_names_its_stage():
    class Stubborn:
        def __call__(self, value):
            return value

        def __reduce__(self):
            raise RuntimeError("I stay here")

    with pytest.raises(PipelineError, match=r"'s'.*I stay here"):
        compile_pipeline(Pipeline([Stage("s", function=Stubborn())]), no_models)


# ---------------------------------------------------------------- order, and pipelines in pipelines


@given(st.data())
def test_everything_comes_after_what_it_needs(data):
    count = data.draw(st.integers(1, 30))
    names = data.draw(st.permutations([f"s{at}" for at in range(count)]))
    needs = {
        name: data.draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else []
        for at, name in enumerate(names)
    }
    given = {name: needs[name] for name in data.draw(st.permutations(names))}
    found = in_order(given)
    assert sorted(found) == sorted(names)
    place = {name: at for at, name in enumerate(found)}
    assert all(place[need] < place[name] for name in names for need in needs[name])


def test_stages_that_do_not_depend_on_each_other_stay_as_they_were_written():
    assert in_order({"c": [], "a": [], "b": ["a"]}) == ["c", "a", "b"]


def test_a_pipeline_in_a_pipeline_is_laid_flat():
    inner = Pipeline([Stage("cut", function=same), Stage("count", function=len, after="cut")], id="inner")
    outer = Pipeline(
        [
            Stage("read", function=same),
            Stage("words", pipeline=inner, after="read"),
            Stage("show", function=same, after=("words", "input")),
        ]
    )
    placed, ends = flatten(outer)
    assert [(one.name, one.needs) for one in placed] == [
        ("read", (("input", "input"),)),
        ("words.cut", (("input", "read"),)),
        ("words.count", (("cut", "words.cut"),)),
        ("show", (("words", "words.count"), ("input", "input"))),
    ]
    assert ends == ("show",)


def test_a_gate_stands_before_an_inner_pipeline_that_has_a_condition():
    inner = Pipeline([Stage("a", function=same)])
    placed, ends = flatten(Pipeline([Stage("s", pipeline=inner, when=bool, optional=True)]))
    assert [one.name for one in placed] == ["s.input", "s.a", "s"]
    assert placed[0].stage.when is bool and placed[2].stage.optional
    assert ends == ("s",)


# ---------------------------------------------------------------- what decides the outputs


def compiled(**options):
    return compile_pipeline(
        Pipeline([Stage("s", function=options.pop("function", same), **options)]), no_models
    )


def test_the_fingerprint_is_that_of_what_decides_the_outputs():
    first = compiled().fingerprint
    assert compiled().fingerprint == first
    assert compiled(timeout=3, retry=2, cache=True).fingerprint == first
    for other in (
        {"function": lambda value: [value]},
        {"inputs": lambda value: value + 1},
        {"when": bool},
        {"optional": True},
        {"parameters": {}, "function": lambda value, n=2: value},
    ):
        assert compiled(**other).fingerprint != first


def test_other_parameters_are_another_pipeline():
    def times(value, n=2):
        return value * n

    assert (
        compiled(function=times, parameters={"n": 2}).fingerprint
        != compiled(function=times, parameters={"n": 3}).fingerprint
    )


def test_a_stage_is_written_in_one_form():
    stage = Stage("s", "minilm", after="a", retry=3, timeout="250ms")
    assert (stage.kind, stage.after, stage.timeout) == ("model", ("a",), 0.25)
    assert stage.retry == RetryPolicy(tries=3, on=("Exception",))
    assert json.dumps(stage.parameters) == "{}"


def test_a_failed_stage_pickles_with_its_name():
    error = pickle.loads(pickle.dumps(StageFailed("hear", "no sound")))
    assert (error.stage, str(error)) == ("hear", "stage 'hear' failed: no sound")


# ---------------------------------------------------------------- caching


@settings(deadline=None)
@given(st.one_of(st.text(), st.integers(), st.lists(st.floats(allow_nan=False)), st.none(), st.booleans()))
def test_what_is_asked_has_one_name(value):
    from altlas_flow.pipeline.cache import key_of

    assert key_of("f", {"a": 1}, value) == key_of("f", {"a": 1}, value)
    assert key_of("f", {"a": 1}, value) != key_of("f", {"a": 2}, value)
    assert key_of("f", {"a": 1}, value) != key_of("g", {"a": 1}, value)


def test_equal_numbers_of_other_types_are_other_questions():
    from altlas_flow.pipeline.cache import key_of

    assert len({key_of("f", {}, value) for value in (1, 1.0, True, "1", np.float32(1))}) == 5


def test_memory_keeps_the_latest_that_fit():
    from altlas_flow.pipeline.cache import ABSENT, Memory

    memory = Memory(room=5_000)
    for at in range(10):
        memory.put(str(at), b"x" * 1_000)
    kept = [at for at in range(10) if memory.get(str(at)) is not ABSENT]
    assert kept and kept[-1] == 9 and len(kept) <= 4
    memory.put("large", b"x" * 6_000)
    assert memory.get("large") is ABSENT and memory.get("9") is not ABSENT


@pytest.mark.parametrize(
    "damage", ["", "{", '{"key": "other", "answer": 1}', "[]"], ids=["", "torn", "other", "list"]
)
def test_a_damaged_file_of_the_cache_is_no_answer(tmp_path, damage):
    from altlas_flow.pipeline.cache import ABSENT, Folder

    folder = Folder(str(tmp_path))
    folder.put("ab" * 32, {"v": np.arange(3)})
    assert np.array_equal(folder.get("ab" * 32)["v"], np.arange(3))
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage)
    assert folder.get("ab" * 32) is ABSENT
    folder.put("ab" * 32, 5)
    assert folder.get("ab" * 32) == 5
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [file.name]


def test_what_json_cannot_hold_is_not_kept_on_disk(tmp_path):
    from altlas_flow.pipeline.cache import ABSENT, Folder

    folder = Folder(str(tmp_path))
    folder.put("cd" * 32, object())
    assert folder.get("cd" * 32) is ABSENT


def test_names_are_exported():
    assert af.Pipeline is Pipeline and af.Stage is Stage
