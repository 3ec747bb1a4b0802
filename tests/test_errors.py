"""What errors say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from altlas_flow.errors import UnknownModel, describe, located


def number(text):
    return json.loads(text)


def raised(function, *arguments):
    with pytest.raises(json.JSONDecodeError) as caught:
        function(*arguments)
    return caught.value


def test_an_error_is_located_at_the_last_line_of_the_users_own_code():
    error = raised(number, "{")
    line = number.__code__.co_firstlineno + 1
    # it was raised further down, in the library that was called
    assert located(error) == f"{describe(error)} ({Path(__file__).name}:{line}, in number)"


def test_an_error_of_installed_code_only_has_no_place():
    error = raised(json.loads, "{")
    error.__traceback__ = error.__traceback__.tb_next  # without the frame of this test
    while Path(error.__traceback__.tb_frame.f_code.co_filename) == Path(__file__):
        error.__traceback__ = error.__traceback__.tb_next
    assert located(error) == describe(error)
    assert located(ValueError("never raised")) == "ValueError: never raised"


@pytest.mark.parametrize(
    ("asked", "hint"), [("mimilm", "; did you mean 'minilm'?)"), ("whisper", "(known: bge, minilm): ")]
)
def test_an_unknown_model_is_told_what_is_near(asked, hint):
    assert hint in str(UnknownModel(asked, ("bge", "minilm")))
