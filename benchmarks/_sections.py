"""Running a benchmark that has sections: each by itself, in a folder of its own, and nothing left behind."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _contest
from benchmarks._findings import Findings
from benchmarks._report import Bar, Measurement, installed, machine, show, write_json

#: Fills in its findings; is given the arguments and an empty folder.
Section = Callable[[argparse.Namespace, Path, Findings], None]


class Size(NamedTuple):
    """An argument that says how much is done.

    Attributes
    ----------
    name : str
        Of the option, without its dashes.
    full, quick : int or float
        Its default, and that of ``--quick``; at least 1.
    what : str
        For the help.
    """

    name: str
    full: float
    quick: float
    what: str


def parse(
    description: str,
    argv: Sequence[str] | None,
    bars: Mapping[str, Any],
    sizes: Sequence[Size],
    quick: str = "within a minute: small",
) -> argparse.Namespace:
    """The arguments of a benchmark: ``sections``, ``json``, ``quick``, and its sizes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--sections", type=_names, default=[*bars], help=f"some of {','.join(bars)} (default: all)"
    )
    for size in sizes:
        default = f"default: {size.full:,}" + ("" if size.quick == size.full else f"; quick: {size.quick:,}")
        parser.add_argument(f"--{size.name}", type=type(size.full), help=f"{size.what} ({default})")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help=quick)
    args = parser.parse_args(argv)
    for size in sizes:
        name = size.name.replace("-", "_")
        if getattr(args, name) is None:
            setattr(args, name, size.quick if args.quick else size.full)
        if getattr(args, name) < 1:
            parser.error(f"--{size.name} is at least 1")
    return args


def _names(text: str) -> list[str]:
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
