"""Images as inputs: files, PIL images and arrays, of bounded size."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np

from altlas_flow.errors import InputError, SpecError, one_line
from altlas_flow.models.runtimes.common import is_null, null_fault

#: Pixels of an image at most; a small file may hold far more.
LARGEST = 64_000_000
#: Formats that are read: those of Pillow that start no other program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def need_pillow(model: str) -> None:
    """Raise `SpecError` where Pillow is not installed."""
    try:
        importlib.import_module("PIL.Image")
    except ImportError as error:
        raise SpecError(f"model {model!r} needs Pillow: pip install pillow where the workers run") from error


def look(row: Any) -> Any:
    """The image of a row, not decoded yet where it is a file.

    Parameters
    ----------
    row : Any
        Bytes of an image file; a PIL image; or uint8 of shape (height, width) or (height, width, 3 or 4).

    Raises
    ------
    InputError
    """
    from PIL import Image

    if is_null(row):
        raise null_fault()
    if isinstance(row, (bytes, bytearray, memoryview)):
        content = bytes(row)
        _opened(content).close()
        return content
    if isinstance(row, Image.Image):
        _check_size(*row.size)
        return row
    array = np.asarray(row) if isinstance(row, (np.ndarray, list)) else None
    if array is None:
        raise InputError(
            f"the input is a {type(row).__name__}, not an image: give bytes, or an array of uint8"
        )
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < 256:
        array = array.astype(np.uint8)
    channels = array.shape[2] if array.ndim == 3 else 3 * (array.ndim == 2)
    if array.dtype != np.uint8 or channels not in (3, 4) or not array.size:
        raise InputError(
            f"the input has shape {array.shape} of {array.dtype}, which is no image: give uint8 of shape "
            "(height, width) or (height, width, 3)"
        )
    _check_size(*array.shape[:2])
    return Image.fromarray(array)


def decoded(item: Any) -> Any:
    """The image of what `look` gave, in RGB.

    Raises
    ------
    InputError
    """
    from PIL import ImageOps

    image = _opened(item) if isinstance(item, bytes) else item
    try:
        # as cameras note that they were held
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"the image cannot be decoded: {one_line(error, 120)}") from error


def _opened(content: bytes) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"the image has more than {LARGEST:,} pixels: scale it down") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"the input is no image of a format that is read ({', '.join(FORMATS)})") from error
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST:
        raise InputError(
            f"the image has {width:,} x {height:,} pixels, and at most {LARGEST:,} are read: scale it down"
        )
