"""Run by test_folder.py: kills a job at each of its steps in turn, and checks what is left each time.

The folder holds three parts of an older model. The job drops them and commits three new ones. For each n
a forked child runs it and kills itself with SIGKILL at the n-th call that changes or syncs the disk; at
odd rounds a write is torn in half first. Prints, one JSON object a line, what each round left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from altlas_flow.dataframe import folder as module
from altlas_flow.dataframe.folder import DEAD_LETTER_SCHEMA, Header, OutputFolder, PartRecord, write_attempt

HEADER = Header(("n",), ("model",), "n", 4)
PARTS = [f"part-{number:05d}.parquet" for number in range(3)]
STEPS = ("replace", "fsync", "write", "unlink", "ftruncate", "mkdir", "open")


def commit_all(out: OutputFolder, model: str) -> None:
    wanted = dict.fromkeys(PARTS, ("unit", model))
    out.drop(out.stale(wanted))
    for number, part in enumerate(PARTS):
        if part in out.committed:
            continue
        dead = number if model == "old" else (number + 1) % 3  # parts gain and lose dead letters
        rows = 4 - dead
        table = pa.table({"n": [number * 4 + row for row in range(rows)], "model": [model] * rows})
        attempt = write_attempt(table, out.attempts, part)
        letters = None
        if dead:
            values = [[f"{model}:{number * 4 + rows + row}" for row in range(dead)]] * len(DEAD_LETTER_SCHEMA)
            letters = write_attempt(pa.table(values, schema=DEAD_LETTER_SCHEMA), out.attempts, part).path
        record = PartRecord(part, "unit", model, 4, rows, dead, attempt.bytes, {"seconds": 0.5})
        out.commit(record, attempt.path, letters)


def job(path: Path, model: str) -> None:
    with OutputFolder.open(path, HEADER) as out:
        commit_all(out, model)


def die_at(n: int) -> None:
    """Kill this process right before its n-th step; every other n tears a write in half."""
    count = 0

    def wrap(name: str):
        real = getattr(os, name)

        def step(*args, **kwargs):
            nonlocal count
            count += 1
            if count == n:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, step)

    for name in STEPS:
        wrap(name)


def visible(path: Path) -> dict[str, list[tuple[int, str]]]:
    """What a reader finds that knows nothing of the manifest."""
    found = {}
    for file in sorted(path.glob("part-*.parquet")):
        table = pq.ParquetFile(file).read()
        found[file.name] = list(
            zip(table.column("n").to_pylist(), table.column("model").to_pylist(), strict=True)
        )
    return found


def check(path: Path) -> dict[str, object]:
    seen = visible(path)
    rows = [row for part in seen.values() for row in part]
    assert len({n for n, _ in rows}) == len(rows), ("a row twice", seen)
    assert len({model for _, model in rows}) <= 1, ("two models at once", seen)
    counted = module.committed_parts(path)
    dead = module.read_dead_letters(path).num_rows
    assert dead == sum(record.dead_letters for record in counted.values())
    with OutputFolder.open(path, HEADER) as out:
        kept = dict(out.committed)
        assert kept == counted
        assert all(len(seen[part]) == record.rows for part, record in kept.items())
        assert set(visible(path)) == set(kept), "what does not count is removed"
        letters = {file.name for file in (path / "_dead_letters").iterdir()}
        assert letters == {
            part.replace(".parquet", ".rows") for part, record in kept.items() if record.dead_letters
        }
        assert [entry.name for entry in (path / "_attempts").iterdir()] == [out.attempts.name]
        stamps = {part: os.stat(path / part).st_ino for part in kept if kept[part].model == "new"}
        commit_all(out, "new")
        assert all(os.stat(path / part).st_ino == inode for part, inode in stamps.items()), "done twice"
    final = visible(path)
    assert [len(final[part]) for part in PARTS] == [3, 2, 4]
    assert {model for part in final.values() for _, model in part} == {"new"}
    assert sorted(module.read_dead_letters(path).column("row_id").to_pylist()) == ["new:3", "new:6", "new:7"]
    assert sorted(entry.name for entry in path.iterdir()) == ["_dead_letters", "_lock", "_manifest", *PARTS]
    return {"committed": len(stamps), "old": sum(record.model == "old" for record in kept.values())}


def main(base: Path) -> None:
    job(base / "start", "old")
    fresh = len(sys.argv) > 2  # on a folder that is not there yet
    for n in range(1, 1000):
        path = base / "work"
        shutil.rmtree(path, ignore_errors=True)
        if not fresh:
            shutil.copytree(base / "start", path)
        child = os.fork()
        if child == 0:
            die_at(n)
            job(path, "new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0, status
        if not (path / "_manifest").exists():  # killed before it had any: a job starts as on a new folder
            job(path, "old")
        print(json.dumps({"n": n, "killed": killed, **check(path)}), flush=True)
        if not killed:
            return
    raise AssertionError("the job never ended")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
