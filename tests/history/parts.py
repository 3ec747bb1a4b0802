"""Parts as clients tell them."""

from __future__ import annotations

import time

from altlas_flow.history.parts import Part


def part(numbers, **columns):
    """Completed tasks whose ids are these numbers, in hexadecimal."""
    count = len(numbers)
    said = {
        "model": "minilm",
        "node": "a",
        "status": "completed",
        "ids": [f"{number:032x}" for number in numbers],
        "submitted": [0.2] * count,
        "started": [0.1] * count,
        "ended": 0.01,
        "tries": 1,
        "error": None,
    }
    return Part("Client-a", 1_790_000_000.0, said | columns)


def prompt(true, limit=30.0):
    """Whether it becomes true in time: for what happens in another process, and announces nothing."""
    ends = time.monotonic() + limit
    while not true():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True
