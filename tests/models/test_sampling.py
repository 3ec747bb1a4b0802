"""Which token comes next."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from altlas_flow.errors import ParameterError
from altlas_flow.models.runtimes.sampling import Sampling

SCORES = torch.tensor([0.0, 3.0, 2.0, -math.inf, 1.0])


def drawn(count: int, **parameters: Any) -> Counter[int]:
    """How often each token is drawn."""
    sampling = Sampling.of({"temperature": 1.0, "seed": 7, **parameters})
    generator = sampling.generator()
    return Counter(sampling.choose(SCORES.unsqueeze(0), [generator])[0] for _ in range(count))


def test_without_a_temperature_the_likeliest_token_comes() -> None:
    greedy = Sampling.of({"seed": 1})
    assert greedy.generator() is None
    assert greedy.choose(torch.stack([SCORES, -SCORES]), [None, None]) == [1, 3]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3])
def test_tokens_come_as_often_as_their_scores_say(temperature: float) -> None:
    count = 4000
    found = drawn(count, temperature=temperature)
    weights = np.exp(SCORES.numpy().astype(float) / temperature)
    expected = weights / weights.sum()
    # five standard deviations
    for token, chance in enumerate(expected.tolist()):
        assert abs(found[token] - count * chance) <= 5 * math.sqrt(count * chance * (1 - chance)) + 1e-9


def test_a_temperature_close_to_nothing_and_scores_of_half_precision_are_no_trouble() -> None:
    sampling = Sampling.of({"temperature": 1e-300, "seed": 0})
    assert sampling.choose(SCORES.unsqueeze(0).bfloat16(), [sampling.generator()]) == [1]


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [
        ({"top_k": 2}, {1, 2}),
        ({"top_k": 1}, {1}),
        ({"top_k": 100}, {0, 1, 2, 4}),
        ({"top_p": 0.5}, {1}),
        ({"top_p": 0.7}, {1, 2}),
        ({"top_p": 1.0}, {0, 1, 2, 4}),
        ({"top_k": 3, "top_p": 0.99}, {1, 2, 4}),
    ],
)
def test_only_the_likeliest_tokens_are_drawn_from(parameters: dict[str, Any], tokens: set[int]) -> None:
    assert set(drawn(600, **parameters)) == tokens


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    scores = torch.zeros(1, 10_000)

    def chain(seed: int | None) -> list[int]:
        sampling = Sampling.of({"temperature": 1.0, "seed": seed})
        generator = sampling.generator()
        return [sampling.choose(scores, [generator])[0] for _ in range(5)]

    assert chain(3) == chain(3) != chain(4)
    assert chain(None) != chain(None)


def test_scores_that_are_no_numbers_are_a_fault() -> None:
    with pytest.raises(ArithmeticError, match="no numbers"):
        Sampling().choose(torch.tensor([[0.0, math.nan]]), [None])


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"temperature": -0.1}, "'temperature' is a number from 0"),
        ({"temperature": math.nan}, "'temperature'"),
        ({"temperature": "hot"}, "not 'hot'"),
        ({"temperature": True}, "not True"),
        ({"top_p": 0}, "'top_p' is a number above 0, at most 1, not 0"),
        ({"top_p": 1.5}, "'top_p'"),
        ({"top_k": 0}, "'top_k' is a whole number of at least 1"),
        ({"top_k": 2.0}, "'top_k'"),
        ({"seed": -1}, "'seed' is a whole number from 0"),
        ({"seed": 2**63}, "'seed'"),
        ({"max_new_tokens": 0}, "'max_new_tokens' is a whole number of at least 1, not 0"),
        ({"max_new_tokens": 2.5}, "'max_new_tokens'"),
        ({"stop": ""}, "'stop' is a text"),
        ({"stop": ["a", 1]}, "'stop'"),
        ({"stop": 5}, "not 5"),
        ({"stop": ["a"] * 65}, "at most 64"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_the_bounds(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        Sampling.of(parameters, "model 'm'")


def test_what_is_not_given_or_none_is_as_it_is_by_itself() -> None:
    assert Sampling.of({"temperature": None, "stop": None, "seed": None}) == Sampling()
    assert Sampling.of({"stop": "end", "top_k": np.int64(3)}) == Sampling(stop=("end",), top_k=3)
