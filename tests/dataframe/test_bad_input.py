"""Bad input and bad places: a typed error on one line, and nothing lost that was committed."""

from __future__ import annotations

import os
import shutil
import subprocess

import dask.dataframe as dd
import pandas as pd
import pytest

from altlas_flow import ModelSpec, errors
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, spec, write
from tests.models_zoo import build_embedder

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def refused(flow, tmp_path):
    """Run, see the error; what it may leave is a folder without parts."""

    def run(kind, source, model=None, *, to=None, **options):
        options = {"input": "text", **options}
        with pytest.raises(kind) as caught:
            flow.run(source, model or spec(jobs.upper), to=to or tmp_path / "out", **options)
        assert type(caught.value) is kind
        assert jobs.is_one_line(caught.value)
        assert not list((tmp_path / "out").glob("part-*"))
        return str(caught.value)

    return run


class TestInput:
    def test_a_missing_column_is_named_with_those_there_are(self, refused, tmp_path):
        lazy = dd.from_pandas(frame(20), npartitions=2)
        for source in (frame(20), lazy, write(tmp_path / "in.csv", frame(20))):
            text = refused(errors.MissingColumn, source, input="body")
            assert "'body'" in text
            assert "n, text" in text

    def test_inputs_without_rows_are_refused(self, refused, tmp_path):
        refused(errors.EmptyInput, frame(0))
        refused(errors.EmptyInput, write(tmp_path / "in.parquet", frame(0)))
        lazy = dd.from_pandas(frame(20), npartitions=2)
        refused(errors.EmptyInput, lazy[lazy.n > 100])
        refused(errors.EmptyInput, lazy[lazy.n > 100], spec(jobs.upper, outputs={"value": "string"}))
        (tmp_path / "none.csv").touch()
        refused(errors.SourceError, tmp_path / "none.csv")

    @pytest.mark.parametrize("declared", [None, {"value": "string"}])
    def test_a_column_of_nulls_is_refused(self, refused, tmp_path, declared):
        data = frame(20).assign(text=pd.Series([None] * 20, dtype=object))
        model = spec(jobs.upper, outputs=declared)
        refused(errors.NothingPredicted, data, model)
        refused(errors.NothingPredicted, write(tmp_path / "in.parquet", data), model)
        # only reading all of it tells: then the dead letters stay to be looked at
        refused(errors.NothingPredicted, write(tmp_path / "in.csv", data), model, to=tmp_path / "csv")

    def test_a_text_of_a_megabyte_is_a_row_like_others(self, flow, tmp_path):
        data = frame(30)
        data.loc[7, "text"] = "word " * 200_000
        flow.run(write(tmp_path / "in.csv", data), spec(jobs.lengths), input="text", to=tmp_path / "out")
        assert jobs.read(tmp_path / "out")["prediction"][7] == 1_000_000

    def test_a_bad_row_of_a_megabyte_leaves_a_short_letter(self, flow, tmp_path):
        data = frame(30)
        data.loc[7, "text"] = "bad " * 250_000
        summary = flow.run(data, spec(jobs.no_bad), input="text", to=tmp_path / "out")
        letters = summary.dead_letter_frame()
        assert letters["row_id"].tolist() == ["frame:7"]
        assert letters["input"].str.len().max() <= 200

    def test_files_that_are_not_what_they_say_are_named(self, refused, tmp_path):
        (tmp_path / "in.parquet").write_text("n,text\n1,a\n")
        assert "in.parquet" in refused(errors.SourceError, tmp_path / "in.parquet")
        assert "nowhere.csv" in refused(errors.SourceError, tmp_path / "nowhere.csv")
        refused(errors.SourceError, str(tmp_path / "*.jsonl"))
        refused(errors.SourceError, 7)
        refused(errors.SourceError, frame(5).rename(columns={"n": 0}))

    def test_arguments_that_cannot_be_meant_are_refused(self, refused):
        for options in (
            {"on_error": "ignore"},
            {"part_rows": 0},
            {"part_rows": "auto"},
            {"batch": -1},
            {"output": ""},
            {"input": []},
            {"input": 3},
        ):
            refused(errors.InputError, frame(5), **options)

    def test_a_frame_with_a_column_of_mixed_types_is_refused(self, refused):
        refused(errors.SourceError, frame(4).assign(mixed=pd.Series([1, "a", 2.5, None], dtype=object)))


class TestModel:
    def test_an_unknown_model_is_named_with_those_there_are(self, refused, flow):
        flow.register(ModelSpec(id="known-one", source=jobs.upper))
        text = refused(errors.UnknownModel, frame(5), "no-such-model")
        assert "no-such-model" in text

    @pytest.mark.timeout(120)
    def test_a_half_written_model_folder_is_a_load_error_that_names_it(self, refused, tmp_path):
        folder = build_embedder(tmp_path / "model")
        weights = next(folder.glob("*.safetensors"))
        os.truncate(weights, weights.stat().st_size // 2)
        text = refused(
            errors.ModelLoadError,
            frame(5),
            ModelSpec(id="half-written", source=folder, task="feature-extraction"),
        )
        assert "half-written" in text

    def test_a_model_folder_that_is_not_there_is_named_with_the_worker(self, refused, tmp_path):
        model = ModelSpec(id="not-there", source=tmp_path / "nothing", task="feature-extraction")
        text = refused(errors.ModelLoadError, frame(5), model)
        assert str(tmp_path / "nothing") in text
        assert "on 0" in text or "on 1" in text

    def test_parameters_that_the_model_does_not_know_are_refused(self, refused):
        refused(errors.ParameterError, frame(5), parameters={"no_such": 1})

    def test_a_model_that_fails_on_every_row_is_told_by_its_first_error(self, refused, flow, tmp_path):
        data = frame(30).assign(text="bad")
        assert "cannot stand bad" in refused(errors.NothingPredicted, data, spec(jobs.no_bad))
        declared = spec(jobs.no_bad, outputs={"prediction": "string"})
        with pytest.raises(errors.NothingPredicted, match="cannot stand bad") as caught:
            flow.run(data, declared, input="text", to=tmp_path / "declared")
        assert jobs.is_one_line(caught.value)

    def test_files_that_are_broken_leave_nothing_on_the_cluster(self, flow, tmp_path):
        for name in "abcd":
            (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 is not enough")
        with pytest.raises(errors.SourceError, match="not a whole Parquet file") as kept:
            flow.run(tmp_path, spec(jobs.upper), input="text", to=tmp_path / "out")
        jobs.until(lambda: not jobs.tasks_of(flow))
        assert kept.value.__cause__ is not kept.value

    def test_answers_that_no_column_can_hold_are_refused(self, refused):
        refused(errors.SpecError, frame(5), spec(lambda rows: [object() for _ in rows]))

    def test_a_declared_type_that_is_none_is_refused(self, refused):
        refused(errors.SpecError, frame(5), spec(jobs.upper, outputs={"value": "sting"}))

    def test_lists_of_fixed_size_may_be_declared(self, flow, tmp_path):
        model = spec(jobs.embed, outputs={"vector": "list<float>[4]"})
        flow.run(frame(20), model, input="text", to=tmp_path / "out")
        assert str(jobs.schema_of(tmp_path / "out").field("vector").type).endswith("[4]")


class TestOutput:
    def test_a_file_in_the_way_is_refused(self, refused, tmp_path):
        (tmp_path / "file").write_text("mine")
        refused(errors.OutputNotWritable, frame(5), to=tmp_path / "file")
        refused(errors.OutputNotWritable, frame(5), to=tmp_path / "file" / "below")
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_of_others_is_refused_and_stays(self, refused, tmp_path):
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "data.parquet").write_text("theirs")
        refused(errors.OutputMismatch, frame(5), to=tmp_path / "theirs")
        assert [p.name for p in (tmp_path / "theirs").iterdir()] == ["data.parquet"]

    def test_a_remote_folder_is_refused(self, refused):
        assert "s3://" in refused(errors.OutputNotWritable, frame(5), to="s3://bucket/out")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_rights_is_refused(self, refused, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(errors.OutputNotWritable, frame(5), to=tmp_path / "locked" / "out")

    def test_on_a_full_disk_what_was_committed_stays_and_the_job_resumes(self, flow, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a small tmpfs")
        try:
            (disk / "ballast").write_bytes(b"x" * 1_200_000)
            data = frame(600).assign(text=[f"{n}" + os.urandom(900).hex() for n in range(600)])
            options = {"input": "text", "to": disk / "out", "part_rows": 20}
            model = spec(jobs.lengths)
            with pytest.raises(errors.OutputNotWritable) as caught:
                flow.run(data, model, **options)
            assert "free some space" in str(caught.value)
            assert jobs.is_one_line(caught.value)
            done, before = jobs.committed(disk / "out"), jobs.stamps(disk / "out")
            assert 0 < done < 30
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            summary = flow.run(data, model, **options)
            assert summary.parts_skipped == done
            assert before.items() <= jobs.stamps(disk / "out").items()
            assert jobs.read(disk / "out")["n"].tolist() == list(range(600))
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
