"""Everything that can be set, in one place: `Settings`.

Settings live in Dask's configuration under ``altlas``; ``altlas.yaml`` beside this module holds the
defaults and says what each is. They are changed in a file of Dask's configuration, with
``dask.config.set({"altlas.parts-in-flight": 3})``, or as ``DASK_ALTLAS__PARTS_IN_FLIGHT=3``, and
read once, by `Settings.current`, where something starts that uses them.

``DISCOVERY_INTERVAL``, ``HEARTBEAT_TIMEOUT`` (seconds), ``DEFAULT_DISTRIBUTION_STRATEGY`` and
``DEFAULT_AGGREGATION_STRATEGY`` (names) are attributes of this module, and always what is set now.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import dask.config
import yaml
from dask.utils import parse_bytes, parse_timedelta

from altlas_flow.errors import SettingsError, names, one_line

DISTRIBUTION_STRATEGIES = (
    "ROUND_ROBIN",
    "LEAST_LOADED",
    "CAPABILITY_BASED",
    "LATENCY_OPTIMIZED",
    "MODEL_SPECIFIC",
)
AGGREGATION_STRATEGIES = (
    "FIRST_RESPONSE",
    "ALL_RESPONSES",
    "MAJORITY_VOTE",
    "WEIGHTED_AVERAGE",
    "ENSEMBLE",
)

_Reader = Callable[[Any], Any]


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number of at least 1 is needed")
    return value


def _count_or_auto(value: Any) -> int | None:
    return None if value is None or value == "auto" else _count(value)


def _seconds(value: Any) -> float:
    seconds = _seconds_or_none(value)
    if seconds == 0:
        raise ValueError("a time above 0 is needed")
    return seconds


def _seconds_or_none(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError('a time such as "30s" or "500ms" is needed')
    try:
        seconds = float(parse_timedelta(value))
    except (KeyError, ValueError) as error:
        raise ValueError('a time such as "30s" or "500ms" is needed') from error
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("a time of at least 0 is needed")
    return seconds


def _labels(value: Any) -> tuple[tuple[str, str], ...]:
    """Pairs, not a dict: settings are frozen, hashed and pickled."""
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and isinstance(label, (str, int, float)) for key, label in value.items()
    ):
        raise ValueError("a mapping of names to values such as {zone: a} is needed")
    return tuple(sorted((key, str(label)) for key, label in value.items()))


def _bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError('a size such as "2 GiB" is needed')
    try:
        size = int(parse_bytes(value))
    except ValueError as error:
        raise ValueError('a size such as "2 GiB" is needed') from error
    if size < 0:
        raise ValueError("a size of at least 0 is needed")
    return size


def _bytes_or_none(value: Any) -> int | None:
    return None if value is None else _bytes(value)


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError("a number above 0 and at most 1 is needed")
    return float(value)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1 is needed")
    return float(value)


def _address(value: Any) -> str:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not (host and port.isdigit() and int(port) < 65536):
        raise ValueError('a host and a port such as "127.0.0.1:8787" are needed (port 0: any that is free)')
    return str(value)


def _admission(value: Any) -> str | None:
    if value not in (None, "open", "registered"):
        raise ValueError('"open" or "registered" is needed, or null')
    return None if value is None else str(value)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ValueError("a list of texts is needed")
    return tuple(str(text) for text in value)


def _folders(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, (str, os.PathLike)) for item in value
    ):
        raise ValueError('a list of folders such as ["/data/clips"] is needed')
    folders = tuple(os.fspath(folder) for folder in value)
    if not all(isinstance(folder, str) and folder and "\0" not in folder for folder in folders):
        raise ValueError("a list of folders that have names is needed")
    return folders


def _cluster_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}", value):
        raise ValueError("a name of up to 40 letters, digits and '-' is needed")
    return value


def _path(value: Any) -> str | None:
    if value is not None and (not isinstance(value, (str, os.PathLike)) or not str(value)):
        raise ValueError("a path is needed, or null")
    return None if value is None else os.fspath(value)


def _secret(value: Any) -> str | None:
    """A token that travels in headers and addresses; as long as 128 random bits in base64 are at least."""
    if value is None or (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._~+/=-]{22,200}", value)):
        return value
    raise ValueError("22 to 200 letters, digits and any of -._~+/= are needed, not a number")


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is needed")
    return value


def _overload(value: Any) -> str:
    if value not in ("wait", "raise"):
        raise ValueError('"wait" or "raise" is needed')
    return str(value)


def _log_format(value: Any) -> str:
    if value not in ("text", "json"):
        raise ValueError('"text" or "json" is needed')
    return str(value)


def _one_of(known: tuple[str, ...]) -> _Reader:
    def read(value: Any) -> str:
        name = str(value).upper().replace("-", "_")
        if name not in known:
            raise ValueError(f"one of {names(known)} is needed")
        return name

    return read


def _setting(read: _Reader, *, secret: bool = False) -> Any:
    return field(metadata={"read": read, "secret": secret}, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is set under ``altlas``, checked; times are in seconds, sizes in bytes.

    Attributes
    ----------
    workers : int or None
        Workers of an embedded cluster; None: as many as cores and memory allow.
    worker_memory : int
        Bytes that one embedded worker needs beside the copies of its models.
    start_timeout : float
        How long the start of an embedded cluster may take.
    dashboard : str
        Where its dashboard listens, as ``host:port``; on loopback.
    slots : int or None
        Batches that run at once on a worker; None: one for each of its threads.
    model_memory_fraction : float
        Of a worker's memory limit, what loaded models may take.
    load_timeout, load_retry_delay : float
        How long loading may take, and the first pause after a load that failed.
    no_workers_timeout : float
        How long to wait for a worker that can serve a model.
    part_rows, part_rows_tokens : int
        Rows of an output part: for models without tokens, and for those that count them.
    parts_in_flight : int
        Parts at work at once, for each slot.
    envelope_rows : int
        Requests that travel together at most.
    envelope_time : float
        And as many as are predicted in about that time.
    scatter_size : int
        Bytes from which on an input is sent to a worker ahead of its request.
    waiting_limit : int
        Requests that one client may have waiting.
    overload : str
        Beyond that: ``wait`` (in the handle) or ``raise``.
    tries : int
        Of a request that failed for a reason of the node.
    hedge_share : float
        Of the requests with ``hedge=True``, what may be sent twice; 0: nothing.
    allowed_folders : tuple of str
        From which the program that reads it reads files that inputs name; relative ones are seen from its
        working directory.
    largest_file : int
        Bytes of a file that is read as an input.
    labels : tuple of (str, str)
        Names and values of the worker that reads it, sorted; ``dict(settings.labels)``.
    join_timeout : float
        How long a request waits for a node of a kind that was never there.
    discovery_interval, heartbeat_timeout : float
        Between two looks for nodes; without a heartbeat for so long, a node is offline.
    default_distribution_strategy, default_aggregation_strategy : str
        Names of strategies.
    admission : str or None
        Who may join as a worker: ``open`` (everybody) or ``registered``; None: ``open`` where the scheduler
        listens on loopback or certificates have roles, else ``registered``.
    registered : tuple of str
        Nodes that are registered from the start: names, ``host:NAME``, addresses and ranges of them.
    audit, history : str or None
        Files of the scheduler: who did what, and all tasks that are over.
    memory_budget : int or None
        Bytes that loaded models may take on the worker that reads it; None: the fraction of its limit.
    tls : str or None
        Folder of certificates, with which all connections are made.
    cluster_name : str
        By which a cluster is told from others in its network.
    dashboard_token : str or None
        What a scheduler's dashboard beyond loopback asks for; None: another one at each start. Neither
        shown nor pickled: it stays with the program that has read it.
    metrics : bool
        Whether the scheduler that reads it counts what happens, for the page and for Prometheus.
    traces : bool
        Whether the client that reads it makes OpenTelemetry spans of what it asks.
    log_format : str
        ``text``, or ``json``: what the program that reads it logs.
    """

    workers: int | None = _setting(_count_or_auto)
    worker_memory: int = _setting(_bytes)
    start_timeout: float = _setting(_seconds)
    dashboard: str = _setting(_address)
    slots: int | None = _setting(_count_or_auto)
    model_memory_fraction: float = _setting(_fraction)
    load_timeout: float = _setting(_seconds)
    load_retry_delay: float = _setting(_seconds)
    no_workers_timeout: float = _setting(_seconds)
    part_rows: int = _setting(_count)
    part_rows_tokens: int = _setting(_count)
    parts_in_flight: int = _setting(_count)
    envelope_rows: int = _setting(_count)
    envelope_time: float = _setting(_seconds)
    scatter_size: int = _setting(_bytes)
    waiting_limit: int = _setting(_count)
    overload: str = _setting(_overload)
    tries: int = _setting(_count)
    hedge_share: float = _setting(_share)
    allowed_folders: tuple[str, ...] = _setting(_folders)
    largest_file: int = _setting(_bytes)
    labels: tuple[tuple[str, str], ...] = _setting(_labels)
    join_timeout: float = _setting(_seconds_or_none)
    discovery_interval: float = _setting(_seconds)
    heartbeat_timeout: float = _setting(_seconds)
    default_distribution_strategy: str = _setting(_one_of(DISTRIBUTION_STRATEGIES))
    default_aggregation_strategy: str = _setting(_one_of(AGGREGATION_STRATEGIES))
    admission: str | None = _setting(_admission)
    registered: tuple[str, ...] = _setting(_texts)
    audit: str | None = _setting(_path)
    history: str | None = _setting(_path)
    memory_budget: int | None = _setting(_bytes_or_none)
    tls: str | None = _setting(_path)
    cluster_name: str = _setting(_cluster_name)
    dashboard_token: str | None = _setting(_secret, secret=True)
    metrics: bool = _setting(_flag)
    traces: bool = _setting(_flag)
    log_format: str = _setting(_log_format)

    def __getstate__(self) -> dict[str, Any]:
        # settings travel to workers and clients, secrets do not
        hidden = {item.name for item in fields(self) if item.metadata["secret"]}
        return {name: None if name in hidden else value for name, value in self.__dict__.items()}

    @classmethod
    def current(cls) -> Settings:
        """What is set now, all of it checked.

        Raises
        ------
        SettingsError
            Where a key is not known or its value cannot be used; its text names the key.
        """
        given = dask.config.get("altlas", default={})
        if not isinstance(given, Mapping):
            raise SettingsError(f"setting altlas is {one_line(repr(given), 80)}: a mapping of keys is needed")
        known = {item.name for item in fields(cls)}
        for key in given:
            if str(key).replace("-", "_") not in known:
                close = get_close_matches(str(key).replace("_", "-"), [_key(name) for name in known], n=1)
                hint = f"did you mean altlas.{close[0]}?" if close else "altlas.yaml lists those there are"
                raise SettingsError(f"setting altlas.{key} is not known: {hint}")
        return cls(**{item.name: _read(item.name, **item.metadata) for item in fields(cls)})


def _key(name: str) -> str:
    return name.replace("_", "-")


def _read(name: str, read: _Reader, secret: bool) -> Any:
    """One setting, checked; Dask takes ``-`` and ``_`` in its key for the same."""
    key = f"altlas.{_key(name)}"
    # defaults are gone where a dask.config.set ended that had begun before they were loaded
    value = dask.config.get(key, default=_DEFAULTS[_key(name)])
    try:
        return read(value)
    except ValueError as error:
        shown = "not shown here" if secret else one_line(repr(value), 80)
        raise SettingsError(f"setting {key} is {shown}: {error}") from error


def default(key: str) -> Any:
    """What a setting is, as the file of defaults has it, where nobody says other."""
    return _DEFAULTS[key]


_ATTRIBUTES = frozenset(
    {
        "DISCOVERY_INTERVAL",
        "HEARTBEAT_TIMEOUT",
        "DEFAULT_DISTRIBUTION_STRATEGY",
        "DEFAULT_AGGREGATION_STRATEGY",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _ATTRIBUTES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(Settings.current(), name.lower())


def __dir__() -> list[str]:
    return sorted({*globals(), *_ATTRIBUTES})


_DEFAULTS = yaml.safe_load((Path(__file__).parent / "altlas.yaml").read_text(encoding="utf-8"))["altlas"]
dask.config.update_defaults({"altlas": _DEFAULTS})
