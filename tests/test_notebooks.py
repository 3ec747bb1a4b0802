"""The notebooks run from top to bottom, show what their text says, and leave no process behind."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
#: What logs may say in a notebook; of others they say nothing.
LOGGED = {"5-operating": r"\S+ \S+ - distributed.nanny - WARNING - Restarting worker .*\n"}
#: Seconds that one cell may take, and that all processes of a notebook get to end.
CELL, ENDED = 120, 20

pytestmark = pytest.mark.timeout(300)


class Ran:
    """A notebook that was executed.

    Attributes
    ----------
    cells : list
        Those of code.
    """

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        self.notebook = notebook
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def outputs(self, source: str) -> list:
        """Those of the one cell whose source has this text."""
        found = [cell for cell in self.cells if source in cell.source]
        assert len(found) == 1, f"{len(found)} cells have {source!r}"
        return found[0].outputs

    def html(self, source: str) -> str:
        """The HTML that a cell shows."""
        return "".join(
            output.data.get("text/html", "") for output in self.outputs(source) if "data" in output
        )

    def text(self, source: str) -> str:
        """What a cell prints, and the plain text of what it shows."""
        return "".join(
            output.text if output.output_type == "stream" else output.data.get("text/plain", "")
            for output in self.outputs(source)
        )

    def everything(self, kind: str) -> list[str]:
        """Outputs of a kind, of all cells."""
        return [
            output.data[kind]
            for cell in self.cells
            for output in cell.outputs
            if "data" in output and kind in output.data
        ]


def execute(notebook: nbformat.NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Run a notebook in a kernel of this environment, and see that nothing of it is left."""
    mark = f"ALTLAS_NOTEBOOK_{uuid.uuid4().hex}"
    monkeypatch.setenv(mark, "1")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    sockets = tempfile.TemporaryDirectory(prefix="nb-")  # files, whose paths have to be short
    manager = AsyncKernelManager(
        kernel_name="python3",
        # no folders: what is left is the kernel of this interpreter
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        transport="ipc",
        ip=f"{sockets.name}/k",
    )
    client = NotebookClient(notebook, km=manager, timeout=CELL, resources={"metadata": {"path": str(folder)}})
    with sockets:
        client.execute(cleanup_kc=True)
    _, alive = psutil.wait_procs(processes(mark), timeout=ENDED)
    assert not [process.cmdline() for process in alive if process.is_running()]
    return Ran(notebook)


def processes(mark: str) -> list[psutil.Process]:
    """Processes that have a variable in their environment; this one has it, too, but not from its start."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and mark in process.environ():
                found.append(process)
        except psutil.Error:
            continue  # it ended, or is somebody else's
    return found


class Reader(HTMLParser):
    """What a page says, without its blanks, and its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += "".join(data.split())

    def count(self, tag: str, **attrs: str) -> int:
        """Tags with these attributes."""
        return sum(name == tag and attrs.items() <= found.items() for name, found in self.tags)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_it_says(name, tmp_path, monkeypatch):
    ran = execute(read(name), tmp_path, monkeypatch)  # a cell that fails raises
    for html in ran.everything("text/html"):
        assert "<script" not in html.lower()
        assert "src=" not in html.lower()
    for output in (output for cell in ran.cells for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr" or re.fullmatch(LOGGED.get(name, ""), output.text), output.text
    CHECKS[name](ran)
    check_export(ran.notebook)
    assert "flow.close()" in ran.cells[-1].source


def check_export(notebook: nbformat.NotebookNode) -> None:
    """A page of it has the tables, as they were, and asks nothing of the network for them."""
    page = Reader(HTMLExporter(template_name="basic").from_notebook_node(notebook)[0])
    assert not [attrs for tag, attrs in page.tags if tag in ("script", "link", "iframe")]
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    shown = [Reader(output.data["text/html"]) for output in outputs if "text/html" in output.get("data", {})]
    assert shown
    assert all(one.text in page.text for one in shown)
    for tag, attrs in KEPT:
        assert page.count(tag, **attrs) == sum(one.count(tag, **attrs) for one in shown)


#: What has to be in an exported page as often as in the notebook.
KEPT = [("caption", {}), ("th", {"scope": "row"}), ("th", {"scope": "col"}), ("svg", {"role": "img"})]


def first_steps(ran: Ran) -> None:
    assert "embedded" in ran.html("af.connect") and "/altlas" in ran.html("af.connect")
    answer = ran.html("A cat sleeps")
    assert "answer of minilm on node" in answer
    assert re.search(r'<th scope="row"[^>]*>node</th><td[^>]*>[01], by LEAST_LOADED', answer)
    assert "in a batch of 1 row" in ran.html("quick.trace")
    assert "model shout" in ran.html("flow.register")
    assert "answer of minilm" in ran.html("await ")
    assert ran.text('mark="?!"') == "'HELLO?!'"
    assert "WORD 499!" in ran.text("submit_many") and "an envelope of" in ran.html("submit_many")
    nearest = ran.text("sort_values")
    assert "two weeks late" in nearest or "Delivered earlier" in nearest or "courier" in nearest
    assert "Dask DataFrame" in ran.html("npartitions=2")
    assert "THE PARCEL CAME TWO WEEKS LATE!" in ran.text("lazy.compute")
    assert "FINE AS WELL!" in ran.text("on_error") and "loud_error" in ran.text("on_error")
    runs = [cell for cell in ran.cells if "flow.run(" in cell.source]
    first, second = (Ran(nbformat.v4.new_notebook(cells=[cell])) for cell in runs)
    for one in (first, second):
        line, summary = one.everything("text/html")
        assert "800 rows" in line and "<progress" not in line
        assert "run of shout" in summary
    assert "there already" in second.html("flow.run")
    assert "plan of shout" in ran.html("flow.plan")
    assert "minilm" in ran.text("minlim") and "'minlim'" in ran.text("minlim")


def comparing(ran: Ran) -> None:
    asked = ran.html("flow.ask(models")
    assert "verdict of 3 of 3 models" in asked and "agreement" in asked
    assert "no weights today" in ran.text("answer.missing")
    accuracy = ran.text("right.to_frame()")
    found = {name: float(value) for name, value in re.findall(r"^(\w+)\s+(0\.\d+)$", accuracy, re.MULTILINE)}
    assert set(found) == {"bayes", "linear", "kernel", "vote", "average"}
    assert found["kernel"] > found["bayes"] and found["average"] > found["bayes"]
    assert "<svg" in "".join(ran.everything("text/html"))
    assert "went to the large one" in ran.html("cascade.calibrate")
    assert ran.everything("image/png"), "the plot"


def pipelines(ran: Ran) -> None:
    result = ran.html("keep=True).result()\nresult")
    assert "answer of pipeline sort" in result and "<svg" in result and "delivery, first" in result
    failed = ran.text("fragile = ")
    assert "stage 'inverse' failed" in failed and "square: 0" in failed
    assert "large" in ran.text("careful = ")
    assert ran.text("mood = af").startswith("['good', 'bad', ")
    mapped = ran.text("messages = ")
    assert "payment" in mapped and "product" in mapped and "_error" in mapped
    assert "stages of pipeline desk" in ran.html("summary = flow.run")
    assert "'text' is null" in ran.text("dead_letter_frame")
    assert "line 5" in ran.text("retyr: 3") and "did you mean retry?" in ran.text("retyr: 3")
    assert ran.text('replace("retyr"') == "'FROM A FILE'"


def selector(ran: Ran) -> None:
    assert "chosen for &#x27;digit&#x27; with probability" in ran.html("response = asked")
    watched = ran.outputs("display_id=True")
    assert len(watched) == 1, "one picture, drawn anew"
    assert re.findall(r'text-anchor="end">([\d,]+)</text>', watched[0].data["text/html"]) == ["361"]
    shares = re.findall(
        r"^(False|True)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)$", ran.text("told.assign"), re.MULTILINE
    )
    last = {kind: float(end) for kind, _, _, end in shares}
    assert last["True"] > 0.7 > 0.5 > last["False"], "negatives go to the model that knows them"
    assert "digit: plain" in ran.html("context=seen(test[1])") and "chance" in ran.html(
        "context=seen(test[1])"
    )
    assert "digit: both" in ran.html("context=seen(1 - test[1])")
    assert "SNIPS" in ran.html("flow.replay")
    assert "decision_id" in ran.text("chosen = ")


def operating(ran: Ran) -> None:
    (nodes,) = ran.outputs('id="wait"')
    assert "nodes: 2" in nodes.data["text/html"]
    assert "node 0: " in ran.html('flow.node("0")')
    assert "running" in ran.html("flow.tasks(")
    assert "cancelled" in ran.html("cancel_task")
    assert ran.text('flow.cordon("0")').startswith("{'1'}")
    assert "cordoned" in ran.html('flow.cordon("0")')
    assert ran.text("flow.uncordon") == "[('0', False), ('1', False)]"
    assert ran.text('flow.unload("1"') == "[('0', ['wait']), ('1', [])]"
    killed = ran.html("os.kill")
    assert "answer of wait on node 0" in killed and "1 died after" in killed
    assert "ONLINE" in ran.html(".address != victim.address") and "OFFLINE" not in ran.html(
        ".address != victim"
    )
    assert ran.text("back = ") == "1 True\n"
    assert "'errors'" in ran.text("urlopen") and "ONLINE" in ran.text("urlopen")


CHECKS = {
    "1-first-steps": first_steps,
    "2-comparing-and-combining": comparing,
    "3-pipelines": pipelines,
    "4-a-selector-that-learns": selector,
    "5-operating": operating,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.language_info) == {"name"}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_public_names_only(name):
    code = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    assert not re.findall(r"altlas_flow\.\w|from altlas_flow", code)
    assert not re.findall(r"\b(?:flow|af)\._\w", code)


def test_each_notebook_is_checked_and_told_of():
    assert set(CHECKS) == set(NAMES)
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.ipynb)" in page for name in NAMES)


LONG_WORK = [
    "import time, pandas as pd, altlas_flow as af",
    "flow = af.connect(workers=1)",
    "def slow(rows):\n    time.sleep(0.01 * len(rows))\n    return rows",
    "model = af.ModelSpec(id='slow', source=slow, batch=8)",
    "frame = pd.DataFrame({'n': range(240)})",
    "found = flow.run(frame, model, input='n', output='same', to='out', part_rows=4)",
    "mapped = flow.map(frame, model, input='n', output='same', part_rows=4)",
    "quick = flow.map(frame.head(3), model, input='n', output='same')",
    "bad = af.ModelSpec(id='bad', source=lambda rows: [1 / (row - 200) for row in rows], batch=8)",
    "try:\n    flow.run(frame, bad, input='n', output='x', to='bad', part_rows=8, on_error='raise')\n"
    "except af.AltlasError:\n    pass",
    "flow.close()",
]


@pytest.mark.long
def test_long_work_leaves_one_tidy_line(tmp_path, monkeypatch):
    cells = [nbformat.v4.new_code_cell(source) for source in LONG_WORK]
    ran = execute(nbformat.v4.new_notebook(cells=cells), tmp_path, monkeypatch)
    for source in ("found = ", "mapped = "):
        (line,) = ran.outputs(source)
        assert re.fullmatch(r"slow: 240 rows in [\d.]+ s, [\d.]+ rows/s", line.data["text/plain"])
        assert line.data["text/html"] == f"<div>{line.data['text/plain']}</div>"
    assert not ran.outputs("quick = "), "what is over in a moment shows nothing"
    (line,) = ran.outputs("try:")
    assert line.data["text/plain"].startswith("bad: stopped after ")


EVERYTHING = [
    "import altlas_flow as af, pandas as pd\nEVIL = '<script>window.taken = 1</script>'",
    "flow = af.connect(workers=1)\nflow",
    "def shout(rows):\n    return [str(row).upper() for row in rows]",
    "flow.register(af.ModelSpec(id=EVIL, source=shout, serves=['noise']))\nflow.models()[EVIL]",
    "response = flow.submit(EVIL, EVIL).result()\nresponse",
    "response.trace",
    "flow.nodes()",
    "flow.tasks()",
    "af.Pipeline([af.Stage('one', EVIL), af.Stage('two', EVIL, after='one')], id='chain')",
    "flow.submit(_, EVIL).result()",
    "flow.select('noise', EVIL)",
    "flow.run(pd.DataFrame({'text': [EVIL, None]}), EVIL, input='text', output='loud', to='out')",
    "flow.close()",
]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_exported_is_legible_in_a_browser(shown_page, tab, scheme):
    page, tables = shown_page
    tab.page.emulate_media(color_scheme=scheme)
    tab.page.goto(page.as_uri())
    assert tab.page.locator("table caption").count() >= tables >= 9
    assert tab.page.evaluate("window.taken") is None
    assert tab.page.get_by_text("<script>window.taken = 1</script>").count() > 5
    ground = 255 * 3 if scheme == "light" else 0
    for cell in tab.page.locator("td, th, caption").all()[:200]:
        seen = cell.evaluate(
            "one => { const style = getComputedStyle(one);"
            " return [style.color, style.backgroundColor].map(text => text.match(/[\\d.]+/g).map(Number)) }"
        )
        text, behind = seen
        under = ground if len(behind) == 4 and behind[3] == 0 else sum(behind[:3])
        assert abs(sum(text[:3]) - under) > 250, (cell.inner_text(), seen)
    assert tab.wrong == []


@pytest.fixture(scope="module")
def shown_page(tmp_path_factory):
    """A page of everything that notebooks show, and how many tables it has at least."""
    folder = tmp_path_factory.mktemp("exported")
    cells = [nbformat.v4.new_code_cell(source) for source in EVERYTHING]
    with pytest.MonkeyPatch.context() as monkeypatch:
        ran = execute(nbformat.v4.new_notebook(cells=cells), folder, monkeypatch)
    body = HTMLExporter(template_name="basic").from_notebook_node(ran.notebook)[0]
    page = folder / "page.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><style>:root {{ color-scheme: light dark }}</style>{body}',
        encoding="utf-8",
    )
    return page, len([html for html in ran.everything("text/html") if "<caption" in html])
