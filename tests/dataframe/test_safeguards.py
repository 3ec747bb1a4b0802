"""What a job refuses, so that nothing committed and nothing of the user's is lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest

from altlas_flow import Flow, errors
from altlas_flow.dataframe.folder import committed_parts
from altlas_flow.dataframe.sources import find_files
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, read, spec, write

pytestmark = pytest.mark.timeout(120)


def test_a_run_never_reads_what_it_writes(flow: Flow, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.parquet", frame(20))
    with pytest.raises(errors.OutputMismatch, match="a file of the source"):
        flow.run(str(folder), spec(jobs.upper), input="text", to=folder)
    flow.run(str(folder), spec(jobs.upper), input="text", to=tmp_path / "out", part_rows=5)
    before = jobs.stamps(tmp_path / "out")
    with pytest.raises(errors.OutputMismatch, match="a file of the source"):
        flow.run(str(tmp_path / "out"), spec(jobs.lengths), input="text", output="n", to=tmp_path / "out")
    assert jobs.stamps(tmp_path / "out") == before


def test_a_part_name_in_the_manifest_cannot_reach_out_of_the_folder(flow: Flow, tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim.txt"
    model = spec(jobs.upper)
    flow.run(frame(20), model, input="text", to=out, part_rows=5)
    victim.write_text("precious")
    line = {"kind": "part", "part": "../victim.txt", "unit": "u", "model": "m"}
    counts = {"rows_in": 1, "rows": 1, "dead_letters": 0, "bytes": 8}
    with open(out / "_manifest", "a") as file:
        file.write(json.dumps({**line, **counts}) + "\n")
    assert "../victim.txt" not in committed_parts(out)
    flow.run(frame(20), model, input="text", parameters={}, to=out, part_rows=5)
    assert victim.read_text() == "precious"


def test_another_source_does_not_withdraw_what_the_folder_holds(flow: Flow, tmp_path: Path) -> None:
    for month in ("january", "february"):
        write(tmp_path / f"{month}.parquet", frame(20))
    model = spec(jobs.upper)
    flow.run(str(tmp_path / "january.parquet"), model, input="text", to=tmp_path / "out")
    with pytest.raises(errors.OutputMismatch, match="another source"):
        flow.run(str(tmp_path / "february.parquet"), model, input="text", to=tmp_path / "out")
    assert len(read(tmp_path / "out")) == 20
    both = flow.run(str(tmp_path / "*.parquet"), model, input="text", to=tmp_path / "out")
    assert (both.rows, both.rows_done) == (40, 20), "a source that grows is the same job"


def most_rows(out: Path) -> int:
    """The rows that a reader found there at most, over the life of a folder."""
    live: dict[str, int] = {}
    most = 0
    for line in jobs.manifest(out):
        if line["kind"] == "drop":
            for part in line["parts"]:
                live.pop(part, None)
        elif line["kind"] == "part":
            live[line["part"]] = line["rows"]
            most = max(most, sum(live.values()))
    return most


def after_a_part(rows: pd.DataFrame, out: str, partition_info: Any = None) -> pd.DataFrame:
    """The first partition as it is; the others once a part of 6 rows has been committed."""

    def whole_lines() -> list[str]:
        return (Path(out) / "_manifest").read_text().rpartition("\n")[0].splitlines()

    if partition_info and partition_info["number"]:
        jobs.until(lambda: any(json.loads(line).get("rows") == 6 for line in whole_lines()))
    return rows


@pytest.mark.parametrize("together", [True, False], ids=["read together", "read one after the other"])
def test_partitions_of_another_size_leave_no_row_there_twice(
    flow: Flow, tmp_path: Path, together: bool
) -> None:
    model, out = spec(jobs.upper), tmp_path / "out"
    flow.run(dd.from_pandas(frame(60), npartitions=3), model, input="text", to=out, part_rows=5)
    again = dd.from_pandas(frame(60), npartitions=2)
    if not together:
        again = again.map_partitions(after_a_part, str(out), meta=again._meta)
    summary = flow.run(again, model, input="text", to=out, part_rows=7)
    assert most_rows(out) <= 60, "at no time were there more rows than the source has"
    assert summary.rows == 60
    assert read(out)["n"].tolist() == list(range(60))


def first_whole_then_halves(rows: list[int]) -> list[float]:
    return [row if row < 50 else row + 0.5 for row in rows]


def test_types_learnt_too_narrow_are_an_error_and_no_dead_letters(flow: Flow, tmp_path: Path) -> None:
    data = pd.DataFrame({"n": range(200)})
    with pytest.raises(errors.SpecError, match=r"outputs=\{'prediction': 'double'\}"):
        flow.run(data, spec(first_whole_then_halves), input="n", to=tmp_path / "out", part_rows=20)
    declared = spec(first_whole_then_halves, outputs={"prediction": "double"})
    flow.run(data, declared, input="n", to=tmp_path / "out2", part_rows=20)
    assert read(tmp_path / "out2")["prediction"].tolist() == first_whole_then_halves(list(range(200)))


def test_who_wants_to_stop_at_a_bad_row_sees_those_put_aside_before(flow: Flow, tmp_path: Path) -> None:
    data = frame(20).assign(text=lambda f: f.text.where(f.n != 7))
    model, out = spec(jobs.upper), tmp_path / "out"
    assert flow.run(data, model, input="text", to=out, part_rows=5).dead_letters == 1
    with pytest.raises(errors.BadRow, match="frame:7"):
        flow.run(data, model, input="text", to=out, part_rows=5, on_error="raise")
    assert len(read(out)) == 19, "what was committed stays"


def test_parameters_that_differ_anywhere_are_other_parameters(flow: Flow, tmp_path: Path) -> None:
    def scaled(rows: list[str], weights: Any = None) -> list[float]:
        return [float(sum(weights)) for _ in rows]

    model, out = spec(scaled), tmp_path / "out"
    weights = [0.0] * 5000
    flow.run(frame(10), model, input="text", to=out, parameters={"weights": weights})
    weights[2500] = 1.0
    summary = flow.run(frame(10), model, input="text", to=out, parameters={"weights": weights})
    assert summary.parts_skipped == 0
    assert Counter(read(out)["prediction"]) == {1.0: 10}


def test_a_glob_does_not_look_into_folders_that_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "_temporary", ".hidden", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name / "x.parquet", frame(3))
    found = [str(Path(path).relative_to(tmp_path)) for path in find_files(str(tmp_path / "**/*.parquet"))]
    assert found == ["a/x.parquet", "deep/er/x.parquet"]


def test_a_home_that_is_not_there_is_one_line(flow: Flow) -> None:
    with pytest.raises(errors.OutputNotWritable, match="whole path"):
        flow.run(frame(3), spec(jobs.upper), input="text", to="~no-such-user-here/x")


def mixed() -> pd.DataFrame:
    """60 rows, of which 7, 31 and 32 are no text."""
    texts: list[Any] = [f"text {n}" for n in range(60)]
    texts[7], texts[31], texts[32], texts[50] = 5, 2.5, ["a", "list"], None
    return pd.DataFrame({"n": range(60), "text": pd.Series(texts, dtype=object)})


def test_rows_of_another_type_are_put_aside(flow: Flow, tmp_path: Path) -> None:
    options: dict[str, Any] = {"input": "text", "to": tmp_path / "out", "part_rows": 9}
    summary = flow.run(mixed(), spec(jobs.upper), **options)
    letters = summary.dead_letter_frame().set_index("row_id")
    assert letters["phase"].to_dict() == {
        "frame:7": "read",
        "frame:31": "read",
        "frame:32": "read",
        "frame:50": "input",
    }
    assert letters.loc["frame:7", "error"] == "'text' is int where most rows have str"
    assert letters.loc["frame:32", "input"] == "['a', 'list']"
    found = read(tmp_path / "out")
    assert found["n"].tolist() == [n for n in range(60) if n not in (7, 31, 32, 50)]
    assert (found["prediction"] == found["text"].str.upper()).all()
    again = flow.run(mixed(), spec(jobs.upper), **options)
    assert (again.rows_done, again.dead_letters) == (0, 4)
    mended = mixed()
    mended.loc[31, "text"] = "mended"
    later = flow.run(mended, spec(jobs.upper), **options)
    assert (later.dead_letters, later.parts_skipped) == (3, later.parts - 1), "one part was redone"
    assert later.parts_dropped == 1 and ", 1 of earlier runs replaced)" in str(later)
    assert again.parts_dropped == 0
    assert later.rows_done in (8, 9), "60 rows are cut into seven parts of eight or nine"


def test_a_row_of_another_type_stops_a_strict_job(flow: Flow, tmp_path: Path) -> None:
    with pytest.raises(errors.BadRow, match="frame:7"):
        flow.run(mixed(), spec(jobs.upper), input="text", to=tmp_path / "out", on_error="raise", part_rows=60)


def test_map_names_rows_of_another_type_beside_their_answers(flow: Flow) -> None:
    found = flow.map(mixed(), spec(jobs.upper), input="text", on_error="collect")
    assert found.index[found["prediction_error"].notna()].tolist() == [7, 31, 32, 50]
    assert found["prediction"].dropna().tolist() == [
        f"TEXT {n}" for n in range(60) if n not in (7, 31, 32, 50)
    ]


def test_partitions_of_objects_put_their_misfits_aside(flow: Flow, tmp_path: Path) -> None:
    with dask.config.set({"dataframe.convert-string": False}):
        frames = dd.from_pandas(mixed(), npartitions=4)
        summary = flow.run(frames, spec(jobs.upper), input="text", to=tmp_path / "out")
        lazy = flow.map(frames, spec(jobs.upper), input="text", on_error="collect").compute()
    assert sorted(summary.dead_letter_frame()["row_id"]) == [
        "partition-0:7",
        "partition-2:1",
        "partition-2:2",
        "partition-3:5",
    ]
    assert summary.rows == 56
    assert lazy["n"][lazy["prediction_error"].notna()].tolist() == [7, 31, 32, 50]


def test_another_column_of_mixed_types_is_named(flow: Flow, tmp_path: Path) -> None:
    data = mixed().rename(columns={"text": "other"}).assign(text="a")
    with pytest.raises(errors.SourceError, match="column 'other' holds what"):
        flow.run(data, spec(jobs.upper), input="text", to=tmp_path / "out")
