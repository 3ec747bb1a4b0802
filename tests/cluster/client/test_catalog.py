"""The catalog: one for all clients of a cluster, and ids that mean one recipe."""

from __future__ import annotations

import threading
import uuid

import pytest

import altlas_flow as af
from altlas_flow.cluster.client import catalog
from altlas_flow.cluster.client.catalog import Catalog
from altlas_flow.errors import InputError, ModelConflict, ModelLoadError, SpecError, UnknownModel
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(60)


def constant(value, **fields):
    """A model that answers with one value."""
    return af.ModelSpec(
        **{"id": f"constant-{uuid.uuid4()}", "source": lambda rows: [value for _ in rows]} | fields
    )


@pytest.fixture
def second(flow):
    """Another client of the same cluster."""
    with af.connect(flow.client.cluster.scheduler_address) as connected:
        yield connected


def test_what_one_client_registers_the_other_uses_by_its_id(flow, second):
    spec = flow.register(constant("shared"))
    assert second.models()[spec.id] == spec
    assert second.submit(spec.id, ["row"]).result(LIMIT).outputs == ["shared"]


def test_an_id_means_one_recipe_unless_it_is_replaced_on_purpose(flow, second):
    first = flow.register(constant("first"))
    assert flow.register(first) == first
    other = constant("other", id=first.id)
    for client in (flow, second):
        with pytest.raises(ModelConflict, match="replace=True"):
            client.register(other)
        assert client.submit(first.id, ["row"]).result(LIMIT).outputs == ["first"]


def test_a_function_given_to_a_call_takes_its_own_place_and_other_recipes_do_not(flow):
    # a notebook's cell is changed and run again
    first = constant("first")
    assert flow.submit(first, ["row"]).result(LIMIT).outputs == ["first"]
    assert flow.submit(constant("changed", id=first.id), ["row"]).result(LIMIT).outputs == ["changed"]
    assert flow.submit(first.id, ["row"]).result(LIMIT).outputs == ["changed"]
    with pytest.raises(ModelConflict):
        flow.submit(af.ModelSpec(id=first.id, runtime="function", source="operator:not_"), ["row"])


@pytest.mark.parametrize("put", ["register", "submit"])
def test_a_function_given_to_a_call_takes_nobody_elses_place_nor_that_of_what_was_registered(
    flow, second, put
):
    first = constant("first")
    if put == "register":
        flow.register(first)
    else:
        second.submit(first, ["row"]).result(LIMIT)
    with pytest.raises(ModelConflict):
        flow.submit(constant("another", id=first.id), ["row"])
    for each in (flow, second):
        assert each.submit(first.id, ["row"]).result(LIMIT).outputs == ["first"]


def test_a_replaced_recipe_reaches_clients_that_have_used_the_old_one(flow, second):
    first = flow.register(constant("old"))
    assert second.submit(first.id, ["row"]).result(LIMIT).outputs == ["old"]
    flow.register(constant("new", id=first.id), replace=True)
    assert flow.submit(first.id, ["row"]).result(LIMIT).outputs == ["new"]
    # told, not asked each time
    until(lambda: second.submit(first.id, ["row"]).result(LIMIT).outputs == ["new"])


@pytest.mark.parametrize("asked", ["register", "models", "find"])
def test_a_recipe_that_is_replaced_while_the_answer_is_on_its_way_is_not_kept(
    flow, second, asked, monkeypatch
):
    first = constant("first")
    newest = constant("newest", id=first.id)
    if asked != "register":
        second.register(first)
    ask, hear, heard = catalog.call_control, Catalog.replaced, threading.Event()

    def ask_slowly(client, operation, **arguments):
        answer = ask(client, operation, **arguments)
        if client is flow.client and not heard.is_set():
            second.register(newest, replace=True)
            assert heard.wait(LIMIT)
        return answer

    def note_hearing(self, message):
        hear(self, message)
        if self is flow._catalog and message["fingerprint"] == newest.fingerprint:
            heard.set()

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "call_control", ask_slowly)
        patch.setattr(Catalog, "replaced", note_hearing)
        if asked == "register":
            flow.register(first)
        elif asked == "models":
            assert first.id in flow.models()
        else:
            flow.submit(first.id, ["row"]).result(LIMIT)
        assert heard.is_set()
    assert flow.submit(first.id, ["row"]).result(LIMIT).outputs == ["newest"]


def test_what_is_heard_late_of_a_recipe_does_not_undo_what_is_known(flow, monkeypatch):
    spec = constant("known")
    events, hear = [], Catalog.replaced
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "replaced", lambda self, message: events.append((self, message)))
        flow.register(constant("old", id=spec.id))
        flow.register(spec, replace=True)
        until(lambda: len([event for event in events if event[0] is flow._catalog]) == 2)
    for who, message in events:
        hear(who, message)
    assert flow._catalog.known(spec.id) == spec


def test_an_unknown_model_is_refused_with_those_that_are_known(flow):
    known = flow.register(constant(1, id="a-known-one"))
    with pytest.raises(UnknownModel, match="'nobody'") as caught:
        flow.submit("nobody", ["row"])
    assert known.id in caught.value.known
    assert "\n" not in str(caught.value)


def test_an_estimator_is_told_how_to_become_a_model(flow):
    base = pytest.importorskip("sklearn.base").BaseEstimator
    with pytest.raises(SpecError, match=r"skops\.io\.dump, and give ModelSpec"):
        flow.submit(type("Mine", (base,), {})(), ["row"])


def test_an_input_of_several_that_is_none_is_named(flow):
    spec = flow.register(constant(1))
    for inputs, text in (([1, None], "inputs[1]: the input is null"), ([None], "the input is null")):
        with pytest.raises(InputError) as caught:
            flow.submit(spec, inputs).result(LIMIT)
        assert str(caught.value) == text


@pytest.mark.parametrize("model", [None, 7, {"id": "x"}, ["minilm"]])
def test_what_is_no_model_is_refused(flow, model):
    with pytest.raises(SpecError, match="is no model"):
        flow.submit(model, ["row"])
    with pytest.raises(SpecError, match="is no model"):
        flow.register(model)


def test_a_relative_source_is_resolved_on_the_client(flow, tmp_path, monkeypatch):
    from tests.models_zoo import build_linear

    build_linear(tmp_path / "linear")
    monkeypatch.chdir(tmp_path)
    fields = {
        "runtime": "torch",
        "entry": "torch.nn:Linear",
        "options": {"in_features": 3, "out_features": 2},
    }
    spec = flow.register(af.ModelSpec(id=f"linear-{uuid.uuid4()}", source="linear", **fields))
    assert spec.source == str(tmp_path / "linear")
    monkeypatch.chdir("/")
    assert flow.submit(spec.id, [[1.0, 2.0, 3.0]]).result(LIMIT).outputs.shape == (1, 2)


def test_a_folder_that_a_worker_does_not_have_is_named_with_the_worker(flow, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    spec = af.ModelSpec(id=f"gone-{uuid.uuid4()}", task="feature-extraction", source=str(folder))
    folder.rmdir()
    with pytest.raises(ModelLoadError) as caught:
        flow.submit(spec, ["row"]).result(LIMIT)
    assert str(folder) in str(caught.value)
    assert caught.value.node in {"0", "1"}
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_a_built_in_id_yields_to_the_users_own():
    # its own cluster: the id is the session's otherwise
    with af.connect(workers=1) as flow:
        if "minilm" in flow.models():
            assert flow.models()["minilm"].runtime == "transformers"
            assert flow.submit("minilm", "a text").result(LIMIT).outputs.shape == (384,)
        flow.register(constant("mine", id="minilm"))
        assert flow.models()["minilm"].runtime == "function"
        assert flow.submit("minilm", ["row"]).result(LIMIT).outputs == ["mine"]
        with af.connect(flow.client.cluster) as second:
            assert second.submit("minilm", ["row"]).result(LIMIT).outputs == ["mine"]


def test_flows_that_share_a_client_both_hear_of_a_replaced_recipe(flow):
    first = flow.register(constant("old"))
    with af.connect(flow.client) as other:
        assert other.submit(first.id, ["row"]).result(LIMIT).outputs == ["old"]
        other.register(constant("new", id=first.id), replace=True)
        until(lambda: flow.submit(first.id, ["row"]).result(LIMIT).outputs == ["new"])
    flow.register(constant("newer", id=first.id), replace=True)
    assert flow.submit(first.id, ["row"]).result(LIMIT).outputs == ["newer"]
