"""The commands about pipeline files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from click.testing import CliRunner

import altlas_flow as af
from altlas_flow.cli import cli, jobs
from altlas_flow.errors import InputError, UnknownModel

pytestmark = pytest.mark.timeout(90)

LIMIT = 60  # seconds that a command may take
PROGRAM = str(Path(sys.executable).parent / "altlas-flow")

FUNCTIONS = """
def loud(rows):
    return [row.upper() for row in rows]

def size(text):
    if text == "BAD":
        raise ValueError("a bad one")
    return len(text)

def is_long(text):
    return len(text) > 3

def words(text, least=1):
    return [word for word in text.split() if len(word) >= least]
"""

PIPELINE = """
id: shout
models:
  shouter: {runtime: function, source: "shouting:loud"}
stages:
  loud: {model: shouter, retry: 2}
  size: {function: "shouting:size", after: loud}
outputs: {size: int64}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a module, pipelines and texts."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "shouting.py").write_text(FUNCTIONS)
    (folder / "shout.yaml").write_text(PIPELINE)
    (folder / "texts.csv").write_text("text,n\none,1\nfour,2\nbad,3\n")
    (folder / "catalog.yaml").write_text("mine: {runtime: function, source: 'shouting:loud'}\n")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    """The folder as the working directory, its module to be imported."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    return place


def ask(*arguments, code=0):
    done = CliRunner().invoke(cli, ["pipeline", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def refused(*arguments):
    text = ask(*arguments, code=2)
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


# ---------------------------------------------------------------- check and show


def test_check_lists_stages_and_models(here):
    lines = ask("check", "shout.yaml").splitlines()
    assert lines[0] == "pipeline shout: 2 stages, output size"
    assert [line.split() for line in lines if line.startswith("  ")][1:] == [
        ["loud", "model", "shouter", "input", "tries", "2"],
        ["size", "function", "size", "loud"],
    ]
    assert lines[-1] == "model shouter: function from shouting:loud"


def test_check_refuses_models_that_nothing_here_knows(here, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("stages: {a: {model: mine, parameters: {any: 1}}}")
    text = refused("check", file)
    assert "p.yaml: stage 'a': model 'mine' is not known here (" in text
    assert ": give --catalog, or register it under models: in the file (known: " in text
    own = '{"runtime": "function", "source": "shouting:loud"}'
    for models in (f'{{"shouter": {own}}}', f'[{{"id": "shouter", {own[1:]}]'):
        file.write_text(f'{{"models": {models}, "stages": {{"a": {{"model": "shuter"}}}}}}')
        assert "model 'shuter' is not known here (did you mean 'shouter'?)" in refused("check", file)
    file.write_text("stages: {a: {model: mien}, b: {model: nobody}}")
    text = refused("check", file, "--catalog", "catalog.yaml")
    assert "'mien' is not known here (did you mean 'mine'?); stage 'b': model 'nobody' is not known" in text
    (tmp_path / "known.yaml").write_text("stages: {a: {model: mine}}")
    text = ask("check", tmp_path / "known.yaml", "--catalog", "catalog.yaml")
    assert "model mine: function from shouting:loud" in text


BAD = {
    "a key": ("stages:\n  a: {modle: x}", "p.yaml, line 2: stage 'a': modle is no key: did you mean model?"),
    "a function": (
        "stages:\n  a: {function: 'shouting:lood'}",
        "p.yaml, line 2: stage 'a': function: cannot",
    ),
    "a keyword of a function": (
        "stages:\n  a: {function: 'shouting:words', parameters: {lest: 2}}",
        "p.yaml: stage 'a': its function cannot be called",
    ),
    "a parameter of a model": (
        "stages:\n  a: {model: {source: x, task: text-classification}, parameters: {tok_k: 2}}",
        "': runtime 'transformers' does not know parameter 'tok_k'",
    ),
    "no YAML": ("stages: [", "p.yaml, line 1: "),
    "a strategy": (
        "stages:\n  a:\n    function: 'shouting:size'\n    strategy: FASTEST",
        "p.yaml, line 4: stage 'a': strategy: 'FASTEST' is the name of none: choose one of ROUND_ROBIN",
    ),
    "a type": (
        "stages: {a: {function: 'shouting:size'}}\noutputs: {a: strin}",
        "p.yaml, line 2: pipeline 'p': outputs: a: 'strin' is no Arrow type",
    ),
    "a quorum": (
        "stages:\n  a: {function: 'shouting:size'}\n  v: {after: a, combine: {vote: {quorum: 5}}}",
        "p.yaml, line 3: stage 'v': combine: quorum=5 of 1 models can never be reached",
    ),
    "a task": (
        "models: {m: {source: ./nofolder, task: text-generatoin}}\nstages: {a: {model: m}}",
        "p.yaml, line 1: model 'm': runtime 'transformers' does not know task 'text-generatoin'",
    ),
    "no task": (
        "stages: {a: {model: {source: ./nofolder}}}",
        "': runtime 'transformers' does not know task None: set task to one of",
    ),
}


def test_check_does_not_look_for_weights(here, tmp_path):
    (tmp_path / "p.yaml").write_text(
        "stages: {a: {model: {id: w, source: ./nofolder, task: text-generation}}}"
    )
    assert "model w: transformers text-generation" in ask("check", tmp_path / "p.yaml")


@pytest.mark.parametrize("name", BAD)
def test_check_says_in_one_line_what_is_wrong(here, tmp_path, name):
    text, expected = BAD[name]
    (tmp_path / "p.yaml").write_text(text)
    assert expected in refused("check", tmp_path / "p.yaml")


@pytest.mark.parametrize("command", ["check", "show", "run"])
def test_a_file_that_is_not_there_is_named(here, command):
    more = ["--input", "texts.csv", "--column", "text", "--output", "out"] if command == "run" else []
    assert "nowhere.yaml cannot be read" in refused(command, "nowhere.yaml", *more)


def test_show_prints_a_table_a_flowchart_or_a_picture(here):
    assert ["size", "function", "size", "loud"] in [
        line.split() for line in ask("show", "shout.yaml").splitlines()
    ]
    chart = ask("show", "shout.yaml", "--format", "mermaid")
    assert chart == af.Pipeline.load("shout.yaml").mermaid()
    picture = ask("show", "shout.yaml", "--format", "svg")
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert "--format" in ask("show", "shout.yaml", "--format", "png", code=2)


def test_schema_is_what_editors_check_files_by(here):
    assert json.loads(ask("schema")) == af.Pipeline.schema()


@pytest.mark.parametrize("command", [(), ("check",), ("show",), ("schema",), ("run",)], ids=" ".join)
def test_help_names_every_option_with_a_text(command):
    group = cli.commands["pipeline"]
    target = group.commands[command[0]] if command else group
    text = ask(*command, "--help")
    options = [one for one in target.params if one.param_type_name == "option"]
    assert all(option.help for option in options)
    assert all(option.opts[0] in text for option in options)


# ---------------------------------------------------------------- run


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


BASE = ["--input", "texts.csv", "--column", "text", "--output", "out"]


def test_run_takes_the_options_of_map_that_make_sense(here, monkeypatch):
    recorder = Recorder()
    given = []
    monkeypatch.setattr(jobs, "flow_with", lambda models, options: given.append(models) or recorder)
    assert ask("run", "shout.yaml", *BASE) == "summary\n"
    assert recorder.asked.pop("model").to_dict() == af.Pipeline.load("shout.yaml").to_dict()
    assert recorder.asked == {
        "source": "texts.csv",
        "input": "text",
        "output": None,
        "to": "out",
        "on_error": "collect",
        "max_in_flight": None,
    }
    assert given == [[]], "recipes in the file need no registering"
    more = ["--on-error", "raise", "--output-column", "length", "--max-in-flight", "3"]
    ask("run", "shout.yaml", *BASE, *more)
    assert {key: recorder.asked[key] for key in ("on_error", "output", "max_in_flight")} == {
        "on_error": "raise",
        "output": "length",
        "max_in_flight": 3,
    }
    options = {name: {one.name for one in command.params} for name, command in cli.commands.items()}
    own = {one.name for one in cli.commands["pipeline"].commands["run"].params}
    assert own - {"file", "max_in_flight"} == options["map"] - {"model", "batch"}


def test_run_registers_the_models_that_stages_name(here, tmp_path, monkeypatch):
    file = tmp_path / "p.yaml"
    inner = {"stages": {"b": {"model": "mine"}}}
    stages = {"a": {"model": "mine"}, "in": {"pipeline": inner}, "c": {"model": "unheard-of"}}
    file.write_text(json.dumps({"stages": stages}))
    asked = {}

    def connect(address, **options):
        asked.update(options, address=address)
        raise InputError("far enough")

    monkeypatch.setattr("altlas_flow.flow.connect", connect)
    more = ["--catalog", "catalog.yaml"]
    assert "no model 'unheard-of'" in refused("run", file, *BASE, *more), "own workers know no other models"
    assert not asked
    refused("run", file, *BASE, *more, "--scheduler", "tcp://there:8786")
    assert asked["address"] == "tcp://there:8786"
    assert [spec.id for spec in asked["models"]] == ["mine"], "once, and the other one the cluster may know"


def test_own_workers_know_no_other_models():
    with pytest.raises(UnknownModel):
        jobs.flow_with(["nobody"], {"catalog": None, "scheduler": None, "workers": None, "tls": None})


def test_ctrl_c_ends_with_code_130_and_says_that_nothing_is_lost(here, monkeypatch):
    class Interrupted(Recorder):
        def run(self, *_, **__):
            raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "flow_with", lambda models, options: Interrupted())
    assert ask("run", "shout.yaml", *BASE, code=130).startswith("stopped: what was committed stays")


def run(place, *arguments, code=0):
    done = subprocess.run(
        [PROGRAM, "pipeline", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


def test_run_writes_parts_and_prints_what_the_stages_took(place, tmp_path):
    done = run(place, "run", "shout.yaml", *BASE[:-1], tmp_path / "out", "--workers", "1")
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["rows", "2"] in lines
    assert ["dead", "letters", "1"] in lines
    [loud] = [line for line in lines if line[:2] == ["loud", "model"]]
    assert loud[2:4] == ["shouter", "3"]
    found = pd.read_parquet(tmp_path / "out")
    assert found.text.tolist() == ["one", "four"]
    assert found["size"].tolist() == [3, 4]


def test_run_says_one_line_where_a_column_is_missing(place, flow, tmp_path):
    address = flow.client.cluster.scheduler_address
    given = ["--input", "texts.csv", "--column", "txt", "--output", tmp_path / "out", "--scheduler", address]
    done = run(place, "run", "shout.yaml", *given, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: the input has no column 'txt'")
    assert done.stderr.count("\n") == 1
