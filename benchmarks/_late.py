"""A worker that joins late, where work waits for it: how soon it helps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _commands
from benchmarks._sent import HOLD_LIMIT, hold

MODEL = "minilm"
FIRST = "first"
#: Requests that wait when the worker joins.
WAITING = 4


@dataclass(frozen=True)
class Arrival:
    """Seconds.

    Attributes
    ----------
    program, joined : float
        From the start of the worker's program, and from the moment at which the scheduler took it in, to
        the first answer from it.
    load : float
        Of that, what loading the model took, as the answer says.
    """

    program: float
    joined: float
    load: float

    @property
    def beyond(self) -> float:
        """From joining to the first answer, without loading."""
        return self.joined - self.load


def measure(folder: Path, runs: int) -> Iterator[Arrival]:
    """Fill a cluster of one worker, let requests wait, and add a worker; so many times.

    What fills the cluster waits for a file and uses no core, so that the late worker is not slowed by it.
    The first worker has loaded the model before: its files, and the libraries, are in the page cache.

    Raises
    ------
    ContestantFailed, ValueError
        Where it takes longer than any wait may, or an answer comes from elsewhere.
    """
    import altlas_flow as af

    spec = af.ModelSpec(id="hold", runtime="function", source=hold)
    with (
        _commands.cluster(folder, [FIRST]) as cluster,
        af.connect(cluster.address, models=[spec]) as flow,
    ):
        cluster.await_online(flow, FIRST)
        flow.submit(MODEL, "the first worker loads it").result(2 * _commands.LIMIT)
        for run in range(runs):
            gate = folder / f"gate-{run}"
            held = [flow.submit(spec.id, str(gate))]
            cluster.until("the first worker busy", lambda held=held: held[0].status == "running")
            # a slot's second place is taken, too: no envelope waits where the late worker cannot get it
            held.append(flow.submit(spec.id, str(gate)))
            cluster.until("no place left", lambda: flow.node(FIRST).in_flight == 2)
            try:
                yield _arrive(cluster, flow, f"late-{run}")
            finally:
                gate.touch()
            for handle in held:
                handle.result(HOLD_LIMIT)
            cluster.remove(f"late-{run}")
            cluster.until("only the first worker", lambda: [info.node_id for info in flow.nodes()] == [FIRST])


def _arrive(cluster: _commands.Cluster, flow: Any, name: str) -> Arrival:
    handles = [flow.submit(MODEL, f"{name}, text {number}") for number in range(WAITING)]
    started = time.time()
    cluster.add(name)
    response = handles[0].result(_commands.LIMIT)
    answered = time.time()
    for handle in handles:
        where = handle.result(_commands.LIMIT).node_id
        if where != name:
            raise ValueError(f"an answer is from {where}, not from {name}")
    joined = cluster.noted("joined", name)
    if joined is None:
        raise ValueError(f"the scheduler has not noted that {name} joined")
    return Arrival(answered - started, answered - joined, response.load_time)
