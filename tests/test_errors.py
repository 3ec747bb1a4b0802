"""What errors say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from altlas_flow.errors import AltlasError, NoEligibleNode, UnknownModel, describe, located, one_line
from altlas_flow.errors.cluster import CORDONED
from altlas_flow.models.faults import of_the_node
from altlas_flow.models.memory import is_out_of_memory


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


class Mute(RuntimeError):
    """An error of somebody's library: it takes its text from a field that it was never given."""

    def __str__(self):
        return self.message


class Blank(RuntimeError):
    def __str__(self):
        return None


@pytest.mark.parametrize("kind", [Mute, Blank])
def test_an_error_that_cannot_say_what_it_is_goes_by_its_type(kind):
    error = kind("hm")
    assert one_line(error) == describe(error) == located(error) == kind.__name__
    assert str(AltlasError(error)) == kind.__name__
    assert not of_the_node(error)
    assert not is_out_of_memory(error)


def test_an_error_of_ours_that_somebody_has_derived_from_may_fail_to_say_what_it_is():
    class Derived(AltlasError):
        def text(self):
            return self.message

    assert describe(Derived("hm")) == "Derived"


def test_where_a_node_is_cordoned_the_error_says_that_it_can_be_uncordoned():
    lacking = "it declares GPU=0 and GPU=1 is needed"
    assert "uncordon" not in str(NoEligibleNode("m", {"a": lacking}))
    text = str(NoEligibleNode("m", {"a": lacking, "b": CORDONED}))
    assert text.endswith("uncordon a node, or start a worker that has what the model needs")
