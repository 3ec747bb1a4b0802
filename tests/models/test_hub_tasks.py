"""Tasks of transformers' own pipelines: their answers, a batch at a time, with our guards around them."""

from __future__ import annotations

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

import altlas_flow as af
from altlas_flow.errors import BadRow, InputError, ModelLoadError, ParameterError, SpecError, UnsafeModel
from tests import hub_zoo
from tests.hub_zoo import ANIMALS, picture, png, tone, wav
from tests.ids import spoken
from tests.models_zoo import sentences

BUILD = {
    "zero-shot-classification": hub_zoo.build_nli,
    "token-classification": hub_zoo.build_tagger,
    "image-classification": hub_zoo.build_image_classifier,
    "automatic-speech-recognition": hub_zoo.build_speech,
}
ZERO, TAG, LOOK, HEAR = BUILD
LABELS = ["time", "water", "people"]
TEXTS = sentences(12, longest=20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {task: build(root / task) for task, build in BUILD.items()}


@pytest.fixture(scope="module")
def models(folders):
    return {
        task: af.ModelSpec(id=task, task=task, source=str(folder)).load(device="cpu")
        for task, folder in folders.items()
    }


@pytest.fixture(scope="module")
def library(folders):
    """The library's own pipelines over the same folders."""
    from transformers import pipeline

    return {task: pipeline(task, model=str(folder), device="cpu") for task, folder in folders.items()}


def rows_of(task):
    if task == LOOK:
        return [picture(seed) for seed in range(6)]
    if task == HEAR:
        return [tone(200.0 * at, 0.3 * at) for at in range(1, 5)]
    return TEXTS


def parameters_of(task):
    return {"labels": LABELS} if task == ZERO else {}


def near(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return math.isclose(one, other, abs_tol=1e-4) if isinstance(one, float) else one == other


# ---------------------------------------------------------------- the library's answers


@pytest.mark.parametrize(
    "more", [{}, {"multi_label": True}, {"hypothesis_template": "they make {} for you"}], ids=spoken
)
def test_zero_shot_labels_are_those_of_the_library(models, library, more):
    found = models[ZERO].predict(TEXTS, parameters={"labels": LABELS, **more}, batch=5)
    expected = library[ZERO](TEXTS, candidate_labels=LABELS, **more)
    assert near(found, [{"label": row["labels"][0], "score": row["scores"][0]} for row in expected])
    assert len({row["label"] for row in found}) > 1


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_the_library(models, library, strategy):
    found = models[TAG].predict(TEXTS, parameters={"aggregation_strategy": strategy}, batch=5)
    expected = library[TAG](TEXTS, aggregation_strategy=strategy)
    kind = "entity" if strategy == "none" else "entity_group"
    for entities, others in zip(found, expected, strict=True):
        assert near(
            entities,
            [
                {"entity": one[kind]}
                | {key: one[key] for key in ("word", "start", "end")}
                | {"score": float(one["score"])}
                for one in others
            ],
        )
    assert sum(map(len, found)) > len(TEXTS)
    if strategy == "simple":
        assert near(models[TAG].predict(TEXTS), found)


def test_images_are_labelled_as_the_library_does(models, library):
    from PIL import Image

    rows = rows_of(LOOK)
    found = models[LOOK].predict(rows, batch=4)
    expected = library[LOOK]([Image.fromarray(row) for row in rows], top_k=len(ANIMALS))
    assert near(found, [row[0] for row in expected])
    assert len({row["label"] for row in found}) > 1
    assert near(models[LOOK].predict(rows, parameters={"top_k": 2}), [row[:2] for row in expected])
    assert near(models[LOOK].predict([png(row) for row in rows], batch=4), found)


def test_sounds_are_written_down_as_the_library_does(models, library):
    rows = rows_of(HEAR)
    found = models[HEAR].predict(rows, batch=1)
    assert found == [library[HEAR](row.copy())["text"] for row in rows]
    assert len(set(found)) > 1
    translated = models[HEAR].predict(rows[:1], parameters={"language": "German", "task": "translate"})
    asked = {"language": "german", "task": "translate"}
    assert translated == [library[HEAR](rows[0].copy(), generate_kwargs=asked)["text"]]
    assert translated != found[:1]
    assert len(models[HEAR].predict(rows[:1], parameters={"max_new_tokens": 3})[0]) == 3


def test_a_long_sound_is_taken_piece_by_piece(models, library):
    long, short = tone(300, 31), tone()
    found = models[HEAR].predict([long, short, long], batch=3)
    assert found[0] == found[2] == library[HEAR](long.copy(), return_timestamps=True)["text"]
    assert found[1] == models[HEAR].predict([short])[0]


def test_sounds_come_as_files_arrays_and_records(models):
    samples = np.round(tone() * 32767).astype(np.int16)
    exact = samples.astype(np.float32) / 32768
    forms = [wav(exact), exact, exact.tolist(), {"array": exact, "sampling_rate": hub_zoo.RATE}]
    assert len({models[HEAR].predict([form])[0] for form in forms}) == 1


# ---------------------------------------------------------------- the contract of all


@pytest.mark.parametrize("task", BUILD)
def test_answers_stand_in_the_order_of_the_rows(models, task):
    rows, asked = rows_of(task), parameters_of(task)
    whole = models[task].predict(rows, parameters=asked, batch=1)
    assert len(whole) == len(rows)
    assert near(models[task].predict(rows[::-1], parameters=asked, batch=1)[::-1], whole)


@pytest.mark.parametrize("task", BUILD)
def test_answers_fit_the_types_that_are_declared(models, task):
    asked = parameters_of(task)
    types = models[task].output_types(asked)
    answers = models[task].predict(rows_of(task)[:3], parameters=asked)
    if len(types) == 1:
        answers = [{next(iter(types)): answer} for answer in answers]
    table = pa.Table.from_pylist(answers, schema=pa.schema(list(types.items())))
    assert all(near(one, other) for one, other in zip(table.to_pylist(), answers, strict=True))


@pytest.mark.parametrize("task", BUILD)
def test_bad_rows_become_faults_and_good_ones_stay(models, task):
    good, asked = rows_of(task)[0], parameters_of(task)
    bad = [None, math.nan, 7, b"bytes"] + ([" ", "half \ud800 a pair"] if task in (ZERO, TAG) else [])
    prepared = models[task].runtime.prepare([good, *bad, good], asked)
    assert sorted(prepared.faults) == list(range(1, 1 + len(bad)))
    assert all(isinstance(fault, InputError) for fault in prepared.faults.values())
    assert "null" in str(prepared.faults[1])
    one, other = models[task].runtime.predict([prepared.items[0], prepared.items[-1]], asked)
    assert near(one, other)


@pytest.mark.parametrize("task", [TAG, LOOK])
def test_one_model_predicts_in_several_threads_at_once(models, task):
    rows = rows_of(task)
    expected = models[task].predict(rows, batch=3)

    def ask(_):
        runtime = models[task].runtime
        return runtime.predict(runtime.prepare(rows, {}).items, {})

    with ThreadPoolExecutor(4) as pool:
        assert all(near(found, expected) for found in pool.map(ask, range(12)))


@pytest.mark.parametrize("task", BUILD)
def test_memory_is_counted_and_let_go(folders, task):
    model = af.ModelSpec(id="m", task=task, source=str(folders[task])).load(device="cpu")
    assert model.runtime.memory() > 1000
    model.unload()
    assert model.runtime.memory() == 0


def test_a_file_that_ends_too_early_is_found_in_its_batch(models):
    rows = [png(picture(seed, (400, 300))) for seed in range(5)]
    rows[3] = rows[3][:300]
    with pytest.raises(BadRow, match=r"row 3 .*the image cannot be decoded"):
        models[LOOK].predict(rows)


def test_a_text_is_cut_to_what_the_model_reads(models):
    # the tokenizer knows no limit
    [entities] = models[TAG].predict(["people " * 300], parameters={"aggregation_strategy": "none"})
    assert 0 < len(entities) <= 62
    [answer] = models[ZERO].predict(["people " * 300], parameters={"labels": LABELS})
    assert answer["label"] in LABELS


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("task", "parameters", "text"),
    [
        (ZERO, {"labels": []}, "a list of different texts"),
        (ZERO, {"labels": "time, water"}, "a list of different texts"),
        (ZERO, {"labels": ["a", "a"]}, "a list of different texts"),
        (ZERO, {"labels": ["a", 7]}, "a list of different texts"),
        (ZERO, {"labels": ["a"], "hypothesis_template": "no place"}, "a text with {} in it"),
        (ZERO, {"labels": ["a"], "hypothesis_template": "{:>999999999}"}, "a text with {} in it"),
        (ZERO, {"labels": ["a"], "hypothesis_template": "{} and {x}"}, "a text with {} in it"),
        (ZERO, {"labels": ["a"], "multi_label": "yes"}, "True or False"),
        (ZERO, {}, r"needs labels to choose from: give labels="),
        (ZERO, {"label": ["a"]}, "did you mean labels="),
        (TAG, {"aggregation_strategy": "some"}, "one of none, simple"),
        (LOOK, {"top_k": 0}, "a number of at least 1"),
        (LOOK, {"top_k": True}, "a number of at least 1"),
        (HEAR, {"task": "sing"}, "transcribe or translate"),
        (HEAR, {"language": 7}, "a name such as"),
        (HEAR, {"language": "klingon"}, "a language that the model knows"),
        (HEAR, {"language": "spanish"}, "a language that the model knows"),
        (HEAR, {"max_new_tokens": 0}, "a number of at least 1"),
    ],
    ids=spoken,
)
def test_a_wrong_parameter_is_named(models, task, parameters, text):
    with pytest.raises(ParameterError, match=text):
        models[task].predict(rows_of(task)[:1], parameters=parameters)


def test_labels_may_be_the_specs_own(folders):
    spec = af.ModelSpec(id="m", task=ZERO, source=str(folders[ZERO]), parameters={"labels": LABELS})
    assert spec.load(device="cpu").predict(TEXTS[:1])[0]["label"] in LABELS


def test_a_model_of_one_language_takes_none(tmp_path, folders):
    folder = shutil.copytree(folders[HEAR], tmp_path / "m")
    config = json.loads((folder / "generation_config.json").read_text())
    del config["lang_to_id"], config["task_to_id"]
    (folder / "generation_config.json").write_text(json.dumps(config | {"is_multilingual": False}))
    model = af.ModelSpec(id="m", task=HEAR, source=str(folder)).load(device="cpu")
    assert model.predict([tone()])[0]
    for parameters in ({"language": "english"}, {"task": "translate"}):
        with pytest.raises(ParameterError, match="in one language: leave"):
            model.predict([tone()], parameters=parameters)


def test_a_classifier_that_knows_no_entailment_is_refused(folders):
    with pytest.raises(SpecError, match="needs a model for natural language inference"):
        af.ModelSpec(id="m", task=ZERO, source=str(folders[TAG])).load(device="cpu")


@pytest.mark.parametrize("task", BUILD)
def test_weights_that_are_pickled_or_missing_are_refused(tmp_path, folders, task):
    folder = shutil.copytree(folders[task], tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    spec = af.ModelSpec(id="m", task=task, source=str(folder))
    with pytest.raises(UnsafeModel, match="is a pickle"):
        spec.load(device="cpu")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"has no model\.safetensors"):
        spec.load(device="cpu")


@pytest.mark.parametrize(
    ("task", "file", "text"),
    [
        (LOOK, "preprocessor_config.json", "the image processor in"),
        (HEAR, "preprocessor_config.json", "the feature extractor in"),
        (HEAR, "tokenizer.json", "tokenizer"),
        (TAG, "tokenizer.json", "tokenizer"),
        (HEAR, "config.json", "it is not a model folder"),
    ],
)
def test_a_folder_from_which_something_is_missing_is_said_to_be(tmp_path, folders, task, file, text):
    folder = shutil.copytree(folders[task], tmp_path / "m")
    (folder / file).unlink()
    if file != "config.json":
        # the library takes these from several places
        for other in ("processor_config.json", "tokenizer_config.json", "vocab.json"):
            (folder / other).unlink(missing_ok=True)
    with pytest.raises(ModelLoadError, match=text):
        af.ModelSpec(id="m", task=task, source=str(folder)).load(device="cpu")


def test_an_option_is_refused(folders):
    spec = af.ModelSpec(id="m", task=LOOK, source=str(folders[LOOK]), options={"pooling": "cls"})
    with pytest.raises(SpecError, match="does not know option 'pooling'"):
        spec.load(device="cpu")
