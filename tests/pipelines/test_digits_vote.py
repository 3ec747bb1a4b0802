"""The comparison on handwritten digits: that its parts are kept apart, and what it tells is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from altlas_flow.aggregation import label_of
from altlas_flow.errors import OutputNotWritable
from pipelines import digits_vote

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def digits():
    return digits_vote.load(limit=400)


@pytest.fixture(scope="module")
def specs(digits, tmp_path_factory):
    return digits_vote.train(digits.train, tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def cascade(digits, specs):
    return digits_vote.cascade_of(specs, digits.calibrate)


def test_no_image_is_in_two_parts_and_each_part_has_all_digits():
    digits = digits_vote.load(seed=3)
    parts = [digits.train, digits.calibrate, digits.test]
    assert [len(part.labels) for part in parts] == [898, 449, 450]
    images = [{row.tobytes() for row in part.pixels} for part in parts]
    assert len(set.union(*images)) == sum(map(len, images))
    assert all(set(part.labels) == set(range(10)) for part in parts)
    again, other = digits_vote.load(seed=3), digits_vote.load(seed=4)
    assert np.array_equal(again.test.pixels, digits.test.pixels)
    assert not np.array_equal(other.test.pixels, digits.test.pixels)


def test_each_way_of_asking_answers_with_digits_and_most_are_right(flow, digits, specs):
    asked = digits_vote.pipelines(specs, digits.calibrate)
    assert list(asked) == ["bayes", "linear", "forest", "vote", "weighted average", "stacking"]
    lines = {how: digits_vote.measure(flow, how, one, digits.test, 120) for how, one in asked.items()}
    assert all(0.75 < line.accuracy <= 1 and line.rate > 0 for line in lines.values())
    # a model alone is as right as it is here
    here = specs["forest"].load().predict(digits.test.frame()["pixels"].tolist())
    assert lines["forest"].accuracy == digits.test.accuracy([label_of(one) for one in here])


def test_the_more_the_large_model_is_asked_the_nearer_it_gets_to_it(flow, digits, specs, cascade):
    found = digits_vote.tries(flow, cascade, digits.test, (0.0, 0.2, 1.0))
    assert [one.wished for one in found] == [0.0, 0.2, 1.0]
    shares = [one.share for one in found]
    assert shares == sorted(shares) and shares[0] < 0.2 < 0.8 < shares[2]
    if shares[2] == 1.0:
        alone = specs["forest"].load().predict(digits.test.frame()["pixels"].tolist())
        assert found[2].accuracy == digits.test.accuracy([label_of(one) for one in alone])
    assert digits_vote.explained(cascade.at(0.2)).output == ("label", "answered_by")


def test_the_plot_has_the_curve_and_the_tries(cascade, tmp_path):
    found = [digits_vote.Try(0.1, 0.125, 0.9375), digits_vote.Try(0.5, 0.5, 0.96875)]
    digits_vote.plot(cascade, found, tmp_path / "plot.html")
    page = (tmp_path / "plot.html").read_text(encoding="utf-8")
    (told,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    (document,) = json.loads(told).values()
    assert "0.9375" in told and "share of calls of the large model" in told
    assert document["roots"]
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)  # it needs no network
    with pytest.raises(OutputNotWritable, match="choose another file with --plot"):
        digits_vote.plot(cascade, found, tmp_path / "missing" / "plot.html")


def test_a_wrong_option_is_told_in_one_line():
    done = CliRunner().invoke(digits_vote.main, ["--limit", "20"])
    assert done.exit_code == 2 and "--limit" in done.output


@pytest.mark.long
@pytest.mark.timeout(300)
def test_it_runs_as_a_file(tmp_path):
    command = [sys.executable, str(ROOT / "pipelines" / "digits_vote.py")]
    command += ["--rows", "200", "--limit", "300", "--workers", "2", "--plot", "plot.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    for line in ("vote", "weighted average", "stacking", "cascade, 10% large"):
        assert re.search(rf"^{line} +\d+\.\d% +[\d,]+$", done.stdout, re.MULTILINE), done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["plot.html"]
