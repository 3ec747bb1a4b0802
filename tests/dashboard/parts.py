"""What clients tell of requests that are over."""

from __future__ import annotations


def part(model="m", took=(0.1,), *, status="completed", node="n", tries=1, queue=0.0, **more):
    """Requests that took so many seconds, and ended now."""
    return {
        "model": model,
        "node": node,
        "status": status,
        "ids": [f"r{at}" for at in range(len(took))],
        "submitted": list(took),
        "started": [one - queue for one in took],
        "ended": 0.0,
        "tries": tries,
        "error": None if status != "error" else "ValueError: no",
        **more,
    }
