"""Tokens into text while they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.models.runtimes.spelling import Spelling
from tests import models_zoo

#: Texts of few letters, so that stop strings are found, and of several bytes each.
texts = st.text("abä€😀 ", max_size=40)


def decode(tokens: list[int]) -> str:
    """A token is a byte."""
    return bytes(tokens).decode("utf-8", "replace")


def spelled(tokens: bytes | list[int], *stop: str, by: Any = decode) -> list[str]:
    """The pieces of a text."""
    spelling = Spelling(by, stop)
    pieces = []
    for token in tokens:
        pieces.append(spelling.add(token))
        if spelling.stopped:
            break
    pieces.append(spelling.finish())
    assert spelling.text == "".join(pieces)
    return pieces


@given(texts)
def test_the_pieces_are_the_text_and_whole_characters(text: str) -> None:
    pieces = spelled(text.encode())
    assert "".join(pieces) == text
    assert all(len(piece) <= 1 for piece in pieces)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_come_as_the_tokenizer_writes_them(data: bytes) -> None:
    assert "".join(spelled(data)) == decode(list(data))


@given(texts, st.lists(st.text("abä€😀 ", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_text_ends_before_its_first_stop_string_and_nothing_beyond_it_is_given(
    text: str, stops: list[str]
) -> None:
    # not where the text as a whole has one first: generation ends with the token that completes one
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    seen = text[: min(ends)] if ends else text
    places = [at for stop in stops if (at := seen.find(stop)) >= 0]
    assert "".join(spelled(text.encode(), *stops)) == (seen[: min(places)] if places else text)


def test_what_may_begin_a_stop_string_is_held_back_until_it_does_not() -> None:
    assert spelled(b"a<e<en>", "<end>") == ["a", "", "", "<e", "", "", "<en>", ""]
    assert spelled(b"a<end> b", "<end>") == ["a", "", "", "", "", "", ""]


@pytest.mark.parametrize("stop", ["", "the", "€", " a"])
def test_a_real_tokenizer_gives_the_same_piece_by_piece(tmp_path: Path, stop: str) -> None:
    from transformers import AutoTokenizer

    models_zoo.build_generator(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    def by(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    text = "on a day: 12 € and 😀, in the end"
    tokens = tokenizer(text).input_ids
    assert tokens[0] == tokenizer.bos_token_id  # which is no text
    expected = text.partition(stop)[0] if stop else text
    assert "".join(spelled(tokens, *filter(None, [stop]), by=by)) == expected
