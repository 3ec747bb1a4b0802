"""Log lines: one event a line, in words for people, or as JSON for programs.

Everything goes through Python's ``logging``, to loggers below ``altlas_flow``. What an event is about
(``request_id``, ``model``, ``node``, ...) goes with its record as one attribute, ``altlas``, a dict: names of
its own would collide with what the user's record factories set. A formatter of anybody's finds it there, and
the text names it, too.

Telling never raises: filters, handlers and record factories are the user's.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from altlas_flow.errors import one_line

#: What every record has; all else that stands in one was said of an event.
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
#: The one attribute by which records of ours differ from others.
SAID = "altlas"
#: Keys of a line in JSON that nothing else may take.
_OWN = frozenset({"time", "level", "logger", "event", "message", "exception", "stack"})
#: Lists within lists that stay lists; a list may hold itself.
DEPTH = 3
#: Bits of the largest number that JSON lines have; Python refuses to write longer ones.
BITS = 1_024
#: Characters of a value, and of a message with its traceback.
LONG, LONGEST = 2_000, 20_000
#: Stands for a message in JSON lines, where its text is not for people to read.
TEXT = "altlas_text"


def event(logger: logging.Logger, level: int, name: str, text: str, /, *args: Any, **fields: Any) -> None:
    """Log an event; costs next to nothing where nobody wants it.

    Parameters
    ----------
    logger : logging.Logger
    level : int
    name : str
        Of the event, such as ``request failed``.
    text, *args
        As `logging` takes them; texts among `args` cannot begin lines of their own, or steer a terminal.
    **fields
        What it is about; those that are None are left out.
    """
    try:
        if logger.isEnabledFor(level):
            shown = (printable(arg) if isinstance(arg, (str, BaseException)) else arg for arg in args)
            logger.log(level, text, *shown, extra=extra(name, **fields), stacklevel=2)
    except Exception:
        # whatever filters, handlers and record factories of the user's raise: it must not cost an answer
        _lost(name)


def unchanged(logger: logging.Logger, level: int, name: str, text: str, /, *args: Any, **fields: Any) -> None:
    """As `event`, with `args` as they are: for those that filters look at, or that are JSON already."""
    try:
        logger.log(level, text, *args, extra=extra(name, **fields), stacklevel=2)
    except Exception:
        # as in `event`
        _lost(name)


def extra(name: str, /, **fields: Any) -> dict[str, Any]:
    """What goes with the record of an event."""
    said = {
        f"{key}_" if key in _STANDARD or key == "event" else key: value
        for key, value in fields.items()
        if value is not None
    }
    return {SAID: {"event": name, **said}}


class _Lost:
    """Lines that could not be told."""

    count = 0


def _lost(name: str) -> None:
    """Say the first time why a line is lost, where `logging` itself says such things."""
    _Lost.count += 1
    if _Lost.count > 1 or not logging.raiseExceptions:
        return
    try:
        print(f"altlas_flow: the log line {name!r} is lost, as may be others:", file=sys.stderr)
        traceback.print_exc()
    except Exception:
        pass  # there is no standard error: nobody can be told


def printable(value: object) -> str:
    """Text of `value` on one line, without what steers a terminal."""
    text = one_line(value)
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    Keys are ``time`` (UTC), ``level``, ``logger``, ``event`` (``log`` where the record names none) and
    ``message``; then what it is about, such as ``request_id``, ``model``, ``node``, ``task``; and
    ``exception`` with its traceback, ``stack`` where the caller wants that. What others say of a record by
    one of these names has a ``_`` after it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; nothing but ASCII, so that nothing in it can begin another one."""
        try:
            return json.dumps(self._line(record))
        except Exception:
            # what people log may raise anything wherever it is looked at: a line is a line
            return json.dumps(
                {
                    "time": _time(record),
                    "level": _told(record.levelname),
                    "logger": _told(record.name),
                    "event": "log",
                    "message": _told(record.msg),
                }
            )

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        others = {key: value for key, value in vars(record).items() if key not in _STANDARD and key != SAID}
        said = getattr(record, SAID, None)
        ours = dict(said) if isinstance(said, dict) else {}
        name = ours.pop("event", "log") if ours else others.pop("event", "log")
        line: dict[str, Any] = {
            "time": _time(record),
            "level": _told(record.levelname),
            "logger": _told(record.name),
            "event": _told(name),
            "message": _text(ours.pop(TEXT, None) or _message(record), LONGEST),
        }
        for key, value in (*ours.items(), *others.items()):
            free = _told(key)
            while free in line or free in _OWN:
                free += "_"
            line[free] = _told(value)
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            line["exception"] = _text(self.formatException(record.exc_info)[-LONGEST:], LONGEST)
        elif record.exc_text:
            line["exception"] = _text(record.exc_text[-LONGEST:], LONGEST)
        if record.stack_info:
            line["stack"] = _text(self.formatStack(record.stack_info)[-LONGEST:], LONGEST)
        return line


def _time(record: logging.LogRecord) -> str:
    try:
        when = datetime.fromtimestamp(record.created, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        when = datetime.now(UTC)  # of a record that somebody made by hand
    return when.isoformat(timespec="milliseconds")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        # of a caller whose arguments do not fit the text, or have none
        return str(_told(record.msg))


def _text(text: str, limit: int) -> str:
    """Text that every reader of JSON takes: half of a surrogate pair is none."""
    return text[:limit].encode("utf-8", "replace").decode()


def _told(value: Any) -> Any:
    """A value that JSON has, whatever looking at it raises."""
    try:
        return _plain(value, DEPTH)
    except Exception:
        # there is no text of it
        return f"<{type(value).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        bits = value.bit_length()
        return int(value) if bits <= BITS else f"<int of {bits} bits>"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value, LONG)
    if isinstance(value, (list, tuple)) and depth:
        return [_plain(item, depth - 1) for item in value[:100]]
    return one_line(value, LONG)


class ProgramHandler(logging.StreamHandler[Any]):
    """What a program of ours begins with: lines on standard error that are ours to change."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))


@dataclass
class _Taken:
    """What was done to the logger ``altlas_flow`` of somebody else's program, and how it was before."""

    handler: logging.Handler | None  # none where JSON was written already
    propagate: bool
    level: int
    formatter: logging.Formatter | None = None  # of a handler that was there


class _Installed:
    """What this program writes."""

    lock = threading.Lock()
    whole = False
    taken: _Taken | None = None
    flows = 0  # that are open and want JSON
    text = False  # it is ours, and whoever runs it wants text: no flow that uses it changes that
    held = False  # whether they have what was taken, and not a worker or scheduler in this program


def hold(kind: str) -> None:
    """A flow opens that wants lines of this kind; with the first that wants JSON they begin."""
    if kind == "json":
        with _Installed.lock:
            _Installed.flows += 1
            before = _Installed.taken
            if not _Installed.text:
                _install(whole=False)
            _Installed.held = _Installed.held or _Installed.taken is not before


def release(kind: str) -> None:
    """It closes; with the last one that wants JSON this program's own lines are again as they were."""
    if kind == "json":
        with _Installed.lock:
            _Installed.flows = max(0, _Installed.flows - 1)
            if not _Installed.flows and _Installed.held and not _Installed.whole:
                _Installed.held = False
                _give_back(logging.getLogger("altlas_flow"))


def install(kind: str, *, whole: bool = False) -> None:
    """Have this program write JSON lines to standard error; may be called again.

    Parameters
    ----------
    kind : str
        ``json``; with ``text`` nothing changes, and in a program that is ours nothing changes it later.
    whole : bool
        The program is ours: all that it logs becomes JSON lines, Dask's own as well. Otherwise only what
        goes to the logger ``altlas_flow``: it gets a handler of ours, and passes nothing on to the root
        logger; other loggers, and handlers of others, stay as they are.
    """
    with _Installed.lock:
        if whole:
            _Installed.text = kind == "text"
        if kind == "json" and not _Installed.text:
            _install(whole=whole)


def _install(*, whole: bool) -> None:
    ours = logging.getLogger("altlas_flow")
    level = ours.level
    if level == logging.NOTSET:
        ours.setLevel(logging.INFO)
    if whole:
        _Installed.whole = True
        root = logging.getLogger()
        if not root.handlers:
            root.addHandler(logging.StreamHandler())
        for name in (None, "distributed", "bokeh", "tornado", "altlas_flow"):
            _say_json(logging.getLogger(name))
    if not _says_json(ours):
        _take(ours, level)
    elif _Installed.taken is None and not whole and level == logging.NOTSET:
        _Installed.taken = _Taken(None, ours.propagate, level)


def _take(ours: logging.Logger, level: int) -> None:
    propagate = ours.propagate
    if _Installed.taken is not None:  # as they were before the first flow
        propagate, level = _Installed.taken.propagate, _Installed.taken.level
    for own in ours.handlers:
        if isinstance(own, ProgramHandler):
            _Installed.taken = _Taken(own, propagate, level, own.formatter)
            own.setFormatter(JsonFormatter())
            return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    _Installed.taken = _Taken(handler, propagate, level)
    ours.addHandler(handler)
    ours.propagate = False  # whoever has set up the root logger would get each line twice


def _give_back(ours: logging.Logger) -> None:
    """As it was before, but for what others have changed since."""
    taken, _Installed.taken = _Installed.taken, None
    if taken is None:
        return
    # whoever sets logging up anew takes handlers out, leaves `propagate`, and means the level
    anew = taken.handler is not None and taken.handler not in ours.handlers
    if taken.handler is not None and taken.formatter is not None:
        taken.handler.setFormatter(taken.formatter)
    elif taken.handler is not None:
        ours.removeHandler(taken.handler)
    if taken.handler is not None and not ours.propagate:
        ours.propagate = taken.propagate
    if ours.level == logging.INFO and not anew:
        ours.setLevel(taken.level)


def _say_json(logger: logging.Logger) -> None:
    """What a logger writes to this program's output becomes JSON; files are left as they are."""
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stderr, sys.stdout):
            handler.setFormatter(JsonFormatter())


def _says_json(logger: logging.Logger | None) -> bool:
    while logger is not None:
        if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
