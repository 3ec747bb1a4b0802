"""Errors of models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from altlas_flow.errors.base import AltlasError
from altlas_flow.errors.words import names, one_line


class ModelError(AltlasError):
    """Something about a model is wrong."""


class SpecError(ModelError):
    """A model spec or a catalog file is wrong."""


class UnknownModel(ModelError):
    """No model of that id is registered.

    Parameters
    ----------
    model : str
        The id that was asked for.
    known : sequence of str
        The ids there are.
    stage : str
        Of the pipeline that names it; empty where none does.
    """

    def __init__(self, model: str, known: Iterable[str] = (), stage: str = "") -> None:
        self.model, self.known, self.stage = model, tuple(known), stage
        super().__init__(model, self.known, *([stage] if stage else []))

    def text(self) -> str:
        near = difflib.get_close_matches(self.model, self.known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        where = f"stage {self.stage!r}: " if self.stage else ""
        return (
            f"{where}no model {self.model!r} is registered (known: {names(self.known)}{meant}): "
            "register or pass a ModelSpec; on the command line give a catalog file, or the spec as JSON"
        )


class ModelConflict(ModelError):
    """The id is taken by another recipe.

    Parameters
    ----------
    model : str
        The id.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(model)

    def text(self) -> str:
        return (
            f"model {self.model!r} is registered with another recipe: choose another id, "
            "or replace it with flow.register(spec, replace=True)"
        )


class ModelLoadError(ModelError):
    """A worker could not load a model.

    Parameters
    ----------
    model : str
        Its id.
    node : str
        The worker's name or address.
    cause : str
        What went wrong, in one line.
    """

    def __init__(self, model: str, node: str, cause: str) -> None:
        self.model, self.node, self.cause = model, node, one_line(cause)
        super().__init__(model, node, self.cause)

    def text(self) -> str:
        return f"model {self.model!r} could not be loaded on {self.node}: {self.cause}"


class UnsafeModel(ModelError):
    """The weights need pickle, or the model wants to run remote code."""


class ParameterError(ModelError):
    """The runtime does not know a parameter, or its value is out of range."""


class PredictError(ModelError):
    """The model failed on an input.

    Parameters
    ----------
    model : str
        Its id.
    cause : str
        What went wrong, in one line.
    """

    def __init__(self, model: str, cause: str) -> None:
        self.model, self.cause = model, one_line(cause)
        super().__init__(model, self.cause)

    def text(self) -> str:
        return f"model {self.model!r} failed on its input: {self.cause}"
