"""What the runtimes share: the parameter check, null rows, and the guards around weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from altlas_flow.errors import InputError, ParameterError, SpecError, UnsafeModel, names

if TYPE_CHECKING:
    import pyarrow as pa

    from altlas_flow.models.spec import ModelSpec

logger = logging.getLogger(__name__)

#: What `submit` itself takes, for whoever mistypes it.
OF_REQUESTS = ("deadline", "hedge", "idempotent", "parameters", "priority", "retry", "strategy", "validator")
#: Endings of files that are read with pickle.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class BaseRuntime:
    """The part of the protocol that does not depend on the engine.

    Parameters
    ----------
    spec : ModelSpec
        With its source resolved.
    device : str
        ``cpu`` or ``cuda``.
    """

    known_parameters: ClassVar[frozenset[str] | None] = frozenset()
    #: tasks whose inputs are files: a plain text is the path of one
    path_tasks: ClassVar[frozenset[str]] = frozenset()
    #: whether `predict` may write into its items, or keep what it answers with
    writes: ClassVar[bool] = False

    def __init__(self, spec: ModelSpec, *, device: str = "cpu") -> None:
        self.spec, self.device = spec, device

    def types_for(self, parameters: Mapping[str, Any]) -> dict[str, pa.DataType] | None:
        """As `output_types`, of answers with these parameters; they are the same with any, mostly."""
        return self.output_types()

    def output_types(self) -> dict[str, pa.DataType] | None:
        """Arrow types of an answer, by column; None where only an answer can tell."""
        return None

    def parameter_names(self) -> frozenset[str] | None:
        """Names of the parameters that this model takes; None: any."""
        return self.known_parameters

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError`, naming the known ones, where a parameter is not known."""
        known = self.parameter_names()
        for name in parameters:
            if known is not None and name not in known:
                near = get_close_matches(name, [*sorted(known), *OF_REQUESTS], 1)
                raise ParameterError(
                    f"model {self.spec.id!r}: runtime {self.spec.runtime!r} does not know parameter "
                    f"{name!r} (known: {names(sorted(known))}): "
                    + (f"did you mean {near[0]}=?" if near else "remove it")
                )


def as_list(rows: Sequence[Any]) -> list[Any]:
    """The rows as a list or tuple; an array or a Series gives Python objects."""
    if isinstance(rows, (list, tuple)):
        return rows  # type: ignore[return-value]
    convert = getattr(rows, "to_pylist", None) or getattr(rows, "tolist", None)
    return list(convert() if convert is not None else rows)


def is_null(value: object) -> bool:
    """Whether `value` stands for nothing: None, NaN, NaT, pandas.NA."""
    if value is None:
        return True
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    # only NaN differs from itself; arrays answer with arrays and are no nulls
    return isinstance(value, float) and value != value


def null_fault() -> InputError:
    """The fault of a row that is null."""
    return InputError("the input is null")


def check_pickle(spec: ModelSpec, file: Path) -> None:
    """Refuse a pickle file, unless the spec asks for pickle by name; then say so in the log.

    Raises
    ------
    UnsafeModel
    """
    if "pickle" not in spec.allow:
        raise UnsafeModel(
            f"model {spec.id!r}: {file} is a pickle, which can run code when it is read: convert it to "
            'safetensors, or say that it is trusted with allow=("pickle",)'
        )
    logger.warning("model %r: reading the pickle %s, as its spec allows", spec.id, file)


def check_options(spec: ModelSpec, known: Sequence[str]) -> None:
    """Raise `SpecError` where the spec has an option that the runtime does not know."""
    for name in spec.options:
        if name not in known:
            raise SpecError(
                f"model {spec.id!r}: runtime {spec.runtime!r} does not know option {name!r} "
                f"(known: {names(known)}): remove it"
            )


def missing_source(path: Path) -> FileNotFoundError:
    """The error for a model folder or file that is not on this machine."""
    return FileNotFoundError(f"{path} does not exist here: a model's folder must exist on the worker")


def module_bytes(module: Any) -> int:
    """Bytes of a torch module's parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
