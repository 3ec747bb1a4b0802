"""`plan`: what a run would take, from a sample of its rows."""

from __future__ import annotations

from dataclasses import replace

from distributed import wait

from altlas_flow.dataframe.job import Job
from altlas_flow.dataframe.report import Plan, Tally
from altlas_flow.dataframe.tasks import predict_rows
from altlas_flow.dataframe.units import measure
from altlas_flow.dataframe.window import eligible_slots
from altlas_flow.errors import EmptyInput


def plan(job: Job, rows: int) -> Plan:
    """Predict about `rows` rows, taken evenly from the job's source.

    Raises
    ------
    AltlasError
        As the run itself would.
    """
    job.check()
    source = job.open()
    what = replace(job.predict_task(), on_error="collect")
    types = job.learn_types(source, what)
    what = replace(what, types=types)
    slots = eligible_slots(job.client, job.spec)
    pieces = min(2 * slots, len(source.units))
    chosen = [source.units[index * len(source.units) // pieces] for index in range(pieces)]
    share = -(-rows // pieces)
    tally, sampled, faulty = Tally(), 0, 0
    futures = []
    for unit in chosen:
        data = unit.submit()
        measured = unit.measured or job._ask(job.client.submit(measure, data, pure=False))
        take = min(share, measured.rows)
        # several tasks for one unit, so that each slot has work
        cuts = max(1, -(-2 * slots // pieces))
        for index in range(cuts):
            start, stop = take * index // cuts, take * (index + 1) // cuts
            if stop > start:
                futures.append(
                    job.client.submit(predict_rows, data, start, stop, what, key=job._key(), pure=False)
                )
    if not futures:
        raise EmptyInput("the sample has no rows: there is nothing to predict; check the source")
    wait(futures, timeout=job.settings.load_timeout)
    for future in futures:
        predicted = job._ask(future)
        tally.add(predicted.rows_in, predicted.stats)
        sampled += predicted.rows_in
        faulty += predicted.dead.num_rows
    busy = sum(tally.predict_s.values()) / max(len(tally.predict_s), 1)
    used = min(slots, len(tally.predict_s)) or 1
    rate = sampled / max(busy, 1e-9) * slots / used
    load_s = max(tally.load_s.values(), default=0.0)
    seconds = None if source.rows is None else source.rows / rate + load_s
    return Plan(
        str(job.spec), source.rows, sampled, faulty, rate, seconds, dict(tally.budget), tally.unit, slots, load_s
    )
