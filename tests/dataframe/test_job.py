"""Laws of checkpointed jobs, on a cluster in processes."""

from __future__ import annotations

import _thread
import threading
import time
import tracemalloc

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import get_task_stream
from distributed.diagnostics.plugin import SchedulerPlugin

from altlas_flow.dataframe.columns import output_names, to_columns
from altlas_flow.dataframe.folder import Header, OutputFolder, read_header
from altlas_flow.dataframe.progress import Progress, duration
from altlas_flow.dataframe.report import Plan, RunSummary
from altlas_flow.dataframe.units import digest
from altlas_flow.errors import BadRow, InputError, NoEligibleNode, OutputLocked, OutputMismatch
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, part_lines, read, spec, stamps, write
from tests.models_zoo import build_classifier, build_embedder, sentences

pytestmark = [
    pytest.mark.timeout(60),
    # Dask's own Parquet reader calls pandas in a way that pandas 3.1 deprecates.
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame"),
]


class TestWhatComesOut:
    def test_all_rows_come_out_in_order_with_their_columns(self, flow, tmp_path):
        data = frame(500)
        summary = flow.run(data, spec(jobs.upper), input="text", to=tmp_path / "out", part_rows=37)
        plain = pd.read_parquet(tmp_path / "out")
        assert plain["n"].tolist() == list(range(500))
        assert plain["text"].tolist() == data["text"].tolist()
        assert plain["prediction"].tolist() == data["text"].str.upper().tolist()
        lazy = dd.read_parquet(tmp_path / "out").compute(scheduler="sync")
        pd.testing.assert_frame_equal(lazy.reset_index(drop=True), plain, check_dtype=False)
        assert (summary.rows, summary.dead_letters, summary.parts) == (500, 0, 14)

    @pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "*.parquet", "*.csv", "[files]"])
    def test_files_of_every_format_are_sources(self, flow, tmp_path, name):
        suffix = "." + name.rpartition(".")[2] if "." in name else ".jsonl"
        for at, stem in enumerate("abc"):
            write(tmp_path / f"{stem}{suffix}", frame(40, 40 * at))
        files = sorted(tmp_path.glob("?.*"))
        source = files if name == "[files]" else tmp_path / name
        count = 40 if name.startswith("a") else 120
        flow.run(source, spec(jobs.lengths), input="text", output="size", to=tmp_path / "out", part_rows=16)
        found = pd.read_parquet(tmp_path / "out")
        assert found["n"].tolist() == list(range(count)), "in the order of the files"
        assert (found["size"] == found["text"].str.len()).all()

    def test_a_dask_frame_with_an_empty_partition_and_no_divisions_is_a_source(self, flow, tmp_path):
        data = frame(120).assign(things=[f"x{n}" if n % 3 else None for n in range(120)])
        data["things"] = data["things"].astype(object)
        lazy = dd.from_pandas(data, npartitions=6).clear_divisions()
        lazy = lazy[(lazy.n < 40) | (lazy.n >= 60)]
        summary = flow.run(lazy, spec(jobs.upper), input="text", to=tmp_path / "out", part_rows=15)
        wanted = data[(data.n < 40) | (data.n >= 60)]
        found = pd.read_parquet(tmp_path / "out")
        assert found["n"].tolist() == wanted["n"].tolist()
        assert found["things"].isna().tolist() == wanted["things"].isna().tolist()
        assert summary.rows == 100
        again = flow.run(lazy, spec(jobs.upper), input="text", to=tmp_path / "out", part_rows=15)
        assert again.parts_skipped == again.parts == summary.parts

    def test_an_index_that_holds_something_is_kept(self, flow, tmp_path):
        data = frame(30).set_index(pd.Index([f"k{n}" for n in range(30)], name="key"))
        flow.run(data, spec(jobs.upper), input="text", to=tmp_path / "pandas", part_rows=8)
        lazy = dd.from_pandas(data, npartitions=2, sort=False)
        flow.run(lazy, spec(jobs.upper), input="text", to=tmp_path / "dask", part_rows=8)
        for name in ("pandas", "dask"):
            assert pd.read_parquet(tmp_path / name).index.tolist() == data.index.tolist(), name

    def test_several_columns_or_a_function_of_the_row_form_the_input(self, flow, tmp_path):
        flow.run(frame(20), spec(jobs.join), input=["n", "text"], to=tmp_path / "two", part_rows=7)
        found = read(tmp_path / "two")
        assert found["prediction"].tolist() == [f"{n}+{t}" for n, t in zip(found.n, found.text, strict=True)]
        flow.run(
            frame(20),
            spec(jobs.upper),
            input=lambda row: f"{row['text']}!{row['n']}",
            to=tmp_path / "function",
            part_rows=7,
        )
        assert read(tmp_path / "function")["prediction"][3] == "ROW AAA 3!3"

    def test_embeddings_are_lists_of_fixed_size_and_labels_are_columns(self, flow, tmp_path):
        flow.run(frame(50), spec(jobs.embed), input="text", output="vector", to=tmp_path / "e", part_rows=9)
        assert jobs.schema_of(tmp_path / "e").field("vector").type == pa.list_(pa.float32(), 4)
        np.testing.assert_array_equal(np.stack(read(tmp_path / "e")["vector"]), jobs.embed(frame(50).text))
        flow.run(frame(50), spec(jobs.classify), input="text", to=tmp_path / "l", part_rows=9)
        assert list(read(tmp_path / "l")) == ["n", "text", "label", "score"]
        flow.run(frame(50), spec(jobs.classify), input="text", output="mood", to=tmp_path / "m", part_rows=9)
        assert list(read(tmp_path / "m")) == ["n", "text", "mood", "mood_score"]
        assert read(tmp_path / "m")["mood_score"].tolist() == read(tmp_path / "l")["score"].tolist()

    def test_an_output_column_takes_the_place_of_one_of_that_name_only_when_named(self, flow, tmp_path):
        data = frame(20).assign(label="old", text=lambda f: f.text)
        with pytest.raises(InputError, match="'label' already"):
            flow.run(data, spec(jobs.classify), input="text", to=tmp_path / "out", part_rows=9)
        flow.run(data, spec(jobs.classify), input="text", output="label", to=tmp_path / "out", part_rows=9)
        found = read(tmp_path / "out")
        assert set(found["label"]) <= {"long", "short"}
        assert sorted(found) == ["label", "n", "score", "text"]

    @pytest.mark.long
    @pytest.mark.timeout(120)
    def test_transformers_give_embeddings_and_labels(self, flow, tmp_path):
        from altlas_flow import ModelSpec

        texts = sentences(60, seed=1)
        data = pd.DataFrame({"n": range(60), "text": texts})
        embedder = ModelSpec(
            id="job-embedder", source=build_embedder(tmp_path / "embedder"), task="feature-extraction"
        )
        summary = flow.run(
            data,
            embedder,
            input=lambda row: 7 if row["n"] == 11 else row["text"],
            to=tmp_path / "e",
            part_rows=16,
        )
        assert jobs.schema_of(tmp_path / "e").field("embedding").type == pa.list_(pa.float32(), 32)
        letters = summary.dead_letter_frame()
        assert letters[["row_id", "phase"]].values.tolist() == [["frame:11", "input"]], "a wrong type"
        rest = [text for n, text in enumerate(texts) if n != 11]
        alone = embedder.load(device="cpu").predict(rest)
        np.testing.assert_allclose(np.stack(read(tmp_path / "e")["embedding"]), alone, atol=1e-5)
        assert (summary.unit, summary.load_s > 0) == ("tokens", True)
        assert "tokens/s" in str(summary)
        asked = flow.run(data, embedder, input="text", to=tmp_path / "b", batch=4)
        assert (asked.unit, set(asked.batch.values())) == ("rows", {4})
        assert "4 rows" in str(asked)
        assert "tokens/s" in str(asked)
        assert "padding wasted" in str(summary)
        classifier = ModelSpec(
            id="job-classifier", source=build_classifier(tmp_path / "classifier"), task="text-classification"
        )
        flow.run(data, classifier, input="text", to=tmp_path / "l", part_rows=16)
        found = jobs.schema_of(tmp_path / "l")
        assert (found.field("label").type, found.field("score").type) == (pa.string(), pa.float32())

    def test_one_big_row_group_keeps_all_workers_busy(self, flow, tmp_path):
        source = write(tmp_path / "one.parquet", frame(1000), row_group_size=1000)
        (tmp_path / "met").mkdir()
        model = spec(jobs.Meet(tmp_path / "met", 2), outputs={"prediction": "string"})  # nothing to probe
        flow.run(source, model, input="text", to=tmp_path / "out")
        assert len(jobs.nodes_of(tmp_path / "out")) == 2
        assert len(part_lines(tmp_path / "out")) >= 8


class InFlight(SchedulerPlugin):
    """The most predictions that were there at once, and what restricted the other tasks."""

    name = "test-in-flight"

    def start(self, scheduler):
        self.scheduler, self.now, self.most, self.bound = scheduler, set(), 0, []

    def transition(self, key, start, finish, *args, **kwargs):
        if str(key).startswith("altlas-predict-"):
            (self.now.discard if finish in ("memory", "released", "forgotten", "erred") else self.now.add)(
                key
            )
            self.most = max(self.most, len(self.now))
        elif finish == "processing" and str(key).startswith(("altlas-read_rows", "altlas-write_part")):
            ts = self.scheduler.tasks[key]
            if ts.worker_restrictions or ts.resource_restrictions or ts.host_restrictions:
                self.bound.append(key)


@pytest.fixture
def in_flight(flow):
    flow.client.register_plugin(InFlight())

    def look():
        return flow.client.run_on_scheduler(
            lambda dask_scheduler: (
                dask_scheduler.plugins["test-in-flight"].most,
                dask_scheduler.plugins["test-in-flight"].bound,
            )
        )

    yield look
    flow.client.unregister_scheduler_plugin("test-in-flight")


class TestFlow:
    def test_about_two_parts_a_slot_are_under_way(self, flow, tmp_path, in_flight):
        flow.run(frame(400), spec(jobs.Slow(0.01)), input="text", to=tmp_path / "out", part_rows=10)
        most, bound = in_flight()
        assert 3 <= most <= 4, "two for each of two slots"
        assert not bound

    @pytest.mark.long
    def test_interactive_requests_wait_for_one_batch_at_most(self, flow, tmp_path):
        took = 0.25
        model = spec(jobs.Slow(took), batch=20)
        other = spec(jobs.upper)
        assert flow.submit(other, "warm").result(30).outputs == "WARM"
        job = threading.Thread(
            target=flow.run,
            args=(frame(1000), model),
            kwargs={"input": "text", "to": tmp_path / "out", "part_rows": 200},
        )
        job.start()
        waits = []
        try:
            jobs.until(lambda: jobs.committed(tmp_path / "out"))
            while job.is_alive() and len(waits) < 24:
                began = time.monotonic()
                if len(waits) % 2:
                    flow.submit(model, "x").result(30)
                    waits.append(time.monotonic() - began - took)  # its own batch is no waiting
                else:
                    assert flow.submit(other, "x").result(30).outputs == "X"
                    waits.append(time.monotonic() - began)
        finally:
            job.join(60)
        assert len(waits) >= 15, "the job went on meanwhile"
        assert np.quantile(waits, 0.95) <= 2 * took

    def test_a_piece_of_a_file_is_one_task_where_any_worker_may_have_the_model(self, flow, tmp_path):
        for at in range(6):
            write(tmp_path / f"{at}.parquet", frame(20, 20 * at))
        options = {"input": "text", "to": tmp_path / "out"}
        with get_task_stream(client=flow.client) as stream:
            flow.run(tmp_path / "*.parquet", spec(jobs.upper, outputs={"prediction": "string"}), **options)
        keys = [record["key"] for record in stream.data]
        assert sum(key.startswith("altlas-predict") for key in keys) == 6
        assert not [key for key in keys if key.startswith(("altlas-read_rows", "altlas-write_part"))]
        with get_task_stream(client=flow.client) as stream:  # two parts a file: what is read is read once
            flow.run(
                tmp_path / "*.parquet", spec(jobs.lengths), part_rows=10, **options | {"to": tmp_path / "b"}
            )
        keys = [record["key"] for record in stream.data]
        assert sum(key.startswith("altlas-write_part") for key in keys) == 12
        assert read(tmp_path / "b")["n"].tolist() == list(range(120))

    def test_rows_never_pass_the_client(self, flow, tmp_path):
        text = "x" * 2000
        data = pd.DataFrame({"n": range(20_000), "text": [f"{n}{text}" for n in range(20_000)]})
        source = write(tmp_path / "big.parquet", data, row_group_size=4000)
        del data
        model = spec(jobs.lengths)
        flow.run(write(tmp_path / "warm.parquet", frame(10)), model, input="text", to=tmp_path / "warm")
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            flow.run(source, model, input="text", to=tmp_path / "out", part_rows=1000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8e6, "of 40 MB of rows"
        assert pa.total_allocated_bytes() - before < 4e6


class TestResume:
    def test_a_finished_job_is_not_done_again(self, flow, tmp_path):
        log = tmp_path / "log"
        source = write(tmp_path / "in.csv", frame(200))
        options = {"input": "text", "to": tmp_path / "out"}
        model = spec(jobs.Logged(log))
        first = flow.run(source, model, **options)
        before, called = stamps(tmp_path / "out"), jobs.calls(log)
        again = flow.run(source, model, **options)
        assert again.parts_skipped == again.parts == first.parts
        assert (again.rows, again.rows_done) == (200, 0)
        assert stamps(tmp_path / "out") == before
        assert jobs.calls(log) == called, "the model was not asked"
        assert "already" in str(again)

    @pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
    def test_only_the_parts_of_a_changed_file_are_redone(self, flow, tmp_path, kind):
        for at, stem in enumerate("abc"):
            write(tmp_path / f"{stem}.{kind}", frame(50, 50 * at))
        options = {"input": "text", "to": tmp_path / "out", "part_rows": 10}
        flow.run(str(tmp_path / f"*.{kind}"), spec(jobs.upper), **options)
        before = stamps(tmp_path / "out")
        write(tmp_path / f"b.{kind}", frame(45, 1000))
        summary = flow.run(str(tmp_path / f"*.{kind}"), spec(jobs.upper), **options)
        after = stamps(tmp_path / "out")
        kept = {name for name in before if before[name] == after.get(name)}
        assert all(name.startswith(("part-a-", "part-c-")) for name in kept)
        assert (len(kept), summary.parts_skipped, summary.rows_done) == (10, 10, 45)
        wanted = [*range(50), *range(100, 150), *range(1000, 1045)]
        assert sorted(read(tmp_path / "out")["n"]) == wanted

    def test_files_may_come_and_go(self, flow, tmp_path):
        for at, stem in enumerate("abc"):
            write(tmp_path / f"{stem}.csv", frame(20, 20 * at))
        options = {"input": "text", "to": tmp_path / "out"}
        flow.run(str(tmp_path / "[ab].csv"), spec(jobs.upper), **options)
        before = stamps(tmp_path / "out")
        assert flow.run(str(tmp_path / "?.csv"), spec(jobs.upper), **options).rows_done == 20
        assert before.items() <= stamps(tmp_path / "out").items()
        assert flow.run(str(tmp_path / "[bc].csv"), spec(jobs.upper), **options).rows_done == 0
        assert read(tmp_path / "out")["n"].tolist() == list(range(20, 60))

    def test_an_input_that_grew_a_lot_is_cut_into_larger_parts_and_keeps_what_is_there(
        self, flow, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("altlas_flow.dataframe.job.MANY_PARTS", 3)
        options = {"input": "text", "to": tmp_path / "out"}
        write(tmp_path / "a.csv", frame(100))
        flow.run(str(tmp_path / "*.csv"), spec(jobs.upper), **options)
        small, before = read_header(tmp_path / "out").part_rows, stamps(tmp_path / "out")
        write(tmp_path / "b.csv", frame(5000, 100))
        flow.run(str(tmp_path / "*.csv"), spec(jobs.upper), **options)
        assert read_header(tmp_path / "out").part_rows > small
        assert before.items() <= stamps(tmp_path / "out").items()
        again = flow.run(str(tmp_path / "*.csv"), spec(jobs.upper), **options)
        assert again.parts_skipped == again.parts

    def test_only_the_parts_of_changed_rows_of_a_frame_are_redone(self, flow, tmp_path):
        options = {"input": "text", "to": tmp_path / "out", "part_rows": 10}
        data = frame(100)
        flow.run(data, spec(jobs.upper), **options)
        changed = data.copy()
        changed.loc[37, "text"] = "new"
        assert flow.run(changed, spec(jobs.upper), **options).rows_done == 10
        longer = pd.concat([changed, frame(15, 100)], ignore_index=True)
        assert flow.run(longer, spec(jobs.upper), **options).rows_done == 15
        assert read(tmp_path / "out")["prediction"][37] == "NEW"

    def test_the_digest_of_rows_depends_on_these_rows_alone(self):
        rng = np.random.default_rng(0)
        data = pd.DataFrame(
            {
                "text": ["x" * size for size in rng.integers(0, 9, 60)],
                "flag": rng.random(60) < 0.5,
                "number": np.where(rng.random(60) < 0.2, np.nan, rng.random(60)),
                "list": [[1.0] * size for size in rng.integers(0, 4, 60)],
                "kind": pd.Categorical(["a", "b", "c"] * 20),
            }
        )
        for row in range(60):
            changed = data.copy()
            changed.loc[row, ["text", "flag", "number"]] = ["changed", True, 0.5]
            one, other = pa.Table.from_pandas(data), pa.Table.from_pandas(changed)
            for start in range(0, 60, 7):
                mine = digest(one.slice(start, 7))
                holds = start <= row < start + 7
                assert (digest(other.slice(start, 7)) != mine) == holds
                alone = data.iloc[start : start + 7].reset_index(drop=True)
                assert digest(pa.Table.from_pandas(alone)) == mine

    def test_another_model_or_other_parameters_or_input_redo_everything(self, flow, tmp_path):
        source = write(tmp_path / "in.parquet", frame(60))
        options = {"to": tmp_path / "out", "output": "value", "part_rows": 20}
        flow.run(source, spec(jobs.lengths), input="text", **options)
        for model, more in (
            (spec(jobs.lengths), {"input": "text", "parameters": {"times": 2}}),
            (spec(jobs.lengths, revision="2"), {"input": "text"}),
            (spec(jobs.lengths, parameters={"times": 3}), {"input": "text"}),
            (spec(jobs.upper), {"input": "text"}),
            (spec(jobs.upper), {"input": lambda row: row["text"] + "?"}),
        ):
            summary = flow.run(source, model, **more, **options)
            assert (summary.rows_done, summary.parts_skipped) == (60, 0)
            assert flow.run(source, model, **more, **options).parts_skipped == 3
        assert read(tmp_path / "out")["value"][0].endswith("?")

    def test_a_folder_with_another_output_column_is_refused_and_stays(self, flow, tmp_path):
        flow.run(frame(30), spec(jobs.upper), input="text", output="a", to=tmp_path / "out")
        before = stamps(tmp_path / "out")
        with pytest.raises(OutputMismatch) as caught:
            flow.run(frame(30), spec(jobs.upper), input="text", output="b", to=tmp_path / "out")
        assert jobs.is_one_line(caught.value)
        assert stamps(tmp_path / "out") == before

    def test_a_second_job_on_a_folder_is_refused(self, flow, tmp_path):
        header = Header(("n", "text"), ("prediction",))
        with OutputFolder.open(tmp_path / "out", header), pytest.raises(OutputLocked) as caught:
            flow.run(frame(30), spec(jobs.upper), input="text", to=tmp_path / "out")
        assert jobs.is_one_line(caught.value)
        flow.run(frame(30), spec(jobs.upper), input="text", to=tmp_path / "out")


def stretch(rows):
    """Fits `int64`, but for every seventh row."""
    return [n + 0.5 if n % 7 == 0 else "text" if n % 7 == 1 else n for n in rows]


def refuses_five(row):
    if row["n"] % 5 == 0:
        raise KeyError("five")
    return row["text"]


class TestDeadLetters:
    def letters(self, summary):
        found = summary.dead_letter_frame()
        assert set(found["model"]) <= {summary.model.partition(":")[0]}
        assert found["node"].notna().all()
        return {row.row_id: (row.phase, row.error_type) for row in found.itertuples()}, found

    def accounted(self, summary, path, rows):
        assert summary.rows + summary.dead_letters == rows
        assert len(pd.read_parquet(path)) == summary.rows

    def test_nulls_are_put_aside(self, flow, tmp_path):
        data = frame(50)
        data.loc[[3, 30, 49], "text"] = None
        summary = flow.run(data, spec(jobs.upper), input="text", to=tmp_path / "out", part_rows=8)
        letters, found = self.letters(summary)
        assert letters == dict.fromkeys(["frame:3", "frame:30", "frame:49"], ("input", "InputError"))
        assert found["error"].tolist() == ["'text' is null"] * 3
        self.accounted(summary, tmp_path / "out", 50)
        assert read(tmp_path / "out")["n"].tolist() == [n for n in range(50) if n not in (3, 30, 49)]

    def test_a_failing_batch_is_searched_for_its_bad_rows(self, flow, tmp_path):
        data = frame(100)
        data.loc[[0, 1, 64, 99], "text"] = "bad one"
        summary = flow.run(data, spec(jobs.no_bad, batch=50), input="text", to=tmp_path / "out", part_rows=50)
        letters, found = self.letters(summary)
        bad = dict.fromkeys(["frame:0", "frame:1", "frame:64", "frame:99"], ("predict", "ValueError"))
        assert letters == bad
        [error] = set(found["error"])
        assert error.startswith("ValueError: cannot stand bad (jobs.py:") and error.endswith(", in no_bad)")
        assert set(found["input"]) == {"bad one"}
        self.accounted(summary, tmp_path / "out", 100)

    def test_a_failing_function_of_the_row_costs_its_rows_only(self, flow, tmp_path):
        summary = flow.run(frame(23), spec(jobs.upper), input=refuses_five, to=tmp_path / "out", part_rows=10)
        letters, _ = self.letters(summary)
        assert letters == {f"frame:{n}": ("input", "InputError") for n in (0, 5, 10, 15, 20)}
        self.accounted(summary, tmp_path / "out", 23)

    def test_answers_that_do_not_fit_are_put_aside_and_never_cut(self, flow, tmp_path):
        model = spec(stretch, outputs={"value": "int64"})
        summary = flow.run(frame(40), model, input="n", to=tmp_path / "out", part_rows=15)
        letters, _ = self.letters(summary)
        assert letters == {f"frame:{n}": ("output", "InputError") for n in range(40) if n % 7 < 2}
        assert read(tmp_path / "out")["value"].tolist() == [n for n in range(40) if n % 7 >= 2]
        self.accounted(summary, tmp_path / "out", 40)

    def test_rows_that_cannot_be_read_are_put_aside(self, flow, tmp_path):
        lines = [f"{n},text {n}" for n in range(60)]
        lines[7], lines[44] = "7,too,many", "x44,no number"
        (tmp_path / "in.csv").write_text("n,text\n" + "\n".join(lines) + "\n")
        summary = flow.run(
            tmp_path / "in.csv", spec(jobs.upper), input="text", to=tmp_path / "csv", part_rows=9
        )
        letters, _ = self.letters(summary)
        assert letters["in.csv:7"] == ("read", "SourceError")
        self.accounted(summary, tmp_path / "csv", 60)
        rows = [f'{{"n": {n}, "text": "text {n}"}}' for n in range(60)]
        rows[0], rows[31] = "{broken", '"no object"'
        (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
        summary = flow.run(
            tmp_path / "in.jsonl", spec(jobs.upper), input="text", to=tmp_path / "jsonl", part_rows=9
        )
        letters, _ = self.letters(summary)
        assert letters == dict.fromkeys(["in.jsonl:0", "in.jsonl:31"], ("read", "SourceError"))
        self.accounted(summary, tmp_path / "jsonl", 60)

    def test_raise_stops_at_a_bad_row_and_names_it(self, flow, tmp_path):
        data = frame(60)
        data.loc[33, "text"] = "bad one"
        with pytest.raises(BadRow) as caught:
            flow.run(
                data, spec(jobs.no_bad), input="text", to=tmp_path / "out", part_rows=10, on_error="raise"
            )
        assert (caught.value.row_id, caught.value.phase) == ("frame:33", "predict")
        assert jobs.is_one_line(caught.value)
        jobs.until(lambda: not jobs.tasks_of(flow))
        assert len(jobs.stamps(tmp_path / "out")) == jobs.committed(tmp_path / "out")
        data.loc[33, "text"] = "good one"
        flow.run(data, spec(jobs.no_bad), input="text", to=tmp_path / "out", part_rows=10, on_error="raise")
        assert set(part_lines(tmp_path / "out").values()) == {1}, "what was committed stayed"

    def test_types_are_learnt_behind_the_bad_rows(self, flow, tmp_path):
        data = frame(120)
        data.loc[:99, "text"] = None
        summary = flow.run(data, spec(jobs.lengths), input="text", to=tmp_path / "out", part_rows=30)
        assert (summary.rows, summary.dead_letters) == (20, 100)
        assert jobs.schema_of(tmp_path / "out").field("prediction").type == pa.int64()

    def test_a_row_whose_answer_is_no_record_is_a_fault(self):
        types = {"label": pa.string(), "score": pa.float64()}
        arrays, faults = to_columns([{"label": "a", "score": 1.0}, None, {"other": 1}], types)
        assert sorted(faults) == [1, 2]
        assert arrays["label"].to_pylist() == ["a", None, None]
        assert output_names(list(types), "label") == ("label", "score")


class TestStopping:
    # Python drops an interrupt that comes in the middle of a finalizer, and says so
    @pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
    def test_an_interrupted_job_leaves_nothing_behind_and_goes_on_later(self, flow, tmp_path):
        out, interrupted = tmp_path / "out", threading.Event()

        def interrupt():
            jobs.until(lambda: jobs.committed(out) >= 2)
            _thread.interrupt_main()
            if not interrupted.wait(1.0):
                _thread.interrupt_main()  # as people do

        options = {"input": "text", "to": out, "part_rows": 10}
        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            flow.run(frame(400), spec(jobs.Slow(0.1)), **options)
        interrupted.set()
        helper.join()
        jobs.until(lambda: not jobs.tasks_of(flow), instead=lambda: jobs.states_of(flow))
        done = jobs.committed(out)
        assert 2 <= done < 40
        summary = flow.run(frame(400), spec(jobs.Slow(0.1)), **options)
        assert summary.parts_skipped == done
        assert set(part_lines(out).values()) == {1}

    @pytest.mark.long
    def test_a_job_interrupted_while_it_gives_up_leaves_nothing_behind(self, flow, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        def first_is_bad(rows):
            if any(row.endswith(" 0") for row in rows):
                raise ValueError("bad")
            threading.Event().wait(1.0)  # the job is over by then, and its folder closed
            return rows

        options = {"input": "text", "to": tmp_path / "out", "part_rows": 10, "on_error": "raise"}
        with monkeypatch.context() as patch:
            patch.setattr(flow.client, "cancel", interrupted)
            with pytest.raises(KeyboardInterrupt):
                flow.run(frame(100), spec(first_is_bad), **options)
        jobs.until(lambda: not jobs.tasks_of(flow), instead=lambda: jobs.states_of(flow))

    def test_a_model_that_no_node_can_serve_is_refused_at_once(self, flow, tmp_path):
        began = time.monotonic()
        with pytest.raises(NoEligibleNode) as caught:
            flow.run(frame(10), spec(jobs.upper, resources={"GPU": 1}), input="text", to=tmp_path / "out")
        assert time.monotonic() - began < 10
        assert len(caught.value.reasons) == 2
        assert all("GPU" in why for why in caught.value.reasons.values())
        assert jobs.is_one_line(caught.value)
        assert not (tmp_path / "out").exists()


class TestTelling:
    def test_a_plan_says_what_a_run_would_take(self, flow, tmp_path):
        plan = flow.plan(frame(2000), spec(jobs.Slow(0.01), batch=10), input="text", rows=100)
        assert plan.rows == 2000
        assert 100 <= plan.sampled <= 110
        assert plan.seconds == pytest.approx(1.0, rel=0.5), "200 batches of 10 ms in two slots"
        assert "expected time" in str(plan)
        assert "<table>" in plan._repr_html_()
        assert not list(tmp_path.iterdir())

    def test_a_plan_for_rows_that_nobody_has_counted_gives_no_time(self, flow):
        lazy = dd.from_pandas(frame(200), npartitions=4)
        plan = flow.plan(lazy, spec(jobs.upper), input="text")
        assert (plan.rows, plan.seconds) == (None, None)
        assert "unknown" in str(plan)

    def test_a_plan_counts_bad_rows(self, flow):
        data = frame(100)
        data.loc[::2, "text"] = None
        assert flow.plan(data, spec(jobs.upper), input="text", rows=100).faulty == 50

    def test_progress_is_silent_when_piped_and_a_summary_prints_as_a_table(self, flow, tmp_path, capfd):
        summary = flow.run(frame(50), spec(jobs.upper), input="text", to=tmp_path / "out")
        assert capfd.readouterr() == ("", "")
        text = str(summary)
        for word in ("model", "output", "rows", "dead letters", "rows/s", "batch budget", "seconds loading"):
            assert any(line.startswith(word) for line in text.splitlines()), word
        assert summary._repr_html_().count("<tr>") == len(text.splitlines()) - 1  # the model is the caption
        assert "<script>" not in RunSummary(tmp_path, "<script>")._repr_html_()

    def test_progress_in_a_terminal_counts_rows(self, capsys):
        with Progress("model", 100, show=True, clock=iter(range(100)).__next__) as bar:
            bar.skip(60)
            bar.advance(20)
        assert bar.done == 80
        assert bar._rate() < 20
        assert "80/100" in capsys.readouterr().err

    def test_durations_are_said_as_people_say_them(self):
        assert [duration(s) for s in (5, 135, 7260)] == ["5 s", "2 min 15 s", "2 h 1 min"]
        assert duration(59.7) == "1 min 0 s"
        plan = Plan("m", 10, 5, 1, 2.0, 5.0, {"a": 8, "b": 16}, "rows", 2, 0.1)
        assert "8 and 16 rows" in str(plan)


def test_written_parts_are_plain_parquet(flow, tmp_path):
    flow.run(frame(50), spec(jobs.upper), input="text", to=tmp_path / "out", part_rows=20)
    for part in jobs.parts(tmp_path / "out"):
        assert pq.ParquetFile(part).metadata.num_rows in (16, 17, 20, 10)
