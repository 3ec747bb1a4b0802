"""Running a benchmark that has sections: each by itself, in a folder of its own, and nothing left behind."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import _contest
from benchmarks._findings import Findings
from benchmarks._report import Bar, Measurement, installed, machine, show, write_json

#: Fills in its findings; is given the arguments and an empty folder.
Section = Callable[[argparse.Namespace, Path, Findings], None]


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def run(
    benchmark: str,
    args: argparse.Namespace,
    sections: Mapping[str, Section],
    bars: Mapping[str, tuple[Bar, ...]],
) -> int:
    """Run the sections that are asked for, show them, and write their figures.

    Parameters
    ----------
    args : argparse.Namespace
        With ``sections`` and ``json``.

    Returns
    -------
    int
        The exit code: 0, 1 where a section failed, 2 for a wrong argument.
    """
    wrong = [name for name in args.sections if name not in bars]
    if wrong:
        print(f"{benchmark}: unknown section {wrong[0]!r}: choose from {', '.join(bars)}", file=sys.stderr)
        return 2
    if args.json and not Path(args.json).absolute().parent.is_dir():
        print(f"{benchmark}: {args.json}: its folder does not exist", file=sys.stderr)
        return 2
    _contest.adopt_orphans()
    before = _contest.children()
    signal.signal(signal.SIGTERM, _stopped)
    measured: list[Measurement] = []
    failed = False
    print(machine(installed(("dask", "distributed"))), flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="altlas-", ignore_cleanup_errors=True) as folder:
            for name in (name for name in bars if name in args.sections):
                found = Findings(benchmark, "")
                here = Path(folder) / name
                here.mkdir()
                try:
                    sections[name](args, here, found)
                except Exception as error:
                    # an exception group's own text says nothing of what is in it
                    while isinstance(error, ExceptionGroup):
                        error = error.exceptions[0]
                    # what was measured before is not a whole section
                    found.measured.clear()
                    found.failures.append(f"{name}: failed: {_contest.one_line(error)}")
                failed = failed or bool(found.failures)
                measured += found.measured
                notes = [*found.notes, *found.failures]
                show(f"{benchmark}, {name}: {found.title}", found.measured, bars[name], notes)
    finally:
        _contest.sweep(before)
    if args.json:
        write_json(args.json, measured)
    return 1 if failed else 0


def _stopped(number: int, frame: Any) -> None:
    sys.exit(128 + number)  # as Ctrl-C: what was started is ended
