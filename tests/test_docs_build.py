"""The pages: built without a warning, and with nothing left out.

That what they show runs is held by `tests/test_docs_run.py`.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache, cached_property
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import click
import pytest

import altlas_flow as af
from altlas_flow.cli import cli
from altlas_flow.dashboard.metrics import SCHEDULER, WORKER

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
REFERENCE = DOCS / "reference"


@cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Targets of its headings, as code hosts and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return frozenset(
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    )


def links(page: Path) -> list[str]:
    """Targets of a page that are files of this project, or headings in them."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.is_file(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(place), f"{target}: {place.name} has no such heading"


def test_links_are_found():
    assert "guarantees.md" in links(DOCS / "index.md")
    assert "docs/images/altlas-light.png" in links(ROOT / "README.md")
    assert "what-happens-when-something-goes" in anchors(DOCS / "architecture.md")


# -- the reference leaves nothing out -----------------------------------------------------------


def described() -> set[str]:
    """Names that the reference is told to describe."""
    directive = re.compile(
        r"^\.\. auto(?:class|function|exception|module):: ([\w.]+)(?:\([^)\n]*\))?$", re.MULTILINE
    )
    return {name for page in REFERENCE.glob("*.md") for name in directive.findall(page.read_text())}


def test_the_reference_has_all_public_names():
    pages = {"settings": "settings.md"}  # written out there, setting by setting
    known = {name.removeprefix("altlas_flow.") for name in described()}
    assert set(af.__all__) - known - set(pages) - {"__version__"} == set()
    for page in pages.values():
        assert (REFERENCE / page).is_file()
    for name in described():
        assert resolved(name) is not None, f"there is no {name}"


def resolved(name: str) -> object:
    module, _, rest = name.rpartition(".")
    if importlib.util.find_spec(module) is not None and hasattr(importlib.import_module(module), rest):
        return getattr(importlib.import_module(module), rest)
    return importlib.import_module(name)


def public_classes() -> list[type]:
    found = [value for name in af.__all__ if isinstance(value := getattr(af, name), type)]
    return [
        *found,
        *(value for name in af.errors.__all__ if isinstance(value := getattr(af.errors, name), type)),
    ]


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: kind.__name__)
def test_nothing_public_is_without_a_docstring(kind):
    assert (kind.__doc__ or "").strip()
    silent = []
    for name, member in inspect.getmembers_static(kind):
        called = isinstance(member, (property, cached_property, classmethod, staticmethod)) or callable(
            member
        )
        if name.startswith("_") or not called or not is_ours(kind, name):
            continue
        if not (inspect.getdoc(getattr(kind, name)) or "").strip():
            silent.append(name)
    assert not silent


def is_ours(kind: type, name: str) -> bool:
    """Whether a class of this package defines it, and not one that it derives from."""
    owner = next(base for base in kind.__mro__ if name in vars(base))
    return owner.__module__.startswith("altlas_flow")


def test_functions_that_are_public_have_docstrings():
    functions = [getattr(af, name) for name in af.__all__ if inspect.isfunction(getattr(af, name))]
    assert len(functions) >= 10
    for function in functions:
        assert (
            "Parameters\n" in (inspect.getdoc(function) or "") or not inspect.signature(function).parameters
        )


# -- pages that are made from the code ----------------------------------------------------------


@cache
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["command-line.md", "metrics.md", "settings.md"])
def test_made_pages_are_what_the_code_says(name):
    there = (REFERENCE / name).read_text(encoding="utf-8")
    assert there == generate().pages()[name], "run python docs/generate.py"


def every_command(group: click.Group, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name, command in group.commands.items():
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
    return found


def test_every_command_is_there_with_all_its_options():
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    commands = every_command(cli, ("altlas-flow",))
    assert {" ".join(path) for path, _ in commands} == set(sections)
    for path, command in commands:
        section = sections[" ".join(path)]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert max(parameter.opts, key=len) in section
            elif isinstance(parameter, click.Argument):
                assert parameter.human_readable_name in section


def test_every_setting_is_there():
    text = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    for setting in fields(af.settings.Settings):
        row = re.search(
            rf"^\| `altlas\.{setting.name.replace('_', '-')}` \| `.+?` \| (.+) \|$", text, re.MULTILINE
        )
        assert row is not None and row[1].strip(), f"{setting.name} is not described"


def test_every_metric_is_there():
    text = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    for metric in (*SCHEDULER, *WORKER):
        assert f"| `{metric.name}` | {metric.kind} |" in text


def test_every_error_is_there():
    tree = af.errors.__doc__ or ""
    for name in af.errors.__all__:
        if isinstance(getattr(af.errors, name), type):
            assert name in tree


# -- built -------------------------------------------------------------------------------------


class Fetched(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            self.found.append(given.get("href") or "")
        elif tag in ("script", "img", "source", "iframe"):
            self.found += [value for name in ("src", "srcset") if (value := given.get(name))]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the pages, built."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "docs"]
    done = subprocess.run(
        [*command, str(folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_pages_are_built_without_a_warning_and_fetch_nothing_from_elsewhere(built):
    for page in PAGES[1:]:
        assert (built / page.relative_to(DOCS).with_suffix(".html")).is_file()
    for page in built.rglob("*.html"):
        parser = Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found
        assert not [
            place for place in parser.found if re.match(r"[a-z]+:|//", place) and "data:" not in place
        ]
    for sheet in built.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text(encoding="utf-8"))
    flow = (built / "reference" / "flow.html").read_text(encoding="utf-8")
    for name in ("Flow.run", "Flow.submit", "Flow.nodes", "Flow.ask", "Flow.select", "Handle.result"):
        assert f'id="altlas_flow.{name}"' in flow


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_are_whole_in_a_browser(built, tab, scheme):
    tab.page.emulate_media(color_scheme=scheme)
    for name in ("index", "tutorial", "howto/slurm", "dashboard", "reference/flow", "architecture"):
        tab.page.goto((built / f"{name}.html").as_uri())
        title = tab.page.locator("article h1")
        assert title.inner_text()
        colour = title.evaluate("one => getComputedStyle(one).color.match(/\\d+/g).map(Number)")
        ground = tab.page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (sum(ground[:3]) < 200) == (scheme == "dark")
        assert abs(sum(colour[:3]) - sum(ground[:3])) > 300
        wide = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} is {wide} pixels wider than its window"
    assert tab.wrong == []
