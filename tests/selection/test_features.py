"""Contexts as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.errors import FeatureError
from altlas_flow.selection.features import COLUMNS, VALUES, Columns, filled, known, usual_of


def columns_of(*contexts):
    columns = Columns()
    for context in contexts:
        columns.learn(known(context))
    return columns


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"length": float("nan")}, "'length'.*finite number of at most 1e[+]15, or None"),
        ({"length": float("inf")}, "'length'"),
        ({"length": object()}, "'length' is a object"),
        ({"": 1}, "the name ''"),
        ({3: 1}, "the name 3"),
        ([1, 2], "no mapping"),
        ({"a": [1.0, float("nan")]}, "'a'.*not finite"),
        ({"a": [[1.0], [2.0]]}, r"shape \(2, 1\)"),
        ({"a": []}, "shape"),
        ({"a": ["x", "y"]}, "no vector of numbers"),
        ({"a": [1.0, 2.0], "b": np.ones(3)}, "both vectors"),
    ],
)
def test_what_is_no_feature_is_named(context, said):
    with pytest.raises(FeatureError, match=said):
        known(context)


def test_numbers_words_and_truth_values_become_columns():
    columns = columns_of({"length": 5, "language": "en", "urgent": True}, {"language": "de"})
    assert columns.names == ["length", "language=en", "urgent", "language=de"]
    row = columns.row(known({"length": 7, "language": "de", "urgent": False}))
    assert row.tolist() == [7.0, 0.0, 0.0, 1.0]


def test_what_is_not_known_is_no_number_and_has_a_name():
    columns = columns_of({"length": 5, "language": "en"})
    features = known({"length": None})
    assert np.isnan(columns.row(features)).all()
    assert columns.unknown(features) == ["length", "language"]


def test_what_is_usual_stands_in_for_it():
    rows = np.array([[1.0, np.nan, np.nan], [3.0, 8.0, np.nan], [5.0, np.nan, np.nan]], dtype=np.float32)
    assert usual_of(rows).tolist() == [3.0, 8.0, 0.0]
    assert filled(rows[0], usual_of(rows)).tolist() == [1.0, 8.0, 0.0]


def test_vectors_of_one_task_are_equally_long():
    columns = columns_of({"embedding": np.ones(4)})
    with pytest.raises(FeatureError, match="3 numbers, and those before had 4"):
        columns.check(known({"embedding": np.ones(3)}))


def test_there_are_only_so_many_columns():
    columns = columns_of(
        *({"word": f"w{i}"} for i in range(2 * VALUES)),
        *({f"n{i}": 1.0 for i in range(at, at + COLUMNS)} for at in (0, COLUMNS)),
    )
    assert len(columns) == COLUMNS
    assert sum(name.startswith("word=") for name in columns.names) == VALUES
    assert columns.row(known({"word": f"w{2 * VALUES - 1}"}))[:VALUES].tolist() == [0.0] * VALUES


def test_columns_are_found_again_by_their_names():
    columns = columns_of({"length": 5, "language": "en"})
    again = Columns(columns.names, columns.wide)
    features = known({"length": 1, "language": "en"})
    assert again.row(features).tolist() == columns.row(features).tolist()
