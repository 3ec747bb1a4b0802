"""What becomes of a request whose try failed: laws of a pure choice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.cluster.client.fate import DEATHS, MOVES, UNHEARD, Fate, decide, named
from altlas_flow.errors import HostClosed, InvalidAnswer, NodeLost, PredictError
from altlas_flow.records import RetryPolicy


def failed(*kinds):
    error = PredictError("m", "it failed")
    error.kinds = kinds
    return error


closed = st.just(HostClosed("closing"))
lost = st.sampled_from([NodeLost("a", cause) for cause in ("died", "silent", "left")])
invalid = st.just(InvalidAnswer("no"))
own = st.sampled_from([failed("ValueError", "Exception"), failed("TimeoutError", "OSError"), failed()])
errors = st.one_of(closed, lost, invalid, own)
policies = st.builds(
    RetryPolicy,
    tries=st.none() | st.integers(1, 5),
    on=st.sets(st.sampled_from(["ValueError", "TimeoutError", "Exception", "KeyError"])).map(tuple),
)
situations = st.fixed_dictionaries(
    {
        "faulty": st.booleans(),
        "began": st.booleans(),
        "tries": st.integers(1, 8),
        "deaths": st.integers(0, DEATHS + 1),
        "moves": st.integers(0, MOVES + 1),
        "idempotent": st.booleans(),
        "policy": policies,
        "limit": st.integers(1, 5),
    }
)


@given(errors, situations)
def test_a_request_that_fails_for_ever_ends(error, situation):
    tries, deaths, moves = 1, 0, 0
    for _ in range(MOVES + 20):
        situation |= {"tries": tries, "deaths": deaths, "moves": moves}
        fate = decide(error, **situation)
        if fate is Fate.END:
            break
        tries, moves = tries + (fate is Fate.RETRY), moves + (fate is Fate.MOVE)
    assert fate is Fate.END


@given(errors, situations)
def test_there_is_no_more_than_the_tries_of_the_policy_or_of_the_settings(error, situation):
    allowed = situation["policy"].tries or situation["limit"]
    if decide(error, **situation) is Fate.RETRY:
        assert situation["tries"] < allowed


@given(st.one_of(closed, lost), situations)
def test_what_had_not_begun_on_a_node_that_went_moves_and_uses_up_no_try(error, situation):
    limit = UNHEARD if isinstance(error, NodeLost) and error.cause != "left" else MOVES
    situation |= {"began": False, "moves": situation["moves"] % limit, "deaths": situation["deaths"] % DEATHS}
    if isinstance(error, NodeLost) and error.cause == "silent":
        situation |= {"idempotent": True}  # else it may still run there
    assert decide(error, **situation) is Fate.MOVE


@given(st.one_of(closed, st.just(NodeLost("a", "left"))), situations)
def test_moves_have_an_end(error, situation):
    assert decide(error, **situation | {"began": False, "moves": MOVES}) is Fate.END


@given(st.sampled_from(["died", "silent"]), situations, st.integers(UNHEARD, MOVES))
def test_what_moved_from_many_workers_that_died_counts_as_having_begun(cause, situation, moves):
    """The word that it began may have been lost, and it may be what kills them."""
    situation |= {"moves": moves}
    error = NodeLost("a", cause)
    assert decide(error, **situation | {"began": False}) is decide(error, **situation | {"began": True})


@given(st.one_of(closed, lost), situations)
def test_what_may_run_only_once_ends_where_it_may_have_run(error, situation):
    situation |= {"began": True, "idempotent": False}
    assert decide(error, **situation) is Fate.END


@given(closed | st.just(NodeLost("a", "left")), situations)
def test_what_ran_on_a_node_that_left_in_order_moves_where_it_may_run_twice(error, situation):
    situation |= {"began": True, "idempotent": True}
    expected = Fate.MOVE if situation["moves"] < MOVES else Fate.END
    assert decide(error, **situation) is expected


@given(st.sampled_from(["died", "silent"]), st.booleans(), situations)
def test_what_kills_worker_after_worker_ends(cause, began, situation):
    """Also what has killed them before it began: by being opened."""
    situation |= {"began": began, "deaths": DEATHS, "faulty": True}
    assert decide(NodeLost("a", cause), **situation) is Fate.END


@given(own, situations)
def test_an_inputs_own_fault_is_tried_again_only_where_the_policy_names_it(error, situation):
    situation |= {"faulty": False, "tries": 1, "limit": 3, "idempotent": True}
    situation["policy"] = RetryPolicy(on=situation["policy"].on)
    expected = Fate.RETRY if set(error.kinds) & set(situation["policy"].on) else Fate.END
    if "PredictError" not in situation["policy"].on and "Exception" not in situation["policy"].on:
        assert decide(error, **situation) is expected


@given(st.one_of(own, invalid), situations)
def test_a_fault_of_the_node_and_a_wrong_answer_are_tried_again(error, situation):
    situation |= {"faulty": True, "tries": 1, "policy": RetryPolicy(), "limit": 2, "idempotent": True}
    assert decide(error, **situation) is Fate.RETRY
    assert decide(InvalidAnswer("no"), **situation | {"faulty": False}) is Fate.RETRY


@given(own)
def test_exception_names_every_error_and_nothing_names_none(error):
    assert named(RetryPolicy(on=("Exception",)), error)
    assert not named(RetryPolicy(), error)


@given(errors, situations)
def test_the_choice_is_pure(error, situation):
    before = (error.args, dict(vars(error)), dict(situation))
    assert decide(error, **situation) is decide(error, **situation)
    assert before == (error.args, dict(vars(error)), situation)
