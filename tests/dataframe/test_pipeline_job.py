"""Laws of checkpointed jobs of pipelines: as those of models, stage by stage."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import altlas_flow as af
from altlas_flow.dataframe.folder import committed_parts, read_dead_letters
from altlas_flow.dataframe.manifest import dead_letters_of
from altlas_flow.errors import BadRow, InputError, ModelLoadError, NothingPredicted
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.stage import Stage
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, part_lines, read, spec, stamps, write
from tests.dataframe.kill_job import PART_ROWS, stages_of
from tests.dataframe.test_job_killed import killed
from tests.laboratory import laboratory

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame"),
]


class Seen:
    """A stage that writes what it was given, a line for each batch."""

    def __init__(self, path, name, seconds=0.0):
        self.path, self.name, self.seconds = str(path), name, seconds

    def __call__(self, rows):
        if self.seconds:
            time.sleep(self.seconds)
        with open(self.path, "a") as stream:
            stream.write(json.dumps([self.name, time.monotonic(), list(rows)]) + "\n")
        return list(rows)


def seen(path, name):
    """All that a stage was given."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for stage, _, rows in lines for row in rows if stage == name]


class TestWhatComesOut:
    def test_rows_come_out_in_order_and_the_summary_tells_of_each_stage(self, flow, tmp_path):
        source = write(tmp_path / "in.parquet", frame(200), row_group_size=50)
        pipeline = Pipeline(
            [
                Stage("upper", function=str.upper),
                Stage("label", model=spec(jobs.classify), after="upper"),
                Stage("length", function=len, after="upper", when=lambda text: "AA" in text),
            ],
            id="words",
            output=["upper", "length"],
        )
        summary = flow.run(source, pipeline, input="text", to=tmp_path / "out", part_rows=20)
        found = pd.read_parquet(tmp_path / "out")
        assert found.n.tolist() == list(range(200))
        assert found.upper.tolist() == found.text.str.upper().tolist()
        wanted = [len(text) if "aa" in text else None for text in found.text]
        assert [None if pd.isna(one) else one for one in found["length"]] == wanted
        assert (summary.rows, summary.dead_letters, summary.parts) == (200, 0, 10)
        stages = summary.stages
        assert (stages.rows, stages.pieces) == (200, 10)
        assert [stages[name].rows for name in ("upper", "label", "length")] == [200, 200, 120]
        assert stages["length"].skipped == 80
        assert all(one.seconds > 0 for one in stages.stages)
        assert "words: upper -> label -> length" in str(summary)
        assert "skipped" in str(summary)
        assert "skipped" in summary._repr_html_()
        assert not jobs.tasks_of(flow), "nothing is left on the cluster"

    def test_dead_letters_name_stage_and_row(self, flow, tmp_path):
        data = frame(60)
        data.loc[[7, 41], "text"] = ["bad one", None]
        data.loc[12, "text"] = "long" * 10

        def short(text):
            if len(text) > 20:
                raise KeyError("too long")
            return len(text)

        pipeline = Pipeline(
            [
                Stage("upper", model=spec(jobs.no_bad)),
                Stage("length", function=short, after="upper"),
                Stage("odd", function=lambda size: size if size != 17 else "seventeen", after="length"),
            ],
            id="p",
            outputs={"size": "int64"},
        )
        data.loc[30, "text"] = "seventeen letters"
        summary = flow.run(data, pipeline, input="text", to=tmp_path / "out", part_rows=20)
        letters = summary.dead_letter_frame()
        assert summary.dead_letters == 4
        assert letters[["row_id", "stage", "phase", "error_type"]].values.tolist() == [
            ["frame:7", "upper", "predict", "ValueError"],
            ["frame:12", "length", "predict", "KeyError"],
            ["frame:30", "odd", "output", "InputError"],
            ["frame:41", "input", "input", "InputError"],
        ]
        assert letters.model.tolist()[1:] == ["p/length", "p/odd", "p"]
        assert letters.input.tolist()[:3] == ["bad one", "long" * 10, "seventeen letters"]
        assert set(letters.node) <= {"0", "1"}
        assert summary.stages["upper"].failed == summary.stages["length"].failed == 1
        assert sorted(read(tmp_path / "out").n) == [n for n in range(60) if n not in (7, 12, 30, 41)]

    def test_rows_that_cannot_be_read_are_put_aside_before_any_stage(self, flow, tmp_path):
        path = tmp_path / "in.jsonl"
        lines = [json.dumps({"n": n, "text": f"row {n}"}) for n in range(30)]
        lines[4] = '{"n": 4, "text": '
        path.write_text("\n".join(lines) + "\n")
        pipeline = Pipeline([Stage("upper", function=str.upper)], id="p")
        summary = flow.run(path, pipeline, input="text", to=tmp_path / "out")
        letters = summary.dead_letter_frame()
        assert letters[["phase", "stage", "model"]].values.tolist() == [["read", "input", "p"]]
        assert len(read(tmp_path / "out")) == 29

    def test_the_first_bad_row_may_end_the_job_and_where_all_are_bad_nothing_is_predicted(
        self, flow, tmp_path
    ):
        data = frame(40)
        data.loc[25, "text"] = "bad"
        pipeline = Pipeline([Stage("upper", model=spec(jobs.no_bad))], outputs={"upper": "string"})
        with pytest.raises(BadRow, match="frame:25 failed at predict of stage 'upper'"):
            flow.run(data, pipeline, input="text", to=tmp_path / "a", on_error="raise")
        with pytest.raises(NothingPredicted, match="cannot stand bad"):
            flow.run(data.assign(text="bad"), pipeline, input="text", to=tmp_path / "b")
        untyped = Pipeline([Stage("upper", model=spec(jobs.no_bad))], id="untyped")
        with pytest.raises(NothingPredicted, match="pipeline 'untyped' answered none"):
            flow.run(data.assign(text="bad"), untyped, input="text", to=tmp_path / "c")

    def test_a_plan_tells_what_a_pipeline_would_take(self, flow):
        slow = Stage("slow", model=spec(jobs.Slow(0.01), batch=10))
        plan = flow.plan(frame(400), Pipeline([slow], id="p"), input="text", rows=80)
        assert (plan.rows, plan.sampled, plan.slots) == (400, 80, 2)
        assert 0.05 < plan.seconds < 5
        assert "p: slow" in str(plan)

    def test_a_folder_of_before_there_were_stages_is_still_read(self, flow, tmp_path):
        data = frame(30)
        data.loc[3, "text"] = "bad"
        out, model = tmp_path / "out", spec(jobs.no_bad)
        flow.run(data, model, input="text", to=out)
        for part, record in committed_parts(out).items():
            if record.dead_letters:
                file = dead_letters_of(out, part)
                pq.write_table(pq.ParquetFile(file).read().drop_columns(["stage"]), file)
        again = flow.run(data, model, input="text", to=out)
        assert again.parts_skipped == again.parts
        letters = again.dead_letter_frame()
        assert letters.row_id.tolist() == ["frame:3"]
        assert letters.stage.isna().all()

    def test_stages_go_where_their_strategies_say(self, flow, tmp_path):
        def by_name(request, nodes):
            return sorted(nodes, key=lambda node: node.name)

        stages = [
            Stage("one", function=str.upper, strategy=by_name),
            Stage("both", function=str.lower, after="one", strategy="round-robin"),
        ]
        summary = flow.run(frame(120), Pipeline(stages), input="text", to=tmp_path / "out", part_rows=10)
        assert set(summary.stages["one"].nodes) == {"0"}
        assert set(summary.stages["both"].nodes) == {"0", "1"}

    def test_a_stage_whose_model_cannot_be_loaded_ends_the_job_unless_it_is_optional(self, flow, tmp_path):
        gone = af.ModelSpec(id="gone", source=tmp_path / "nothing", task="feature-extraction")

        def pipeline(optional):
            stages = [
                Stage("upper", function=str.upper),
                Stage("gone", model=gone, after="upper", optional=optional),
            ]
            outputs = {"upper": "string", "gone": "string"}
            return Pipeline(stages, output=["upper", "gone"], outputs=outputs)

        with pytest.raises(ModelLoadError, match="'gone'") as caught:
            flow.run(frame(20), pipeline(False), input="text", to=tmp_path / "a")
        assert jobs.is_one_line(caught.value)
        summary = flow.run(frame(20), pipeline(True), input="text", to=tmp_path / "b")
        assert (summary.rows, summary.dead_letters) == (20, 0)
        assert summary.stages["gone"].forgiven == 20
        found = read(tmp_path / "b")
        assert found.gone.isna().all()
        assert found.upper.notna().all()

    def test_what_can_be_made_a_pipeline_runs_as_one(self, flow, tmp_path):
        class Loud:
            def as_pipeline(self):
                return Pipeline([Stage("upper", function=str.upper)], id="loud")

        assert flow.map(frame(3), Loud(), input="text").prediction[1] == "ROW A 1"
        flow.run(frame(3), Loud(), input="text", to=tmp_path / "out")
        assert read(tmp_path / "out").prediction[1] == "ROW A 1"


class TestResume:
    def test_what_is_there_is_not_done_again_and_a_changed_stage_makes_all_stale(self, flow, tmp_path):
        log, out = tmp_path / "log", tmp_path / "out"

        def pipeline(change):
            stages = [
                Stage("first", function=Seen(log, "first"), batched=True),
                Stage("second", function=change, after="first"),
            ]
            return Pipeline(stages, outputs={"size": "int64"})

        source = write(tmp_path / "in.csv", frame(100))
        options = {"input": "text", "to": out, "part_rows": 20}
        first = flow.run(source, pipeline(lambda text: len(text)), **options)
        before = stamps(out)
        again = flow.run(source, pipeline(lambda text: len(text)), **options)
        assert again.parts_skipped == again.parts == first.parts
        assert stamps(out) == before
        assert sorted(seen(log, "first")) == sorted(frame(100).text), "the stages were not asked again"
        changed = flow.run(source, pipeline(lambda text: len(text) + 1), **options)
        assert changed.parts_skipped == 0
        assert read(out)["size"].tolist() == [len(text) + 1 for text in frame(100).text]
        assert set(part_lines(out).values()) == {2}

    def test_a_job_that_ended_early_goes_on_where_it_was(self, flow, tmp_path):
        log, out = tmp_path / "log", tmp_path / "out"
        data = frame(200)
        data.loc[150, "text"] = "bad"
        stages = [
            Stage("first", function=Seen(log, "first"), batched=True),
            Stage("second", model=spec(jobs.no_bad), after="first"),
        ]
        pipeline = Pipeline(stages, outputs={"upper": "string"})
        options = {"input": "text", "to": out, "part_rows": 10, "max_in_flight": 1}
        with pytest.raises(BadRow):
            flow.run(data, pipeline, on_error="raise", **options)
        done, calls = committed_parts(out), len(seen(log, "first"))
        assert len(done) == 15
        summary = flow.run(data, pipeline, **options)
        assert (summary.parts_skipped, summary.rows_done, summary.dead_letters) == (15, 50, 1)
        assert len(seen(log, "first")) == calls + 50
        assert len(read(out)) == 199

    def test_answers_kept_on_disk_are_not_predicted_again(self, flow, tmp_path):
        log = tmp_path / "log"
        data = pd.DataFrame({"n": range(60), "text": [f"row {n % 6}" for n in range(60)]})

        def pipeline(last):
            stages = [
                Stage("kept", function=Seen(log, "kept"), batched=True, cache=tmp_path / "cache"),
                Stage("last", function=last, after="kept"),
            ]
            return Pipeline(stages, outputs={"last": "string"})

        flow.run(data, pipeline(str.upper), input="text", to=tmp_path / "out", part_rows=10, max_in_flight=1)
        first = len(seen(log, "kept"))
        assert first < 60
        summary = flow.run(data, pipeline(str.title), input="text", to=tmp_path / "out", part_rows=10)
        assert len(seen(log, "kept")) == first
        assert (summary.stages["kept"].rows, summary.stages["kept"].cached) == (0, 60)
        assert read(tmp_path / "out")["last"].tolist() == [text.title() for text in data.text]


class TestBounds:
    @pytest.mark.parametrize("most", [1, 3])
    def test_so_many_parts_are_between_first_and_last_stage(self, flow, tmp_path, most):
        log = tmp_path / "log"
        stages = [
            Stage("first", function=Seen(log, "first"), batched=True),
            Stage("middle", function=Seen(log, "middle"), after="first", batched=True),
            Stage("last", function=Seen(log, "last", 0.01), after="middle", batched=True),
        ]
        pipeline = Pipeline(stages, outputs={"text": "string"})
        options = {"input": "text", "output": "same", "part_rows": 10, "max_in_flight": most}
        flow.run(frame(120), pipeline, to=tmp_path / "out", **options)
        between, most_between = 0, 0
        lines = sorted((json.loads(line) for line in log.read_text().splitlines()), key=lambda one: one[1])
        for stage, _, rows in lines:
            between += len(rows) * {"first": 1, "middle": 0, "last": -1}[stage]
            most_between = max(most_between, between)
        assert 10 * (most - 1) < most_between <= 10 * most

    def test_it_bounds_models_too(self, flow, tmp_path):
        with pytest.raises(InputError, match="max_in_flight='two'"):
            flow.run(frame(10), spec(jobs.upper), input="text", to=tmp_path / "a", max_in_flight="two")
        log = tmp_path / "log"
        model = spec(jobs.Logged(log, 0.01), outputs={"prediction": "string"}, batch=10)
        flow.run(frame(100), model, input="text", to=tmp_path / "b", part_rows=10, max_in_flight=1)
        calls = sorted(jobs.calls(log), key=lambda call: call[2])
        assert len(calls) == 10
        assert all(one[3] <= other[2] for one, other in itertools.pairwise(calls))


class Deadly:
    """Kills its process, the first time that it gets a row which says so."""

    def __init__(self, flag):
        self.flag = str(flag)

    def __call__(self, text):
        if "50" in text:
            try:
                Path(self.flag).touch(exist_ok=False)
            except FileExistsError:
                return text
            os.kill(os.getpid(), signal.SIGKILL)
        return text


class TestKilled:
    @pytest.mark.long
    @pytest.mark.parametrize(
        "deadly",
        [
            "first",
            "middle",
            "last",
        ],
    )
    def test_a_worker_killed_in_a_stage_costs_no_row_and_doubles_none(self, tmp_path, deadly):
        def stage(name, after):
            function = Deadly(tmp_path / "flag") if name == deadly else str.strip
            return Stage(name, function=function, after=after)

        stages = [stage("first", "input"), stage("middle", "first"), stage("last", "middle")]
        pipeline = Pipeline(stages, outputs={"same": "string"})
        with laboratory({"a": {}, "b": {}}) as lab:
            summary = lab.flow.run(frame(120), pipeline, input="text", to=tmp_path / "out", part_rows=10)
        assert (tmp_path / "flag").exists()
        found = pd.read_parquet(tmp_path / "out")
        assert found.n.tolist() == list(range(120))
        assert found.same.tolist() == frame(120).text.tolist()
        assert (summary.rows, summary.dead_letters) == (120, 0)
        assert set(part_lines(tmp_path / "out").values()) == {1}

    @pytest.mark.long
    def test_a_job_killed_with_all_its_workers_resumes_with_what_is_missing(self, flow, tmp_path):
        data = frame(30 * PART_ROWS)
        data.loc[::97, "text"] = "bad one"
        source, out = write(tmp_path / "in.parquet", data, row_group_size=200), tmp_path / "out"
        killed(source, out, "appended", 10, "all", "pipeline")
        done = committed_parts(out)
        assert len(done) == 10
        before = {name: stamp for name, stamp in stamps(out).items() if name in done}
        summary = flow.run(source, stages_of(), input="text", to=out, part_rows=PART_ROWS)
        assert summary.parts_skipped == 10
        assert before.items() <= stamps(out).items(), "a committed part was done twice"
        assert set(part_lines(out).values()) == {1}
        bad = set(range(0, len(data), 97))
        assert read(out).n.tolist() == [n for n in range(len(data)) if n not in bad]
        letters = read_dead_letters(out).to_pylist()
        assert {one["stage"] for one in letters} == {"upper"}
        assert len(letters) == len(bad)
