"""The history file: what was written is read, and what is damaged costs no more than itself."""

from __future__ import annotations

import random
import shutil
import sqlite3

import pytest

from altlas_flow.errors import HistoryError
from altlas_flow.history.rescue import FRAME_HEADER, LOG_HEADER, PAGE
from altlas_flow.history.rows import COLUMNS, cut, seal
from altlas_flow.history.store import Store

ROWS = 2000


def row(number, **changes):
    values = {
        "task_id": f"{number:032x}",
        "model_id": "minilm",
        "client": "Client-a",
        "status": "completed",
        "submitted": 1_790_000_000_000_000 + number,
        "started": None if number % 7 == 0 else 1_790_000_000_000_100 + number,
        "ended": 1_790_000_000_000_200 + number,
        "node_id": "a",
        "tries": 1,
        "error": "ValueError: größer als €" * 15 if number % 50 == 0 else None,
    }
    assert list(values) == list(COLUMNS)
    return seal([*(values | changes).values()])


def ids(store):
    found, bad = store.read(limit=10 * ROWS)
    assert bad == 0
    return {row[0] for _, row in found}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


def test_what_was_written_is_read_latest_first_page_by_page(path):
    store = Store(path)
    store.add([row(n) for n in range(100)])
    first, _ = store.read(limit=60)
    assert [one[0] for _, one in first] == [f"{n:032x}" for n in range(99, 39, -1)]
    rest, _ = store.read(limit=60, before=first[-1][0])
    assert [one[0] for _, one in rest] == [f"{n:032x}" for n in range(39, -1, -1)]
    store.close()
    again = Store(path)
    assert again.rescued == ""
    assert again.find(f"{7:032x}") == row(7)
    assert again.find("nobody") is None
    assert again.count() == 100
    again.close()


def test_reading_takes_only_what_is_asked_for(path):
    store = Store(path)
    store.add([row(1), row(2, status="error"), row(3, model_id="other"), row(4, ended=5)])
    assert [one[0][-1] for _, one in store.read(limit=9, status="error")[0]] == ["2"]
    assert [one[0][-1] for _, one in store.read(limit=9, model="other")[0]] == ["3"]
    assert [one[0][-1] for _, one in store.read(limit=9, since=6)[0]] == ["3", "2", "1"]
    store.close()


def test_a_file_has_one_scheduler(path):
    store = Store(path)
    with pytest.raises(HistoryError, match="in use by another scheduler"):
        Store(path)
    store.close()
    Store(path).close()


def test_a_file_that_is_something_else_is_left_as_it_is(path):
    path.write_text("my notes\n" * 1000)
    with pytest.raises(HistoryError, match="holds something else"):
        Store(path)
    assert path.read_text().startswith("my notes")
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name, path.name + ".lock"]


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError) as caught:
        Store(tmp_path / "file" / "history.sqlite")
    assert "\n" not in str(caught.value)


def test_rows_that_fail_leave_nothing_behind(path):
    store = Store(path)
    with pytest.raises(sqlite3.Error):
        store.add([row(1), (1, 2, 3)])
    assert store.count() == 0
    store.add([row(2)])
    assert store.count() == 1
    store.close()


def test_texts_are_cut_to_what_a_page_holds():
    assert cut(None) is None
    assert cut("x" * 300) == "x" * 199 + "…"
    assert cut("a\ud800b") == "a?b"


# ---------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A file that was closed, and one that was left as a killed process leaves it, with a log."""
    folder = tmp_path_factory.mktemp("originals")
    closed, killed = folder / "closed", folder / "killed"
    for one in (closed, killed):
        one.mkdir()
        store = Store(one / "h.sqlite")
        for start in range(0, ROWS, 100):
            store.add([row(n) for n in range(start, start + 100)])
            if start == ROWS // 2:
                store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if one is killed:
            shutil.copytree(one, folder / "copy")  # before it is closed, with its log
        store.close()
    shutil.rmtree(killed)
    (folder / "copy").rename(killed)
    assert not (closed / "h.sqlite-wal").exists()
    assert (killed / "h.sqlite-wal").stat().st_size > 50 * PAGE
    return folder


def flip(data, rng, most):
    for _ in range(rng.randint(1, most)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def tear(data, rng, most):
    del data[rng.randrange(len(data)) :]


def blank(data, rng, most):
    start = rng.randrange(len(data))
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))


def touched(before, after, header, stride):
    """How many pages of a file are not as they were."""
    count = 0
    for start in range(0, len(before), stride):
        count += before[start : start + stride] != after[start : start + stride]
    return count


@pytest.mark.parametrize("part", [0, *[pytest.param(part, marks=pytest.mark.long) for part in range(1, 10)]])
def test_of_200_damaged_files_all_rows_of_pages_that_were_not_touched_are_carried_over(
    originals, tmp_path, part
):
    every = {f"{n:032x}" for n in range(ROWS)}
    per_page = 60
    for number in range(part * 20, part * 20 + 20):
        rng = random.Random(number)
        way = rng.choice([flip, tear, blank])
        source = originals / rng.choice(["closed", "killed"])
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        names = [name for name in ("h.sqlite", "h.sqlite-wal") if (folder / name).exists()]
        victim = folder / rng.choice(names)
        before = victim.read_bytes()
        data = bytearray(before)
        way(data, rng, 20)
        victim.write_bytes(data)
        is_log = victim.name.endswith("-wal")
        spoilt = touched(before, bytes(data), LOG_HEADER, FRAME_HEADER + PAGE if is_log else PAGE)
        if not data and not is_log:
            continue  # nothing is left of it
        store = Store(folder / "h.sqlite")
        found = ids(store)
        assert found <= every
        assert len(found) >= ROWS - per_page * (spoilt + 1) or way is tear, (number, way, victim.name, spoilt)
        if way is tear and is_log:
            assert len(found) >= ROWS // 2
        if len(found) < ROWS and not (way is tear and is_log):
            assert store.rescued, (number, way, victim.name)
        if store.rescued:
            assert any(".damaged-" in one.name for one in folder.iterdir())
        store.add([row(ROWS + 1)])
        store.close()
        again = Store(folder / "h.sqlite")
        assert again.rescued == ""
        assert ids(again) == found | {f"{ROWS + 1:032x}"}
        again.close()
