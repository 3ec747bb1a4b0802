"""Laws of finding, cutting and reading source files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altlas_flow.dataframe import schemas, sources
from altlas_flow.dataframe.sources import (
    check_schemas,
    find_files,
    infer_schema,
    read_chunk,
    read_schema,
    scan,
    short_names,
)
from altlas_flow.errors import MissingColumn, SourceError


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def parquet(path: Path, rows: int = 10, group: int = 3, **columns: object) -> str:
    table = pa.table({"n": list(range(rows)), "text": [f"row {n}" for n in range(rows)], **columns})
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def write(path: Path, data: str | bytes) -> str:
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def read_all(path: str, part_rows: int = 1000, schema: pa.Schema | None = None):
    """All good rows as dicts by their number in the file, and all bad rows likewise."""
    good: dict[int, dict] = {}
    bad: dict[int, tuple[str, str]] = {}
    for chunk in scan(path, part_rows, schema):
        table, wrong, positions = read_chunk(pickle.loads(pickle.dumps(chunk)))
        assert table.schema.names == chunk.schema.names
        assert table.num_rows + len(wrong) == chunk.rows
        assert positions is None if not wrong else positions.dtype == np.int64
        places = range(table.num_rows) if positions is None else positions
        for place, row in zip(places, table.to_pylist(), strict=True):
            good[chunk.first_row + int(place)] = row
        bad.update({chunk.first_row + n: (error, raw) for n, error, raw in wrong})
    assert not good.keys() & bad.keys()
    assert sorted(good.keys() | bad.keys()) == list(range(len(good) + len(bad)))
    return good, bad


class TestFindFiles:
    def test_a_file_a_folder_a_glob_and_a_list_give_sorted_absolute_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sub" / "deep").mkdir(parents=True)
        paths = [parquet(tmp_path / name) for name in ("b.parquet", "a.parquet", "sub/deep/c.parquet")]
        b, a, c = paths
        assert find_files("a.parquet") == [a]
        assert find_files(Path("a.parquet")) == [a]
        assert find_files(".") == find_files(tmp_path) == [a, b, c]
        assert find_files("*.parquet") == [a, b]
        assert find_files("**/*.parquet") == [a, b, c]
        assert find_files(["b.parquet", "a.parquet", "*.parquet"]) == [a, b]

    def test_names_with_underscore_or_dot_are_left_out_of_folders_and_globs(self, tmp_path):
        kept = parquet(tmp_path / "a.parquet")
        hidden = parquet(tmp_path / "_b.parquet")
        (tmp_path / "_dead").mkdir()
        for name in (".c.parquet", "_SUCCESS", "_dead/d.parquet"):
            parquet(tmp_path / name)
        assert find_files(tmp_path) == find_files(str(tmp_path / "*")) == [kept]
        assert find_files(hidden) == [hidden]

    def test_a_name_with_glob_characters_that_exists_is_that_file(self, tmp_path):
        path = parquet(tmp_path / "a[1].parquet")
        assert find_files(path) == [path]

    @pytest.mark.parametrize(
        "source", ["none.parquet", "none*.parquet", "empty", [], "a.xlsx", "s3://b/a.parquet"]
    )
    def test_what_names_no_readable_file_is_refused_in_one_line(self, tmp_path, monkeypatch, source):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "a.xlsx").touch()
        with pytest.raises(SourceError) as caught:
            find_files(source)
        one_line(caught)

    def test_mixed_formats_and_unknown_files_in_a_folder_are_refused(self, tmp_path):
        parquet(tmp_path / "a.parquet")
        other = tmp_path / "b.csv"
        write(other, "a\n1\n")
        with pytest.raises(SourceError, match="mixes formats"):
            find_files(tmp_path)
        other.rename(tmp_path / "notes.md")
        with pytest.raises(SourceError, match=r"notes.md"):
            find_files(tmp_path)

    def test_names_for_row_ids_are_short_and_unique(self):
        assert short_names(["/d/a.csv", "/d/b.csv"]) == ["a.csv", "b.csv"]
        assert short_names(["/d/x/a.csv", "/d/y/a.csv"]) == ["x/a.csv", "y/a.csv"]


class TestParquet:
    def test_row_groups_are_gathered_up_to_part_rows(self, tmp_path):
        path = parquet(tmp_path / "a.parquet", rows=10, group=3)
        chunks = scan(path, 6)
        assert [(c.first_row, c.rows, c.locator) for c in chunks] == [(0, 6, (0, 2)), (6, 4, (2, 4))]
        assert [c.rows for c in scan(path, 2)] == [3, 3, 3, 1]
        good, bad = read_all(path, 6)
        assert [good[n]["n"] for n in range(10)] == list(range(10))
        assert not bad

    def test_only_asked_for_columns_are_read_in_the_asked_order(self, tmp_path):
        (chunk,) = scan(parquet(tmp_path / "a.parquet"), 100)
        assert read_chunk(chunk, columns=["text", "n"])[0].schema.names == ["text", "n"]
        with pytest.raises(MissingColumn, match=r"'none'.*n, text"):
            read_chunk(chunk, columns=["none"])

    def test_a_file_that_is_not_parquet_is_named(self, tmp_path):
        whole = Path(parquet(tmp_path / "whole.parquet")).read_bytes()
        for data in (b"not parquet at all", b"PAR1", whole[:-5], whole[: len(whole) // 2]):
            path = write(tmp_path / "bad.parquet", data)
            with pytest.raises(SourceError, match=r"bad.parquet") as caught:
                scan(path, 10)
            one_line(caught)

    def test_damage_inside_a_page_is_a_typed_error(self, tmp_path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": [str(n) * 50 for n in range(1000)]}), path, compression="zstd")
        (chunk,) = scan(str(path), 10_000)
        data = bytearray(path.read_bytes())
        data[200:2000] = bytes(1800)
        stamp = path.stat().st_mtime_ns
        path.write_bytes(data)
        os.utime(path, ns=(stamp, stamp))
        with pytest.raises(SourceError, match=r"a.parquet"):
            read_chunk(chunk)

    def test_empty_and_missing_files_are_refused_and_a_file_without_rows_has_no_chunks(self, tmp_path):
        with pytest.raises(SourceError, match="empty"):
            scan(write(tmp_path / "a.parquet", b""), 10)
        with pytest.raises(SourceError, match="not there"):
            scan(str(tmp_path / "none.parquet"), 10)
        assert scan(parquet(tmp_path / "b.parquet", rows=0), 10) == []

    def test_a_file_that_changed_after_the_scan_is_refused(self, tmp_path):
        path = parquet(tmp_path / "a.parquet")
        (chunk,) = scan(path, 100)
        read_chunk(chunk)
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceError, match="changed"):
            read_chunk(chunk)
        os.unlink(path)
        with pytest.raises(SourceError, match="not there"):
            read_chunk(chunk)

    def test_categories_stay_categories(self, tmp_path):
        path = tmp_path / "a.parquet"
        pd.DataFrame({"c": pd.Categorical(["x", "y", "x", None])}).to_parquet(path, index=False)
        (chunk,) = scan(str(path), 100)
        table, _, _ = read_chunk(chunk)
        assert pa.types.is_dictionary(table.schema.field("c").type)
        assert table.column("c").to_pylist() == ["x", "y", "x", None]

    def test_files_are_delivered_with_one_schema(self, tmp_path):
        kinds = {
            "a": pa.table({"t": pa.array([None, None], pa.null()), "s": pa.array(["x", "y"], pa.string())}),
            "b": pa.table({"s": pa.array(["z"], pa.large_string()), "t": pa.array([1], pa.int32())}),
        }
        paths = []
        for name, table in kinds.items():
            paths.append(str(tmp_path / f"{name}.parquet"))
            pq.write_table(table, paths[-1])
        schema = check_schemas([read_schema(path) for path in paths], paths)
        assert [str(field.type) for field in schema] == ["int32", "large_string"]
        tables = [read_chunk(chunk)[0] for path in paths for chunk in scan(path, 10, schema)]
        assert all(table.schema.equals(schema) for table in tables)
        assert pa.concat_tables(tables).to_pylist() == [
            {"t": None, "s": "x"},
            {"t": None, "s": "y"},
            {"t": 1, "s": "z"},
        ]
        (chunk,) = scan(paths[1], 10, schema)
        assert read_chunk(chunk, columns=["t"])[0].schema.equals(pa.schema([("t", pa.int32())]))

    def test_dictionaries_with_other_index_types_are_one(self, tmp_path):
        paths, wanted = [], []
        for place, index in enumerate((pa.int8(), pa.int16())):
            values = [f"v{place}", "w"]
            table = pa.table({"c": pa.array(values).cast(pa.dictionary(index, pa.string()))})
            paths.append(str(tmp_path / f"{place}.parquet"))
            pq.write_table(table, paths[-1])
            wanted += values
        schema = check_schemas([read_schema(path) for path in paths], paths)
        tables = [read_chunk(chunk)[0] for path in paths for chunk in scan(path, 10, schema)]
        assert pa.concat_tables(tables, promote_options="none").column("c").to_pylist() == wanted

    def test_schemas_that_disagree_name_both_files_and_the_column(self):
        one = pa.schema([("a", pa.int64()), ("b", pa.null())])
        with pytest.raises(SourceError, match=r"'a' is int64 in one.*string in three") as caught:
            check_schemas(
                [one, one, pa.schema([("a", pa.string()), ("b", pa.null())])], ["one", "two", "three"]
            )
        one_line(caught)
        with pytest.raises(SourceError, match=r"two has no column 'b', but one has"):
            check_schemas([one, pa.schema([("a", pa.int64())])], ["one", "two"])

    def test_fingerprints_follow_the_file_the_place_and_the_types(self, tmp_path):
        path = parquet(tmp_path / "a.parquet")
        first = [chunk.fingerprint for chunk in scan(path, 3)]
        assert len(set(first)) == 4
        assert first == [chunk.fingerprint for chunk in scan(path, 3)]
        wide = pa.schema([("n", pa.int64()), ("text", pa.large_string())])
        others = [scan(path, 3, wide)[0].fingerprint]
        os.utime(path, ns=(1, 1))
        others.append(scan(path, 3)[0].fingerprint)
        assert not set(first) & set(others)
        assert all(int(text, 16) >= 0 for text in first)


class TestCsv:
    def test_quoted_newlines_stay_in_their_row_and_chunks_cut_between_rows(self, tmp_path):
        rows = [{"n": n, "text": f'line one, of {n}\nline "two"\r\nend'} for n in range(50)]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["n", "text"])
        writer.writeheader()
        writer.writerows(rows)
        for name in ("a.csv", "a.csv.gz"):
            path = write(tmp_path / name, text.getvalue())
            good, bad = read_all(path, 7)
            assert list(good.values()) == rows
            assert not bad
            assert len(scan(path, 7)) == (1 if name.endswith("gz") else 8)

    def test_a_chunk_of_text_has_a_size_at_most(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "CHUNK_BYTES", 100)
        path = write(tmp_path / "a.csv", "t\n" + "x" * 39 + "\n" + ("y" * 39 + "\n") * 9)
        assert [chunk.rows for chunk in scan(path, 1000)] == [3, 3, 3, 1]
        read_all(path)

    def test_wrong_numbers_of_fields_are_bad_rows_and_the_others_keep_their_numbers(self, tmp_path):
        path = write(tmp_path / "a.csv", "a,b\n1,x\n2\n\n3,y,z\n4,w\n")
        for part_rows in (1, 2, 100):
            good, bad = read_all(path, part_rows, infer_schema([path]))
            assert good == {0: {"a": 1, "b": "x"}, 3: {"a": 4, "b": "w"}}
            assert bad == {
                1: ("1 fields where the header has 2", "2"),
                2: ("3 fields where the header has 2", "3,y,z"),
            }

    def test_a_value_that_does_not_fit_is_a_bad_row(self, tmp_path):
        schema = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("c", pa.bool_()), ("d", pa.string())])
        lines = [
            "1,1.5,true,x",
            "one,2,false,y",
            "2,NA,,NA",
            "3,x,y,",
            " 4 , 2 ,True, z ",
            "5",
            "9e99,1,true,w",
        ]
        path = write(tmp_path / "a.csv", "a,b,c,d\n" + "\n".join(lines))
        good, bad = read_all(path, 100, schema)
        assert good == {
            0: {"a": 1, "b": 1.5, "c": True, "d": "x"},
            2: {"a": 2, "b": None, "c": None, "d": "NA"},
            4: {"a": 4, "b": 2.0, "c": True, "d": " z "},
        }
        assert {row: error for row, (error, _) in bad.items()} == {
            1: "a: 'one' is not int64",
            3: "b: 'x' is not double",
            5: "1 fields where the header has 4",
            6: "a: '9e99' is not int64",
        }
        assert bad[1][1] == "one,2,false,y"

    def test_every_row_may_be_bad(self, tmp_path):
        path = write(tmp_path / "a.csv", "a\nx\ny\n")
        good, bad = read_all(path, 100, pa.schema([("a", pa.int64())]))
        assert (len(good), len(bad)) == (0, 2)

    def test_bytes_that_are_not_utf8_are_bad_rows(self, tmp_path):
        path = write(tmp_path / "a.csv", b"a,b\n1,caf\xe9\n2,caf\xc3\xa9\n")
        good, bad = read_all(path)
        assert good == {1: {"a": 2, "b": "café"}}
        assert bad[0][0] == "not UTF-8"

    def test_a_text_of_one_megabyte_and_a_byte_order_mark_are_read(self, tmp_path):
        path = write(tmp_path / "a.csv", b'\xef\xbb\xbf"a",b\n1,"' + b"x, \n" * 300_000 + b'"\n2,y')
        good, bad = read_all(path)
        assert [len(row["b"]) for row in good.values()] == [1_200_000, 1]
        assert not bad

    def test_stray_quotes_and_carriage_returns_move_no_other_row(self, tmp_path):
        path = write(tmp_path / "a.csv", 'a,b\n1,5" pipe\n2,x\ry\n3,z\n')
        good, bad = read_all(path, 1)
        assert {n: row["b"] for n, row in good.items()} == {0: '5" pipe', 2: "z"}
        assert list(bad) == [1]

    def test_codes_and_mixed_columns_stay_text(self, tmp_path):
        path = write(
            tmp_path / "a.csv", "zip,mix,i,f,when,none,flag\n00123,1,1,1,2024-01-01,,true\n4,x,2,2.5,,,false"
        )
        assert [str(field.type) for field in infer_schema([path])] == [
            "string",
            "string",
            "int64",
            "double",
            "string",
            "string",
            "bool",
        ]

    def test_types_are_one_for_all_files_of_a_job(self, tmp_path):
        paths = [
            write(tmp_path / name, data)
            for name, data in [("a.csv", "n,m\n1,1\n"), ("b.csv", "m,n\nx,2.5\n")]
        ]
        schema = infer_schema(paths)
        assert schema == pa.schema([("n", pa.float64()), ("m", pa.string())])
        assert [read_all(path, 10, schema)[0][0] for path in paths] == [
            {"n": 1.0, "m": "1"},
            {"n": 2.5, "m": "x"},
        ]
        other = write(tmp_path / "c.csv", "n,k\n1,1\n")
        with pytest.raises(SourceError, match=r"c.csv has no column 'm'|c.csv has"):
            infer_schema([*paths, other])
        with pytest.raises(SourceError, match=r"c.csv"):
            scan(other, 10, schema)

    def test_types_are_inferred_from_the_first_block_and_misfits_later_are_bad_rows(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(schemas, "SAMPLE_BYTES", 20)
        path = write(tmp_path / "a.csv", "a\n" + "1\n" * 50 + "late\n")
        good, bad = read_all(path)
        assert (len(good), list(bad)) == (50, [50])

    @pytest.mark.parametrize(
        "data", [b"", b"\n\n", b"a,a\n1,2\n", b"caf\xe9,b\n", "a,b\n1,2\n".encode("utf-16"), b"a\rb\rc"]
    )
    def test_files_without_a_usable_header_are_refused_in_one_line(self, tmp_path, data):
        with pytest.raises(SourceError, match=r"a.csv") as caught:
            scan(write(tmp_path / "a.csv", data), 10)
        one_line(caught)

    def test_a_header_without_rows_has_no_chunks(self, tmp_path):
        assert scan(write(tmp_path / "a.csv", "a,b\n"), 10) == []

    def test_a_damaged_gz_file_is_refused(self, tmp_path):
        whole = gzip.compress(b"a\n" + b"1\n" * 10_000)
        for data in (b"no gzip", whole[:-4], whole[: len(whole) // 2]):
            path = tmp_path / "a.csv.gz"
            path.write_bytes(data)
            with pytest.raises(SourceError, match=r"a.csv.gz"):
                scan(str(path), 10)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rows=st.lists(
            st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)] * 2),
            max_size=12,
        ),
        part_rows=st.integers(1, 13),
        end=st.sampled_from(["\n", "\r\n"]),
    )
    def test_whatever_is_written_is_read_back(self, tmp_path, rows, part_rows, end):
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *rows])
        path = write(tmp_path / "h.csv", text.getvalue())
        schema = pa.schema([("a", pa.string()), ("b", pa.string())])
        good, bad = read_all(path, part_rows, schema)
        assert not bad
        assert [(r["a"] or "", r["b"] or "") for r in good.values()] == rows

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(body=st.text(st.sampled_from('a1,"\n\r '), max_size=40), part_rows=st.integers(1, 5))
    def test_whatever_the_file_holds_no_row_is_lost(self, tmp_path, body, part_rows):
        path = write(tmp_path / "h.csv", "a,b\n" + body)
        read_all(path, part_rows, pa.schema([("a", pa.string()), ("b", pa.int64())]))


class TestJsonl:
    def test_lines_are_rows_and_chunks_cut_between_lines(self, tmp_path):
        rows = [{"n": n, "text": f"é {n}\n", "tags": ["x"] * (n % 3), "at": {"x": n / 2}} for n in range(20)]
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        for name in ("a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"):
            path = write(tmp_path / name, text)
            good, bad = read_all(path, 6)
            assert list(good.values()) == rows
            assert not bad
            assert len(scan(path, 6)) == (1 if name.endswith("gz") else 4)

    def test_lines_that_do_not_parse_or_fit_are_bad_rows(self, tmp_path):
        lines = [
            '{"a": 1, "b": "x"}',
            "{torn",
            "",
            "[1]",
            '{"a": "one"}',
            '{"a": 2.5}',
            '{"a": null, "c": 1}',
        ]
        path = write(
            tmp_path / "a.jsonl", "\n".join([*lines, '{"a": true}', '{"b": "y"}', '{"b": "\\ud800"}'])
        )
        schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
        for part_rows in (1, 3, 100):
            good, bad = read_all(path, part_rows, schema)
            assert good == {
                0: {"a": 1, "b": "x"},
                5: {"a": None, "b": None},
                7: {"a": None, "b": "y"},
            }
            assert sorted(bad) == [1, 2, 3, 4, 6, 8]
            assert bad[1][0].startswith("not JSON")
            assert bad[1][1] == "{torn"
            assert bad[3][0] == 'a: "one" is not int64'

    def test_where_types_disagree_text_wins_and_keeps_the_json(self, tmp_path):
        path = write(
            tmp_path / "a.jsonl", '{"a": 1, "d": "2024-01-01"}\n{"a": "x"}\n{"a": {"y": [1, null]}}\n'
        )
        good, bad = read_all(path)
        assert [row["a"] for row in good.values()] == ["1", "x", '{"y": [1, null]}']
        assert good[0]["d"] == "2024-01-01"
        assert not bad

    def test_types_are_one_for_all_files_of_a_job(self, tmp_path):
        paths = [
            write(tmp_path / name, data)
            for name, data in [("a.jsonl", '{"a": 1, "l": []}\n'), ("b.jsonl", '{"a": 0.5, "b": {}}\n')]
        ]
        schema = infer_schema(paths)
        assert [(f.name, str(f.type)) for f in schema] == [
            ("a", "double"),
            ("l", "list<item: string>"),
            ("b", "string"),
        ]
        tables = [read_chunk(chunk)[0] for path in paths for chunk in scan(path, 10, schema)]
        assert pa.concat_tables(tables, promote_options="none").to_pylist() == [
            {"a": 1.0, "l": [], "b": None},
            {"a": 0.5, "l": None, "b": "{}"},
        ]

    def test_a_json_array_is_refused_with_a_hint(self, tmp_path):
        with pytest.raises(SourceError, match="one JSON array"):
            scan(write(tmp_path / "a.json", '[{"a": 1},\n{"a": 2}]'), 10)
        with pytest.raises(SourceError, match="empty"):
            scan(write(tmp_path / "b.json", ""), 10)
        assert scan(write(tmp_path / "c.json", "\n\n"), 10) == []

    def test_deep_nesting_and_huge_numbers_are_no_abort(self, tmp_path):
        deep = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
        path = write(tmp_path / "a.jsonl", f'{{"a": 1}}\n{deep}\n{{"a": {10**30}}}\n{{"a": 2}}\n')
        good, bad = read_all(path, 100, pa.schema([("a", pa.int64())]))
        assert good == {0: {"a": 1}, 3: {"a": 2}}
        assert sorted(bad) == [1, 2]

    def test_only_asked_for_columns_are_delivered_and_bad_rows_stay_the_same(self, tmp_path):
        path = write(tmp_path / "a.jsonl", '{"a": 1, "b": "x"}\n{"a": "bad", "b": "y"}\n')
        (chunk,) = scan(path, 10, pa.schema([("a", pa.int64()), ("b", pa.string())]))
        table, bad, positions = read_chunk(chunk, columns=["b"])
        assert table.to_pylist() == [{"b": "x"}]
        assert [row for row, *_ in bad] == [1]
        assert positions.tolist() == [0]
