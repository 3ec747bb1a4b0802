"""One line that says how far a run is: few messages, one output, and what is left of it."""

from __future__ import annotations

import io
import sys
import types

import pytest

from altlas_flow.dataframe import progress
from altlas_flow.dataframe.progress import Progress, duration

pytestmark = pytest.mark.timeout(60)


class Clock:
    """Goes on as a test says."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Cell:
    """What IPython displays, as a notebook keeps it: one output that is drawn anew."""

    def __init__(self):
        self.shown = []

    def display(self, line, display_id):
        assert display_id is True and not self.shown
        self.update(line)
        return self

    def update(self, line):
        self.shown.append((repr(line), line._repr_html_()))


@pytest.fixture
def notebook(monkeypatch):
    """A place where cells are shown."""
    cell = Cell()
    shell = type("Shell", (type("ZMQInteractiveShell", (), {}),), {})()  # as elsewhere they derive theirs
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=cell.display))
    return cell


def test_a_notebook_keeps_one_line_and_is_told_ten_times_a_second_at_most(notebook):
    clock = Clock()
    with Progress("m", 1000, clock=clock) as bar:
        for _ in range(1000):
            clock.now += 0.01
            bar.advance(1, dead=1)
    assert 90 <= len(notebook.shown) <= 103
    text, html = notebook.shown[50]
    assert '<progress max="1000" value=' in html and "left" in text and " of 1,000 rows" in text
    assert notebook.shown[-1] == (
        "m: 1,000 rows in 10 s, 100.0 rows/s, 1,000 dead letters",
        "<div>m: 1,000 rows in 10 s, 100.0 rows/s, 1,000 dead letters</div>",
    )


def test_what_is_over_soon_shows_nothing_where_it_may_wait(notebook):
    clock = Clock()
    with Progress("m", 10, clock=clock, after=1.0) as bar:
        clock.now += 0.9
        bar.advance(10)
    assert not notebook.shown
    with Progress("m", 10, clock=clock, after=1.0) as bar:
        clock.now += 1.1
        bar.tick()
        assert "m: 0 of 10 rows, 1 s" in notebook.shown[-1][0]
        bar.advance(10)
    assert notebook.shown[-1][0].startswith("m: 10 rows in 1 s")


def test_what_stops_says_so_and_what_was_there_is_told(notebook):
    clock = Clock()
    bar = Progress("<b>", 10, clock=clock)
    bar.skip(4)
    clock.now += 2
    with pytest.raises(KeyboardInterrupt):
        interrupted(bar)
    assert notebook.shown[-1] == (
        "<b>: stopped after 4 of 10 rows, 2 s",
        "<div>&lt;b&gt;: stopped after 4 of 10 rows, 2 s</div>",
    )


def interrupted(bar):
    with bar:
        raise KeyboardInterrupt


def test_a_bar_of_unknown_length_is_a_text(notebook):
    clock = Clock()
    with Progress("m", None, clock=clock) as bar:
        clock.now += 2
        bar.advance(6)
        assert notebook.shown[-1] == ("m: 6 rows, 3.0 rows/s", "<div>m: 6 rows, 3.0 rows/s</div>")
        bar.skip(1)
    assert notebook.shown[-1][0] == "m: 7 rows in 2 s, 3.0 rows/s, 1 there already"


def test_without_a_notebook_and_a_terminal_nothing_is_shown_unless_it_is_asked_for(capsys):
    with Progress("m", 10) as bar:
        bar.advance(10)
    assert capsys.readouterr() == ("", "")
    with Progress("a long name " * 9, 10, show=True) as bar:
        bar.advance(10)
    assert "10/10" in capsys.readouterr().err, "the name makes room for what counts"
    with Progress("m", 10, show=False) as bar:
        bar.advance(10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("there", [None, "closed"])
def test_without_a_standard_error_nothing_is_shown(monkeypatch, there):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream if there else None)
    with Progress("m", 3) as bar:
        bar.advance(3)
    assert bar.done == 3


def test_a_notebook_can_be_told_to_be_silent(notebook):
    with Progress("m", 10, show=False) as bar:
        bar.advance(10)
    assert not notebook.shown


def test_plain_python_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not progress._in_notebook()


def test_durations_are_said_as_people_say_them():
    assert [duration(s) for s in (0.01, 0.26, 5, 135, 7260)] == [
        "0 s",
        "0.3 s",
        "5 s",
        "2 min 15 s",
        "2 h 1 min",
    ]
    assert duration(59.7) == "1 min 0 s"
