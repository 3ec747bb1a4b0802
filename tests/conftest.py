"""What all tests share: offline, on a real cluster where they ask for one, and nothing left behind.

``flow``
    an embedded cluster of two workers in processes, shared by the tests of a session. A test that
    kills workers, restarts them or changes the catalog for others starts its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.browsing import chromium as chromium
from tests.browsing import tab as tab

if TYPE_CHECKING:
    from altlas_flow import Flow

# Set before anything is imported that reads them, and inherited by all processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A session started in the background of a shell ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Marks every process that descends from this session, also those whose parents have gone.
MARK = "ALTLAS_TEST_SESSION"
os.environ[MARK] = uuid.uuid4().hex
#: Seconds that processes get to end by themselves after the last test.
LEFTOVER_LIMIT = 20.0

_LEFTOVERS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def flow() -> Iterator[Flow]:
    """An embedded cluster: two workers, one thread each, shared."""
    import altlas_flow as af

    with af.connect(workers=2, threads_per_worker=1) as connected:
        yield connected


@pytest.fixture(scope="session")
def tiny_generator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model over bytes, of 20,000 tokens: its texts are as long as a test wants."""
    from tests import models_zoo

    folder = tmp_path_factory.mktemp("models") / "generator"
    return models_zoo.build_generator(folder, positions=20_000, endless=True)


def leftovers() -> list[psutil.Process]:
    """Processes that this session started and that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(MARK) == os.environ[MARK]
                # Python's own: it lives exactly as long as this process
                and "multiprocessing.resource_tracker" not in " ".join(process.cmdline())
            ):
                found.append(process)
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A session that leaves processes behind has failed, whatever its tests say."""
    _, alive = psutil.wait_procs(leftovers(), timeout=LEFTOVER_LIMIT)
    lines = []
    for process in [*alive, *(late for late in leftovers() if late not in alive)]:
        with contextlib.suppress(psutil.Error):
            lines.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            process.kill()
    session.config.stash[_LEFTOVERS] = lines
    if lines:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the processes that were left."""
    if lines := config.stash.get(_LEFTOVERS, []):
        terminalreporter.section("processes left behind", red=True)
        for line in lines:
            terminalreporter.write_line(line)
