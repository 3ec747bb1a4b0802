"""Inputs that name files: what is read, and what is refused, and that nothing is waited for."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import socket
from pathlib import Path

import dask.config
import pytest

import altlas_flow as af
from altlas_flow.errors import BadRequest, BadRow, FileRefused, SourceError
from altlas_flow.models import files
from altlas_flow.models.files import names_files, read_file, read_inputs, read_rows
from altlas_flow.records import InferenceRequest
from altlas_flow.settings import Settings

pytestmark = pytest.mark.timeout(30)

CALL = af.ModelSpec(id="call", source=lambda rows: [len(row) for row in rows])
HEAR = af.ModelSpec(id="hear", task="automatic-speech-recognition", source="somebody/whisper")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a file, a folder beside it with another, and a link between."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (inside / "a.bin").write_bytes(b"content of a")
    (inside / "deep" / "b.bin").write_bytes(b"b")
    (outside / "secret").write_bytes(b"secret")
    (inside / "link").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    (inside / "near").symlink_to("a.bin")
    monkeypatch.chdir(inside)
    return inside


def settings(**changes):
    return dataclasses.replace(Settings.current(), **changes)


@pytest.mark.parametrize("path", ["a.bin", "./deep/../a.bin", "near", "{here}/a.bin"])
def test_a_file_below_the_working_directory_is_read(place, path):
    assert read_file(path.format(here=place), Settings.current()) == b"content of a"


@pytest.mark.parametrize(
    "path",
    ["../outside/secret", "link", "folder/secret", "{here}/../outside/secret", "/etc/passwd", "..", "/"],
)
def test_what_is_in_no_allowed_folder_is_refused_before_it_is_looked_at(place, path, monkeypatch):
    monkeypatch.setattr(files, "_opened", pytest.fail)
    with pytest.raises(
        FileRefused, match=r"in no folder that is read from here \(allowed: '/.*/inside'\): .*allowed-f"
    ):
        read_file(path.format(here=place), Settings.current())


def test_a_folder_whose_name_begins_the_same_is_another(place):
    (place.parent / "inside-too").mkdir()
    (place.parent / "inside-too" / "c").write_bytes(b"c")
    with pytest.raises(FileRefused):
        read_file(str(place.parent / "inside-too" / "c"), Settings.current())


def test_folders_are_allowed_by_the_setting_and_may_be_links(place):
    (place.parent / "clips").symlink_to(place.parent / "outside")
    allowed = settings(allowed_folders=("/nonexistent", str(place.parent / "clips")))
    assert read_file("folder/secret", allowed) == b"secret"
    with pytest.raises(FileRefused, match="nonexistent"):
        read_file("a.bin", allowed)
    with pytest.raises(FileRefused):
        read_file("a.bin", settings(allowed_folders=()))


def test_what_is_no_regular_file_is_refused_and_not_waited_for(place):
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for path, what in [("pipe", "a pipe"), ("socket", "a pipe, a socket")]:
            with pytest.raises(FileRefused, match=rf"is {what}.*: give a regular file"):
                read_file(path, Settings.current())
    for path in ("deep", ".", str(place)):
        with pytest.raises(FileRefused, match="is a folder: name a file in it"):
            read_file(path, Settings.current())
    for path in ("/dev/zero", "/dev/stdin"):
        with pytest.raises(FileRefused):
            read_file(path, settings(allowed_folders=("/dev",)))


def test_a_pipe_that_takes_the_place_of_a_file_is_refused_too(place, monkeypatch):
    os.mkfifo(place / "pipe")
    checked = files._check_regular
    seen = []

    def swap(mode, shown):
        checked(mode, shown)
        if not seen:
            (place / "pipe").rename(place / "a.bin")
        seen.append(mode)

    monkeypatch.setattr(files, "_check_regular", swap)
    with pytest.raises(FileRefused, match="a pipe"):
        read_file("a.bin", Settings.current())
    assert len(seen) == 1


@pytest.mark.parametrize("target", ["deep/b.bin", "deep"])
def test_a_link_that_takes_the_place_of_what_was_looked_at_is_not_followed(place, monkeypatch, target):
    def swap(mode, shown):
        (place / target).rename(place / "away")
        (place / target).symlink_to(place.parent / "outside" / ("secret" if target != "deep" else ""))
        (place.parent / "outside" / "b.bin").write_bytes(b"outside")

    monkeypatch.setattr(files, "_check_regular", swap)
    with pytest.raises(SourceError, match="cannot be read here"):
        read_file("deep/b.bin", Settings.current())


def test_a_file_is_read_up_to_a_size(place):
    assert read_file("a.bin", settings(largest_file=12)) == b"content of a"
    with pytest.raises(FileRefused, match=r"has 12 B, and at most 11 B are read: raise altlas\.largest-file"):
        read_file("a.bin", settings(largest_file=11))
    with (place / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileRefused, match=r"1\.00 TiB"):
        read_file("huge", Settings.current())
    # whose size says nothing of what comes
    with pytest.raises(FileRefused, match="more than"):
        read_file("/proc/cpuinfo", settings(allowed_folders=("/proc",), largest_file=10))


def test_what_is_missing_or_not_ours_is_said(place):
    with pytest.raises(SourceError, match="'none' cannot be read here: No such file") as caught:
        read_file("none", Settings.current())
    assert not isinstance(caught.value, FileRefused)
    (place / "loop").symlink_to("loop")
    for path in ("loop", "a.bin/b", "x" * 5000, "~nobody-of-that-name/x"):
        with pytest.raises(SourceError, match=r"check|allowed"):
            read_file(path, Settings.current())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("https://example.com/a.wav", "is a URL, and nothing is downloaded"),
        ("file:///etc/passwd", "is a URL"),
        ("s3://bucket/key", "is a URL"),
        ("a\0b", "cannot be a file's path"),
        ("", "cannot be a file's path"),
    ],
)
def test_what_is_no_path_is_refused_wherever_it_is_given(place, path, text):
    with pytest.raises(FileRefused, match=text):
        af.File(path)
    with pytest.raises(FileRefused, match=text):
        read_inputs(HEAR, path, Settings.current())
    assert re.search(text, str(read_rows(HEAR, [path])[1][0]))


@pytest.mark.parametrize("given", [(7,), (None,), (b"a",), ("a", "yes"), ("a", None)])
def test_what_names_no_file_is_refused(given):
    with pytest.raises(BadRequest, match="names no file: give a path"):
        af.File(*given)


def test_a_file_is_a_small_record():
    file = af.File(Path("clips") / "a.wav", on_worker=True)
    assert file == af.File("clips/a.wav", True)
    assert file != af.File("clips/a.wav")
    assert len({file, pickle.loads(pickle.dumps(file))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        file.path = "other"


def test_a_request_with_a_file_is_the_same_after_json():
    request = InferenceRequest(model_id="m", inputs=[af.File("a"), {"b": af.File("c", on_worker=True)}])
    text = request.model_dump_json()
    assert json.loads(text)["inputs"][0] == {"$file": {"path": "a", "on_worker": False}}
    again = InferenceRequest.model_validate_json(text)
    assert again == request
    assert again.inputs[1]["b"].on_worker
    for wrong in ("a", {}, {"path": 7}, {"path": "a", "mode": "w"}, {"path": "http://x"}):
        given = json.dumps({"inputs": {"$file": wrong}})
        with pytest.raises((BadRequest, FileRefused)):
            InferenceRequest.model_validate_json(given)


def test_the_client_reads_what_is_named_and_leaves_what_the_worker_shall_read(place):
    def read(spec, inputs):
        assert names_files(spec, inputs)
        return read_inputs(spec, inputs, Settings.current())

    there = af.File("a.bin", on_worker=True)
    assert read(CALL, af.File("deep/b.bin")) == b"b"
    assert read(CALL, [af.File("deep/b.bin"), "a.bin", there]) == [b"b", "a.bin", there]
    assert read(CALL, {"x": af.File("deep/b.bin"), "y": 1}) == {"x": b"b", "y": 1}
    assert read(CALL, (af.File("deep/b.bin"), 2)) == (b"b", 2)
    assert read(HEAR, "deep/b.bin") == b"b"
    assert read(HEAR, [Path("deep/b.bin"), b"bytes", there]) == [b"b", b"bytes", there]


def test_a_text_is_a_path_only_for_tasks_on_files(place):
    for inputs in ("a.bin", ["a.bin", "b"], {"text": "a.bin"}, b"bytes", None, 7):
        assert not names_files(CALL, inputs)
        assert read_inputs(CALL, inputs, Settings.current()) is inputs
    embed = af.ModelSpec(id="e", task="feature-extraction", source="x")
    assert not names_files(embed, "a.bin")
    look = af.ModelSpec(id="i", task="image-classification", source="x")
    assert names_files(look, "a.bin")


def test_where_the_model_runs_a_file_that_is_not_read_is_the_fault_of_its_row(place):
    with CALL.load() as model:
        assert model.predict([af.File("a.bin"), b"xy", {"k": af.File("a.bin")}]) == [12, 2, 1]
        with pytest.raises(BadRow, match=r"row 1 .*in no folder that is read from here"):
            model.predict([af.File("a.bin"), af.File("link", on_worker=True)])
        with dask.config.set({"altlas.allowed-folders": [str(place.parent)]}):
            assert model.predict([af.File("link", on_worker=True)]) == [6]
