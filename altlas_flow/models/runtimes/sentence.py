"""What a model's own sentence-transformers files say about reading texts and pooling tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import SpecError, names

if TYPE_CHECKING:
    import torch

    from altlas_flow.models.spec import ModelSpec

POOLING = ("mean", "cls", "max")
#: The older files have one switch for each way.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Recipe:
    """How texts become embeddings.

    Attributes
    ----------
    pooling : str
        ``mean``, ``cls`` or ``max`` over the tokens of a text.
    normalize : bool
        Whether embeddings get length 1.
    max_length : int or None
        Tokens, where the files say.
    lower : bool
        Whether texts are put into lower case first.
    prompt : str
        What is put before each text.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    lower: bool = False
    prompt: str = ""


def read_recipe(folder: Path | None, spec: ModelSpec) -> Recipe:
    """The recipe in a model folder's own files, overlaid with the spec's options.

    Raises
    ------
    SpecError
        Where the model needs a step that is not known here, or an option has a wrong value.
    """
    modules = _json(folder, "modules.json") or []
    kinds = {str(module.get("type", "")).rpartition(".")[2]: module for module in modules}
    pooling = str(spec.options.get("pooling") or _pooling(folder, kinds.get("Pooling"), spec))
    if pooling not in POOLING:
        raise SpecError(
            f"model {spec.id!r}: pooling {pooling!r} is not known: "
            f"set options={{'pooling': ...}} to one of {names(POOLING)}"
        )
    extra = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if extra:
        raise SpecError(
            f"model {spec.id!r} has a step {names(extra)} that runtime 'transformers' does not know: "
            "wrap the model in a function, or choose one of Transformer, Pooling and Normalize"
        )
    home = kinds.get("Transformer", {}).get("path", "")
    settings = _json(folder, home, "sentence_bert_config.json") if modules else None
    general = _json(folder, "config_sentence_transformers.json") if modules else None
    prompts = (general or {}).get("prompts") or {}
    normalize = spec.options.get("normalize", "Normalize" in kinds)
    length = spec.options.get("max_length", (settings or {}).get("max_seq_length"))
    if not isinstance(normalize, bool):
        raise SpecError(f"model {spec.id!r}: option 'normalize' is true or false, not {normalize!r}")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise SpecError(f"model {spec.id!r}: option 'max_length' is a number of tokens, not {length!r}")
    return Recipe(
        pooling=pooling,
        normalize=normalize,
        max_length=length,
        lower=bool((settings or {}).get("do_lower_case")),
        prompt=str(prompts.get((general or {}).get("default_prompt_name")) or ""),
    )


def _pooling(folder: Path | None, module: dict[str, Any] | None, spec: ModelSpec) -> str:
    if module is None:
        return "mean"
    config = _json(folder, module.get("path", ""), "config.json") or {}
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _SWITCHES.items() if config.get(key)] or ["mean"]
    if isinstance(modes, str):
        modes = [modes]
    if not config.get("include_prompt", True):
        raise SpecError(
            f"model {spec.id!r} leaves its prompt out of the pooling, which runtime 'transformers' "
            "does not know: set options={'pooling': 'mean'} to pool over all tokens"
        )
    return "+".join(str(mode) for mode in modes)


def _json(folder: Path | None, *parts: str) -> Any:
    """The content of a JSON file of the model; None where it has none.

    Raises
    ------
    OSError
        Where the file is damaged.
    """
    if folder is None or not (file := folder.joinpath(*parts)).is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{file} is damaged ({error}): copy the model again") from error


def pool(hidden: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Pool tokens into one vector for each row.

    Parameters
    ----------
    hidden : torch.Tensor, shape (rows, tokens, dimensions)
    mask : torch.Tensor of int64, shape (rows, tokens), or None
        1 at tokens, 0 at padding (to the right); None where there is no padding.
    pooling : str
        One of `POOLING`.

    Returns
    -------
    torch.Tensor, shape (rows, dimensions)
    """
    if pooling == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(1) if pooling == "mean" else hidden.amax(1)
    if pooling == "max":
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(1)
    weights = mask.to(hidden.dtype)
    # a product of matrices sums without a masked copy of the hidden states
    return (weights.unsqueeze(1) @ hidden).squeeze(1) / weights.sum(1, keepdim=True)
