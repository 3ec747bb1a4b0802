"""Runtime ``sklearn``: fitted estimators of scikit-learn, from skops files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.errors import ParameterError, SpecError, names, one_line
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.common import BaseRuntime, check_options
from altlas_flow.models.runtimes.skopsfiles import find_file, read_model, uncompressed
from altlas_flow.models.runtimes.tabular import Features

if TYPE_CHECKING:
    import pyarrow as pa

LABEL, PROBABILITIES = OUTPUTS = ("label", "probabilities")


class SklearnRuntime(BaseRuntime):
    """A fitted estimator or pipeline of scikit-learn, saved with ``skops.io.dump``.

    The source is a ``.skops`` file, or a folder with one. A row is numbers in the order of the columns
    that the model was fitted with, a record of these columns, or, where the model begins with a
    vectoriser, a text.

    A classifier answers with the label, or with ``output="probabilities"`` with the probability of each;
    what else predicts, with what it predicts; what only transforms, with that. Labels and numbers are
    Python's own.

    The option ``trusted`` lists names of types that may be in the file, beside those that skops trusts and
    `skopsfiles.REVIEWED`: trees, sparse matrices, functions, and whatever else the error names.
    """

    known_parameters = frozenset({"output"})

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError` where a parameter is not known, or `output` is none that there is."""
        super().check_parameters(parameters)
        output = parameters.get("output", LABEL)
        if output not in OUTPUTS:
            raise ParameterError(
                f"model {self.spec.id!r}: parameter 'output' is {one_line(repr(output), 60)}: give one of "
                f"{names(OUTPUTS)}"
            )
        if output == PROBABILITIES and hasattr(self, "_model") and self._classes is None:
            raise ParameterError(
                f"model {self.spec.id!r}: a {type(self._model).__name__} gives no probabilities of labels: "
                "leave output= out"
            )

    def load(self) -> None:
        """Read the file.

        Raises
        ------
        SpecError
            Where scikit-learn or skops is not installed, an option is wrong, or what is in the file neither
            predicts nor transforms.
        UnsafeModel
            Where the file is a pickle, or has types in it that are not trusted.
        OSError
            Where the file is missing or damaged.
        """
        check_options(self.spec, ("trusted",))
        file = find_file(self.spec)
        model = read_model(self.spec, file)
        call = getattr(model, "predict", None) or getattr(model, "transform", None)
        if call is None:
            raise SpecError(
                f"model {self.spec.id!r}: {file} holds a {type(model).__name__}, which neither predicts nor "
                "transforms: save a fitted estimator"
            )
        self._call, self._model = call, model
        classes = getattr(model, "classes_", None) if hasattr(model, "predict_proba") else None
        # of several outputs at once there are several lists
        self._classes = None if classes is None or isinstance(classes, list) else np.asarray(classes).tolist()
        self._features = Features(model)
        self._bytes = uncompressed(file)

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Rows as the model takes them; nulls and what has not its columns become faults."""
        return self._features.prepare(rows)

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> np.ndarray | list[Any]:
        """Predict a batch: a list of labels or of probabilities by label, or an array."""
        given = self._features.stack(items)
        if parameters.get("output", LABEL) == PROBABILITIES:
            assert self._classes is not None  # held by check_parameters
            shares = self._model.predict_proba(given).tolist()
            return [dict(zip(self._classes, share, strict=True)) for share in shares]
        answer = self._call(given)
        if hasattr(answer, "toarray"):
            answer = answer.toarray()  # sparse
        answer = np.asarray(answer)
        # Python's own labels and numbers; what has several numbers a row stays an array
        return answer.tolist() if answer.ndim == 1 else answer

    def types_for(self, parameters: Mapping[str, Any]) -> dict[str, pa.DataType] | None:
        """``probabilities``, a struct with a field for each label, or ``label``; None where nobody knows."""
        import pyarrow as pa

        if not self._classes:
            return None
        if parameters.get("output", LABEL) == PROBABILITIES:
            return {"probabilities": pa.struct([(str(label), pa.float64()) for label in self._classes])}
        return {"label": pa.array(self._classes).type}

    def output_types(self) -> dict[str, pa.DataType] | None:
        """Arrow types of an answer with the spec's own parameters."""
        return self.types_for(self.spec.parameters)

    def unload(self) -> None:
        """Let go of the model."""
        for name in ("_model", "_call", "_features"):
            self.__dict__.pop(name, None)
        self._bytes = 0

    def memory(self) -> int:
        """Bytes of what is in the file."""
        return getattr(self, "_bytes", 0)
