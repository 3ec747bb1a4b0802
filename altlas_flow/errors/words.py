"""How errors are put into words, and what caused them."""

from __future__ import annotations

from collections.abc import Iterable


def text_of(value: object) -> str:
    """``str(value)``; the name of its type where it cannot say."""
    try:
        return str(value)
    except Exception:
        # an error of somebody else's code may have a __str__ that fails, with any error at all
        return type(value).__name__


def one_line(value: object, limit: int = 500) -> str:
    """Text of `value` on one line, cut at `limit` characters."""
    # what stands for bytes of a file name is no text, and would break whatever it is sent by
    text = " ".join(text_of(value).encode("utf-8", "replace").decode().split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def root_cause(error: BaseException) -> BaseException:
    """The first error of the chain that ended in `error`."""
    seen = {id(error)}
    while True:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:
            return error
        seen.add(id(cause))
        error = cause


def kinds_of(error: BaseException) -> tuple[str, ...]:
    """Names of the types of an error and of what caused it, bases included."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        found.update(dict.fromkeys(kind.__name__ for kind in type(now).__mro__[:-1]))
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return tuple(found)


def names(known: Iterable[object], limit: int = 10) -> str:
    """A short list of what is known, for messages."""
    items = [str(item) for item in known]
    shown = ", ".join(items[:limit]) or "none"
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")
