"""What stands between models that speak; pipeline files name it, so workers have to import it."""

from __future__ import annotations

from typing import Any


def answer_in_one_sentence(heard: str) -> dict[str, Any]:
    """What was heard as a chat, which goes through the model's own template."""
    return {"messages": [{"role": "user", "content": f"Answer in one sentence: {heard.strip()}"}]}
