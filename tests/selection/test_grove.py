"""Trees that are walked together say what each says alone."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.selection import blend, trees
from altlas_flow.selection.grove import Grove

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("count", "arms", "columns"), [(12, 2, 1), (300, 3, 5), (900, 20, 40)])
def test_trees_of_several_objectives_say_together_what_they_say_alone(count, arms, columns):
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, columns)).astype(np.float32)
    chosen = rng.integers(arms, size=count)
    # one of them stops early: its trees are of another depth
    targets = [rows[:, 0] * chosen, rng.normal(size=count), (rows[:, 0] > 0).astype(float)]
    grown = [trees.fit(rows, chosen, target, arms, rng) for target in targets]
    grove = Grove(grown, columns)
    for row in rng.normal(size=(20, columns)).astype(np.float32):
        for alone, together in zip(grown, grove.predict(row), strict=True):
            for one, other in zip(alone.predict(row), together, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wide", [0, 8])
def test_what_is_said_of_one_model_each_for_many_rows_is_what_is_said_of_all(wide):
    """Some rows have a vector, some have none."""
    rng = np.random.default_rng(3)
    rows, arms = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(3, size=200)
    vectors = rng.normal(size=(200, wide)).astype(np.float32) if wide else None
    if vectors is not None:
        vectors[::3] = np.nan
    targets = rng.random(200)
    prior = np.full(3, np.nan), np.full(3, 5.0)
    found = blend.fit(rows, vectors, arms, targets, np.full(200, 1 / 3), np.ones(200), prior, rng, heavy=True)
    own = found.expect_own(rows, vectors, arms)
    for place in range(200):
        vector = None if vectors is None or np.isnan(vectors[place, 0]) else vectors[place]
        value, _ = found.expect(rows[place], vector)
        assert own[place] == pytest.approx(value[arms[place]], rel=1e-4)


def test_a_few_that_take_a_hundred_times_as_long_do_not_decide_alone_what_is_alike():
    """Half of the inputs take twice as long; some by chance a thousand times: trees find the half."""
    rng = np.random.default_rng(5)
    rows, arms = rng.random((600, 6)).astype(np.float32), np.zeros(600, dtype=int)
    targets = np.where(rows[:, 0] > 0.5, 2.0, 1.0)
    targets[rng.choice(600, 12, replace=False)] = 1000.0
    right = []
    for heavy in (False, True):
        grown = trees.fit(rows, arms, targets, 1, np.random.default_rng(0), heavy=heavy)
        # where nothing out of the usual lies near
        said = np.array([np.median(grown.own.predict(row[None])[0]) for row in rows])
        right.append(np.abs(said - np.where(rows[:, 0] > 0.5, 2.0, 1.0)).mean())
    assert right[1] < right[0]
