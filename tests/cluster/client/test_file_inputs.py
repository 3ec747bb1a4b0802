"""Inputs that name files, and models of sounds, images, tokens and tables, over a cluster."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from pathlib import Path

import dask.config
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import altlas_flow as af
from altlas_flow.errors import FileRefused, ParameterError, SourceError
from altlas_flow.models import files
from tests import hub_zoo
from tests.models_zoo import sentences

pytestmark = pytest.mark.timeout(90)

LIMIT = 60.0


def sizes(rows):
    return [len(row) if isinstance(row, bytes) else repr(row) for row in rows]


def model(source, **fields):
    return af.ModelSpec(id=f"m-{uuid.uuid4()}", source=source, **fields)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Specs by task; all that use a cluster share them, for models stay loaded."""
    root = tmp_path_factory.mktemp("zoo")
    built = {
        "zero-shot-classification": hub_zoo.build_nli(root / "nli"),
        "token-classification": hub_zoo.build_tagger(root / "tags"),
        "image-classification": hub_zoo.build_image_classifier(root / "images"),
        "automatic-speech-recognition": hub_zoo.build_speech(root / "speech"),
    }
    return {task: model(str(folder), task=task) for task, folder in built.items()}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A classifier of handwritten digits, and its file as a model."""
    fitted = LogisticRegression(max_iter=500, tol=1e-3).fit(load_digits().data / 16, load_digits().target)
    path = tmp_path_factory.mktemp("digits") / "model.skops"
    skops.io.dump(fitted, path)
    return fitted, model(str(path), runtime="sklearn")


def allow(folders):
    dask.config.set({"altlas.allowed-folders": folders})


@pytest.fixture
def clips(flow, tmp_path, monkeypatch):
    """A folder that is the client's working directory, and allowed on the workers."""
    monkeypatch.chdir(tmp_path)
    before = dask.config.get("altlas.allowed-folders")
    flow.client.run(allow, [str(tmp_path)])
    yield tmp_path
    flow.client.run(allow, before)


# ---------------------------------------------------------------- files


def test_a_file_is_read_by_the_client_or_where_the_model_runs(flow, clips):
    (clips / "a.bin").write_bytes(b"x" * 7)
    spec = model(sizes)
    assert flow.submit(spec, af.File("a.bin")).result(LIMIT).outputs == 7
    there = af.File(clips / "a.bin", on_worker=True)
    assert flow.submit(spec, [there, "a.bin", {"k": 1}]).result(LIMIT).outputs == [7, "'a.bin'", "{'k': 1}"]
    # seen from the working directory of the worker, where it is not
    with pytest.raises(SourceError):
        flow.submit(spec, af.File("a.bin", on_worker=True)).result(LIMIT)


def test_each_side_reads_from_its_own_folders_only(flow, tmp_path, monkeypatch):
    (tmp_path / "secret").write_bytes(b"secret")
    spec = model(sizes)
    with pytest.raises(FileRefused, match="in no folder that is read from here"):
        flow.submit(spec, af.File(tmp_path / "secret"))
    handle = flow.submit(spec, af.File(tmp_path / "secret", on_worker=True))
    with pytest.raises(FileRefused, match="in no folder that is read from here") as caught:
        handle.result(LIMIT)
    assert caught.value.tries == 1  # another worker would say the same
    monkeypatch.chdir(tmp_path)
    assert flow.submit(spec, af.File("secret")).result(LIMIT).outputs == 6
    with pytest.raises(FileRefused):
        flow.submit(spec, af.File(tmp_path / "secret", on_worker=True)).result(LIMIT)
    work = Path(next(iter(flow.client.run(os.getcwd).values())))
    found = next(path for path in work.iterdir() if path.is_file())
    assert flow.submit(spec, af.File(found, on_worker=True)).result(LIMIT).outputs == found.stat().st_size


def test_one_that_cannot_be_read_does_not_cost_others_theirs(flow, clips):
    (clips / "a.bin").write_bytes(b"x" * 7)
    spec = model(sizes)
    given = [af.File("a.bin"), af.File("/etc/passwd"), af.File("none"), b"bytes"]
    responses = flow.submit_many(spec, given).result(LIMIT)
    assert [response.outputs for response in responses] == [7, None, None, 5]
    assert [response.error.type if response.error else None for response in responses] == [
        None,
        "FileRefused",
        "SourceError",
        None,
    ]
    requests = [af.InferenceRequest(model_id=spec.id, inputs=item) for item in given]
    assert [response.outputs for response in flow.submit_many(requests).result(LIMIT)] == [7, None, None, 5]


def test_files_are_read_beside_the_event_loop_that_waits(flow, clips, monkeypatch):
    (clips / "a.bin").write_bytes(b"x" * 7)
    threads, read = [], files.read_file

    def noted(path, settings):
        threads.append(threading.current_thread())
        return read(path, settings)

    monkeypatch.setattr(files, "read_file", noted)
    spec = flow.register(model(sizes))
    good = af.InferenceRequest(model_id=spec.id, inputs=[af.File("a.bin")])
    bad = af.InferenceRequest(model_id=spec.id, inputs=af.File("none"))

    async def ask():
        orchestrator = af.DistributedModelOrchestrator(flow=flow)
        with pytest.raises(SourceError):
            await orchestrator.run_distributed_inference(bad)
        return await orchestrator.run_distributed_inference(
            good
        ), await orchestrator.run_distributed_batch_inference([good, bad])

    one, (first, second) = asyncio.run(ask())
    assert one.outputs == first.outputs == [7]
    assert one.request_id == first.request_id == good.request_id
    assert second.error.type == "SourceError"
    assert second.request_id == bad.request_id
    assert len(threads) == 4
    assert threading.main_thread() not in threads


# ---------------------------------------------------------------- tasks


def test_sounds_and_images_are_named_by_their_paths(flow, clips, zoo):
    (clips / "a.wav").write_bytes(hub_zoo.wav(hub_zoo.tone()))
    (clips / "a.png").write_bytes(hub_zoo.png(hub_zoo.picture()))
    for task, name in [("automatic-speech-recognition", "a.wav"), ("image-classification", "a.png")]:
        spec = zoo[task]
        with spec.load(device="cpu") as here:
            expected = here.predict([name])
        assert expected[0]
        content = (clips / name).read_bytes()
        found = (
            flow.submit(spec, [name, content, af.File(clips / name, on_worker=True)]).result(LIMIT).outputs
        )
        labels = [row["label"] if isinstance(row, dict) else row for row in [*expected, *found]]
        assert len(set(labels)) == 1
        with pytest.raises(FileRefused, match="is a URL"):
            flow.submit(spec, "https://example.com/" + name)


def test_a_column_of_paths_is_read_where_the_model_runs(flow, clips, zoo):
    spec = zoo["image-classification"]
    for at in range(4):
        (clips / f"{at}.png").write_bytes(hub_zoo.png(hub_zoo.picture(at)))
    with spec.load(device="cpu") as here:
        expected = here.predict([hub_zoo.picture(at) for at in range(4)])
    paths = [str(clips / f"{at}.png") for at in range(4)]
    frame = pd.DataFrame({"path": [*paths, str(clips / "none.png"), "/etc/passwd", "http://x/y.png"]})
    found = flow.map(frame, spec, input="path", on_error="collect")
    assert found["label"].tolist()[:4] == [row["label"] for row in expected]
    np.testing.assert_allclose(found["score"][:4], [row["score"] for row in expected], atol=1e-4)
    assert found["label"].isna().tolist() == [False] * 4 + [True] * 3
    errors = found["label_error"].tolist()[4:]
    for text, error in zip(["No such file", "in no folder", "is a URL"], errors, strict=True):
        assert text in error
    best = flow.map(frame[:4], spec, input="path", parameters={"top_k": 2})
    assert [row[0]["label"] for row in best["labels"]] == [row["label"] for row in expected]


def paint(prompts):
    """A stage that makes images of texts, as a diffusion model would."""
    import hashlib
    import io

    from PIL import Image

    files = [io.BytesIO() for _ in prompts]
    for prompt, file in zip(prompts, files, strict=True):
        colour = tuple(hashlib.sha256(prompt.encode()).digest()[:3])
        Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return [file.getvalue() for file in files]


def test_images_that_a_function_made_of_texts_go_to_the_next_model(flow, zoo):
    painter, looker = model(paint, outputs={"image": "binary"}), zoo["image-classification"]
    texts = sentences(5)
    with looker.load(device="cpu") as here:
        expected = [row["label"] for row in here.predict(paint(texts))]
    painted = flow.map(pd.DataFrame({"text": texts}), painter, input="text")
    assert flow.map(painted, looker, input="image")["label"].tolist() == expected
    images = flow.submit(painter, texts).result(LIMIT).outputs
    assert [row["label"] for row in flow.submit(looker, images).result(LIMIT).outputs] == expected


def test_labels_that_are_chosen_from_come_with_the_request(flow, zoo):
    spec, texts = zoo["zero-shot-classification"], sentences(6)
    labels = ["time", "water"]
    with spec.load(device="cpu") as here:
        expected = here.predict(texts, parameters={"labels": labels})
    found = flow.submit(spec, texts, labels=labels).result(LIMIT).outputs
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    with pytest.raises(ParameterError, match="needs labels to choose from"):
        flow.submit(spec, texts).result(LIMIT)
    frame = flow.map(pd.DataFrame({"text": texts}), spec, input="text", parameters={"labels": labels})
    assert frame["label"].tolist() == [row["label"] for row in expected]


@pytest.mark.long
def test_entities_are_a_column_of_lists(flow, zoo, tmp_path):
    spec, texts = zoo["token-classification"], [*sentences(20), "", "people"]
    with spec.load(device="cpu") as here:
        expected = here.predict([text for text in texts if text])
    assert flow.submit(spec, texts[0]).result(LIMIT).outputs[0]["word"] == expected[0][0]["word"]
    found = flow.map(pd.DataFrame({"text": texts}), spec, input="text", on_error="collect")
    assert found["entities_error"].notna().tolist() == [text == "" for text in texts]
    answers = [row for row in found["entities"].tolist() if isinstance(row, list)]
    assert [[one["word"] for one in row] for row in answers] == [
        [one["word"] for one in row] for row in expected
    ]
    flow.run(pd.DataFrame({"text": texts}), spec, input="text", to=tmp_path / "out", progress=False)
    table = pq.read_table(tmp_path / "out")
    assert table.schema.field("entities").type == here.output_types()["entities"]
    assert table.num_rows == len(expected)


def test_estimators_answer_requests_and_rows(flow, digits):
    fitted, spec = digits
    rows = load_digits().data[:300] / 16
    expected = fitted.predict(rows).tolist()
    assert flow.submit(spec, rows[:5].tolist()).result(LIMIT).outputs == expected[:5]
    shares = flow.submit(spec, [rows[0]], output="probabilities").result(LIMIT).outputs
    assert shares == [pytest.approx(dict(enumerate(fitted.predict_proba(rows[:1])[0])))]
    frame = pd.DataFrame({"pixels": list(rows)})
    found = flow.map(frame, spec, input="pixels")
    assert found["label"].tolist() == expected
    shared = flow.map(frame, spec, input="pixels", parameters={"output": "probabilities"})["probabilities"]
    table = pa.array(shared.tolist())
    np.testing.assert_allclose(table.field("7").to_numpy(), fitted.predict_proba(rows)[:, 7])
    columns = pd.DataFrame(rows, columns=[f"p{at}" for at in range(64)])
    assert flow.map(columns, spec, input=list(columns))["label"].tolist() == expected
