"""How soon a page is there: in Chromium, from asking for it to what is seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _watching

#: Milliseconds that a page may take.
LIMIT = 60_000
#: True once each panel shows something: those that are tables have rows, or say why not.
_DRAWN = """() => {
  const inner = root => [root, ...[...root.querySelectorAll("*")].filter(one => one.shadowRoot)
                                   .flatMap(one => inner(one.shadowRoot))]
  return [...document.querySelectorAll("#altlas > section")].every(section =>
    inner(section).some(root => root.querySelector("table td, p.empty, canvas")))
}"""
_PAINTED = "() => performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"


@dataclass(frozen=True)
class Paint:
    """Seconds since the page was asked for.

    Attributes
    ----------
    first : float
        Until anything is seen (first contentful paint).
    whole : float
        Until every panel shows what it has.
    """

    first: float
    whole: float


def missing() -> str:
    """What is missing for this, and how to get it; empty where nothing is."""
    from importlib.util import find_spec

    if find_spec("playwright") is None:
        return "skipped paint: pip install playwright"
    return "" if chromium() else "skipped paint: no Chromium is here: apt install chromium"


def chromium() -> str | None:
    """Where Chromium is."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def measure(folder: Path, nodes: int, runs: int) -> Iterator[Paint]:
    """Open the page of a large cluster, each time in a browser that has nothing of it."""
    from playwright.sync_api import sync_playwright

    with _watching.large(folder, nodes) as watched, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            for _ in range(runs):
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                page = context.new_page()
                page.set_default_timeout(LIMIT)
                page.goto(watched.page, wait_until="commit")
                page.wait_for_function(_DRAWN, polling="raf")
                whole = page.evaluate("performance.now()") / 1000
                first = page.wait_for_function(_PAINTED, polling=50).json_value()
                context.close()
                # what was in the document before the first paint is seen with it
                yield Paint(first / 1000, max(whole, first / 1000))
        finally:
            browser.close()
