"""Pipelines as files: what is read is what was written, and an error points at the line."""

from __future__ import annotations

import functools
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

import altlas_flow as af
from altlas_flow.errors import PipelineError, UnsafeModel
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline import document, files, marked
from altlas_flow.pipeline.document import keys_at, schema
from altlas_flow.pipeline.step import compile_pipeline
from altlas_flow.records import DistributionStrategy, RetryPolicy
from tests.pipeline import functions

HERE = "tests.pipeline.functions"
UPPER = {"runtime": "function", "source": "builtins:sorted"}

REVIEWS = f"""
id: reviews
models:
  order: {{runtime: function, source: "builtins:sorted"}}
stages:
  clean:
    function: {HERE}:clean
    resources: {{CPU: 1}}
    cache: answers
  words:
    function: {HERE}:words
    after: clean
    parameters: {{least: 2}}
    retry: {{tries: 3, on: TimeoutError}}
  sorted:
    model: order
    after: words
    when: {HERE}:is_long
    optional: true
    timeout: 300ms
    validator: {HERE}:is_long
    strategy: least-loaded
    batch: 8
  own:
    model: {{runtime: function, source: "builtins:sorted", memory: 1MB}}
    after: words
    retry: 2
  inner:
    after: words
    pipeline:
      stages:
        - {{name: first, model: order}}
        - {{name: second, function: "builtins:len", after: first, batched: true}}
  end:
    combine: {HERE}:largest
    after: [sorted, own, inner]
output: [end, inner]
outputs: {{end: string, inner: int64}}
"""


def written(folder, text, name="reviews.yaml"):
    file = folder / name
    file.write_text(text)
    return file


def refused(folder, text, name="p.yaml", kind=PipelineError):
    """The one line that a file gets, without the folder."""
    with pytest.raises(kind) as error:
        af.Pipeline.load(written(folder, text, name))
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


# ---------------------------------------------------------------- what is read


def test_a_file_gives_the_stages_that_it_holds(tmp_path):
    pipeline = af.Pipeline.load(written(tmp_path, REVIEWS))
    assert pipeline.id == "reviews"
    assert {stage.name for stage in pipeline} == {"clean", "words", "sorted", "own", "inner", "end"}
    assert pipeline["clean"].function is functions.clean
    assert pipeline["clean"].cache == str(tmp_path / "answers"), "a folder is beside the file"
    assert pipeline["words"].retry == RetryPolicy(tries=3, on="TimeoutError"), "'on' is a text, no truth"
    assert pipeline["sorted"].model == ModelSpec(id="order", **UPPER)
    assert pipeline["sorted"].timeout == pytest.approx(0.3)
    assert pipeline["sorted"].when is functions.is_long
    assert pipeline["sorted"].validator is functions.is_long
    assert (pipeline["sorted"].optional, pipeline["sorted"].batch) == (True, 8)
    assert pipeline["own"].model.id == f"reviews/own-{pipeline['own'].model.fingerprint[:8]}"
    assert pipeline["own"].model.memory == 1_000_000
    assert [stage.name for stage in pipeline["inner"].pipeline] == ["first", "second"]
    assert pipeline["inner"].pipeline["first"].model.id == "order", "models of the outer one are known inside"
    assert pipeline["inner"].pipeline.id == "inner"
    assert pipeline["end"].after == ("sorted", "own", "inner")
    assert pipeline.output == ("end", "inner")
    assert pipeline.outputs == {"end": "string", "inner": "int64"}


def test_what_is_written_is_read_again_as_the_same(tmp_path):
    pipeline = af.Pipeline.load(written(tmp_path, REVIEWS))
    said = pipeline.to_dict()
    for name, text in (("again.json", json.dumps(said)), ("again.yaml", yaml.safe_dump(said))):
        again = af.Pipeline.load(written(tmp_path, text, name))
        assert again.to_dict() == said
        assert prints(again) == prints(pipeline)


def prints(pipeline):
    return compile_pipeline(pipeline, lambda model: model).fingerprint


def test_a_dict_needs_no_file():
    pipeline = af.Pipeline.from_dict({"stages": [{"name": "loud", "function": "builtins:str.upper"}]})
    assert (pipeline.id, pipeline["loud"].function) == ("pipeline", str.upper)
    with pytest.raises(
        PipelineError, match=r"^mine: stage 'loud': functoin is no key: did you mean function"
    ):
        af.Pipeline.from_dict({"stages": {"loud": {"functoin": "builtins:len"}}}, where="mine")
    with pytest.raises(PipelineError, match="3 is no pipeline"):
        af.Pipeline.from_dict(3)


def test_the_id_is_the_name_of_the_file_where_it_says_none(tmp_path):
    assert af.Pipeline.load(written(tmp_path, "stages: {a: {model: x}}", "nightly.yml")).id == "nightly"


def test_models_and_pipelines_lie_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "sub" / "weights").mkdir(parents=True)
    written(tmp_path / "sub", "stages: {embed: {model: {source: weights}}}", "inner.yaml")
    outer = af.Pipeline.load(written(tmp_path, "stages: {all: {pipeline: sub/inner.yaml}}"))
    assert outer["all"].pipeline["embed"].model.source == str(tmp_path / "sub" / "weights")
    assert outer["all"].pipeline.id == "inner"


def test_a_recipe_without_id_that_is_changed_takes_no_other_ones_place(tmp_path):
    one, same, other = (
        af.Pipeline.load(written(tmp_path, f"stages: {{a: {{model: {{source: {source}}}}}}}"))["a"].model
        for source in ("x", "x", "y")
    )
    assert one == same
    assert one.id == same.id != other.id
    named = af.Pipeline.load(written(tmp_path, "stages: {a: {model: {id: mine, source: x}}}"))["a"].model
    assert named.id == "mine"


def test_a_merged_mapping_gives_keys_that_are_not_written_out(tmp_path):
    text = "stages:\n  a: &base {model: x, batch: 3}\n  b: {<<: *base, after: a, batch: 4}\n"
    pipeline = af.Pipeline.load(written(tmp_path, text))
    assert [(stage.model, stage.batch) for stage in pipeline] == [("x", 3), ("x", 4)]


def test_scalars_are_those_of_yaml_1_2(tmp_path):
    said = "{a: on, b: 12:30, c: 1e3, d: 0x10, e: 2001-01-01, f: , g: .inf, h: 010}"
    text = f"stages: {{a: {{model: x, parameters: {said}}}}}"
    found = af.Pipeline.load(written(tmp_path, text))["a"].parameters
    dates = {"b": "12:30", "e": "2001-01-01"}
    assert found == {"a": "on", "c": 1000.0, "d": 16, "f": None, "g": float("inf"), "h": 10, **dates}


def test_arrays_among_parameters_come_back(tmp_path):
    given = af.Pipeline([af.Stage("a", model="x", parameters={"w": np.array([1.5, 2.5])})])
    text = json.dumps(given.to_dict())
    found = af.Pipeline.load(written(tmp_path, text, "a.json"))["a"].parameters["w"]
    assert found.tolist() == [1.5, 2.5]


# ---------------------------------------------------------------- what is refused

LINES = {
    "a key that is none": (
        "stages:\n  ask:\n    modle: x",
        "p.yaml, line 3: stage 'ask': modle is no key: did you mean model?",
    ),
    "one of a recipe": (
        "stages:\n- name: ask\n  model:\n    sorce: x",
        "p.yaml, line 4: stage 'ask': model.sorce is no key: did you mean source?",
    ),
    "one of retry": (
        "stages:\n  ask: {model: x,\n    retry: {tires: 3}}",
        "p.yaml, line 3: stage 'ask': retry.tires is no key: did you mean tries?",
    ),
    "one of an aggregator": (
        "stages:\n  a: {combine: {vote: {quorm: 2}}}",
        "p.yaml, line 2: stage 'a': combine.vote.quorm is no key: did you mean quorum?",
    ),
    "one of a stage of a stage": (
        "stages:\n  all:\n    pipeline:\n      stages:\n        b: {functon: y}",
        "p.yaml, line 5: stage 'all.b': functon is no key: did you mean function?",
    ),
    "one of the pipeline": ("id: x\nstags: {}", "p.yaml, line 2: stags is no key: did you mean stages?"),
    "no stages": ("id: x", "p.yaml, line 1: stages is missing: give a list of stages with names"),
    "a type": (
        "stages:\n  a:\n    model: x\n    optional: yes",
        "p.yaml, line 4: stage 'a': optional is 'yes': give true or false",
    ),
    "nothing": (
        "stages:\n  a:\n    model:",
        "p.yaml, line 3: stage 'a': model is empty: give the id of a model",
    ),
    "a stage that is none": (
        "stages: {a: 3}",
        "p.yaml, line 1: stage 'a' is 3: give a mapping of the keys of a stage",
    ),
    "a name that is no text": (
        "stages: {1: {model: x}}",
        "p.yaml, line 1: stages: the key 1 is no text: quote it",
    ),
    "a stage of a list without name": ("stages: [{model: x}]", "p.yaml, line 1: stage 1: name is missing"),
    "two names": ("stages: {a: {name: b, model: x}}", "p.yaml, line 1: stage 'a' has the name 'b': keep one"),
    "two models": (
        "models: [{id: x, source: y}, {id: x, source: z}]\nstages: {a: {model: x}}",
        "two models have the id 'x'",
    ),
    "a recipe": (
        "models:\n  x: {source: y, batch: 0}\nstages: {a: {model: x}}",
        "p.yaml, line 2: model 'x': batch is 0",
    ),
    "what a stage refuses": (
        "stages:\n  a:\n    model: x\n    timeout: soon",
        "p.yaml, line 4: stage 'a': timeout='soon': that is no time",
    ),
    "what cannot be imported": (
        "stages:\n  a:\n    function: json:lods",
        "p.yaml, line 3: stage 'a': function: cannot import 'json:lods'",
    ),
    "a stage that is not there": (
        "stages:\n  a:\n    model: x\n    after: nobody",
        "p.yaml, line 4: stage 'a': it comes after 'nobody'",
    ),
    "a circle": (
        "stages:\n  b: {model: x,\n    after: a}\n  a: {model: x,\n    after: b}",
        "p.yaml, line 3: stages wait for each other: b -> a -> b",
    ),
    "an output": (
        "stages: {a: {model: x}}\noutput: z",
        "p.yaml, line 2: pipeline 'p': output='z' is no stage",
    ),
    "an aggregator": (
        "stages: {a: {combine: vtoe}}",
        "stage 'a': combine: 'vtoe' is no aggregator: did you mean vote?",
    ),
    "two aggregators": ("stages: {a: {combine: {vote: {}, first: {}}}}", "it takes one of"),
    "a strategy": (
        "stages:\n  a:\n    model: x\n    strategy: FASTEST",
        "p.yaml, line 4: stage 'a': strategy: 'FASTEST' is the name of none: choose one of",
    ),
    "an amount": (
        "stages:\n  a:\n    function: json:loads\n    resources: {GPU: 0}",
        "p.yaml, line 4: stage 'a': resources: 'GPU' is 0, which is no amount",
    ),
    "a quorum": (
        "stages:\n  a: {model: x}\n  v:\n    after: a\n    combine: {vote: {quorum: 5}}",
        "p.yaml, line 5: stage 'v': combine: quorum=5 of 1 models can never be reached",
    ),
    "weights": (
        "stages:\n  a: {model: x}\n  v:\n    after: a\n    combine: {vote: {weights: {zz: 1}}}",
        "p.yaml, line 5: stage 'v': combine: weights have one for 'zz', which is not asked: there are a",
    ),
    "a type of an output": (
        "stages: {a: {model: x}}\noutputs: {zz: strin}",
        "p.yaml, line 2: pipeline 'p': outputs: zz: 'strin' is no Arrow type",
    ),
    "other outputs": (
        "stages: {a: {model: x}, b: {model: x}}\nid: p\noutputs: {a: string, c: string}",
        "p.yaml, line 3: pipeline 'p': outputs= declares 'c', which is no output of it (there are a, b)",
    ),
    "outputs of a stage": (
        "stages:\n  a:\n    pipeline:\n      stages: {b: {model: x}}\n      outputs: {b: strin}",
        "p.yaml, line 5: pipeline",
    ),
    "a task": (
        "models:\n  x:\n    source: ./nofolder\n    task: text-generatoin\nstages: {a: {model: x}}",
        "p.yaml, line 4: model 'x': runtime 'transformers' does not know task 'text-generatoin'",
    ),
    "a task of a stage's own recipe": (
        "stages:\n  a:\n    model: {source: ./nofolder, task: zz}",
        "p.yaml, line 3: stage 'a': model: model 'p/a",
    ),
    "a parameter of a recipe": (
        "models:\n  x:\n    source: y\n    task: text-generation\n    parameters: {heat: 1}\n"
        "stages: {a: {model: x}}",
        "p.yaml, line 5: model 'x': runtime 'transformers' does not know parameter 'heat'",
    ),
    "twice the same key": (
        "stages:\n  a: {model: x}\n  a: {model: y}",
        "p.yaml, line 3: the key 'a' is there twice",
    ),
    "broken YAML": ("stages: [a,\n b: }", "p.yaml, line 2: "),
    "a tag": (
        "stages: {a: {model: !!python/name:os.system }}",
        "line 1: the tag !!python/name:os.system is not taken",
    ),
    "a tag of our own": ("stages: !mine {a: {model: x}}", "line 1: the tag !mine is not taken"),
    "nothing at all": ("", "p.yaml: it is empty: give a mapping with id and stages"),
    "a stage that is empty": (
        "stages:\n  a:",
        "p.yaml, line 2: stage 'a' is empty: give model, task, function, combine or pipeline",
    ),
    "a model that is empty": (
        "models: {x: }\nstages: {a: {model: x}}",
        "models.x is empty: give a mapping of",
    ),
    "a list": ("[1]", "p.yaml, line 1: [1] is no pipeline"),
    "a pipeline that is not there": (
        "stages: {a: {pipeline: q.yaml}}",
        "p.yaml, line 1: stage 'a': pipeline: q.yaml is no file",
    ),
    "itself": ("stages: {a: {pipeline: p.yaml}}", "p.yaml is part of itself: p.yaml -> p.yaml"),
    "an alias of itself": ("stages: &a {b: *a}", "nested deeper than 60 levels"),
    "brackets without end": ("a: " + "[" * 500, "nested deeper than 60 levels"),
    "digits without end": ("id: " + "9" * 5000, "is no int"),
    "a wrong array": (
        'stages: {a: {model: x, parameters: {w: {$bytes: "?"}}}}',
        "line 1: stage 'a': parameters: ",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_one_line_says_where_and_what(tmp_path, name):
    text, expected = LINES[name]
    assert expected in refused(tmp_path, text)


def test_json_has_lines_where_it_is_broken_and_no_key_twice(tmp_path):
    assert refused(tmp_path, '{"stages":\n {"a": }}', "p.json").startswith("p.json, line 2: ")
    text = '{"stages": {"a": {"model": "x"}, "a": {"model": "y"}}}'
    assert refused(tmp_path, text, "p.json") == "p.json: the key 'a' is there twice: keep one"
    assert "p.json: stage 'a': modle" in refused(tmp_path, '{"stages": {"a": {"modle": "x"}}}', "p.json")


@pytest.mark.parametrize(
    "recipe",
    [
        {"source": "<f>", "runtime": "function", "code": "gASVAAAA"},
        {"source": "a:b", "validator": "by-value:gASV"},
        {"source": "<f>", "code": 3},
    ],
    ids=["code", "validator", "no code either"],
)
def test_pickled_code_is_refused_wherever_it_stands(tmp_path, recipe):
    inner = {"stages": {"b": {"model": recipe}}}
    for said in (
        {"stages": {"a": {"model": recipe}}},
        {"models": {"x": recipe}, "stages": {"a": {"model": "x"}}},
        {"models": [{"id": "x", **recipe}], "stages": [{"name": "a", "model": "x"}]},
        {"stages": [{"name": "a", "pipeline": inner}]},
    ):
        assert "pickled code" in refused(tmp_path, json.dumps(said), "p.json", UnsafeModel)


def test_files_have_bounds(tmp_path, monkeypatch):
    large = "# " + "x" * marked.SIZE
    assert "larger than" in refused(tmp_path, large)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    assert "values, aliases counted" in refused(tmp_path, bomb)
    monkeypatch.setattr(files, "FILES", 3)
    written(tmp_path, "stages: {a: {model: x}}", "leaf.yaml")
    four = "\n".join(f"  s{at}: {{pipeline: leaf.yaml}}" for at in range(4))
    assert "more than 3 files" in refused(tmp_path, f"stages:\n{four}")


@pytest.mark.parametrize("path", ["no-such.yaml", ".", "\0"])
def test_a_path_that_cannot_be_read_is_named(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"check the path|is no file"):
        af.Pipeline.load(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineError, match="UTF-8"):
        af.Pipeline.load(tmp_path / "p.yaml")


# ---------------------------------------------------------------- what is written


def nested():
    def inner(value):
        return value

    return inner


class Stateful:
    def combine(self, outputs):
        return outputs


def callable_strategy(request, nodes):
    return nodes


UNWRITABLE = {
    "a lambda": {"function": lambda value: value},
    "a nested function": {"function": nested()},
    "a partial function": {"function": functools.partial(functions.words, least=2)},
    "a bound method": {"function": "x".join},
    "a lambda as when": {"model": "x", "when": lambda value: True},
    "a function as model": {"model": ModelSpec(id="m", source=lambda rows: rows)},
    "a validator": {"model": "x", "validator": lambda answer: True},
    "a model's validator": {"model": ModelSpec(id="m", source="a:b", validator=lambda answer: True)},
    "an aggregator of one's own": {"combine": Stateful()},
    "a strategy of one's own": {"model": "x", "strategy": callable_strategy},
    "a parameter": {"model": "x", "parameters": {"p": object()}},
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_no_file_can_hold_is_refused_by_the_name_of_its_stage(name):
    pipeline = af.Pipeline([af.Stage("one", **UNWRITABLE[name])])
    with pytest.raises(PipelineError, match=r"^stage 'one': \w+ cannot be written: ") as error:
        pipeline.to_dict()
    assert "\n" not in str(error.value)


def test_what_can_be_imported_is_written_by_its_name():
    named = {
        str.upper: "builtins:str.upper",
        len: "builtins:len",
        functions.clean: f"{HERE}:clean",
        functions.Holder.same: f"{HERE}:Holder.same",
        np.sqrt: "numpy:sqrt",
    }
    for function, path in named.items():
        said = af.Pipeline([af.Stage("one", function=function)]).to_dict()
        assert said == {"id": "pipeline", "stages": [{"name": "one", "function": path}]}
        assert af.Pipeline.from_dict(said)["one"].function is function


def test_defaults_are_not_written():
    stage = af.Stage("b", model="x", after=["a"], strategy=DistributionStrategy.LEAST_LOADED, retry=2)
    said = af.Pipeline([af.Stage("a", model="x"), stage], output="b").to_dict()
    assert said["stages"][0] == {"name": "a", "model": "x"}
    assert said["stages"][1] == {
        "name": "b",
        "model": "x",
        "after": "a",
        "strategy": "LEAST_LOADED",
        "retry": 2,
    }
    assert "output" not in said


# ---------------------------------------------------------------- the schema


def test_a_stage_of_a_file_has_the_keys_of_a_stage():
    assert set(document.StageKeys.model_fields) == {one.name for one in fields(af.Stage)}
    recipe = set(document.ModelKeys.model_fields)
    assert recipe == set(ModelSpec.model_fields) - {"code", "code_digest"}
    assert all(info.description for info in document.StageKeys.model_fields.values())


def test_the_schema_is_that_of_the_keys_which_are_read():
    found = schema()
    json.dumps(found)
    tables = {
        "PipelineKeys": (),
        "StageKeys": ("stages", "a"),
        "Model": ("models", "x"),
        "Retry": ("stages", "a", "retry"),
        "Combine": ("stages", "a", "combine"),
        "Vote": ("stages", "a", "combine", "vote"),
        "Ensemble": ("stages", "a", "combine", "ensemble"),
        "First": ("stages", "a", "combine", "first"),
        "Every": ("stages", "a", "combine", "every"),
        "Average": ("stages", "a", "combine", "average"),
    }
    assert set(found["$defs"]) == set(tables)
    assert found["$ref"] == "#/$defs/PipelineKeys"
    for name, route in tables.items():
        said = found["$defs"][name]
        assert set(said["properties"]) == set(keys_at(route).model_fields)
        assert said["additionalProperties"] is False
    assert found["$defs"]["PipelineKeys"]["required"] == ["stages"]
    assert found["$defs"]["Model"]["required"] == ["source"]
    schema()["$defs"].clear()
    assert schema() == found, "a caller that changes it changes its own"


def test_what_is_read_satisfies_the_keys(tmp_path):
    said = yaml.safe_load(REVIEWS.replace("on: TimeoutError", '"on": TimeoutError'))
    assert document.fault_of(said) is None
    assert document.fault_of(af.Pipeline.load(written(tmp_path, REVIEWS)).to_dict()) is None
    for wrong in ({**said, "more": 1}, {**said, "stages": 3}, {"id": "x"}):
        assert document.fault_of(wrong) is not None
    assert Path(document.__file__).is_file()
