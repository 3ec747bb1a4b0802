"""What is known of an input by itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from altlas_flow.errors import FeatureError, SelectionError
from altlas_flow.selection.wanted import features_of, language_asked, options_of

pytestmark = pytest.mark.timeout(60)


def test_what_the_context_says_counts_before_what_can_be_seen():
    assert features_of("four words of text", under_way=3) == {
        "input_length": 4.5,
        "in_rows": 0.0,
        "under_way": 3.0,
    }
    said = {"input_length": 9, "under_way": 1, "language": "xx"}
    assert features_of("text", said, under_way=3, language=True) == {**said, "in_rows": 0.0}


@pytest.mark.parametrize(
    ("inputs", "language"),
    [
        ("The quick brown fox jumps over the lazy dog, and nobody minds.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund, und niemand stört sich daran.", "de"),
        (["Le renard brun saute par-dessus le chien paresseux, et personne ne s'en soucie.", "x"], "fr"),
        ("敏捷的棕色狐狸跳过了懒狗，没有人在意。", "zh"),
    ],
)
def test_the_language_of_a_text_is_a_feature_where_it_is_asked_for(inputs, language):
    pytest.importorskip("py3langid")
    assert features_of(inputs, language=True)["language"] == language
    assert "language" not in features_of(inputs)


@pytest.mark.parametrize("inputs", ["", "  ", None, 3, [], [1, 2], {"text": "x"}])
def test_what_is_no_text_has_no_language(inputs):
    assert "language" not in features_of(inputs, language=True)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(SelectionError, match=r"pip install 'altlas-flow\[language\]'"):
        features_of("text", language=True)


def test_language_is_asked_for_by_true():
    assert options_of({"language": True}) == {"language": True} and language_asked(True)
    with pytest.raises(SelectionError, match="neither True nor False"):
        language_asked("en")


def test_what_the_context_says_of_an_embedding_counts_in_place_of_that_of_a_model():
    own, other = np.ones(8), np.full(8, 2.0)
    assert features_of("x", {"embedding": own}, vector=other).vector.tolist() == own.tolist()
    assert features_of("x", None, vector=other).vector.tolist() == other.tolist()
    with pytest.raises(FeatureError):
        features_of("x", [("a", 1)], vector=other)
