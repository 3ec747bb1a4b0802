"""What one iteration over an answer hears: nothing twice, nothing lost, and never two texts in one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altlas_flow.cluster.client.streaming import Ear, Listening
from altlas_flow.errors import BadRequest, NodeLost, StreamBroken


class Request:
    """As much of a handle as an ear needs."""

    def __init__(self):
        self.request_id, self.model_id = "r", "m"
        self._error = self._outputs = None
        self._over, self._flight, self._at = False, None, 0

    def done(self):
        return self._over

    def end(self, outputs=None, error=None):
        self._over, self._outputs, self._error = True, outputs, error

    def _outcome(self):
        if self._error is not None:
            raise self._error
        return SimpleNamespace(outputs=self._outputs)


def ear_of(request=None):
    return Ear(request or Request(), lambda: None)


def rest(ear):
    """All that an ear passes on until the end."""
    text = ""
    while True:
        piece, over = ear.take()
        if not piece:
            assert over
            return text
        text += piece


@settings(max_examples=50)
@given(st.text(max_size=30), st.data())
def test_whatever_is_heard_twice_or_never_the_text_is_passed_on_once(text, data):
    request = Request()
    ear, passed = ear_of(request), ""
    cuts = st.integers(0, len(text))
    for _ in range(data.draw(st.integers(0, 8))):
        first, last = sorted((data.draw(cuts), data.draw(cuts)))
        ear.hear("try", first, text[first:last])
        if data.draw(st.booleans()):
            passed += ear.take()[0]
        assert text.startswith(passed)
    request.end(text)
    assert passed + rest(ear) == text


def test_what_is_missing_is_asked_for_once():
    ear = ear_of()
    assert ear.hear("try", 2, "c")  # asked for already, when it began to listen
    assert ear.hear("try", 0, "abc")
    assert not ear.hear("try", 5, "f")
    assert ear.hear("try", 6, "g")
    assert ear.take() == ("abc", False)
    assert ear.hear("try", 0, "abcdefg")
    assert ear.take() == ("defg", False)


def test_another_try_goes_on_where_the_last_one_was():
    request = Request()
    ear = ear_of(request)
    ear.hear("first", 0, "abcd")
    assert ear.take() == ("abcd", False)
    ear.hear("second", 0, "ab")
    assert ear.take() == ("", False)
    ear.hear("second", 2, "cde")
    assert ear.take() == ("e", False)
    request.end("abcdef")
    assert rest(ear) == "f"


@pytest.mark.parametrize("heard", ["ax", "abcdx"])
def test_another_try_of_another_text_is_said_to_be_one(heard):
    ear = ear_of()
    ear.hear("first", 0, "abc")
    ear.take()
    ear.hear("second", 0, heard)
    if heard.startswith("abc"):
        assert ear.take() == (heard[3:], False)
        return
    with pytest.raises(StreamBroken, match=r"begun again.*give a seed"):
        ear.take()


@pytest.mark.parametrize("answer", ["ab", "xyz", ""])
def test_an_answer_that_does_not_begin_as_what_was_passed_on_is_said_to_be_another(answer):
    request = Request()
    ear = ear_of(request)
    ear.hear("first", 0, "abc")
    assert ear.take() == ("abc", False)
    request.end(answer)
    with pytest.raises(StreamBroken):
        rest(ear)


def test_a_try_that_is_behind_at_the_end_is_no_trouble():
    request = Request()
    ear = ear_of(request)
    ear.hear("first", 0, "abcd")
    ear.take()
    ear.hear("second", 0, "ab")
    ear.take()
    request.end("abcdef")
    assert rest(ear) == "ef"


def test_an_error_comes_behind_what_was_heard():
    request = Request()
    ear = ear_of(request)
    ear.hear("first", 0, "abc")
    request.end(error=NodeLost("n", "died"))
    assert ear.take() == ("abc", True)
    with pytest.raises(NodeLost):
        ear.take()


@pytest.mark.parametrize("outputs", [[1.0], {"label": "good"}, None])
def test_what_is_no_text_does_not_come_in_pieces(outputs):
    request = Request()
    request.end(outputs)
    with pytest.raises(BadRequest, match=f"answers with a {type(outputs).__name__}, .*use result"):
        rest(ear_of(request))


def test_a_worker_is_told_when_the_request_runs_there_and_when_nobody_listens_any_more():
    told, flights, request = [], {}, Request()
    listening = Listening(told.append, flights)
    ears = [ear_of(request), ear_of(request)]
    for ear in ears:
        listening.open(ear)
    assert not told  # it is nowhere yet
    begun = set()
    flight = SimpleNamespace(key="k", handles=[Request(), request], has_begun=begun.__contains__)
    request._flight, request._at, flights["k"] = flight, 1, flight
    listening.began("k")
    assert not told  # others of the envelope run
    begun.add(1)
    listening.began("k")
    listening.heard("k", 1, 1, 0, "ab")
    listening.heard("k", 0, 1, 0, "of somebody else")
    listening.heard("gone", 0, 1, 0, "of nobody")
    assert [ear.take() for ear in ears] == [("ab", False)] * 2
    listening.heard("k", 1, 1, 5, "f")  # something is missing
    listening.close(ears[0])
    listening.close(ears[0])
    listening.close(ears[1])
    asked = {"op": "altlas-listen", "key": "k", "request": 1, "on": True}
    assert told == [asked, asked, asked | {"on": False}]
    listening.heard("k", 1, 1, 2, "c")
    del flights["k"]
    listening.began("k")
    assert len(told) == 3
