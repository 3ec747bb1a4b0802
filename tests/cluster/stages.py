"""What tests of clusters share: models that do as their rows say, and ways to fill a cluster and watch it."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections import Counter

import dask

import altlas_flow as af
from tests.laboratory import LIMIT, until


def model(function, **fields):
    """A function as a model, under an id of its own."""
    return af.ModelSpec(id=f"{function.__name__}-{uuid.uuid4()}", source=function, **fields)


def echo(rows):
    return list(rows)


#: Workers of the fixture `four`.
FOUR = "abcd"

# ---------------------------------------------------------------- the stage


class Stage:
    """Models of other processes: what they are to do is in their rows, what they did is in files.

    A row is ``{"n": number, …}`` and is answered with its number. What else it may say, and is done in
    this order: ``wait``: for that gate; ``sleep``: so many seconds; ``kill``: the process; ``fail``: the name
    of an error to raise, ``once``: only the first time; ``wrong``: answer -1 the first time. Of rows that
    say something it is noted where they began and ended.
    """

    def __init__(self, folder):
        self.folder = folder

    def gate(self, name):
        """The file that opens a gate by being there."""
        return self.folder / f"gate-{name}"

    def open(self, gate="open"):
        """Open a gate; that of the name ``every`` stands for all."""
        self.gate(gate).touch()

    def await_running(self, *numbers):
        """Wait until rows run; the workers they ran on first."""
        until(lambda: set(numbers) <= {n for n, _ in self.book("began")})
        first = dict(reversed(self.book("began")))
        return [first[n] for n in numbers]

    def book(self, name):
        """What was noted: (number of the row, name of the worker), in order."""
        return [(n, worker) for n, worker, _ in self._lines(name)]

    @property
    def calls(self):
        """Of each call: (process, numbers of its rows)."""
        return self._lines("calls")

    @property
    def predicted(self):
        """Numbers of all rows in the order in which they were given to the model."""
        return [n for _, numbers in self.calls for n in numbers]

    def _lines(self, name):
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def model(self, **fields):
        return model(self.function(), **fields)

    def function(self):
        """What does as its rows say; no two are alike."""
        folder, limit, own = self.folder, LIMIT, uuid.uuid4().hex

        def act(rows, unlike=own):
            import builtins
            import json
            import os
            import signal
            import time

            where = os.environ.get("STAGE_NAME", "?")

            def note(book, *words):
                with open(folder / book, "a") as stream:
                    stream.write(json.dumps(words) + "\n")

            def do(row):
                if gate := row.get("wait"):
                    end = time.monotonic() + limit
                    while not ((folder / f"gate-{gate}").exists() or (folder / "gate-every").exists()):
                        assert time.monotonic() < end
                        time.sleep(0.002)
                if "sleep" in row:
                    time.sleep(row["sleep"])
                if row.get("kill"):
                    os.kill(os.getpid(), signal.SIGKILL)
                mark = folder / f"done-{row['n']}"
                first = not mark.exists()
                mark.touch()
                if "fail" in row and (first or not row.get("once")):
                    raise getattr(builtins, row["fail"])(f"row {row['n']} fails")
                return -1 if row.get("wrong") and first else row["n"]

            note("calls", os.getpid(), [row["n"] for row in rows])
            answers = []
            for row in rows:
                if len(row) == 1:  # thousands of these are to take next to nothing
                    answers.append(row["n"])
                    continue
                note("began", row["n"], where, os.getpid())
                answers.append(do(row))
                note("ended", row["n"], where, os.getpid())
            return answers

        return act


def named(names, **options):
    """Workers whose models know where they run."""
    return {name: {**options, "env": {"STAGE_NAME": name, **options.get("env", {})}} for name in names}


# ---------------------------------------------------------------- what is under way


def quiet(lab):
    """Wait until nothing of earlier tests is under way."""
    lab.until(lambda info: info["in_flight"] == {} and info["envelopes"] == 0 and info["held"] == {})


def over(lab):
    """Nothing is left of any request: all that was leased has come back."""
    lab.until(
        lambda info: (
            info["envelopes"] == 0
            and info["held"] == {}
            and info["in_flight"] == {}
            and info["parked"] == 0
            and info["faults"] == 0
        )
    )
    return True


def held(lab, count):
    """Wait until the clients say that they hold back so many requests."""
    lab.until(lambda info: sum(many for one in info["held"].values() for many in one.values()) == count)


def waiting_rows(lab):
    """Rows without an outcome, of works that wait on the workers."""
    states = lab.client.run(lambda dask_worker: dask_worker.plugins["altlas-host"].host.state())
    return sum(state["waiting_rows"] for state in states.values())


def sent_ahead(lab):
    """Per worker's name, how many large inputs lie on it."""

    def look(dask_scheduler):
        held = [ts for ts in dask_scheduler.tasks.values() if ts.state == "memory" and ts.nbytes > 1e6]
        return Counter(ws.name for ts in held for ws in ts.who_has)

    return lab.client.run_on_scheduler(look)


def await_ahead(lab, count):
    """Wait until so many large inputs lie on workers, and say which worker has most of them."""
    until(lambda: sent_ahead(lab).total() >= count, instead=lambda: (sent_ahead(lab), lab.info()))
    return sent_ahead(lab).most_common(1)[0][0]


# ---------------------------------------------------------------- clients


@contextlib.contextmanager
def another(lab, **settings):
    """A flow of another client on the same cluster."""
    with (
        dask.config.set({f"altlas.{key.replace('_', '-')}": value for key, value in settings.items()}),
        af.connect(lab.cluster.scheduler_address) as flow,
    ):
        yield flow


def fill(lab, gate, count=2, flow=None):
    """Requests that run, and wait behind them, until the gate ``fill`` opens."""
    quiet(lab)
    spec = gate.model()
    flow = flow or lab.flow
    handles = [flow.submit(spec, {"n": 0, "wait": "fill"})]
    gate.await_running(0)
    handles += [flow.submit(spec, {"n": i, "wait": "fill"}) for i in range(1, count)]
    until(lambda: all(handle.future is not None for handle in handles))
    return handles


def together(flow, spec):
    """Have requests of a model travel together, as if it were known to be fast."""
    flow._transport._dispatch._pace.observe(spec.fingerprint, 10**6, 0.01)


def in_one_envelope(flow, spec, inputs, **options):
    """Requests that travel together: the client's loop stands still until all of them are there."""
    # a row takes next to nothing, as this shows: many may travel together
    flow.submit(spec, [{"n": -1}] * 2000).result(LIMIT)
    stands, goes_on = threading.Event(), threading.Event()
    flow.client.loop.add_callback(lambda: (stands.set(), goes_on.wait(LIMIT)))
    assert stands.wait(LIMIT)
    try:
        handles = [flow.submit(spec, item, **options) for item in inputs]
    finally:
        goes_on.set()
    return handles
