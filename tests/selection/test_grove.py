"""Trees that are walked together say what each says alone."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.selection import trees
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
