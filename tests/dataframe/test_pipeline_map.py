"""Laws of pipelines over frames: every row has the answer that a plain loop gives it."""

from __future__ import annotations

import itertools
import json
import os
import random
import time

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from distributed import get_task_stream

from altlas_flow.errors import BadRow, InputError, NoEligibleNode, ParameterError, PipelineError, SpecError
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.stage import Stage
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, spec
from tests.laboratory import laboratory

pytestmark = [
    pytest.mark.timeout(60),
    # Dask's own frames call pandas in a way that pandas 3.1 deprecates.
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame"),
]


def no_bad(text):
    if "bad" in text:
        raise ValueError("cannot stand bad")
    return text.upper()


def vector(text):
    return np.array([len(text), text.count("A")], np.float32)


def words():
    """Text -> upper case -> its length; and beside it a vector."""
    return Pipeline(
        [
            Stage("upper", function=no_bad),
            Stage("length", function=len, after="upper"),
            Stage("vector", function=vector, after="upper"),
        ],
        id="words",
    )


class TestAnswers:
    def test_each_output_is_a_column_and_rows_columns_and_index_stay(self, flow):
        given = frame(300).set_index(pd.Index([f"k{n}" for n in range(300)], name="key"))
        found = flow.map(given, words(), input="text")
        pd.testing.assert_frame_equal(found[["n", "text"]], given)
        assert list(found) == ["n", "text", "length", "vector"]
        assert found.length.tolist() == given.text.str.len().tolist()
        assert found.vector.dtype == pd.ArrowDtype(pa.list_(pa.float32(), 2))
        np.testing.assert_array_equal(
            np.stack(found.vector), np.stack([vector(t.upper()) for t in given.text])
        )

    def test_one_output_takes_the_name_given_and_records_become_columns(self, flow):
        upper = Stage("upper", function=str.upper)
        single = Pipeline([upper, Stage("size", function=len, after="upper")])
        assert list(flow.map(frame(5), single, input="text")) == ["n", "text", "prediction"]
        assert flow.map(frame(5), single, input="text", output="size")["size"].tolist() == [6, 7, 8, 9, 10]
        record = Pipeline([upper, Stage("label", model=spec(jobs.classify), after="upper")])
        found = flow.map(frame(5), record, input="text", output="mood")
        assert list(found) == ["n", "text", "mood", "mood_score"]
        assert found.mood.tolist() == [one["label"] for one in jobs.classify(frame(5).text)]

    def test_several_columns_functions_of_the_row_and_lists_are_each_one_input(self, flow):
        given = frame(20).assign(tags=[["x"] * (n % 4) for n in range(20)])
        shown = Pipeline([Stage("shown", function=repr)])
        found = flow.map(given, shown, input=["n", "text"]).prediction
        rows = zip(given.n, given.text, strict=True)
        assert found.tolist() == [repr({"n": n, "text": text}) for n, text in rows]
        assert flow.map(given, shown, input=lambda row: row["n"] * 2).prediction[7] == "14"
        assert flow.map(given, shown, input="tags").prediction.tolist() == [repr(one) for one in given.tags]

    @pytest.mark.parametrize("seed", [0, *(pytest.param(one, marks=pytest.mark.long) for one in (1, 2, 3))])
    def test_random_graphs_equal_a_plain_loop(self, flow, seed):
        pipeline, plain = random_graph(random.Random(seed))
        given = pd.DataFrame({"n": range(150)})
        found = flow.map(given, pipeline, input="n", on_error="collect", part_rows=40)
        wanted = [plain(n) for n in given.n]
        first = pipeline.output[0] if len(pipeline.output) > 1 else "prediction"
        for name in pipeline.output:
            column = name if len(pipeline.output) > 1 else "prediction"
            values = [None if row is None else row[name] for row in wanted]
            assert [None if pd.isna(one) else one for one in found[column]] == values
        assert found[f"{first}_error"].notna().tolist() == [row is None for row in wanted]
        assert 0 < sum(row is None for row in wanted) < 150


def random_graph(rng):
    """A pipeline of sums, some stages optional, some done for some rows only; and the same as a function.

    The function gives None for a row that fails at a stage which is not optional.
    """
    names = [f"s{number}" for number in range(rng.randint(4, 9))]
    stages, rules = [], {}
    for place, name in enumerate(names):
        before = rng.sample(["input", *names[:place]], rng.randint(1, min(3, place + 1)))
        fails = rng.choice([0, 7, 11]) if place else 13
        optional, picks = place > 0 and rng.random() < 0.4, rng.choice([0, 0, 3])
        rules[name] = (before, place, fails, optional, picks)
        when = pick(picks) if picks else None
        stages.append(Stage(name, function=add(place, fails), after=before, when=when, optional=optional))
    rng.shuffle(stages)
    pipeline = Pipeline(stages, id="random")

    def plain(n):
        values, skipped = {"input": n}, set()
        for name, (before, place, fails, optional, picks) in rules.items():
            values[name] = None
            given = values[before[0]] if len(before) == 1 else {one: values[one] for one in before}
            if skipped.issuperset(before) or (picks and not pick(picks)(given)):
                skipped.add(name)
                continue
            try:
                values[name] = add(place, fails)(given)
            except ValueError:
                if not optional:
                    return None
        return values

    return pipeline, plain


def total(given):
    return sum(one or 0 for one in given.values()) if isinstance(given, dict) else given or 0


def add(place, fails):
    def added(given):
        found = total(given) + place
        if fails and found % fails == 3:
            raise ValueError("no such sum")
        return found

    return added


def pick(every):
    return lambda given: total(given) % every != 1


class TestFaults:
    def test_a_bad_row_has_null_and_names_its_stage_in_the_error_that_is_raised(self, flow):
        given = frame(80)
        given.loc[[3, 70], "text"] = "bad"
        given.loc[9, "text"] = None
        found = flow.map(given, words(), input="text", on_error="collect")
        assert np.flatnonzero(found.length.isna()).tolist() == [3, 9, 70]
        assert np.flatnonzero(found.length_error.notna()).tolist() == [3, 9, 70]
        assert "cannot stand bad" in found.length_error[3]
        assert "null" in found.length_error[9]
        with pytest.raises(BadRow, match="of stage 'upper'") as caught:
            flow.map(given, words(), input="text")
        assert caught.value.stage in ("upper", "input")
        assert jobs.is_one_line(caught.value)

    def test_what_fails_at_an_optional_stage_is_null_and_no_fault(self, flow):
        given = frame(40)
        given.loc[[3, 30], "text"] = "bad"
        pipeline = Pipeline(
            [
                Stage("upper", function=no_bad, optional=True),
                Stage("known", function=lambda text: text is not None, after="upper"),
            ],
            output=["upper", "known"],
        )
        found = flow.map(given, pipeline, input="text")
        assert np.flatnonzero(found.upper.isna()).tolist() == [3, 30]
        assert np.flatnonzero(~found.known.astype(bool)).tolist() == [3, 30]

    def test_a_row_that_failed_before_an_optional_stage_has_failed(self, flow):
        given = frame(40)
        given.loc[5, "text"] = "bad"
        last = Stage("length", function=len, after="upper", optional=True)
        pipeline = Pipeline([Stage("upper", function=no_bad), last])
        found = flow.map(given, pipeline, input="text", on_error="collect")
        assert np.flatnonzero(found.prediction_error.notna()).tolist() == [5]
        whole = Pipeline([Stage("inner", pipeline=pipeline, optional=True)])
        assert flow.map(given, whole, input="text").prediction.isna().tolist() == [n == 5 for n in range(40)]

    def test_rows_that_are_skipped_are_null_also_where_the_others_are_records_or_arrays(self, flow):
        def even(text):
            return len(text) % 2 == 0

        given = frame(60)
        odd = [not even(text) for text in given.text]

        def matrix(rows):
            return np.ones((len(rows), 2, 3), np.float32)

        for model in (jobs.classify, jobs.embed, jobs.upper, matrix):
            column = "label" if model is jobs.classify else "prediction"
            pipeline = Pipeline([Stage("only", model=spec(model), when=even)])
            found = flow.map(given, pipeline, input="text", on_error="collect")
            assert found[column].isna().tolist() == odd
            assert found[f"{column}_error"].isna().all()

    def test_an_output_that_fits_no_type_is_a_fault_of_its_stage(self, flow):
        given = pd.DataFrame({"n": range(60)})
        pipeline = Pipeline(
            [
                Stage("fine", function=str),
                Stage("odd", function=lambda n: n if n != 50 else "fifty"),
            ],
            outputs={"fine": "string", "odd": "int64"},
        )
        with pytest.raises(BadRow, match="at output of stage 'odd'"):
            flow.map(given, pipeline, input="n")
        narrow = Pipeline([Stage("n", function=lambda n: n if n < 40 else n + 0.5)], id="narrow")
        with pytest.raises(SpecError, match=r"pipeline 'narrow'.*Pipeline\(outputs="):
            flow.map(dd.from_pandas(given, npartitions=1), narrow, input="n").compute()

    def test_what_cannot_be_meant_is_refused_before_anything_runs(self, flow):
        with pytest.raises(InputError, match="batch= is for models"):
            flow.map(frame(10), words(), input="text", batch=4)
        with pytest.raises(InputError, match="parameters= is for models"):
            flow.map(frame(10), words(), input="text", parameters={"times": 2})
        with pytest.raises(InputError, match="max_in_flight=0"):
            flow.map(frame(10), words(), input="text", max_in_flight=0)
        with pytest.raises(InputError, match="frames of pandas"):
            flow.map(dd.from_pandas(frame(10), npartitions=2), words(), input="text", max_in_flight=2)

        class Nowhere:
            """Cannot be read where it arrives."""

            __name__ = "nowhere"

            def __call__(self, asked, nodes):
                return nodes[0].address

            def __reduce__(self):
                return int, ("nowhere",)

        unfit = Pipeline([Stage("a", function=len, strategy=Nowhere())])
        with pytest.raises(PipelineError, match="stage 'a': strategy 'nowhere' cannot be used"):
            flow.map(frame(10), unfit, input="text")
        with pytest.raises(PipelineError, match="stage 'a': strategy 'nowhere' cannot be used"):
            flow.submit(unfit, "x").result(60)
        unknown = Pipeline([Stage("length", model=spec(jobs.lengths), parameters={"time": 2})])
        with pytest.raises((ParameterError, PipelineError), match="time"):
            flow.map(frame(10), unknown, input="text")

    def test_a_stage_that_no_node_can_do_is_named(self, flow):
        gpu = Stage("gpu", function=len, resources={"GPU": 1})
        pipeline = Pipeline([Stage("upper", function=str.upper), gpu])
        with pytest.raises(NoEligibleNode, match="pipeline/gpu"):
            flow.map(frame(10), pipeline, input="text")


class TestLazily:
    def test_lazily_and_at_once_the_answers_are_the_same_and_meta_is_what_is_computed(self, flow):
        given = frame(120)
        given.loc[[3, 77], "text"] = "bad"
        at_once = flow.map(given, words(), input="text", on_error="collect")
        lazy_frame = dd.from_pandas(given, npartitions=3)
        lazy = flow.map(lazy_frame, words(), input="text", on_error="collect")
        assert lazy.divisions == lazy_frame.divisions
        computed = lazy.compute()
        assert lazy.dtypes.to_dict() == computed.dtypes.to_dict()
        pd.testing.assert_frame_equal(computed, at_once, check_dtype=False)
        with pytest.raises(BadRow, match="upper") as caught:
            flow.map(lazy_frame, words(), input="text").compute()
        assert caught.value.row_id in {"partition-0:3", "partition-1:37"}

    def test_it_works_behind_a_filter_on_empty_partitions_and_each_stage_is_a_task(self, flow):
        given = dd.from_pandas(frame(120), npartitions=6)
        lazy = flow.map(given[given.n >= 50], words(), input="text")
        with get_task_stream(client=flow.client) as stream:
            found = lazy.compute()
        assert found.n.tolist() == list(range(50, 120))
        assert found.length.tolist() == [len(text) for text in found.text]
        keys = [str(record["key"]) for record in stream.data]
        assert sum(key.startswith("altlas-predict-") for key in keys) == 3 * 6

    @pytest.mark.long
    def test_each_stage_runs_where_it_can(self, tmp_path):
        log = tmp_path / "log"
        stages = [
            Stage("anywhere", function=lambda n: n),
            Stage("gpu", function=Noted(log), after="anywhere", resources={"GPU": 1}),
            Stage("last", function=lambda n: n + 1, after="gpu"),
        ]
        pipeline = Pipeline(stages, outputs={"prediction": "int64"})
        given = pd.DataFrame({"n": range(40)})
        with laboratory({"gpu": {"resources": {"GPU": 1}, "nthreads": 2}, "cpu": {"nthreads": 2}}) as lab:
            pid = lab.pid_of("gpu")
            lazy = lab.flow.map(dd.from_pandas(given, npartitions=8), pipeline, input="n")
            assert lazy.compute().prediction.tolist() == list(range(1, 41))
            assert lab.flow.map(given, pipeline, input="n", part_rows=5).prediction[39] == 40
            summary = lab.flow.run(given, pipeline, input="n", to=tmp_path / "out", part_rows=5)
            first = Stage("first", function=Noted(log), resources={"GPU": 1})
            single = Pipeline([first], outputs={"same": "int64"})  # read and written anywhere
            assert lab.flow.run(given, single, input="n", to=tmp_path / "single", part_rows=5).rows == 40
        assert set(summary.stages["gpu"].nodes) == {"gpu"}
        spans = sorted(json.loads(line) for line in log.read_text().splitlines())
        assert len(spans) == 160
        assert {where for _, _, where in spans} == {pid}
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans)), "one at a time"


class Noted:
    """Writes when each call began and ended, and where."""

    def __init__(self, path):
        self.path = str(path)

    def __call__(self, value):
        began = time.monotonic()
        with open(self.path, "a") as stream:
            stream.write(json.dumps([began, time.monotonic(), os.getpid()]) + "\n")
        return value
