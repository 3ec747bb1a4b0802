"""Sounds as inputs: WAV and other files, arrays, and records of an array and its rate."""

from __future__ import annotations

import importlib.util
import io
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from altlas_flow.errors import InputError, one_line
from altlas_flow.models.runtimes.common import is_null, null_fault

#: Samples of a sound at most, all channels together, and at the rate of the model: 2 hours at 16 kHz.
LARGEST = 1 << 27
#: Samples a second that a sound may have.
RATES = range(1_000, 768_001)
_EXTRA = "pip install 'altlas-flow[audio]' where the model runs"


@dataclass
class Sound:
    """A sound that was looked at and is decoded when its batch comes: all at once would fill the memory.

    Attributes
    ----------
    rate : int
        Samples a second.
    seconds : float
    content : bytes or numpy.ndarray
        A file, or float32 of shape (samples,).
    """

    rate: int
    seconds: float
    content: bytes | np.ndarray

    def samples(self, rate: int) -> np.ndarray:
        """The sound, mono, as float32 of shape (samples,) at a rate.

        Raises
        ------
        InputError
        """
        content = self.content
        found = _decoded(content) if isinstance(content, bytes) else content
        if self.rate == rate:
            return found
        _check_resampled(len(found), self.rate, rate)
        return _resampled(found, self.rate, rate)


def sound(row: Any, rate: int) -> Sound:
    """The sound of a row.

    Parameters
    ----------
    row : Any
        Bytes of a sound file; numbers at the rate of the model; or a record of ``array`` and
        ``sampling_rate``. Channels are averaged.
    rate : int
        Of the model.

    Raises
    ------
    InputError
    """
    if is_null(row):
        raise null_fault()
    if isinstance(row, Mapping):
        if "array" not in row or "sampling_rate" not in row:
            raise InputError('the record is no sound: give {"array": ..., "sampling_rate": ...}')
        given = _of_array(row["array"], row["sampling_rate"])
        _check_resampled(len(given.content), given.rate, rate)
        return given
    if isinstance(row, (bytes, bytearray, memoryview)):
        content = bytes(row)
        found, frames, channels = _header(content)
        _check(found, frames * channels)
        _check_resampled(frames, found, rate)
        return Sound(found, frames / found, content)
    return _of_array(row, rate)


def _check(rate: Any, samples: int) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or int(rate) not in RATES:
        raise InputError(
            f"the sound has {one_line(repr(rate), 40)} samples a second: {RATES[0]} to {RATES[-1]} are read"
        )
    if not 0 < samples <= LARGEST:
        raise InputError(f"the sound has {samples:,} samples: from 1 to {LARGEST:,} are read: cut it")


def _check_resampled(frames: int, given: int, wanted: int) -> None:
    """A slow sound becomes many times as large: refused before there is memory for it."""
    after = -(-frames * wanted // given)
    if after > LARGEST:
        raise InputError(
            f"the sound has {after:,} samples at the {wanted:,} a second of the model: up to {LARGEST:,} are "
            "read: cut it"
        )


def _of_array(given: Any, rate: Any) -> Sound:
    try:
        array = np.asarray(given)
    except ValueError:
        raise InputError("the sound has entries of different lengths, not one number a sample") from None
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise InputError(
            f"the input is a {type(given).__name__}, not a sound: give bytes, or float32 samples"
        )
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        # as sound cards have it
        array = array.astype(np.float32) / np.iinfo(array.dtype).max
    array = array.astype(np.float32, copy=False)
    if array.ndim == 2:
        # (samples, channels), or the other way round: there are more samples than channels
        array = array.mean(axis=int(np.argmin(array.shape)))
    _check(rate, array.size)
    if not np.isfinite(array).all():
        raise InputError("the sound has samples that are no finite numbers")
    return Sound(int(rate), array.size / int(rate), array)


def _header(content: bytes) -> tuple[int, int, int]:
    """Rate, frames and channels of a sound file, without decoding it."""
    if importlib.util.find_spec("soundfile") is not None:
        import soundfile

        try:
            info = soundfile.info(io.BytesIO(content))
        except (RuntimeError, TypeError) as error:
            raise InputError(f"the sound cannot be decoded: {one_line(error, 120)}") from error
        return info.samplerate, info.frames, info.channels
    try:
        with wave.open(io.BytesIO(content)) as file:
            return file.getframerate(), file.getnframes(), file.getnchannels()
    except (wave.Error, EOFError) as error:
        raise InputError(
            f"the sound is no WAV file of plain samples ({one_line(error) or 'it ends too early'}): other "
            f"formats need soundfile: {_EXTRA}"
        ) from error


def _decoded(content: bytes) -> np.ndarray:
    if importlib.util.find_spec("soundfile") is not None:
        import soundfile

        try:
            with soundfile.SoundFile(io.BytesIO(content)) as file:
                frames: np.ndarray = file.read(LARGEST // file.channels, dtype="float32", always_2d=True)
        except RuntimeError as error:
            raise InputError(f"the sound cannot be decoded: {one_line(error, 120)}") from error
    else:
        with wave.open(io.BytesIO(content)) as file:
            frames = _numbers(file.readframes(file.getnframes()), file.getsampwidth(), file.getnchannels())
    if not len(frames):
        raise InputError("the sound has no samples")
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)


def _numbers(data: bytes, width: int, channels: int) -> np.ndarray:
    """Float32 of shape (frames, channels) from -1 to 1, of the samples of a WAV file."""
    data = data[: len(data) // (width * channels) * (width * channels)]
    if width == 1:
        found = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    else:
        # the highest bytes of 32 bits each, whatever the width
        wide = np.zeros((len(data) // width, 4), np.uint8)
        wide[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        found = wide.reshape(-1).view("<i4").astype(np.float32) / 2**31
    return found.reshape(-1, channels)


def _resampled(samples: np.ndarray, given: int, wanted: int) -> np.ndarray:
    if importlib.util.find_spec("scipy") is None:
        raise InputError(
            f"the sound has {given} samples a second and the model reads {wanted}: give it so, or {_EXTRA}"
        )
    from scipy.signal import resample_poly

    common = gcd(given, wanted)
    found: np.ndarray = resample_poly(samples, wanted // common, given // common)
    return found.astype(np.float32, copy=False)
