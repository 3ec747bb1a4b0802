"""Names of Dask tasks: a prefix that stays the same, then the model, then what is unique.

Collections lose annotations, keys they keep: so the key alone tells the scheduler plugin that a
task predicts, and with which model.
"""

from __future__ import annotations

import uuid

#: Prefix of every task that takes a slot of a host.
PREDICT = "altlas-predict-"
#: Digits of a model's fingerprint that a key carries.
DIGITS = 16


def predict_key(fingerprint: str, unique: str | None = None) -> str:
    """Key of a task that predicts with the model of that fingerprint."""
    return f"{PREDICT}{fingerprint[:DIGITS]}-{unique or uuid.uuid4().hex}"


def model_of(key: object) -> str | None:
    """The first digits of the fingerprint in a key; None where the task does not predict."""
    name = key[0] if isinstance(key, tuple) and key else key
    if not isinstance(name, str) or not name.startswith(PREDICT):
        return None
    return name[len(PREDICT) : len(PREDICT) + DIGITS]
