"""Names of Dask tasks: a prefix that stays the same, then the model, then what is unique.

Collections lose annotations, keys they keep: so the key alone tells the scheduler plugin that a
task predicts, and with which model.
"""

from __future__ import annotations

import uuid

#: Operation on the streams of clients and workers to the scheduler: what was chosen, and what came of it.
TAUGHT = "altlas-taught"
#: Operation on a client's stream: how far a job of its own is.
JOB = "altlas-job"
#: Prefixes, equally long, of every task that takes a slot of a host: parts of frames, envelopes of requests,
#: and requests on their way through a pipeline.
PREDICT, REQUEST, PASSAGE = "altlas-predict-", "altlas-request-", "altlas-passage-"
#: Name of the annotation that says what an envelope needs, and on the worker why it came there.
ANNOTATION = "altlas"
#: Dask's span of all requests: name and id.
SPAN = "altlas-requests"
#: Operation on a worker's stream: end what is being fetched from another worker, which is silent.
HANG_UP = "altlas-hang-up"
#: Digits of a model's fingerprint that a key carries.
DIGITS = 16


def predict_key(fingerprint: str, unique: str | None = None) -> str:
    """Key of a task that predicts with the model of that fingerprint."""
    return f"{PREDICT}{fingerprint[:DIGITS]}-{unique or uuid.uuid4().hex}"


def request_key(fingerprint: str) -> str:
    """Key of an envelope of requests for the model of that fingerprint."""
    return f"{REQUEST}{fingerprint[:DIGITS]}-{uuid.uuid4().hex}"


def passage_key(fingerprint: str) -> str:
    """Key of a stage that requests pass through, of the model of that fingerprint."""
    return f"{PASSAGE}{fingerprint[:DIGITS]}-{uuid.uuid4().hex}"


def model_of(key: object) -> str | None:
    """The first digits of the fingerprint in a key; None where the task does not predict."""
    name = key[0] if isinstance(key, tuple) and key else key
    if not isinstance(name, str) or not name.startswith((PREDICT, REQUEST, PASSAGE)):
        return None
    return name[len(PREDICT) : len(PREDICT) + DIGITS]


def is_envelope(key: object) -> bool:
    """Whether the task carries requests, whose sender decides what becomes of those that fail."""
    return isinstance(key, str) and key.startswith(REQUEST)


def is_passage(key: object) -> bool:
    """Whether requests pass through a pipeline in it: their sender decides about those that were running when
    its worker died."""
    return isinstance(key, str) and key.startswith(PASSAGE)
