"""`plan`: what a run would take, from a sample of its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distributed import Future

from altlas_flow.cluster.plain import submit_task
from altlas_flow.dataframe.answers import Ask, alone
from altlas_flow.dataframe.job import Job
from altlas_flow.dataframe.report import Plan, Tally
from altlas_flow.dataframe.units import Source, measure
from altlas_flow.dataframe.window import ask
from altlas_flow.errors import EmptyInput, InputError


def plan(job: Job, rows: int) -> Plan:
    """Predict about `rows` rows, taken evenly from the job's source.

    Raises
    ------
    AltlasError
        As the run itself would.
    """
    job.check()
    if rows < 1:
        raise InputError(f"rows={rows!r} is no sample: give a number of at least 1")
    source = job.open()
    what = replace(job.predict_task(), on_error="collect")
    what = replace(what, types=job.learn_types(source, what))
    slots = job.subject.slots(job.client)
    tally, sampled, faulty = Tally(), 0, 0
    futures = _sample(job, source, what, rows, slots)
    try:
        if not futures:
            raise EmptyInput("the sample has no rows: there is nothing to predict; check the source")
        for future in futures:
            predicted = ask(future, job.settings.load_timeout)
            tally.add(predicted.rows_in, predicted.stats)
            sampled += predicted.rows_in
            faulty += predicted.dead.num_rows
    finally:
        for future in futures:
            future.release()
    rate = sampled / max(sum(tally.predict_s.values()), 1e-9) * slots
    load_s = max([job.load_s, *tally.load_s.values()])
    seconds = None if source.rows is None else source.rows / rate + load_s
    return Plan(
        str(job.subject),
        source.rows,
        sampled,
        faulty,
        rate,
        seconds,
        dict(tally.budget),
        tally.unit,
        slots,
        load_s,
    )


def _sample(job: Job, source: Source, what: Ask, rows: int, slots: int) -> list[Future[Any]]:
    """Predictions of about `rows` rows from all over the source, at least two for each slot."""
    known, count = source.rows, len(source.units)
    wanted = 2 * slots if known is None else max(2 * slots, -(-rows * count // known))
    pieces = min(wanted, count)
    cuts = -(-2 * slots // pieces)  # several tasks for one unit, so that each slot has work
    chosen = [source.units[index * count // pieces] for index in range(pieces)]
    sizes = sum(unit.measured.rows for unit in chosen if unit.measured)
    futures = []
    for unit in chosen:
        data = unit.submit()
        if unit.measured:
            measured, share = unit.measured, -(-rows * unit.measured.rows // sizes)
        else:
            future = submit_task(job.client, measure, data)
            measured, share = ask(future, job.settings.load_timeout), -(-rows // pieces)
        take = min(share, measured.rows)
        for index in range(cuts):
            size = take * (index + 1) // cuts - take * index // cuts
            start = measured.rows * index // cuts
            if size:
                futures.append(job.subject.send(job.client, data, start, start + size, what, alone))
    return futures
