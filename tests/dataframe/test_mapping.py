"""A model over a frame: pandas at once, dask lazily, every row in its place."""

from __future__ import annotations

import itertools
import json
import os
import uuid

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import altlas_flow as af
from altlas_flow.errors import BadRow, EmptyInput, InputError, MissingColumn, SourceError, SpecError
from tests.laboratory import laboratory
from tests.models_zoo import build_classifier, build_embedder, sentences

pytestmark = [
    pytest.mark.timeout(90),
    # Dask's own Parquet reader calls pandas in a way that pandas 3.1 deprecates.
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame"),
]


def model(function, **fields):
    return af.ModelSpec(
        id=f"{getattr(function, '__name__', 'model')}-{uuid.uuid4()}", source=function, **fields
    )


def length(rows):
    return [len(row) for row in rows]


def picky(rows):
    if any(row == "bad" for row in rows):
        raise ValueError("a bad one")
    return [len(row) for row in rows]


def records(rows):
    return [{"size": len(row), "upper": row.upper(), "mean": len(row) / 2} for row in rows]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = build_embedder(tmp_path_factory.mktemp("models") / "embedder")
    return af.ModelSpec(id=f"embedder-{uuid.uuid4()}", task="feature-extraction", source=str(folder))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = build_classifier(tmp_path_factory.mktemp("models") / "classifier")
    return af.ModelSpec(id=f"classifier-{uuid.uuid4()}", task="text-classification", source=str(folder))


def frame(rows=500, **columns):
    return pd.DataFrame({"text": sentences(rows), "number": range(rows)} | columns)


def embeddings(series):
    return np.stack([np.asarray(value, np.float32) for value in series])


# ---------------------------------------------------------------- pandas


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(500),
        pd.Index([7, 7, 3, 3, 3] * 100, name="again"),
        pd.Index([f"key {n}" for n in range(500, 0, -1)]),
        pd.MultiIndex.from_product([range(50), list("abcdefghij")], names=["one", "two"]),
        pd.date_range("2020-01-01", periods=500, freq="h"),
    ],
    ids=["range", "not-unique", "text", "multi", "dates"],
)
def test_rows_columns_and_index_stay_and_each_row_has_its_own_answer(flow, index):
    given = frame().set_index(index)
    before = given.copy()
    found = flow.map(given, model(length), input="text")
    pd.testing.assert_frame_equal(given, before)
    pd.testing.assert_frame_equal(found[["text", "number"]], given)
    assert list(found.columns) == ["text", "number", "prediction"]
    assert found.prediction.tolist() == [len(text) for text in given.text]


def test_embeddings_are_arrow_lists_of_fixed_size_equal_to_those_without_a_cluster(flow, embedder):
    given = frame(200)
    found = flow.map(given, embedder, input="text")
    assert found.embedding.dtype == pd.ArrowDtype(pa.list_(pa.float32(), 32))
    with embedder.load() as loaded:
        alone = loaded.predict(given.text.tolist())
    np.testing.assert_allclose(embeddings(found.embedding), alone, atol=1e-5)


def test_labels_and_scores_are_columns_that_take_the_name_given(flow, classifier):
    given = frame(50)
    plain = flow.map(given, classifier, input="text")
    assert list(plain.columns) == ["text", "number", "label", "score"]
    assert set(plain.label) <= {"bad", "so-so", "good"}
    assert plain.score.dtype == np.float32
    named = flow.map(given, classifier, input="text", output="mood")
    assert list(named.columns) == ["text", "number", "mood", "mood_score"]
    assert named.mood.tolist() == plain.label.tolist()


def test_records_become_columns_and_an_output_may_replace_a_column(flow):
    given = frame(130)
    found = flow.map(given, model(records), input="text")
    assert list(found.columns) == ["text", "number", "size", "upper", "mean"]
    assert found.upper.tolist() == [text.upper() for text in given.text]
    replaced = flow.map(given, model(length), input="text", output="text")
    assert list(replaced.columns) == ["text", "number"]
    assert replaced.text.tolist() == [len(text) for text in given.text]


def test_collected_rows_have_null_and_their_error_and_all_others_their_answer(flow):
    given = frame()
    at = [0, 63, 64, 65, 499]
    given.loc[at, "text"] = "bad"
    given.loc[100, "text"] = None
    found = flow.map(given, model(picky), input="text", on_error="collect")
    assert list(found.columns) == ["text", "number", "prediction", "prediction_error"]
    assert list(np.flatnonzero(found.prediction.isna())) == sorted([*at, 100])
    assert list(np.flatnonzero(found.prediction_error.notna())) == sorted([*at, 100])
    line = picky.__code__.co_firstlineno + 2
    assert set(found.prediction_error[at]) == {f"ValueError: a bad one (test_mapping.py:{line}, in picky)"}
    assert "null" in found.prediction_error[100]
    good = found[found.prediction.notna()]
    assert good.prediction.tolist() == [len(text) for text in good.text]
    with pytest.raises(BadRow, match="a bad one") as caught:
        flow.map(given, model(picky), input="text")
    assert caught.value.row_id in {f"frame:{row}" for row in [*at, 100]}


def test_embeddings_of_bad_rows_are_null(flow, embedder):
    given = pd.DataFrame({"text": ["a", None, "the of", None]})
    found = flow.map(given, embedder, input="text", on_error="collect", output="vector")
    assert found.vector.isna().tolist() == [False, True, False, True]
    assert found.vector.dtype == pd.ArrowDtype(pa.list_(pa.float32(), 32))
    assert found.vector_error.notna().tolist() == [False, True, False, True]


def test_where_no_row_has_an_answer_all_are_null(flow):
    def never(rows):
        raise ValueError("never")

    found = flow.map(frame(100), model(never), input="text", on_error="collect")
    assert found.prediction.isna().all()
    line = never.__code__.co_firstlineno + 1
    assert set(found.prediction_error) == {f"ValueError: never (test_mapping.py:{line}, in never)"}


def test_types_are_those_of_all_answers_and_what_fits_no_type_is_refused(flow):
    given = frame(300)
    mixed = flow.map(given, model(lambda rows: [1 if n < 200 else 0.5 for n in rows]), input="number")
    assert mixed.prediction.tolist() == [1.0] * 200 + [0.5] * 100
    odd = model(lambda rows: [1 if n < 200 else "one" for n in rows], batch=10)
    with pytest.raises(af.errors.AltlasError, match="outputs") as caught:
        flow.map(given, odd, input="number")
    assert isinstance(caught.value, (SpecError, BadRow))


def test_several_columns_and_functions_of_the_row_are_inputs(flow):
    given = frame(150)
    several = model(lambda rows: [f"{row['text']}|{row['number']}" for row in rows])
    expected = [f"{text}|{number}" for text, number in zip(given.text, given.number, strict=True)]
    assert flow.map(given, several, input=["text", "number"]).prediction.tolist() == expected
    seen = flow.map(given, model(lambda rows: rows), input=lambda row: f"{row['text']}|{row['number']}")
    assert seen.prediction.tolist() == expected
    names = flow.map(given, model(lambda rows: rows), input=lambda row: ",".join(sorted(row)))
    assert set(names.prediction) == {"number,text"}


def test_what_cannot_be_mapped_is_refused_before_anything_runs(flow):
    spec = model(length)
    with pytest.raises(MissingColumn, match="'txt'"):
        flow.map(frame(10), spec, input="txt")
    with pytest.raises(EmptyInput):
        flow.map(frame(0), spec, input="text")
    with pytest.raises(InputError, match="use flow"):
        flow.map("reviews.parquet", spec, input="text")
    with pytest.raises(InputError, match="on_error"):
        flow.map(frame(10), spec, input="text", on_error="ignore")
    with pytest.raises(InputError, match="batch"):
        flow.map(frame(10), spec, input="text", batch=0)
    with pytest.raises(SourceError, match="rename"):
        flow.map(frame(10).rename(columns={"number": 3}), spec, input="text")


# ---------------------------------------------------------------- dask


def same_types(lazy, computed):
    assert list(lazy.columns) == list(computed.columns)
    assert lazy.dtypes.to_dict() == computed.dtypes.to_dict()


def specs(embedder, classifier):
    answers = {
        "whole": lambda rows: [len(row) for row in rows],
        "sometimes": lambda rows: [None if len(row) % 3 == 0 else len(row) > 9 for row in rows],
        "record": records,
        "text": lambda rows: [row.upper() for row in rows],
        "vector": lambda rows: np.ones((len(rows), 3), np.float32),
        "list": lambda rows: [[1.5] * (len(row) % 4) for row in rows],
    }
    return {"embedder": embedder, "classifier": classifier} | {k: model(f) for k, f in answers.items()}


@pytest.mark.parametrize("on_error", [pytest.param("raise", marks=pytest.mark.long), "collect"])
def test_meta_is_what_is_computed(flow, embedder, classifier, on_error):
    given = frame(90)
    if on_error == "collect":
        given.loc[[3, 40, 41], "text"] = None
    lazy_frame = dd.from_pandas(given, npartitions=3)
    for spec in specs(embedder, classifier).values():
        lazy = flow.map(lazy_frame, spec, input="text", on_error=on_error)
        for index in range(lazy.npartitions):
            same_types(lazy, lazy.partitions[index].compute())
        same_types(lazy, lazy.compute())


def test_lazily_and_at_once_the_answers_are_the_same(flow, embedder):
    given = frame(200)
    at_once = flow.map(given, embedder, input="text")
    lazily = flow.map(dd.from_pandas(given, npartitions=4), embedder, input="text").compute()
    np.testing.assert_allclose(embeddings(lazily.embedding), embeddings(at_once.embedding), atol=1e-5)
    assert lazily.index.equals(at_once.index)
    assert lazily.number.tolist() == at_once.number.tolist()


def test_nothing_runs_before_it_is_computed_and_divisions_stay(flow, tmp_path):
    log = tmp_path / "log"

    def loud(rows):
        with log.open("a") as file:
            file.write("x")
        return rows

    given = dd.from_pandas(frame(40), npartitions=4)
    lazy = flow.map(given, model(loud, outputs={"prediction": "string"}), input="text")
    assert not log.exists()
    assert lazy.divisions == given.divisions
    assert lazy.known_divisions
    assert len(lazy.loc[10:19].compute()) == 10
    assert log.exists()
    unknown = given.clear_divisions()
    assert not flow.map(unknown, model(length), input="text").known_divisions


def test_it_works_behind_a_filter_on_empty_partitions_and_after_persist(flow):
    given = dd.from_pandas(frame(120), npartitions=6)
    spec = model(length)
    for lazy_frame in (given[given.number >= 50], given[given.number >= 50].persist()):
        lazy = flow.map(lazy_frame, spec, input="text")
        same_types(lazy, lazy.partitions[0].compute())  # an empty one
        found = lazy[lazy.prediction > 0].compute()
        assert found.number.tolist() == list(range(50, 120))
        assert found.prediction.tolist() == [len(text) for text in found.text]
    persisted = flow.map(given, spec, input="text").persist()
    assert int(persisted.prediction.sum().compute()) == sum(map(len, frame(120).text))


def test_two_maps_of_one_frame_do_not_take_each_others_answers(flow):
    given = dd.from_pandas(frame(40), npartitions=2)
    spec = model(length)
    one = flow.map(given, spec, input="text", output="one").persist()
    two = flow.map(given, spec, input="text", output="two").persist()
    third = flow.map(given, spec, input="text", output="one", on_error="collect").persist()
    assert list(one.compute().columns) == ["text", "number", "one"]
    assert list(two.compute().columns) == ["text", "number", "two"]
    assert list(third.compute().columns) == ["text", "number", "one", "one_error"]


def test_a_bad_row_of_a_partition_raises_or_is_collected(flow):
    given = frame(60)
    given.loc[[25, 59], "text"] = "bad"
    lazy_frame = dd.from_pandas(given, npartitions=3)
    with pytest.raises(BadRow, match="a bad one") as caught:
        flow.map(lazy_frame, model(picky), input="text").compute()
    assert caught.value.row_id in {"partition-1:5", "partition-2:19"}
    found = flow.map(lazy_frame, model(picky), input="text", on_error="collect").compute()
    assert list(np.flatnonzero(found.prediction.isna())) == [25, 59]
    assert list(np.flatnonzero(found.prediction_error.notna())) == [25, 59]


def test_the_result_can_be_written_and_read_again(flow, embedder, tmp_path):
    given = frame(40)
    lazy = flow.map(dd.from_pandas(given, npartitions=2), embedder, input="text")
    lazy.to_parquet(tmp_path / "out")
    assert len(pd.read_parquet(tmp_path / "out", dtype_backend="pyarrow")) == 40


def test_predictions_run_on_the_gpu_worker_one_at_a_time_and_io_anywhere(tmp_path):
    log = tmp_path / "predicted"

    def slow(rows):
        import time

        began = time.time()
        time.sleep(0.05)
        with log.open("a") as file:
            file.write(json.dumps([os.getpid(), began, time.time()]) + "\n")
        return rows

    def read(index):
        from distributed import get_worker

        return pd.DataFrame({"n": [index], "reader": [get_worker().name]})

    with laboratory({"gpu": {"resources": {"GPU": 1}, "nthreads": 2}, "cpu": {"nthreads": 2}}) as lab:
        gpu = next(
            a
            for a, w in lab.client.sync(lab.client.scheduler.identity, n_workers=-1)["workers"].items()
            if w["name"] == "gpu"
        )
        pid = lab.client.run(os.getpid, workers=[gpu])[gpu]
        spec = model(slow, resources={"GPU": 1}, outputs={"prediction": "int64"})
        given = dd.from_map(read, range(12), meta=pd.DataFrame({"n": [0], "reader": ["x"]}))
        found = lab.flow.map(given[given.n >= 0], spec, input="n").compute()
        assert found.prediction.tolist() == list(range(12))
        assert set(found.reader) == {"gpu", "cpu"}
    spans = [json.loads(line) for line in log.read_text().splitlines()]
    assert {where for where, _, _ in spans} == {pid}
    spans.sort(key=lambda span: span[1])
    assert all(one[2] <= other[1] for one, other in itertools.pairwise(spans))


@pytest.mark.long
def test_a_lazy_map_does_not_read_the_whole_dataset_ahead(flow, tmp_path):
    reads, predictions = tmp_path / "reads", tmp_path / "predictions"

    def read(index):
        with reads.open("a") as file:
            file.write(".")
        return pd.DataFrame({"n": [index]})

    def predict(rows):
        import time

        time.sleep(0.05)
        with predictions.open("a") as file:
            file.write(f"{reads.stat().st_size}\n")
        return rows

    given = dd.from_map(read, range(60), meta=pd.DataFrame({"n": [0]}))
    spec = model(predict, outputs={"prediction": "int64"})
    assert len(flow.map(given, spec, input="n").compute()) == 60
    ahead = [int(line) - at for at, line in enumerate(predictions.read_text().splitlines())]
    # two workers of one slot: two parts of each at the host, two tasks of each before it
    assert max(ahead) <= 16


def test_progress_is_shown_where_it_is_asked_for_and_refused_for_what_is_computed_later(
    flow, capsys, monkeypatch
):
    monkeypatch.setattr("altlas_flow.dataframe.mapping.QUICK", 0.0)
    flow.map(frame(300), model(length), input="text", output="n")
    assert capsys.readouterr() == ("", ""), "what is piped is left alone"
    flow.map(frame(300), model(length), input="text", output="n", progress=True)
    assert "300/300" in capsys.readouterr().err
    with pytest.raises(InputError, match="progress= is for frames of pandas"):
        flow.map(dd.from_pandas(frame(10), npartitions=2), model(length), input="text", progress=True)
