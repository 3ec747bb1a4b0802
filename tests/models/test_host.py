"""The host: one load, slots, a memory budget, and nobody left waiting."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from altlas_flow.errors import HostClosed, ModelLoadError, ParameterError
from altlas_flow.models.host import ModelHost
from altlas_flow.models.loaded import LoadedModel
from altlas_flow.models.shelf import Shelf
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.watch import Watch

LONG = 60.0


@pytest.fixture
def make_host() -> Iterator[Callable[..., ModelHost]]:
    hosts: list[ModelHost] = []

    def make(**options: Any) -> ModelHost:
        hosts.append(ModelHost(node="node-a", **options))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def doubles(rows: list[int]) -> list[int]:
    return [2 * row for row in rows]


DOUBLES = ModelSpec(id="doubles", source=doubles)


@pytest.mark.parametrize("announces", ["says no", "fails"])
def test_what_may_not_run_twice_does_not_run_where_nobody_would_know_that_it_did(
    make_host: Callable[..., ModelHost], announces: str
) -> None:
    def announce(slot: str, runs: list[Any]) -> bool:
        if announces == "fails":
            raise OSError("the scheduler has gone")
        return False

    host, ran = make_host(announce=announce), []

    def notes(rows: list[int]) -> list[int]:
        ran.append(rows)
        return rows

    globals()["_notes"] = notes
    spec = ModelSpec(id="notes", runtime="function", source=f"{__name__}:_notes")
    with pytest.raises(HostClosed, match="cannot tell the scheduler"):
        host.predict(spec, [1], batch=1, watch=Watch(1, "once", once=True))
    assert host.predict(spec, [2], watch=Watch(1, "often")).outputs == [2]
    assert len(ran) == 1


def test_a_slot_whose_call_was_given_up_says_when_it_is_idle(make_host: Callable[..., ModelHost]) -> None:
    began, goes_on, idle, slots = threading.Event(), threading.Event(), threading.Event(), []

    def told(slot: str) -> None:
        slots.append(slot)
        idle.set()

    host, watch = make_host(idle=told), Watch(1, "call")

    def waits(rows: list[int]) -> list[int]:
        began.set()
        assert goes_on.wait(LONG)
        return rows

    globals()["_waits"] = waits
    spec = ModelSpec(id="waits", runtime="function", source=f"{__name__}:_waits")
    with pytest.raises(CancelledError):
        host.predict(spec, [1], watch=watch, wanted=lambda: not began.is_set())
    assert watch.lingers
    assert not slots
    goes_on.set()
    assert idle.wait(LONG)
    assert host.predict(DOUBLES, [1], watch=Watch(1, "next")).outputs == [2]
    assert len(slots) == 1


def test_rows_come_back_in_order(make_host: Callable[..., ModelHost]) -> None:
    result = make_host(slots=2).predict(DOUBLES, list(range(1000)), timeout=LONG)
    assert result.outputs == [2 * i for i in range(1000)]


def test_a_model_is_loaded_once_however_many_ask_at_once(make_host: Callable[..., ModelHost]) -> None:
    host = make_host(slots=2)
    gate = threading.Barrier(16)

    def ask(i: int) -> Any:
        gate.wait(LONG)
        return host.predict(DOUBLES, [i], timeout=LONG)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(ask, range(16)))
    assert host.shelf.loads == 1
    assert [result.outputs for result in results] == [[2 * i] for i in range(16)]
    assert sum(result.load_s > 0 for result in results) == 1


def test_what_waits_for_one_model_shares_batches(make_host: Callable[..., ModelHost]) -> None:
    sizes: list[int] = []
    first, go = threading.Event(), threading.Event()

    def slow(rows: list[int]) -> list[int]:
        sizes.append(len(rows))
        first.set()
        go.wait(LONG)
        return rows

    # imported by name: a callable sent by value would have events of its own
    globals()["_slow"] = slow
    spec = ModelSpec(id="slow", runtime="function", source=f"{__name__}:_slow")
    host = make_host(slots=1)
    with ThreadPoolExecutor(8) as pool:
        leader = pool.submit(host.predict, spec, [0])
        assert first.wait(LONG)
        rest = [pool.submit(host.predict, spec, [i]) for i in range(1, 6)]
        while host.state()["waiting_rows"] < 5:  # bounded by the test's timeout
            threading.Event().wait(0.005)
        go.set()
        assert leader.result(LONG).outputs == [0]
        assert [future.result(LONG).outputs for future in rest] == [[i] for i in range(1, 6)]
    assert sizes == [1, 5]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize(
    "form",
    [
        "rows",
        pytest.param("async", marks=pytest.mark.long),
        pytest.param("single-async", marks=pytest.mark.long),
    ],
)
def test_what_a_row_raises_ends_neither_other_rows_nor_the_slot(
    make_host: Callable[..., ModelHost], raised: type[BaseException], form: str, capfd: Any, caplog: Any
) -> None:
    def fails(rows: list[int]) -> list[int]:
        if 3 in rows:
            raise raised
        return rows

    async def later(rows: list[int]) -> list[int]:
        return fails(rows)

    async def one(row: int) -> int:
        return fails([row])[0]

    source = {"rows": fails, "async": later, "single-async": one}[form]
    spec = ModelSpec(id="fails", source=source, single=form.startswith("single"))
    host = make_host(slots=1)
    result = host.predict(spec, list(range(8)), batch=8, timeout=LONG)
    assert [out for row, out in enumerate(result.outputs) if row != 3] == [0, 1, 2, 4, 5, 6, 7]
    assert {row: raised.__name__ in str(error) for row, error in result.errors.items()} == {3: True}
    assert host.predict(spec, [7], timeout=LONG).outputs == [7]
    gc.collect()  # tasks that nobody has asked for their errors complain when they go
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("altlas_flow")]


def test_a_load_that_fails_names_model_node_and_cause_and_makes_no_storm(
    make_host: Callable[..., ModelHost],
) -> None:
    host = make_host(retry_delay=1000.0)
    bad = ModelSpec(id="bad", runtime="torch", source="/nowhere/at/all", entry="torch.nn:Linear")
    errors = []
    for _ in range(5):
        with pytest.raises(ModelLoadError) as caught:
            host.predict(bad, [1])
        errors.append(caught.value)
    assert "bad" in str(errors[0]) and "node-a" in str(errors[0]) and "/nowhere/at/all" in str(errors[0])
    assert {str(error) for error in errors} == {str(errors[0])}
    assert host.shelf.failed_loads == 1, "one attempt, told to all"
    assert host.predict(DOUBLES, [1], timeout=LONG).outputs == [2], "the others are left alone"


def test_a_load_that_failed_is_tried_again_after_a_pause() -> None:
    now, loads = [0.0], []

    def load(spec: ModelSpec) -> LoadedModel:
        loads.append(now[0])
        if len(loads) < 3:
            raise OSError("not yet")
        return LoadedModel(spec)

    shelf = Shelf(load, retry_delay=1.0, clock=lambda: now[0])
    for moment in (0.0, 0.5, 1.5, 2.0, 3.0, 4.0):
        now[0] = moment
        try:
            with shelf.use(DOUBLES):
                break
        except ModelLoadError:
            continue
    assert loads == [0.0, 1.5, 4.0], "after 1 s, then after 2 s"
    shelf.close()


class Stubborn(LoadedModel):
    """A model whose engine fails after it was loaded: when it says its size, or when it is to go."""

    def __init__(self, spec: ModelSpec, fails: str) -> None:
        super().__init__(spec)
        setattr(self.runtime, fails, self.fail)

    @staticmethod
    def fail() -> Any:
        raise RuntimeError("the engine is in no mood")


def test_a_load_fails_and_is_tried_again_where_the_model_cannot_say_its_size() -> None:
    now, loads = [0.0], []

    def load(spec: ModelSpec) -> LoadedModel:
        loads.append(now[0])
        return Stubborn(spec, "memory") if len(loads) == 1 else LoadedModel(spec)

    shelf = Shelf(load, load_timeout=1.0, clock=lambda: now[0])
    with pytest.raises(ModelLoadError, match="RuntimeError: the engine is in no mood"), shelf.use(DOUBLES):
        pass
    now[0] = 2.0
    with shelf.use(DOUBLES) as (model, _):
        assert model.predict([1]) == [2]
    assert loads == [0.0, 2.0]
    assert (shelf.loads, shelf.failed_loads) == (1, 1)
    shelf.close()


@pytest.mark.long
def test_a_model_that_cannot_be_unloaded_fails_no_other(caplog: Any) -> None:
    first = ModelSpec(id="first", source=doubles, memory=2**20)
    second = ModelSpec(id="second", source=lambda rows: [row + 1 for row in rows], memory=2**20)
    shelf = Shelf(lambda spec: Stubborn(spec, "unload"), budget=2**20)
    for spec in (first, second):
        with shelf.use(spec) as (model, _):
            assert model.predict([1]) == [2]
    assert {entry["id"] for entry in shelf.loaded().values()} == {"second"}
    shelf.close()
    assert not shelf.loaded()
    ours = [record for record in caplog.records if record.name.startswith("altlas_flow")]
    assert [record.args[0] for record in ours] == ["first", "second"]


def tensor_spec(folder: Any, name: str, megabytes: int) -> ModelSpec:
    """A linear layer of so many MiB as safetensors."""
    import torch
    from safetensors.torch import save_file

    columns = megabytes * 2**20 // 4 // 256
    path = folder / f"{name}.safetensors"
    save_file({"weight": torch.zeros(columns, 256), "bias": torch.zeros(columns)}, path)
    return ModelSpec(
        id=name,
        runtime="torch",
        source=str(path),
        entry="torch.nn:Linear",
        options={"in_features": 256, "out_features": columns},
    )


def test_the_least_recently_used_model_goes_and_its_memory_is_freed(
    make_host: Callable[..., ModelHost], tmp_path: Any
) -> None:
    specs = [tensor_spec(tmp_path, name, 128) for name in ("a", "b", "c")]
    host = make_host(memory_budget=300 * 2**20)
    rss = psutil.Process(os.getpid()).memory_info
    for spec in specs[:2]:
        host.describe(spec)
    host.describe(specs[0])  # b is now the least recently used
    both = rss().rss
    host.describe(specs[2])
    assert {entry["id"] for entry in host.shelf.loaded().values()} == {"a", "c"}
    assert host.shelf.unload(specs[0].fingerprint) and host.shelf.unload(specs[2].fingerprint)
    freed = both - rss().rss
    assert freed > 0.8 * 256 * 2**20, f"only {freed / 2**20:.0f} MiB of 256 came back"


def test_a_model_in_use_is_never_evicted(make_host: Callable[..., ModelHost], tmp_path: Any) -> None:
    a, b = (tensor_spec(tmp_path, name, 64) for name in ("a", "b"))
    host = make_host(memory_budget=100 * 2**20)
    with host.shelf.use(a) as (model, _):
        host.shelf.load_timeout = 0.5
        with pytest.raises(ModelLoadError, match="in use"):
            host.describe(b)
        assert model.predict([[0.0] * 256]).shape == (1, 64 * 2**20 // 4 // 256)
        assert not host.shelf.unload(a.fingerprint)


def test_a_model_larger_than_the_budget_is_refused_with_both_figures(
    make_host: Callable[..., ModelHost], tmp_path: Any
) -> None:
    host = make_host(memory_budget=10 * 2**20)
    with pytest.raises(ModelLoadError, match=r"64 MiB.*10 MiB"):
        host.describe(tensor_spec(tmp_path, "a", 64))


def test_closing_answers_everybody_who_waits(make_host: Callable[..., ModelHost]) -> None:
    started, go = threading.Event(), threading.Event()

    def stuck(rows: list[int]) -> list[int]:
        started.set()
        go.wait(LONG)
        return rows

    globals()["_stuck"] = stuck
    spec = ModelSpec(id="stuck", runtime="function", source=f"{__name__}:_stuck")
    host = make_host(slots=1)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(host.predict, spec, [1])
        assert started.wait(LONG)
        waiting = pool.submit(host.predict, DOUBLES, [1])
        while host.state()["waiting_rows"] < 1:
            threading.Event().wait(0.005)
        closer = threading.Thread(target=host.close)
        closer.start()
        with pytest.raises(HostClosed):
            waiting.result(LONG)
        go.set()
        closer.join(LONG)
        assert running.result(LONG).outputs == [1]
    with pytest.raises(HostClosed):
        host.predict(DOUBLES, [1])


def test_unknown_parameters_are_refused_with_the_known_ones(make_host: Callable[..., ModelHost]) -> None:
    def scaled(rows: list[int], factor: int = 1) -> list[int]:
        return [factor * row for row in rows]

    spec = ModelSpec(id="scaled", source=scaled)
    host = make_host()
    assert host.predict(spec, [2], parameters={"factor": 3}, timeout=LONG).outputs == [6]
    with pytest.raises(ParameterError, match="factor"):
        host.predict(spec, [2], parameters={"fctor": 3})


def test_a_gpu_token_lets_one_batch_run_at_a_time(make_host: Callable[..., ModelHost]) -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def watch(rows: list[int]) -> list[int]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.02)  # long enough for a second batch to overlap, if it could
        with lock:
            running[0] -= 1
        return rows

    globals()["_watch"] = watch
    spec = ModelSpec(id="gpu", runtime="function", source=f"{__name__}:_watch", resources={"GPU": 1}, batch=1)
    host = make_host(slots=4, gpus=1)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: host.predict(spec, [i] * 3, timeout=LONG).outputs, range(4)))
    assert results == [[i] * 3 for i in range(4)]
    assert most == [1]


@pytest.mark.parametrize(("declared", "most_at_once"), [(0.5, 1), (1, 2)])
def test_models_that_ask_for_half_a_gpu_run_as_often_as_halves_are_declared(
    make_host: Callable[..., ModelHost], declared: float, most_at_once: int
) -> None:
    lock, running, most = threading.Lock(), [0], [0]
    enough, too_many = threading.Event(), threading.Event()

    def share(rows: list[int]) -> list[int]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == most_at_once:
                enough.set()
            if running[0] > most_at_once:
                too_many.set()
        enough.wait(LONG)
        too_many.wait(0.05)  # long enough for one more to come, if it could
        with lock:
            running[0] -= 1
        return rows

    globals()["_share"] = share
    resources = {"GPU": 0.5}
    spec = ModelSpec(
        id="share", runtime="function", source=f"{__name__}:_share", resources=resources, batch=1
    )
    host = make_host(slots=4, gpus=declared)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: host.predict(spec, [i], timeout=LONG).outputs, range(8)))
    assert results == [[i] for i in range(8)]
    assert most == [most_at_once]


def test_what_is_no_longer_wanted_is_taken_back(make_host: Callable[..., ModelHost]) -> None:
    started, go = threading.Event(), threading.Event()

    def blocks(rows: list[int]) -> list[int]:
        started.set()
        go.wait(LONG)
        return rows

    globals()["_blocks"] = blocks
    spec = ModelSpec(id="blocks", runtime="function", source=f"{__name__}:_blocks")
    host = make_host(slots=1)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(host.predict, spec, [1])
        assert started.wait(LONG)
        with pytest.raises(CancelledError):
            host.predict(DOUBLES, [1, 2], wanted=lambda: False)
        assert host.state()["waiting_rows"] == 0
        go.set()
        assert running.result(LONG).outputs == [1]
    go.clear()
    with pytest.raises(TimeoutError):
        host.predict(spec, [1], timeout=0.1)
    go.set()
