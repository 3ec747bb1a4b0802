"""Sounds and images as inputs: what they are made of, and what is none."""

from __future__ import annotations

import importlib.util
import io
import math
import struct
import wave
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from altlas_flow.errors import InputError
from altlas_flow.models.runtimes import images, sounds
from altlas_flow.models.runtimes.sounds import sound
from tests.hub_zoo import RATE, picture, png, tone, wav
from tests.ids import spoken


@pytest.fixture(params=["soundfile", "wave"])
def decoder(request, monkeypatch):
    """With soundfile installed, and without."""
    if request.param == "wave":
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *more: None if name == "soundfile" else found(name, *more),
        )
    return request.param


@pytest.mark.parametrize(("width", "steps"), [(1, 100), (2, 30_000), (3, 8e6), (4, 1e9)])
def test_a_wav_file_is_the_samples_that_were_written(decoder, width, steps):
    samples = tone()
    found = sound(wav(samples, width=width), RATE)
    assert (found.rate, found.seconds) == (RATE, 0.5)
    np.testing.assert_allclose(found.samples(RATE), samples, atol=max(1 / steps, 1e-6))
    assert found.samples(RATE).dtype == np.float32


def test_channels_are_averaged(decoder):
    left, right = tone(), tone(880)
    both = np.stack([left, right], axis=1)
    for given in (
        wav(both),
        {"array": both, "sampling_rate": RATE},
        {"array": both.T, "sampling_rate": RATE},
    ):
        found = sound(given, RATE)
        assert found.seconds == 0.5
        np.testing.assert_allclose(found.samples(RATE), (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_another_rate_is_brought_to_that_of_the_model(decoder, rate):
    there, expected = tone(rate=rate, seconds=1), tone(seconds=1)
    for given in (wav(there, rate), {"array": there.tolist(), "sampling_rate": rate}):
        found = sound(given, RATE).samples(RATE)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found[500:-500], expected[500:-500], atol=5e-3)


def test_without_scipy_another_rate_is_refused(monkeypatch):
    found = sound(wav(tone(rate=8000), 8000), RATE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None)
    with pytest.raises(InputError, match=r"8000 samples a second and the model reads 16000: .*pip install"):
        found.samples(RATE)
    assert len(sound(tone(), RATE).samples(RATE)) == RATE // 2


def test_other_formats_need_soundfile(decoder):
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format="FLAC")
    if decoder == "soundfile":
        np.testing.assert_allclose(sound(file.getvalue(), RATE).samples(RATE), tone(), atol=1e-4)
    else:
        with pytest.raises(InputError, match=r"no WAV file .*soundfile: pip install"):
            sound(file.getvalue(), RATE)


def test_samples_may_be_lists_and_whole_numbers():
    samples = tone()
    assert np.array_equal(sound(samples, RATE).samples(RATE), samples)
    assert np.array_equal(sound(samples.tolist(), RATE).samples(RATE), samples)
    whole = np.round(samples * 32767).astype(np.int16)
    np.testing.assert_allclose(sound(whole, RATE).samples(RATE), samples, atol=1e-4)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (None, "null"),
        (math.nan, "null"),
        ("clip.wav", "is a str, not a sound"),
        (7, "is a int, not a sound"),
        (["a"], "not a sound"),
        ([[1.0], [2.0, 3.0]], "different lengths"),
        (np.zeros((2, 2, 2)), "not a sound"),
        ([], "0 samples"),
        ([0.0, math.nan], "no finite numbers"),
        ({"samples": [0.0]}, "the record is no sound"),
        ({"array": [0.0], "sampling_rate": "16k"}, "'16k' samples a second"),
        ({"array": [0.0], "sampling_rate": 10**9}, "1000 to 768000 are read"),
        ({"array": [0.0], "sampling_rate": True}, "samples a second"),
        ({"array": "a", "sampling_rate": RATE}, "not a sound"),
        (b"", "cannot be decoded"),
        (b"RIFF but not really", "cannot be decoded"),
        (wav(np.zeros(0, np.float32)), "0 samples"),
    ],
    ids=spoken,
)
def test_what_is_no_sound_is_said(row, text):
    with pytest.raises(InputError, match=text):
        sound(row, RATE)


def test_a_sound_that_is_too_long_is_refused_by_its_header(monkeypatch, decoder):
    monkeypatch.setattr(sounds, "LARGEST", 1000)
    with pytest.raises(InputError, match="8,000 samples: from 1 to 1,000 are read: cut it"):
        sound(wav(tone()), RATE)
    with pytest.raises(InputError, match="8,000 samples"):
        sound(tone(), RATE)


def test_a_sound_that_its_models_rate_makes_too_long_is_refused(monkeypatch, decoder):
    monkeypatch.setattr(sounds, "LARGEST", 4_000)
    slow = tone(rate=2_000)  # 1,000 samples, and 8 times as many at the rate of the model
    text = "8,000 samples at the 16,000 a second of the model: up to 4,000 are read: cut it"
    for row in (wav(slow, 2_000), {"array": slow, "sampling_rate": 2_000}):
        with pytest.raises(InputError, match=text):
            sound(row, RATE)
    # channels are averaged before
    assert sound(wav(np.stack([slow[:500]] * 2, axis=1), 2_000), RATE).samples(RATE).shape == (4_000,)
    with pytest.raises(InputError, match=text):
        sound(wav(slow, 2_000), 2_000).samples(RATE)


def test_a_header_that_says_too_much_gives_what_is_there(decoder):
    whole = bytearray(wav(tone()))
    at = whole.index(b"data") + 4
    whole[at : at + 4] = struct.pack("<I", 32_000)  # as if it were a second
    found = sound(bytes(whole), RATE)
    assert found.samples(RATE).shape == (RATE // 2,)


def test_the_shared_wav_writer_is_one_that_python_reads():
    with wave.open(io.BytesIO(wav(tone(), width=3))) as file:
        assert (file.getsampwidth(), file.getnframes(), file.getframerate()) == (3, RATE // 2, RATE)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_an_image_file_is_its_pixels(kind):
    expected = picture()
    if kind == "WEBP":
        file = io.BytesIO()
        Image.fromarray(expected).save(file, kind, lossless=True)
        content = file.getvalue()
    else:
        content = png(expected, kind)
    assert np.array_equal(np.asarray(images.decoded(images.look(content))), expected)


@pytest.mark.parametrize(
    "row", [picture(), picture().astype(np.int64), picture().tolist(), Image.fromarray(picture())], ids=type
)
def test_arrays_and_images_are_taken(row):
    assert np.array_equal(np.asarray(images.decoded(images.look(row))), picture())


def test_all_becomes_rgb_as_it_was_held():
    grey = picture()[:, :, 0]
    assert np.array_equal(np.asarray(images.decoded(images.look(grey)))[:, :, 2], grey)
    with_alpha = np.dstack([picture(), np.full((40, 30), 255, np.uint8)])
    assert np.array_equal(np.asarray(images.decoded(images.look(png(with_alpha)))), picture())
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(picture()).save(file, "PNG", exif=exif)
    assert images.decoded(images.look(file.getvalue())).size == (40, 30)


def bomb(side: int) -> bytes:
    """A PNG whose header says that it is `side` wide and high."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    sized = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(sized)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (None, "null"),
        ("a.png", "is a str, not an image"),
        (7, "is a int, not an image"),
        (b"", "no image of a format that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image of a format that is read"),
        (bomb(9_000), "pixels.* scale it down"),
        (bomb(11_000), "pixels.* scale it down"),
        (bomb(60_000), "pixels.* scale it down"),
        (np.zeros((4, 4, 3)), "float64, which is no image"),
        (np.full((4, 4), 300), "which is no image"),
        (np.zeros((4, 4, 7), np.uint8), "which is no image"),
        (np.zeros((0, 4, 3), np.uint8), "which is no image"),
        ([["a"]], "which is no image"),
    ],
    ids=spoken,
)
def test_what_is_no_image_is_said(row, text):
    with pytest.raises(InputError, match=text):
        images.look(row)


def test_an_image_that_ends_too_early_is_the_fault_of_its_decoding():
    content = images.look(png(picture(size=(400, 300)))[:300])
    with pytest.raises(InputError, match="cannot be decoded"):
        images.decoded(content)
