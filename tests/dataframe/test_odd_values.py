"""Values that fit nowhere: put aside row by row, never changed in silence, never the end of a job."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.delayed import delayed

from altlas_flow import Flow, errors
from altlas_flow.dataframe.frames import to_rows
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, spec

pytestmark = pytest.mark.timeout(120)


class Odd:
    """Nothing that Arrow knows."""


def objects(values: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"t": pd.Series(values, dtype=object)})


def as_text(rows: list[Any]) -> list[str]:
    return [f"<{row}>" for row in rows]


def declared(function: Any) -> Any:
    return spec(function, outputs={"prediction": "string"})


@pytest.mark.parametrize(
    ("values", "bad", "kind"),
    [
        (["a", 1, "b"], [1], "string"),
        ([1, 2, 2**70], [2], "int64"),
        ([1, -1, 2**63], [2], "int64"),
        ([1, 2, 2**70, "x"], [2, 3], "int64"),
        (["a", "b", b"c"], [2], "string"),
        ([dt.date(2020, 1, 1), dt.date(2020, 1, 2), dt.datetime(2020, 1, 1, 5)], [2], "date32[day]"),
        (["a", "b", "\ud800"], [2], "string"),
        ([{"a": 1}, {"a": "x"}], [1], "struct<a: int64>"),
        ([["a"], ["b"], ["c", 1]], [2], "list<item: string>"),
        (["a", None, Odd()], [2], "string"),
        ([[], [1.0], ["x"], [2.0]], [2], "list<item: double>"),
        ([["a"], [1], [2], [3]], [0], "list<item: int64>"),
        ([{"a": None}, {"a": 1}, {"a": 2}, {"a": "x"}], [3], "struct<a: int64>"),
        ([{"a": "x"}, {"a": 1}, {"a": 2}, {"a": 3}], [0], "struct<a: int64>"),
        ([1, 2, 2**60 + 1, 1.5], [3], "int64"),
        ([1, 2, 3, Decimal("2.5"), 1.5], [3, 4], "int64"),
        ([{"a": 1}, {"a": 2}, {"b": 1}, {"b": "x"}], [2, 3], "struct<a: int64>"),
        ([True, 1, 2], [0], "int64"),
        ([1, 2.5, np.int64(3), None], [], "double"),
        ([{"a": None}, {"a": 1}], [], "struct<a: int64>"),
        ([[], ["a"]], [], "list<item: string>"),
    ],
)
def test_values_of_another_type_than_most_are_bad(values: list[Any], bad: list[int], kind: str) -> None:
    rows = to_rows(objects(values), "frame", ["t"])
    assert [row for row, _, _ in rows.bad] == bad
    assert str(rows.table.schema.field("t").type) == kind
    assert rows.table.schema.names == ["t"], "no index has become a column"
    kept = [number for number in range(len(values)) if number not in bad]
    assert [rows.number(at) for at in range(rows.table.num_rows)] == kept
    for row, why, shown in rows.bad:
        assert why.startswith("'t' ") and "\n" not in why
        assert " at 0x" not in shown, f"row {row}: an address differs from run to run"


def test_a_column_of_nothing_known_is_refused_in_one_line() -> None:
    with pytest.raises(errors.SourceError, match="'t' holds what Arrow cannot keep") as caught:
        to_rows(objects([Odd(), Odd()]), "frame", ["t"])
    assert jobs.is_one_line(caught.value)
    with pytest.raises(errors.SourceError, match="'big' holds what Arrow cannot keep"):
        to_rows(objects(["a"]).assign(big=pd.Series([2**70], dtype=object)), "frame", ["t"])


def test_one_changed_row_redoes_one_part(flow: Flow, tmp_path: Path) -> None:
    options: dict[str, Any] = {"input": "t", "to": tmp_path / "out", "part_rows": 64}
    values: list[Any] = [f"text {n}" for n in range(300)]
    model = declared(as_text)
    assert flow.run(objects(values), model, **options).parts == 5
    values[298] = 7
    summary = flow.run(objects(values), model, **options)
    assert (summary.parts_skipped, summary.rows, summary.dead_letters) == (4, 299, 1)
    assert pd.read_parquet(tmp_path / "out").columns.tolist() == ["t", "prediction"]
    values[298] = Odd()
    assert flow.run(objects(values), model, **options).parts_skipped == 4
    values[298] = Odd()
    assert flow.run(objects(values), model, **options).parts_skipped == 5, "only its address differs"


def in_partitions(*pieces: pd.DataFrame) -> Any:
    return dd.from_delayed([delayed(piece) for piece in pieces], meta=pieces[0].iloc[:0], verify_meta=False)


def kinds(rows: list[Any]) -> list[str]:
    return [type(row).__name__ for row in rows]


def test_partitions_of_objects_are_taken_as_they_are(flow: Flow, tmp_path: Path) -> None:
    with dask.config.set({"dataframe.convert-string": False}):
        lists = objects([[1], [2]]).assign(n=1), objects([None, None]).assign(n=2)
        data = in_partitions(*(piece.assign(text=["a", "b"]) for piece in lists))
        flow.run(data, declared(kinds), input="text", to=tmp_path / "lists")
        assert [x and list(x) for x in pd.read_parquet(tmp_path / "lists")["t"]] == [[1], [2], None, None]
        raw = in_partitions(objects([b"\xff", b"ab"]), objects([b"ab", b"cd"]))
        flow.run(raw, declared(kinds), input="t", to=tmp_path / "raw")
        assert set(pd.read_parquet(tmp_path / "raw")["prediction"]) == {"bytes"}
        most = in_partitions(objects([1, 2, 3, 4, "n/a"]))
        summary = flow.run(most, declared(kinds), input="t", to=tmp_path / "most")
        assert (summary.rows, summary.dead_letters) == (4, 1)


def test_partitions_that_no_reader_could_read_together_are_refused(flow: Flow, tmp_path: Path) -> None:
    with dask.config.set({"dataframe.convert-string": False}):
        data = in_partitions(objects(["a", "b"]), objects([1, 2, "x"]))
        with pytest.raises(errors.SourceError, match=r"partition-00000. has other types") as caught:
            flow.run(data, declared(as_text), input="t", to=tmp_path / "out")
    assert jobs.is_one_line(caught.value)
    assert len(pd.read_parquet(tmp_path / "out")) == 2, "what was committed can be read"


def test_a_number_that_no_float_holds_is_put_aside(flow: Flow, tmp_path: Path) -> None:
    lines = ['{"t": "%s", "x": 1.5}' % ("a" * 40)] * 30_000
    lines[29_990] = '{"t": "b", "x": 1%s}' % ("0" * 400)
    lines[29_995] = '{"t": "c", "x": "no"}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    summary = flow.run(tmp_path / "in.jsonl", declared(as_text), input="t", to=tmp_path / "out")
    assert sorted(summary.dead_letter_frame()["row_id"]) == ["in.jsonl:29990", "in.jsonl:29995"]


def test_what_is_no_utf8_is_put_aside(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"t":"a"}\n{"t":"\xff\xfe"}\n{"t":"c"}\n')
    summary = flow.run(tmp_path / "in.jsonl", declared(as_text), input="t", to=tmp_path / "jsonl")
    letters = summary.dead_letter_frame()
    assert (summary.rows, letters["row_id"].tolist()) == (2, ["in.jsonl:1"])
    assert "UTF-8" in letters["error"][0]
    raw = pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string())
    pq.write_table(pa.table({"t": raw, "n": [0, 1, 2]}), tmp_path / "in.parquet")
    for number, given in enumerate(("t", ["t", "n"], lambda row: row["t"])):
        to = tmp_path / f"parquet-{number}"
        summary = flow.run(tmp_path / "in.parquet", declared(as_text), input=given, to=to)
        letters = summary.dead_letter_frame()
        assert (summary.rows, letters["row_id"].tolist()) == (2, ["in.parquet:1"])
        assert "cannot be read" in letters["error"][0]


def test_a_time_that_python_has_not_is_put_aside(flow: Flow, tmp_path: Path) -> None:
    times = pa.array([0, 2**62, 1], pa.timestamp("us"))
    pq.write_table(pa.table({"t": times, "n": [0, 1, 2]}), tmp_path / "in.parquet")
    summary = flow.run(tmp_path / "in.parquet", declared(as_text), input="t", to=tmp_path / "out")
    assert summary.dead_letter_frame()["row_id"].tolist() == ["in.parquet:1"]
    assert pq.read_table(tmp_path / "out", columns=["n"])["n"].to_pylist() == [0, 2]


class TestColumnsThatAreThere:
    """An answer takes the place of a column of the user's only where its name was asked for."""

    def test_at_once_and_lazily_alike(self, flow: Flow) -> None:
        data = frame(4).assign(prediction="keep me")
        for given in (data, dd.from_pandas(data, npartitions=2)):
            with pytest.raises(errors.InputError, match="'prediction' already"):
                flow.map(given, spec(jobs.upper), input="text")
            found = flow.map(given, spec(jobs.upper), input="text", output="prediction")
            found = found.compute() if hasattr(found, "compute") else found
            assert found["prediction"].tolist() == data["text"].str.upper().tolist()

    def test_what_comes_beside_the_named_column(self, flow: Flow, tmp_path: Path) -> None:
        model = spec(jobs.classify, outputs={"label": "string", "score": "double"})
        data = frame(4).assign(mood_score=7)
        with pytest.raises(errors.InputError, match="'mood_score' already"):
            flow.map(data, model, input="text", output="mood")
        with pytest.raises(errors.InputError, match="'mood_score' already"):
            flow.run(data, model, input="text", output="mood", to=tmp_path / "out")
        ill = flow.map(frame(4).assign(text=None), model, input="text", output="mood", on_error="collect")
        well = flow.map(ill.assign(text="mended"), model, input="text", output="mood")
        assert "mood_error" not in well.columns, "it told of other answers"
        once = flow.map(frame(4), model, input="text", output="mood")
        again = flow.map(once, model, input="text", output="mood")
        pd.testing.assert_frame_equal(once, again)

    def test_errors_take_no_column_of_the_user_nor_of_the_model(self, flow: Flow) -> None:
        with pytest.raises(errors.InputError, match="'o_error' already"):
            flow.map(
                frame(4).assign(o_error="mine"),
                spec(jobs.upper),
                input="text",
                output="o",
                on_error="collect",
            )

        def graded(rows: list[Any]) -> list[dict[str, Any]]:
            return [{"label": row, "error": 1.5} for row in rows]

        model = spec(graded, outputs={"label": "string", "error": "double"})
        with pytest.raises(errors.InputError, match="two columns 'mood_error'"):
            flow.map(frame(4), model, input="text", output="mood", on_error="collect")

    def test_any_name_is_a_name(self, flow: Flow) -> None:
        assert "self" in flow.map(frame(2), spec(jobs.upper), input="text", output="self").columns
