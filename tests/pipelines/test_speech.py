"""From a sound to an answer: the toy chain on a cluster of which one worker declares a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import altlas_flow as af
from altlas_flow.errors import StageFailed
from pipelines import prompts, speech_to_answer, tiny_models
from tests.laboratory import LIMIT, laboratory

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

FOLDER = Path(speech_to_answer.__file__).parent
BIG, TINY = FOLDER / "speech_to_answer.yaml", speech_to_answer.TINY


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the toy pipeline, its models, and a sound."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / TINY.name).write_bytes(TINY.read_bytes())
    tiny_models.build(folder / "tiny")
    (folder / "question.wav").write_bytes(speech_to_answer.tones(440, 660))
    return folder


@pytest.fixture(scope="module")
def lab():
    """Two workers, one of which declares a GPU; that it has none is nobody's matter."""
    with laboratory({"plain": {}, "with-gpu": {"resources": {"GPU": 1}}}) as made:
        yield made


@pytest.mark.long
def test_a_sound_by_its_path_becomes_an_answer_and_the_models_run_where_a_gpu_is_declared(
    place, lab, monkeypatch
):
    monkeypatch.chdir(place)  # what an input names is read from here
    pipeline = af.Pipeline.load(TINY.name)
    found = speech_to_answer.ask(lab.flow, pipeline, "question.wav")
    assert (found["hear"].node_id, found["answer"].node_id) == ("with-gpu", "with-gpu")
    heard = found.outputs_of("hear")
    assert heard and isinstance(found.outputs, str) and found.outputs
    assert found.outputs_of("prompt") == prompts.answer_in_one_sentence(heard)
    answering, asked = pipeline["answer"], prompts.answer_in_one_sentence(heard)
    alone = answering.model.load().predict([asked], parameters=answering.parameters)
    assert found.outputs == alone[0], "as without a cluster"
    again = speech_to_answer.ask(lab.flow, pipeline, (place / "question.wav").read_bytes())
    assert again.outputs == found.outputs
    assert speech_to_answer.ask(lab.flow, pipeline, speech_to_answer.tones(990)).outputs_of("hear") != heard


def test_what_is_no_sound_fails_at_the_stage_that_hears(place, lab):
    with pytest.raises(StageFailed, match="stage 'hear' failed"):
        speech_to_answer.ask(lab.flow, af.Pipeline.load(place / TINY.name), b"no sound")


@pytest.mark.parametrize("file", [BIG, TINY], ids=["big", "tiny"])
def test_both_files_pass_their_check_offline_and_without_loading(file):
    done = subprocess.run(
        [sys.executable, "-m", "altlas_flow.cli", "pipeline", "check", str(file)],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 stages, output answer" in done.stdout
    assert "transformers automatic-speech-recognition from " in done.stdout


def test_the_toy_is_the_same_chain_with_the_same_architectures(place):
    big, tiny = af.Pipeline.load(BIG), af.Pipeline.load(place / TINY.name)
    for one, other in zip(big, tiny, strict=True):
        assert (one.name, one.kind, one.after, one.function) == (
            other.name,
            other.kind,
            other.after,
            other.function,
        )
    for name in ("hear", "answer"):
        assert big[name].model.resources == tiny[name].model.resources == {"GPU": 1}
        assert big[name].model.task == tiny[name].model.task


def test_the_toys_are_made_once_and_are_the_same_each_time(place, tmp_path):
    weights = [Path(name, "model.safetensors") for name in ("whisper", "llama")]
    before = [(place / "tiny" / one).stat().st_mtime_ns for one in weights]
    tiny_models.build(place / "tiny")
    assert [(place / "tiny" / one).stat().st_mtime_ns for one in weights] == before
    tiny_models.build(tmp_path)
    for one in weights:
        assert (tmp_path / one).read_bytes() == (place / "tiny" / one).read_bytes()


@pytest.mark.long
def test_it_runs_as_a_file(place, tmp_path):
    command = [sys.executable, speech_to_answer.__file__, "--audio", "question.wav"]
    command += ["--pipeline", str(place / TINY.name)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "heard: " in done.stdout and "answer: " in done.stdout
    assert "flowchart" in done.stdout and "hear" in done.stdout
