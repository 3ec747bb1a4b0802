"""`Pipeline`: named stages that depend on each other, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import PipelineError, SpecError, names, one_line
from altlas_flow.models.types import declared_types
from altlas_flow.pipeline.order import in_order
from altlas_flow.pipeline.stage import INPUT, Stage

if TYPE_CHECKING:
    from altlas_flow.pipeline.report import Report
    from altlas_flow.pipeline.result import PipelineResult


class Pipeline(Sequence[Stage]):
    """Stages that depend on each other.

    Parameters
    ----------
    stages : iterable of Stage
        In any order.
    id : str
        Shown, and part of the names of its stages' functions.
    output : str or sequence of str, optional
        The stage whose output is the pipeline's; several: a dict by their names. By default the stages that
        no other one depends on.
    outputs : mapping of str to str, optional
        Columns of an answer and their Arrow types, as for a `ModelSpec`; of several outputs by the names of
        their stages. By default learnt from first rows.

    Raises
    ------
    PipelineError
        Where stages depend on each other in a circle, on one that is not there, two have one name, or
        `output` or `outputs` names what is not there.

    Examples
    --------
    >>> loud = Stage("loud", function=str.upper)
    >>> Pipeline([loud, Stage("length", function=len, after="loud")], id="shout")
    <Pipeline shout: loud -> length>
    """

    def __init__(
        self,
        stages: Iterable[Stage],
        *,
        id: str = "pipeline",
        output: str | Sequence[str] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(id, str) or not 0 < len(id) <= 100:
            raise PipelineError(f"id={id!r} is no name of a pipeline: give a text of 1 to 100 characters")
        self.id = id
        given = list(stages) if isinstance(stages, Iterable) else [stages]
        for stage in given:
            if not isinstance(stage, Stage):
                raise PipelineError(
                    f"pipeline {id!r}: {one_line(repr(stage), 60)} is no stage: give Stage(name, ...)"
                )
        if not given:
            raise PipelineError(f"pipeline {id!r} has no stages: give at least one")
        self._by_name: dict[str, Stage] = {}
        for stage in given:
            if stage.name in self._by_name:
                raise PipelineError(f"pipeline {id!r} has two stages {stage.name!r}: rename one")
            self._by_name[stage.name] = stage
        for stage in given:
            for one in stage.after:
                if one != INPUT and one not in self._by_name:
                    raise PipelineError(
                        f"stage {stage.name!r}: it comes after {one!r}, which is no stage of pipeline {id!r} "
                        f"(there are {names(self._by_name)})"
                    )
        needs = {stage.name: [one for one in stage.after if one != INPUT] for stage in given}
        self._stages = [self._by_name[name] for name in in_order(needs)]
        self.output = self._output(output)
        self.single = len(self.output) == 1
        self.outputs = None if outputs is None else self._declared(outputs)

    @classmethod
    def load(cls, path: str | Path) -> Pipeline:
        """Read a pipeline from a YAML or JSON file; see `from_dict`.

        Paths in it are looked for beside the file.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        PipelineError
            Its text names the file, the line, the stage and the key.
        UnsafeModel
            Where a recipe carries pickled code.
        """
        from altlas_flow.pipeline.files import load

        return load(path)

    @classmethod
    def from_dict(
        cls, mapping: Mapping[str, Any], *, where: str = "pipeline", folder: str | Path | None = None
    ) -> Pipeline:
        """Make a pipeline of what a file would hold.

        Parameters
        ----------
        mapping : mapping
            ``id``, ``stages`` (a list, or a mapping from names), ``output``, ``outputs``, and ``models``:
            recipes that its stages name. A stage has the keys that `Stage` takes; functions are written as
            ``"package.module:name"``, and aggregators as ``vote`` or ``{"vote": {"quorum": 2}}``.
        where : str
            What it is called in errors.
        folder : path, optional
            Where relative paths begin; by default the working directory.

        Raises
        ------
        PipelineError
            Its text names the stage and the key.
        UnsafeModel
            Where a recipe carries pickled code.
        """
        from altlas_flow.pipeline.files import from_dict

        return from_dict(mapping, where=where, folder=folder)

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON schema of pipeline files (draft 2020-12), for editors and checks elsewhere."""
        from altlas_flow.pipeline.document import schema

        return schema()

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` makes this pipeline of: plain values, for a YAML or JSON file.

        Raises
        ------
        PipelineError
            Where a stage has what no file can hold, such as a lambda; its text names the stage.
        """
        from altlas_flow.pipeline.written import to_dict

        return to_dict(self)

    def mermaid(self, report: Report | PipelineResult | None = None) -> str:
        """Its graph as a Mermaid flowchart; with a report, or a result that has one, what each stage took."""
        from altlas_flow.pipeline.show import mermaid

        return mermaid(self, report)

    def svg(self, report: Report | PipelineResult | None = None) -> str:
        """Its graph as an SVG; with a report, or a result that has one, what each stage took."""
        from altlas_flow.pipeline.svg import svg

        return svg(self, report)

    @property
    def needs_input(self) -> bool:
        """Whether any stage takes what the pipeline is given."""
        return any(INPUT in stage.after for stage in self)

    @property
    def last(self) -> tuple[str, ...]:
        """Names of the stages that no other one depends on."""
        used = {one for stage in self for one in stage.after}
        return tuple(stage.name for stage in self if stage.name not in used)

    def _output(self, output: Any) -> tuple[str, ...]:
        wanted = self.last if output is None else (output,) if isinstance(output, str) else tuple(output)
        for name in wanted:
            if name not in self._by_name:
                known = names(self._by_name)
                raise PipelineError(
                    f"pipeline {self.id!r}: output={name!r} is no stage of it (there are {known})"
                )
        if not wanted:
            raise PipelineError(f"pipeline {self.id!r}: output= names no stage")
        return wanted

    def _declared(self, outputs: Any) -> dict[str, str]:
        if not isinstance(outputs, Mapping):
            raise PipelineError(
                f"pipeline {self.id!r}: outputs={one_line(repr(outputs), 60)} is no mapping of columns to "
                "types: give one"
            )
        if not all(isinstance(text, str) for pair in outputs.items() for text in pair):
            raise PipelineError(
                f"pipeline {self.id!r}: outputs={one_line(repr(outputs), 60)} is no mapping of columns to "
                "types: give names of both, as texts"
            )
        if not self.single and (unknown := [name for name in outputs if name not in self.output]):
            raise PipelineError(
                f"pipeline {self.id!r}: outputs= declares {names(map(repr, unknown))}, which is no output of "
                f"it (there are {names(self.output)}): declare these, in this order"
            )
        if not self.single and outputs and tuple(outputs) != self.output:
            raise PipelineError(
                f"pipeline {self.id!r}: outputs= declares {names(outputs)}, and it answers with "
                f"{names(self.output)}: declare these, in this order"
            )
        try:
            declared_types(outputs)
        except SpecError as error:
            raise PipelineError(f"pipeline {self.id!r}: {error}") from error
        return dict(outputs)

    def __getitem__(self, at: Any) -> Any:
        return self._by_name[at] if isinstance(at, str) else self._stages[at]

    def __len__(self) -> int:
        return len(self._stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __contains__(self, stage: object) -> bool:
        return stage in self._by_name if isinstance(stage, str) else stage in self._stages

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg()}</div>'

    def __repr__(self) -> str:
        return f"<Pipeline {self.id}: {' -> '.join(stage.name for stage in self)}>"


def as_pipeline(model: Any) -> Pipeline | None:
    """The pipeline that something is, or that it makes; None where it is a model."""
    if isinstance(model, Pipeline):
        return model
    make = getattr(model, "as_pipeline", None)
    made = make() if callable(make) and not isinstance(model, type) else None
    return made if isinstance(made, Pipeline) else None
