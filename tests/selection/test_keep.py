"""What was learned, kept in a file."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.errors import StateError
from altlas_flow.selection import codec, wire
from altlas_flow.selection.selector import Selector


def trained(rounds=150):
    rng = np.random.default_rng(0)
    selector = Selector("abc", weights={"quality": 1, "latency": 0.1}, seed=4)
    for n in range(rounds):
        decision = selector.ask({"length": n % 17, "vector": rng.normal(size=8)})
        if n % 5:
            selector.tell(decision, quality=float(rng.random()), latency=float(rng.random()))
    return selector


def choices(selector, count=60):
    rng, made = np.random.default_rng(1), []
    for n in range(count):
        decision = selector.ask({"length": n % 17, "vector": rng.normal(size=8)})
        selector.tell(decision, quality=float(rng.random()), latency=float(rng.random()))
        made.append((decision.models, decision.probabilities, decision.version))
    return made


def test_one_that_was_saved_goes_on_with_the_same_choices(tmp_path):
    selector = trained()
    selector.save(tmp_path / "state")
    again = Selector.load(tmp_path / "state")
    assert choices(again) == choices(selector)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_snapshot_travels():
    snapshot = trained().learner.snapshot
    again = wire.from_bytes(wire.to_bytes(snapshot))
    row = np.zeros(len(snapshot.columns), dtype=np.float32)
    vector = np.ones(8, dtype=np.float32)
    one, other = snapshot.expect_row(row, vector), again.expect_row(row, vector)
    assert {name: values.tolist() for name, values in one.values.items()} == {
        name: values.tolist() for name, values in other.values.items()
    }
    assert (again.version, again.arms, again.verdict) == (snapshot.version, snapshot.arms, snapshot.verdict)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "whole"
    trained(60).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_file_is_never_taken(tmp_path, seed, whole):
    rng, damaged = np.random.default_rng(seed), bytearray(whole)
    match seed % 4:
        case 0:  # a bit
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        case 1:  # torn
            del damaged[rng.integers(len(damaged)) :]
        case 2:  # a block of zeros
            at = int(rng.integers(len(damaged) - 50))
            damaged[at : at + 50] = bytes(50)
        case 3:  # more than there was
            damaged += bytes(int(rng.integers(1, 100)))
    if bytes(damaged) == whole:
        damaged += b"!"
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(StateError, match="the state of a selector cannot be used"):
        Selector.load(tmp_path / "damaged")


def test_a_file_of_another_version_is_named(tmp_path):
    data = codec.pack({}, {}).replace(f'"format": {codec.FORMAT}'.encode(), b'"format": 9', 1)
    (tmp_path / "state").write_bytes(data)
    with pytest.raises(StateError, match="of format 9"):
        Selector.load(tmp_path / "state")


def test_a_file_that_is_not_there_and_one_that_holds_something_else(tmp_path):
    with pytest.raises(StateError, match="cannot be read"):
        Selector.load(tmp_path / "nothing")
    (tmp_path / "other").write_bytes(codec.pack({"a": 1}, {}))
    with pytest.raises(StateError, match="missing"):
        Selector.load(tmp_path / "other")


def test_no_pickle_is_read():
    with pytest.raises(ValueError, match=r"pickle|Object arrays"):
        codec.pack({}, {"objects": np.array([object()])})
