"""Weights of a model folder into a model of transformers, with the guards that all tasks share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import names, one_line
from altlas_flow.models.runtimes.common import PICKLES
from altlas_flow.models.runtimes.torch import damaged

if TYPE_CHECKING:
    from altlas_flow.models.spec import ModelSpec

logger = logging.getLogger(__name__)


def load_pretrained(
    spec: ModelSpec,
    folder: Path,
    weights: Path,
    loader: Any,
    *,
    dtype: str | None = None,
    spare: Callable[[str], bool] = lambda key: False,
) -> Any:
    """A model with all of its weights: safetensors, and no code of its folder, unless the spec allows it.

    Parameters
    ----------
    spec : ModelSpec
    folder, weights : Path
        As `find_folder` and `find_weights` give them.
    loader : class
        One of transformers' auto classes.
    dtype : str, optional
        Of the weights; by default that of the files.
    spare : callable
        Whether the task does without a weight, by its name.

    Raises
    ------
    OSError
        Where files are damaged, or weights are missing: transformers fills those at random.
    """
    from safetensors import SafetensorError

    trusted = "remote-code" in spec.allow
    keywords: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if trusted:
        logger.warning("model %r: code of its folder may run, as its spec allows", spec.id)
    try:
        model, info = loader.from_pretrained(
            str(folder),
            use_safetensors=weights.suffix not in PICKLES,
            trust_remote_code=trusted,
            local_files_only=True,
            output_loading_info=True,
            **keywords,
        )
    except SafetensorError as error:
        raise damaged(weights, error) from error
    except (ValueError, KeyError, RuntimeError) as error:
        raise OSError(f"the model in {folder} cannot be loaded: {one_line(error)}") from error
    absent = [key for key in sorted(info["missing_keys"]) if not spare(key)]
    if absent:
        raise OSError(
            f"{weights} has no weights for {names(absent, 3)}: "
            f"it is not a model for {spec.task}, or was cut short"
        )
    return model
