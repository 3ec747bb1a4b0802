"""A worker that cannot be as it is asked for is refused before anything is started, in one line."""

from __future__ import annotations

import asyncio

import pytest

from altlas_flow.cluster.serve import check_worker, serve_worker
from altlas_flow.errors import BadRequest

WRONG = [
    {"name": " lead"},
    {"name": ""},
    {"name": "a\nb"},
    {"memory_limit": "lots"},
    {"memory_limit": "-5"},
    {"memory_limit": "nan"},
    {"memory_limit": "inf"},
    {"resources": {"GPU": -1.0}},
    {"resources": {"GPU": float("nan")}},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_what_cannot_be_is_an_error_of_one_line(options):
    with pytest.raises(BadRequest) as caught:
        asyncio.run(serve_worker("tcp://127.0.0.1:1", **options))
    assert "\n" not in str(caught.value)


def test_what_can_be_is_none():
    check_worker({})
    for limit in ("auto", "0", 0, "1 GiB", "0.5", None):
        check_worker({"name": "a", "memory_limit": limit, "nthreads": None, "resources": {"GPU": 0.0}})
