"""What deserves a warning, and what does not."""

from __future__ import annotations

import random
import re

from altlas_flow.nodes.unusual import PAST, QUIET, REFUSALS, WINDOW, WITHIN, Unusual


def live(unusual, rates, shares, *, start=0.0, seed=0):
    """A client that lives for one window each; what was said of it."""
    rng, now, said = random.Random(seed), start, []
    for rate, share in zip(rates, shares, strict=True):
        for _ in range(10):
            requests = round(rate * WINDOW / 10 * rng.uniform(0.8, 1.2))
            said += unusual.ended("c", requests, round(requests * share), now)
            now += WINDOW / 10
    said += unusual.ended("c", 0, 0, now)
    return said


def test_the_fifth_refused_join_of_an_address_within_a_minute_is_said_once():
    unusual = Unusual()
    said = [unusual.refused("10.0.0.7", float(n)) for n in range(3 * REFUSALS)]
    assert [one is not None for one in said] == [n == REFUSALS - 1 for n in range(3 * REFUSALS)]
    assert "10.0.0.7" in said[REFUSALS - 1]
    assert unusual.refused("10.0.0.7", QUIET + REFUSALS) is None  # long ago
    slow = [unusual.refused("10.0.0.8", n * WITHIN) for n in range(3 * REFUSALS)]
    assert slow == [None] * len(slow)


def test_a_client_as_it_always_was_is_never_said():
    assert live(Unusual(), [50.0] * 100, [0.02] * 100) == []


def test_a_client_that_slowly_grows_is_never_said():
    assert live(Unusual(), [10 * 1.05**n for n in range(100)], [0.0] * 100) == []


def test_a_rate_far_from_its_own_past_is_said():
    (said,) = live(Unusual(), [20.0] * 20 + [2000.0], [0.0] * 21)
    assert re.search(r"sends (19|20)\d\d\.\d .* used to send (19|20)\.\d", said)


def test_an_error_share_far_from_its_own_past_is_said():
    (said,) = live(Unusual(), [50.0] * 21, [0.01] * 20 + [0.9])
    assert "90% fail" in said and "1% used to" in said


def test_a_client_without_a_past_is_not_judged():
    assert live(Unusual(), [1.0] * (PAST - 2) + [5000.0], [0.0] * (PAST - 1)) == []


def test_a_client_that_left_begins_anew():
    unusual = Unusual()
    live(unusual, [20.0] * 20, [0.0] * 20)
    unusual.left("c")
    assert live(unusual, [2000.0] * 3, [0.0] * 3, start=1000.0) == []
