"""Names of parameters of tests: the same in each process, since addresses of objects are left out."""

from __future__ import annotations

import re


def spoken(value):
    """Text of a value, without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:120]
