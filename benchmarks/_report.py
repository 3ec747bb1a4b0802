"""What every benchmark does with its figures: medians, ratios, a table, JSON lines, bars, the machine.

The pure part of the benchmarks: nothing here runs or measures anything but the machine's description.

One line of JSON is ``{"benchmark", "contestant", "metric", "value", "unit", "ratio_to", "ratio",
"runs"}``, where ``value`` is the median of ``runs`` interleaved runs and

    ``ratio`` = ``value`` / the value of the contestant ``ratio_to`` for the same metric.

`altlas_flow` has one line for each contestant that it is compared with (the same value, another
``ratio_to``); each other contestant has one, with ``ratio_to`` = ``altlas_flow``. Where there is
nothing to compare with, ``ratio_to`` and ``ratio`` are null. For rows/s, a ratio of `altlas_flow`
above 1 is good; for seconds, one below 1.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

#: The contestant that is ours.
OURS = "altlas_flow"


@dataclass(frozen=True)
class Measurement:
    """Values of one metric of one contestant, one a run.

    Parameters
    ----------
    benchmark, contestant, metric, unit : str
    values : tuple of float
        One a run, at least one.
    compared : bool
        Whether ratios between contestants mean something for this metric.
    """

    benchmark: str
    contestant: str
    metric: str
    unit: str
    values: tuple[float, ...]
    compared: bool = True

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"{self.contestant}, {self.metric}: no values were measured")

    @property
    def value(self) -> float:
        """The median over the runs."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median: 0 where all runs agree; 0 for a median of 0."""
        return (max(self.values) - min(self.values)) / abs(self.value) if self.value else 0.0


@dataclass(frozen=True)
class Bar:
    """What a contestant, `altlas_flow`, should reach: a ratio to another contestant, or a value.

    Parameters
    ----------
    metric : str
    limit : float
    against : str, optional
        The contestant whose value divides ours; without it the value itself is judged.
    at_most : bool
        Whether less is better (the default asks for at least `limit`).
    strict : bool
        ``<`` or ``>`` in place of ``<=`` or ``>=``.
    of : str
        Who is judged, where ours are several.
    """

    metric: str
    limit: float
    against: str | None = None
    at_most: bool = False
    strict: bool = False
    of: str = OURS

    def __str__(self) -> str:
        sign = ("<" if self.at_most else ">") + ("" if self.strict else "=")
        against = f" of {self.against}" if self.against else ""
        times = " ×" if self.against else ""
        who = "" if self.of == OURS else f"{self.of}: "
        return f"{who}{self.metric} {sign} {self.limit:g}{times}{against}"


@dataclass(frozen=True)
class Verdict:
    """A bar, what was measured for it (None: not measured), and whether it was reached."""

    bar: Bar
    found: float | None
    reached: bool | None = field(default=None)

    def __str__(self) -> str:
        if self.found is None:
            return f"not measured: {self.bar}"
        return f"{'reached' if self.reached else 'MISSED'}: {self.bar}: {_figure(self.found)}"


def ratio(measurements: Iterable[Measurement], metric: str, contestant: str, to: str) -> float | None:
    """Median of `contestant` / median of `to`; None where either is missing or the divisor is 0."""
    found = {m.contestant: m.value for m in measurements if m.metric == metric}
    if contestant not in found or not found.get(to):
        return None
    return found[contestant] / found[to]


def judge(measurements: Sequence[Measurement], bars: Iterable[Bar]) -> list[Verdict]:
    """Say of each bar whether it was reached."""
    verdicts = []
    for bar in bars:
        if bar.against is not None:
            found = ratio(measurements, bar.metric, bar.of, bar.against)
        else:
            mine = [m.value for m in measurements if (m.contestant, m.metric) == (bar.of, bar.metric)]
            found = mine[0] if mine else None
        if found is None:
            verdicts.append(Verdict(bar, None))
            continue
        beyond = found < bar.limit if bar.at_most else found > bar.limit
        verdicts.append(Verdict(bar, found, beyond or (found == bar.limit and not bar.strict)))
    return verdicts


def json_lines(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """The lines of ``--json``, in the order of `measurements`; see the module's text for their form."""
    lines = []
    for measured in measurements:
        others = [
            m.contestant
            for m in measurements
            if m.metric == measured.metric and m.contestant != measured.contestant
        ]
        compared: list[str | None] = []
        if measured.compared:
            compared = [*others] if measured.contestant == OURS else [o for o in others if o == OURS]
        for to in compared or [None]:
            lines.append(
                {
                    "benchmark": measured.benchmark,
                    "contestant": measured.contestant,
                    "metric": measured.metric,
                    "value": measured.value,
                    "unit": measured.unit,
                    "ratio_to": to,
                    "ratio": ratio(measurements, measured.metric, measured.contestant, to) if to else None,
                    "runs": len(measured.values),
                }
            )
    return lines


def write_json(path: str | os.PathLike[str], measurements: Sequence[Measurement]) -> None:
    """Write `json_lines` to `path`, one object a line; replaces what was there."""
    text = "".join(json.dumps(line) + "\n" for line in json_lines(measurements))
    Path(path).write_text(text, encoding="utf-8")


def show(title: str, measurements: Sequence[Measurement], bars: Iterable[Bar], notes: Iterable[str]) -> None:
    """Print one table (a row a contestant, a column a metric), the notes, and each bar's verdict."""
    from rich.console import Console
    from rich.table import Table

    # piped output goes to READMEs and logs: a table cut at 80 columns would lose figures there
    console = Console() if os.isatty(1) else Console(width=160)
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("contestant")
    metrics = list(dict.fromkeys(m.metric for m in measurements))
    units = {m.metric: m.unit for m in measurements}
    compared = {m.metric for m in measurements if m.compared and _has_ours(measurements, m.metric)}
    for metric in metrics:
        unit = units[metric]
        said = metric.endswith(unit) or unit == "1"
        table.add_column(metric if said else f"{metric}, {unit}", justify="right")
        if metric in compared:
            table.add_column("ours / this", justify="right")
    for contestant in dict.fromkeys(m.contestant for m in measurements):
        cells = []
        for metric in metrics:
            found = [m for m in measurements if (m.contestant, m.metric) == (contestant, metric)]
            cells.append(_cell(found[0]) if found else "")
            if metric in compared:
                times = ratio(measurements, metric, OURS, contestant)
                cells.append("" if times is None or contestant == OURS else f"{times:.2f} ×")
        table.add_row(contestant, *cells, style="bold" if contestant == OURS else None)
    console.print(table)
    runs = sorted({len(m.values) for m in measurements})
    if runs:
        counts = " or ".join(map(str, runs))
        console.print(f"medians of {counts} interleaved runs; ± half of (largest - smallest) / median")
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for verdict in judge(measurements, bars):
        style = {True: "green", False: "bold red", None: "yellow"}[verdict.reached]
        console.print(str(verdict), style=style, markup=False, highlight=False, soft_wrap=True)


def machine(versions: dict[str, str] | None = None, *, cores: int | None = None) -> str:
    """One line about the machine: processor, cores, instruction sets, memory, system, versions.

    Parameters
    ----------
    versions : dict of str to str, optional
        Package to version, as `installed` gives.
    cores : int, optional
        Cores that the contestants may use; by default those that this process may.
    """
    model, flags = platform.processor() or platform.machine(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() == "flags":
                flags = set(value.split())
    except OSError:
        # not Linux: the platform module's name of the processor has to do
        flags = set()
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "amx_tile": "AMX"}
    sets = " ".join(label for flag, label in known.items() if flag in flags)
    count = cores if cores is not None else len(os.sched_getaffinity(0))
    parts = [model, f"{count} cores", *([sets] if sets else [])]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        parts.append(f"{gib:.0f} GiB memory")
    parts.append(f"{platform.system()} {platform.release().split('-')[0]}")
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {version}" for name, version in (versions or {}).items()]
    return ", ".join(parts)


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of the packages among `names` that this environment has."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _has_ours(measurements: Sequence[Measurement], metric: str) -> bool:
    found = {m.contestant for m in measurements if m.metric == metric}
    return OURS in found and len(found) > 1


def _cell(measured: Measurement) -> str:
    half = measured.spread / 2
    return _figure(measured.value) + (f" ±{half:.0%}" if len(measured.values) > 1 else "")


def _figure(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
