"""Tasks ``zero-shot-classification`` and ``token-classification``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import ParameterError, SpecError, names
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.hubtasks import TextTask

if TYPE_CHECKING:
    import pyarrow as pa

TEMPLATE = "This example is {}."
STRATEGIES = ("none", "simple", "first", "average", "max")
#: Pairs of a text and a label that go through the model together, for each text of a batch.
PAIRS = 8


class ZeroShotRuntime(TextTask):
    """Texts and labels that the model was not trained for in; the label that fits best, and its score.

    The parameter ``labels`` names them; ``hypothesis_template`` is the sentence that a label makes (with
    ``{}``), and with ``multi_label`` each is judged by itself. The model is one for natural language
    inference.
    """

    known_parameters = frozenset({"labels", "hypothesis_template", "multi_label"})

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError` where a parameter is not known, or is not what it has to be."""
        super().check_parameters(parameters)
        labels = parameters.get("labels", ["any"])
        if (
            not isinstance(labels, (list, tuple))
            or not labels
            or not all(isinstance(label, str) and label.strip() for label in labels)
            or len(set(labels)) < len(labels)
        ):
            raise self._refuse("labels", labels, 'a list of different texts such as ["sport", "politics"]')
        template = parameters.get("hypothesis_template", TEMPLATE)
        if (
            not isinstance(template, str)
            or {*template.replace("{}", "", 1)} & {*"{}"}
            or "{}" not in template
        ):
            raise self._refuse(
                "hypothesis_template", template, f"a text with {{}} in it, such as {TEMPLATE!r}"
            )
        if not isinstance(parameters.get("multi_label", False), bool):
            raise self._refuse("multi_label", parameters["multi_label"], "True or False")

    def load(self) -> None:
        """As all tasks do; the model must know what entailment is."""
        super().load()
        known = self._model.config.label2id
        if not any(str(label).lower().startswith("entail") for label in known):
            raise SpecError(
                f"model {self.spec.id!r} tells {names([repr(label) for label in known], 5)} apart, and "
                "zero-shot-classification needs a model for natural language inference, which has a label "
                "'entailment': choose one"
            )

    def _loader(self, folder: Path) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Look at each text.

        Raises
        ------
        ParameterError
            Where there are no labels: neither the call nor the spec has them.
        """
        if "labels" not in parameters:
            raise ParameterError(
                f'model {self.spec.id!r} needs labels to choose from: give labels=["sport", "politics"], or '
                "have them in the spec's parameters"
            )
        return super().prepare(rows, parameters)

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        """Predict a batch: ``{"label": str, "score": float}`` for each text."""
        labels = list(parameters["labels"])
        found = self._ask(
            items,
            candidate_labels=labels,
            hypothesis_template=parameters.get("hypothesis_template", TEMPLATE),
            multi_label=parameters.get("multi_label", False),
            batch_size=len(items) * min(len(labels), PAIRS),
        )
        return [{"label": one["labels"][0], "score": float(one["scores"][0])} for one in found]

    def output_types(self) -> dict[str, pa.DataType]:
        """``label`` and ``score``."""
        import pyarrow as pa

        return {"label": pa.string(), "score": pa.float32()}


class TokenRuntime(TextTask):
    """Texts in; for each a list of what is named in it: the kind, the words, and where they stand.

    The parameter ``aggregation_strategy`` says how tokens make up one entity: ``simple`` (by default),
    ``first``, ``average``, ``max``, or ``none``: each token by itself.
    """

    known_parameters = frozenset({"aggregation_strategy"})

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError` where a parameter is not known, or the strategy is none that there is."""
        super().check_parameters(parameters)
        strategy = parameters.get("aggregation_strategy", "simple")
        if strategy not in STRATEGIES:
            raise self._refuse("aggregation_strategy", strategy, f"one of {names(STRATEGIES)}")

    def _loader(self, folder: Path) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        """Predict a batch: a list of ``{"entity", "word", "start", "end", "score"}`` for each text."""
        strategy = parameters.get("aggregation_strategy", "simple")
        found = self._ask(items, aggregation_strategy=strategy, batch_size=len(items))
        return [[_entity(one) for one in entities] for entities in found]

    def output_types(self) -> dict[str, pa.DataType]:
        """``entities``, a list of records."""
        import pyarrow as pa

        fields = {"entity": pa.string(), "word": pa.string(), "start": pa.int64(), "end": pa.int64()}
        return {"entities": pa.list_(pa.struct([*fields.items(), ("score", pa.float32())]))}


def _entity(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "entity": found["entity_group"] if "entity_group" in found else found["entity"],
        "word": found["word"],
        # tokenizers that are not fast do not know where
        "start": None if found["start"] is None else int(found["start"]),
        "end": None if found["end"] is None else int(found["end"]),
        "score": float(found["score"]),
    }
