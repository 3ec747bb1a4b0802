"""The keeper's process: killed, alone, on a full disk; nothing is lost, doubled or left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

from altlas_flow.errors import HistoryError
from altlas_flow.history import frames
from altlas_flow.history.keeper import Keeper
from altlas_flow.history.rows import is_good
from altlas_flow.history.store import Store
from altlas_flow.history.writer import Writer
from tests.history.parts import part, prompt

LIMIT = 30
pytestmark = pytest.mark.timeout(60)

#: Stops the keeper, puts 1,000 tasks, and says so once they are in the pipe.
OWNER = """
import os, signal, sys, threading
from altlas_flow.history.writer import Writer
from tests.history.parts import part, prompt
writer = Writer(sys.argv[1])
writer.ask("count").result(30)
os.kill(writer.keeper, signal.SIGSTOP)
writer.put(part(range(1000)))
courier = writer._courier
assert prompt(lambda: courier._unsettled and not courier._child.busy)
print(writer.keeper, flush=True)
threading.Event().wait(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


def gone(pid):
    """Whether a process is no more; one that nobody has waited for is a zombie, and no more either."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def ids(path):
    """What is in the file once nobody has it: all rows are good, and none is there twice."""
    store = Store(path, wait=LIMIT)
    rows, bad = store.read(limit=1_000_000)
    store.close()
    found = {row[0] for _, row in rows}
    assert not bad and len(found) == len(rows)
    return found


@pytest.mark.long
def test_a_keeper_that_is_killed_while_it_writes_loses_and_doubles_nothing(path):
    count, killed = 100_000, set()
    writer = Writer(path)
    for start in range(0, count, 500):
        writer.put(part(range(start, start + 500)))
    for share in (1, count // 4, count // 2):  # each time in the middle of what it has been sent
        assert prompt(lambda share=share: writer.written >= share and writer.keeper not in {None, *killed})
        killed.add(writer.keeper)
        os.kill(writer.keeper, signal.SIGKILL)
    assert writer.ask("count").result(LIMIT) == count
    assert (writer.written, writer.dropped) == (count, 0)
    keeper = writer.keeper
    assert keeper not in killed
    writer.close()
    assert ids(path) == {f"{number:032x}" for number in range(count)}
    assert all(map(gone, {keeper, *killed}))


def test_what_comes_again_is_found_wherever_it_is_in_the_file(path):
    said = []
    store = Store(path)
    store.add(part(range(10)).rows())

    def open_store():
        store.rescued = "rows are in another order"
        return store

    keeper = Keeper(open_store, said.append)
    again = [frames.pack_part(part(numbers)) for numbers in ([3], [20], [4, 21])]
    keeper.take((frames.AGAIN, 2, 4))
    keeper.take((frames.PARTS, 1, again[:1]))
    keeper.take((frames.PARTS, 2, again[1:]))
    keeper.take((frames.PARTS, 3, [frames.pack_part(part([5]))]))  # new: not looked for
    assert [message for message in said if message[0] == frames.KEPT] == [
        (frames.KEPT, 1, 1, 0),
        (frames.KEPT, 2, 3, 0),
        (frames.KEPT, 3, 1, 0),
    ]
    assert store.count() == 13
    keeper.close()


def test_what_an_owner_that_is_killed_has_put_is_written_and_the_next_one_waits_for_that(path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE, text=True)
    with owner:
        keeper = int(owner.stdout.readline())
        owner.kill()
    writer = Writer(path)
    answer = writer.ask("count")
    with pytest.raises(TimeoutError):
        answer.result(0.5)
    os.kill(keeper, signal.SIGCONT)
    assert answer.result(LIMIT) == 1000
    assert writer.fault == ""
    assert prompt(lambda: gone(keeper))
    writer.close()


def test_another_scheduler_is_told_that_the_file_is_in_use(path):
    writer = Writer(path)
    assert writer.ask("count").result(LIMIT) == 0
    with pytest.raises(HistoryError, match="in use by another scheduler"):
        Store(path, wait=0.1)
    writer.close()
    Store(path).close()


@pytest.mark.long
def test_what_a_full_disk_does_not_take_is_written_once_there_is_room(path):
    writer = Writer(path)
    assert writer.ask("count").result(LIMIT) == 0
    before = resource.prlimit(writer.keeper, resource.RLIMIT_FSIZE)
    resource.prlimit(writer.keeper, resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    for start in range(0, 5000, 500):
        writer.put(part(range(start, start + 500)))
    assert writer.ask("count").result(LIMIT) == 0
    assert "5000 tasks are not in the history yet" in writer.fault
    assert (writer.written, writer.dropped) == (0, 0)
    resource.prlimit(writer.keeper, resource.RLIMIT_FSIZE, before)
    writer.put(part([5000]))
    assert prompt(lambda: writer.written == 5001)  # it tries again by itself
    writer.close()
    assert len(ids(path)) == 5001


def test_what_a_full_disk_never_takes_is_counted(path):
    writer = Writer(path)
    assert writer.ask("count").result(LIMIT) == 0
    before = resource.prlimit(writer.keeper, resource.RLIMIT_FSIZE)
    resource.prlimit(writer.keeper, resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    writer.put(part(range(5000)))
    writer.close()
    assert (writer.written, writer.dropped) == (0, 5000)


def test_a_signal_to_its_group_or_service_does_not_end_it_and_its_owner_does(path):
    writer = Writer(path)
    assert writer.ask("count").result(LIMIT) == 0
    keeper = writer.keeper
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(keeper, number)
    writer.put(part([1]))
    assert writer.ask("count").result(LIMIT) == 1
    assert writer.keeper == keeper
    writer.close()
    assert gone(keeper)


def test_rows_of_parts_have_the_checksum_of_their_values():
    odd = part(
        range(2), ids=["ä" * 300, "a\ud800b"], model="\x1f", started=[None, 0.3], error="é\ud800" * 400
    )
    assert all(map(is_good, (*part(range(5)).rows(), *odd.rows())))
    with pytest.raises(ValueError, match="shorter"):
        list(part(range(2), started=[1]).rows())
