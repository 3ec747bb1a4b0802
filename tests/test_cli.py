"""The command: what it takes, what it prints, and one line for whatever is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

import altlas_flow as af
from altlas_flow.cli import cli
from altlas_flow.cli import jobs as module
from tests.models_zoo import build_embedder, sentences

pytestmark = pytest.mark.timeout(90)

LIMIT = 60  # seconds that a command may take
PROGRAM = str(Path(sys.executable).parent / "altlas-flow")

UPPER = """
def upper(rows):
    return [row.upper() for row in rows]

def slow(rows):
    import time
    time.sleep(0.2 * len(rows))
    return rows
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with texts, a catalog, models beside it, and a model that is a folder."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "beside.py").write_text(UPPER)
    frame = pd.DataFrame({"text": sentences(200), "number": range(200)})
    frame.to_parquet(folder / "texts.parquet")
    frame.iloc[:0].to_parquet(folder / "empty.parquet")
    (folder / "torn.parquet").write_bytes((folder / "texts.parquet").read_bytes()[:500])
    (folder / "words.csv").write_text("word\none\ntwo\n")
    (folder / "catalog.yaml").write_text(
        "upper:\n  runtime: function\n  source: beside:upper\n"
        "slow:\n  runtime: function\n  source: beside:slow\n  batch: 2\n"
        "tiny:\n  task: feature-extraction\n  source: tiny\n"
        "pickled:\n  task: feature-extraction\n  source: pickled\n"
        "torn:\n  task: feature-extraction\n  source: torn\n"
    )
    for name in ("tiny", "pickled", "torn"):
        build_embedder(folder / name)
    import torch

    (folder / "pickled" / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(2)}, folder / "pickled" / "pytorch_model.bin")
    weights = folder / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return folder


@pytest.fixture(scope="module")
def address(flow):
    """Of the session's cluster: a command that joins it starts in a second."""
    return flow.client.cluster.scheduler_address


def environment(place):
    return {**os.environ, "PYTHONPATH": str(place), "COLUMNS": "200"}


def run(place, *arguments, program=(PROGRAM,), code=0):
    done = subprocess.run(
        [*program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=place,
        env=environment(place),
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


def job(place, to, *, command="map", **options):
    given = {
        "model": "upper",
        "catalog": "catalog.yaml",
        "input": "texts.parquet",
        "column": "text",
    } | options
    flags = [
        part
        for name, value in given.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", value)
    ]
    return [command, *flags, "--output", to]


# ---------------------------------------------------------------- what it takes


class Recorder:
    """Stands in for a flow: keeps what it is asked."""

    def __init__(self):
        self.asked = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def run(self, source, model, **options):
        self.asked = {"source": source, "model": model, **options}
        return "summary"

    plan = run


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    monkeypatch.setattr(module, "_flow", lambda options: made)
    return made


BASE = ["--model", "minilm", "--input", "in.parquet", "--column", "text", "--output", "out"]


def test_map_takes_its_options_and_leaves_the_rest_to_the_defaults(recorder):
    done = CliRunner().invoke(cli, ["map", *BASE])
    assert (done.exit_code, done.output) == (0, "summary\n")
    assert recorder.asked == {
        "source": "in.parquet",
        "model": "minilm",
        "input": "text",
        "output": None,
        "to": "out",
        "batch": "auto",
        "on_error": "collect",
    }
    more = ["--batch", "16", "--on-error", "raise", "--output-column", "vector"]
    assert CliRunner().invoke(cli, ["map", *BASE, *more]).exit_code == 0
    assert {key: recorder.asked[key] for key in ("batch", "on_error", "output")} == {
        "batch": 16,
        "on_error": "raise",
        "output": "vector",
    }


def test_plan_takes_the_same_options_and_writes_nothing(recorder):
    assert CliRunner().invoke(cli, ["plan", *BASE, "--batch", "8"]).exit_code == 0
    assert "to" not in recorder.asked
    assert recorder.asked["batch"] == 8
    options = {name: {p.name for p in cli.commands[name].params} for name in ("map", "plan")}
    assert options["map"] == options["plan"]


def test_a_spec_may_be_given_as_json(recorder):
    text = '{"id": "mine", "runtime": "function", "source": "beside:upper"}'
    assert CliRunner().invoke(cli, ["map", *BASE, "--model", text]).exit_code == 0
    assert recorder.asked["model"] == af.ModelSpec(id="mine", runtime="function", source="beside:upper")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "neither a number of rows nor auto"),
        (["--batch", "many"], "neither a number of rows nor auto"),
        (["--workers", "0"], "--workers"),
        (["--on-error", "ignore"], "--on-error"),
        (["--model", '{"id": '], "give an id, or a spec as one JSON object"),
        (["--model", '{"id": "x", "sauce": "y"}'], "source"),
        (["--model", '{"id": "x", "runtime": "function", "source": "a:b", "code": "gA=="}'], "pickled code"),
        (["--catalog", "no-such.yaml"], "no-such.yaml"),
        (["--model", "nobody"], "no model 'nobody'"),
    ],
)
def test_options_that_cannot_be_meant_end_with_code_2_before_anything_starts(options, message):
    done = CliRunner().invoke(cli, ["map", *BASE, *options])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands if name != "certs")])
def test_help_names_every_option_with_a_text(command):
    done = CliRunner().invoke(cli, [*command, "--help"])
    assert done.exit_code == 0
    target = cli.commands[command[0]] if command else cli
    options = [one for one in target.params if one.param_type_name == "option"]
    assert all(getattr(option, "help", None) for option in options)
    for name in ("map", "plan", "models") if not command else ():
        assert name in done.output


def test_ctrl_c_ends_with_code_130_and_says_that_nothing_is_lost(monkeypatch):
    class Interrupted(Recorder):
        def run(self, *_, **__):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_flow", lambda options: Interrupted())
    done = CliRunner().invoke(cli, ["map", *BASE])
    assert done.exit_code == 130
    assert done.output == "stopped: what was committed stays; run the same again to go on\n"


# ---------------------------------------------------------------- what it does


def test_map_on_its_own_workers_writes_parts_and_prints_the_summary_alone(place, tmp_path):
    done = run(place, *job(place, tmp_path / "out", workers=1, batch=32))
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][0] == "model"
    assert ["rows", "200"] in lines
    found = pd.read_parquet(tmp_path / "out")
    assert list(found.columns) == ["text", "number", "prediction"]
    assert (found.prediction == found.text.str.upper()).all()


@pytest.mark.long
def test_dask_has_the_same_commands(place, address, tmp_path):
    program = (str(Path(sys.executable).parent / "dask"), "altlas")
    done = run(place, "models", "--catalog", "catalog.yaml", program=program)
    assert done.stderr == ""
    assert "beside:upper" in done.stdout
    assert {"map", "plan", "models"} <= set(run(place, "--help", program=program).stdout.split())


def test_models_lists_what_is_built_in_in_the_file_and_on_the_cluster(place, flow, address):
    flow.register(af.ModelSpec(id="on-the-cluster", runtime="function", source="beside:upper"))
    done = run(place, "models", "--catalog", "catalog.yaml", "--scheduler", address)
    assert done.stderr == ""
    ids = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert {"on-the-cluster", "upper", "tiny"} <= ids


@pytest.mark.long
def test_map_and_plan_join_a_cluster_and_run_again_finds_it_done(place, address, tmp_path):
    options = {"model": "tiny", "scheduler": address}
    planned = run(place, *job(place, tmp_path / "out", command="plan", **options))
    assert planned.stderr == ""
    assert "expected time" in planned.stdout
    assert not (tmp_path / "out").exists()
    first = run(place, *job(place, tmp_path / "out", **options))
    assert first.stderr == ""
    assert "there already" not in first.stdout
    again = run(place, *job(place, tmp_path / "out", **options))
    assert "there already" in again.stdout
    found = pd.read_parquet(tmp_path / "out")
    assert list(found.columns) == ["text", "number", "embedding"]
    named = run(place, *job(place, tmp_path / "named", output_column="vector", **options))
    assert named.stderr == ""
    assert list(pd.read_parquet(tmp_path / "named").columns) == ["text", "number", "vector"]


def out_of_the_way(tmp_path):
    (tmp_path / "out").write_text("a file")


def of_another_job(tmp_path):
    (tmp_path / "out").mkdir()
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "out" / "mine.parquet")


BAD = {
    "missing column": ({"column": "txt"}, None, "no column 'txt'"),
    "no rows": ({"input": "empty.parquet"}, None, "no rows"),
    "missing file": ({"input": "nowhere.parquet"}, None, "nowhere.parquet"),
    "torn file": ({"input": "torn.parquet"}, None, "torn.parquet"),
    "not parquet": ({"input": "beside.py"}, None, "beside.py"),
    "file in the way": ({"model": "tiny"}, out_of_the_way, "out"),
    "folder of another job": ({"model": "tiny"}, of_another_job, "out"),
    "weights that need pickle": ({"model": "pickled"}, None, "safetensors"),
    "half-written weights": ({"model": "torn"}, None, "damaged or half-written"),
    "unknown on the cluster": ({"model": "nobody", "catalog": None}, None, "no model 'nobody'"),
}


#: Of files, two are enough for the short run: each starts workers.
SHORT = {
    "missing column",
    "torn file",
    "file in the way",
    "weights that need pickle",
    "unknown on the cluster",
}


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in BAD]
)
def test_bad_input_gets_one_line_that_names_it_and_code_2(place, address, tmp_path, name):
    options, prepare, message = BAD[name]
    if prepare:
        prepare(tmp_path)
    done = run(place, *job(place, tmp_path / "out", scheduler=address, **options), code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.long
def test_on_its_own_workers_a_failing_model_says_one_line_too(place, tmp_path):
    done = run(place, *job(place, tmp_path / "out", model="pickled", workers=1), code=2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_debug_shows_where_an_error_comes_from(place, address, tmp_path):
    given = [*job(place, tmp_path / "out", scheduler=address, column="txt"), "--debug"]
    done = run(place, *given, code=1)
    assert "Traceback" in done.stderr
    assert "MissingColumn" in done.stderr


def test_an_address_where_nobody_is_gets_one_line(place, tmp_path):
    settings = {**environment(place), "DASK_ALTLAS__START_TIMEOUT": "1s"}
    command = [PROGRAM, *job(place, tmp_path / "out", scheduler="tcp://127.0.0.1:1")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, cwd=place, env=settings, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Dask scheduler answers")
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_ctrl_c_ends_command_and_workers_and_what_was_committed_stays(place, tmp_path):
    command = [PROGRAM, *map(str, job(place, tmp_path / "out", model="slow", workers=1))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place, env=environment(place)
    )
    try:
        end = time.monotonic() + LIMIT
        while not list((tmp_path / "out").glob("part-*.parquet")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (130, "")
        assert "stopped: what was committed stays; run the same again to go on" in err.splitlines()
        _, alive = psutil.wait_procs(children, timeout=15)
        assert not alive
        records = [json.loads(line) for line in (tmp_path / "out" / "_manifest").read_text().splitlines()]
        assert records
        assert len(pd.read_parquet(tmp_path / "out")) > 0
    finally:
        process.kill()
        process.communicate()
