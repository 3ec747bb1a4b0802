"""The language of a text, as a feature: by py3langid, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from altlas_flow.errors import SelectionError

#: Characters that are looked at: enough to tell, and a tenth of a millisecond.
LOOKED_AT = 400


def language_of(inputs: Any) -> str | None:
    """The language of a text, or of the first of several, such as ``"en"``; None where there is no text.

    Raises
    ------
    SelectionError
        Where the extra is not installed.
    """
    text = inputs[0] if isinstance(inputs, Sequence) and not isinstance(inputs, str) and inputs else inputs
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        import py3langid
    except ImportError as error:
        raise SelectionError(
            "language=True needs the extra 'language': pip install 'altlas-flow[language]' where it is chosen"
        ) from error
    return str(py3langid.classify(text[:LOOKED_AT])[0])
