"""Log lines: an event is one line, whatever it is about."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest

from altlas_flow.errors import PredictError
from altlas_flow.logs import (
    JsonFormatter,
    _Installed,
    event,
    extra,
    hold,
    install,
    printable,
    release,
    unchanged,
)

FORGED = 'a\n{"event": "forged"}\r\x1b[31m\x00\u2028\x85b'


@pytest.fixture
def log():
    """A logger of its own, and what it has written."""
    logger, stream = logging.Logger("altlas_flow.tests"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    return logger, lambda: [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


def test_an_event_is_a_line_with_what_it_is_about(log):
    logger, lines = log
    event(logger, logging.INFO, "request failed", "request %s of %s", "r1", "m", request_id="r1", node=None)
    (line,) = lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "altlas_flow.tests",
        "event": "request failed",
        "message": "request r1 of m",
        "request_id": "r1",
    }


def test_a_line_of_any_other_kind_is_one_too(log):
    logger, lines = log
    logger.warning("%d of %s", 3, "x")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it failed")
    logger.error("does not fit %d", "x")
    first, second, third = lines()
    assert (first["event"], first["message"], first["level"]) == ("log", "3 of x", "WARNING")
    assert second["exception"].startswith("Traceback") and second["exception"].endswith("two\nlines")
    assert third["message"] == "does not fit %d"


def test_nothing_that_is_logged_can_begin_a_line_of_its_own(log):
    logger, lines = log
    event(
        logger,
        logging.INFO,
        "request failed",
        "request %s: %s",
        FORGED,
        PredictError(FORGED, FORGED),
        id=FORGED,
    )
    logger.info(FORGED, extra={"node": FORGED})
    first, second = lines()
    assert first["event"] == "request failed" and "\n" not in first["message"]
    assert first["id"] == second["node"] == second["message"] == FORGED  # as it was, in its place
    text = logging.Formatter("%(message)s")
    plain = io.StringIO()
    logger.handlers[0].setFormatter(text)
    logger.handlers[0].setStream(plain)
    event(logger, logging.INFO, "request failed", "request %s: %s", FORGED, PredictError(FORGED, FORGED))
    assert len(plain.getvalue().splitlines()) == 1
    assert plain.getvalue().strip().isprintable()


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a b", "a b"), ("a\n b\t", "a b"), ("\x1b[31m", "\\u001b[31m"), ("\u202e", "\\u202e"), (7, "7")],
)
def test_what_is_shown_is_one_line_that_steers_no_terminal(given, shown):
    assert printable(given) == shown


def test_values_that_json_has_not_become_text(log):
    logger, lines = log
    said = {
        "a": float("nan"),
        "b": {1: 2},
        "c": [1, None, object],
        "d": 1.5,
        "e": True,
        "f": b"x",
        "g": "\ud800",
    }
    event(logger, logging.INFO, "odd", "odd", **said)
    (line,) = lines()
    assert line["a"] == "nan" and line["b"] == "{1: 2}" and line["c"] == [1, None, "<class 'object'>"]
    assert line["d"] == 1.5 and line["e"] is True and line["f"] == "b'x'"


def test_names_that_records_have_anyway_are_told_apart(log):
    logger, lines = log
    event(logger, logging.INFO, "odd", "odd", name="n", module="m", message="x", node="a")
    (line,) = lines()
    assert (line["name_"], line["module_"], line["message_"], line["node"]) == ("n", "m", "x", "a")
    assert line["logger"] == "altlas_flow.tests" and line["message"] == "odd"
    assert extra("x", event="y") == {"altlas": {"event": "x", "event_": "y"}}


def test_what_nobody_wants_is_not_even_put_together(log):
    class Costly:
        def __str__(self):
            raise AssertionError("nobody wants it")

    logger, lines = log
    logger.setLevel(logging.WARNING)
    event(logger, logging.INFO, "odd", "%s", Costly())
    assert lines() == []


class Wordless:
    def __str__(self):
        raise AttributeError("no words")

    __repr__ = __str__


class Refuses(dict):
    def __getitem__(self, key):
        raise RuntimeError("not today")


def endless():
    found = [1]
    found.append(found)
    return found


@pytest.mark.parametrize(
    "args",
    [("x %s", Wordless()), (Wordless(),), ("%(a)s", Refuses(a=1)), ("half \ud800",), ("%s", "\ud800"), (7,)],
    ids=range(6),
)
def test_whatever_is_logged_is_one_line_of_json(log, args):
    logger, lines = log
    logger.info(*args)
    (line,) = lines()
    assert line["level"] == "INFO" and line["event"] == "log" and isinstance(line["message"], str)
    line["message"].encode()  # whole signs only


@pytest.mark.parametrize(
    "value",
    [Wordless(), [Wordless()], 10**5000, [10**5000], endless(), Refuses(a=1), "\ud800", float("inf")],
    ids=range(8),
)
def test_whatever_it_is_about_is_in_one_line_of_json(log, value):
    logger, lines = log
    event(logger, logging.INFO, "odd", "odd", value=value)
    logger.info("odd", extra={"value": value})
    first, second = lines()
    assert first["value"] == second["value"] and first["message"] == "odd"
    json.dumps(first, ensure_ascii=False).encode()


def test_a_record_that_somebody_made_by_hand_is_one_line(log):
    logger, lines = log
    logger.handle(
        logging.makeLogRecord({"msg": "odd", "levelno": 20, "created": "noon", "exc_info": True, "altlas": 7})
    )
    assert lines()[0]["message"] == "odd"


def test_keys_of_ours_are_taken_by_nobody_else(log):
    logger, lines = log
    theirs = {
        "level": "GOLD",
        "time": "noon",
        "logger": "me",
        "exception": None,
        "event": "theirs",
        "stack": 1,
    }
    logger.info("x", extra=theirs, stack_info=True)
    event(logger, logging.INFO, "odd", "odd", level="GOLD", time="noon", logger="me")
    first, second = lines()
    assert (first["level"], first["logger"], first["event"]) == ("INFO", "altlas_flow.tests", "theirs")
    assert first["time"].endswith("+00:00") and "exception" not in first
    assert first["level_"] == second["level_"] == "GOLD" and second["level"] == "INFO"
    assert first["stack"].startswith("Stack (most recent call last)") and first["stack_"] == 1


def setting(**fields):
    """A record factory that has each record bear what the user wants to see in each."""
    before = logging.getLogRecordFactory()

    def make(*args, **kwargs):
        record = before(*args, **kwargs)
        vars(record).update(fields)
        return record

    return make


@pytest.fixture
def factory():
    before = logging.getLogRecordFactory()
    yield logging.setLogRecordFactory
    logging.setLogRecordFactory(before)


def test_what_factories_of_the_users_set_stands_beside_what_is_ours(log, factory):
    logger, lines = log
    factory(setting(request_id="web-17", event="theirs"))
    event(logger, logging.INFO, "odd", "odd", request_id="r1")
    unchanged(logger, logging.INFO, "odd", "odd", request_id="r1")
    for line in lines():
        assert (line["event"], line["request_id"]) == ("odd", "r1")
        assert (line["event_"], line["request_id_"]) == ("theirs", "web-17")


@pytest.mark.parametrize("tell", [event, unchanged])
def test_telling_never_raises(log, factory, tell, capsys):
    logger, lines = log

    def refuse(record):
        raise RuntimeError("no line today")

    logger.addFilter(refuse)
    tell(logger, logging.INFO, "odd", "odd")
    logger.removeFilter(refuse)
    factory(setting(altlas="taken"))
    tell(logger, logging.INFO, "odd", "odd")
    factory(refuse)
    tell(logger, logging.INFO, "odd", "odd")
    assert lines() == []


TAKEN = """
import io, json, logging, sys
from altlas_flow.logs import hold, install, release

ours, mine, stream = logging.getLogger("altlas_flow"), logging.Formatter("MINE %(message)s"), io.StringIO()
handler = logging.StreamHandler()
handler.setFormatter(mine)
ours.addHandler(handler)
logging.basicConfig(level=logging.INFO, stream=stream, format="ROOT %(message)s")
for _ in range(2):
    hold("json")
    hold("text")
    hold("json")
    ours.info("told")
    assert handler.formatter is mine and len(ours.handlers) == 2 and not ours.propagate
    release("text")
    release("json")
    ours.info("still")
    release("json")
    ours.info("plain")
    assert ours.handlers == [handler] and ours.propagate and ours.level == logging.NOTSET
assert stream.getvalue() == "ROOT plain\\n" * 2
"""


def test_what_it_took_of_a_foreign_program_it_gives_back():
    done = subprocess.run(
        [sys.executable, "-c", TAKEN], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line[0] != "{"] == ["MINE told", "MINE still", "MINE plain"] * 2
    assert [json.loads(line)["message"] for line in lines if line[0] == "{"] == ["told", "still"] * 2


THEIRS = """
import logging
from altlas_flow.logs import JsonFormatter, hold, release

handler = logging.StreamHandler()
handler.setFormatter(JsonFormatter())
logging.getLogger().addHandler(handler)
ours = logging.getLogger("altlas_flow")
for _ in range(2):
    hold("json")
    hold("json")
    ours.info("told")
    release("json")
    ours.info("still")
    release("json")
    ours.info("nobody wants this")
    assert not ours.handlers and ours.propagate and ours.level == logging.NOTSET
hold("json")
ours.propagate = False  # that was nobody's but the user's
release("json")
assert not ours.propagate and ours.level == logging.NOTSET
ours.propagate = True
hold("json")
logging.getLogger().removeHandler(handler)
hold("json")
release("json")
release("json")
assert not ours.handlers and ours.propagate and ours.level == logging.NOTSET
"""


def test_where_the_program_writes_json_already_only_the_level_is_changed_and_given_back():
    done = subprocess.run(
        [sys.executable, "-c", THEIRS], capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["told", "still"] * 2


ANEW = """
import logging, logging.config
from altlas_flow.logs import hold, release

ours = logging.getLogger("altlas_flow.x")
hold("json")
ours.info("told")
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"theirs": {"format": "THEIRS %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "theirs"}},
    "root": {"handlers": ["out"]},
    "loggers": {"altlas_flow": {"level": "INFO"}},
})
release("json")
ours.info("shown")
assert ours.parent.propagate and ours.parent.level == logging.INFO and not ours.parent.handlers
hold("json")
ours.parent.handlers.clear()
hold("json")
ours.info("told again")
release("json")
release("json")
ours.info("shown again")
"""


def test_where_the_program_sets_logging_up_anew_our_lines_go_where_that_says():
    done = subprocess.run(
        [sys.executable, "-c", ANEW], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [json.loads(line)["message"] for line in lines if line[0] == "{"] == ["told", "told again"]
    assert [line for line in lines if line[0] != "{"] == ["THEIRS shown", "THEIRS shown again"]


INSTALLED = """
import logging, sys
from altlas_flow.logs import install

kept = logging.FileHandler(sys.argv[1])
logging.getLogger("altlas_flow").addHandler(kept)
install("text")
assert kept.formatter is None and logging.getLogger("altlas_flow").level == logging.NOTSET
logging.basicConfig(format="plain %(message)s")
whole = sys.argv[2] == "whole"
install("json", whole=whole)
install("json", whole=whole)
logging.getLogger("altlas_flow.x").info("ours", extra={"event": "e", "node": "n"})
import distributed
logging.getLogger("distributed.scheduler").warning("theirs")
logging.getLogger("other").warning("other")
"""


@pytest.mark.parametrize("whole", [False, True])
def test_installed_it_changes_our_own_lines_and_in_our_programs_all(tmp_path, whole):
    file = tmp_path / "kept.log"
    code = INSTALLED.replace("import distributed\n", "") if not whole else INSTALLED
    if whole:
        code = "import distributed\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), "whole" if whole else "ours"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert file.read_text() == "ours\n"  # a file of the user's is as it was
    assert [json.loads(line)["node"] for line in lines if '"ours"' in line] == ["n"]
    others = [line for line in lines if '"ours"' not in line]
    if whole:
        assert [json.loads(line)["message"] for line in others] == ["theirs", "other"]
    else:
        assert others == ["plain theirs", "plain other"]


def test_text_changes_nothing_and_nothing_changes_it_in_a_program_of_ours(monkeypatch):
    monkeypatch.setattr(_Installed, "text", False)
    ours = logging.getLogger("altlas_flow")
    before = list(ours.handlers), ours.level, ours.propagate
    install("text", whole=True)
    install("json")  # of a flow that uses it
    hold("json")
    assert (list(ours.handlers), ours.level, ours.propagate) == before
    release("json")
    assert (list(ours.handlers), ours.level, ours.propagate) == before


NESTED = """
import logging, sys
from altlas_flow.logs import ProgramHandler, hold, install, release

ours = logging.getLogger("altlas_flow")
ours.addHandler(ProgramHandler())
install("json")  # a worker, for as long as it lives
hold("json")  # a model on it opens a flow of its own
release("json")
ours.warning("still")
release("json")
hold("json")
release("json")
ours.warning("still")
"""


def test_a_flow_that_closes_takes_nothing_from_a_worker_that_it_did_not_give():
    done = subprocess.run(
        [sys.executable, "-c", NESTED], capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["still", "still"]
