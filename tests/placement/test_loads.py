"""Models whose loading kills workers are left alone for a while."""

from __future__ import annotations

from altlas_flow.placement.loads import DEATHS, PAUSE, Loads


def test_the_third_death_in_a_row_has_it_left_alone_for_a_while_then_one_more_may_try():
    loads = Loads()
    for number in range(DEATHS):
        assert loads.deaths("m", 0.0) == 0
        loads.died("m", float(number))
    last = float(DEATHS - 1)
    assert loads.deaths("m", last) == DEATHS
    assert loads.deaths("m", last + PAUSE) == 0
    loads.died("m", last + PAUSE)
    assert loads.deaths("m", last + PAUSE) == DEATHS + 1


def test_a_load_that_succeeds_shows_that_it_is_not_what_kills():
    loads = Loads()
    for _ in range(10):
        loads.died("m", 0.0)
        loads.died("m", 0.0)
        loads.succeeded("m")
        assert loads.deaths("m", 0.0) == 0


def test_models_are_apart():
    loads = Loads()
    for _ in range(DEATHS):
        loads.died("m", 0.0)
    assert loads.deaths("m", 0.0) == DEATHS
    assert loads.deaths("other", 0.0) == 0
