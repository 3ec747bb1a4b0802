"""`ModelSpec`: the recipe of a model. Recipes travel, live models stay where they were loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from altlas_flow.errors import SpecError, UnsafeModel, one_line
from altlas_flow.models.digest import digest_callable as digest_callable
from altlas_flow.models.frozen import plain
from altlas_flow.records.base import explain
from altlas_flow.records.html import facts

if TYPE_CHECKING:
    from altlas_flow.models.loaded import LoadedModel

#: What may be asked for by name in ``allow``; each use is logged.
UNSAFE = ("pickle", "remote-code")
#: Names a callable: no folder, and no name of a hub, looks like that.
_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
#: Names of files of scikit-learn's; its runtime says what to do about those that are pickles.
_ESTIMATORS = (".skops", ".pkl", ".pickle", ".joblib")
#: Fields that change neither answers nor places.
_NO_RECIPE = {"id", "memory", "batch", "code", "validator", "serves", "specialities", "declared"}
#: What says nothing to people.
_UNREADABLE = {"code", "code_digest"}
#: What may be declared, and at most.
_DECLARED = {"quality": 1.0, "latency": math.inf, "cost": math.inf}
#: Begins a validator that is sent by value.
BY_VALUE = "by-value:"


class ModelSpec(BaseModel):
    """How to get a model and what it needs. Frozen, picklable, and the same after a JSON round trip.

    Parameters
    ----------
    id : str
        The name that people use.
    runtime : str
        The engine: ``transformers``, ``torch``, ``sklearn``, ``function``, or one installed beside them; by
        default ``function`` where `source` is a callable or names one, and ``sklearn`` for a skops file
        (and for a pickle, which that refuses).
    source : str or callable
        A model folder, a hub name, a safetensors or skops file, ``"module:callable"``, or a callable, which
        is sent by value. A relative folder is resolved where the spec is used first (the client).
    task : str, optional
        For ``transformers``: ``feature-extraction``, ``text-generation``, ``text-classification``,
        ``token-classification``, ``zero-shot-classification``, ``automatic-speech-recognition`` or
        ``image-classification``; free elsewhere.
    revision : str, optional
        Of a hub model.
    entry : str, optional
        ``torch``: the module's class as ``"package.module:Class"``.
    options : dict
        How the runtime builds the model: ``torch``: the class's keyword arguments;
        ``transformers``: ``max_length`` (tokens; of a prompt and its text together for
        ``text-generation``), ``pooling`` (``mean``, ``cls``), ``normalize``;
        ``sklearn``: ``trusted``, names of types that its file may hold beside the usual ones.
    parameters : dict
        Default parameters of each prediction.
    outputs : dict of str to str, optional
        Columns of an answer and their Arrow types, for a ``function`` whose answers are records, or
        whose type should not be learnt from its first answer: ``{"label": "string"}``.
    single : bool
        ``function``: call it with one row, not with a list of rows.
    batch : int or "auto"
        Rows a batch; ``auto`` finds the best budget on the real stream.
    resources : dict of str to float
        What a worker must have declared, such as ``{"GPU": 1}``.
    memory : int, optional
        Bytes that the loaded model takes, where the files do not tell.
    labels : dict of str to str
        Labels that a worker must have, such as ``{"zone": "a"}``.
    validator : str or callable, optional
        Of each answer: ``"package.module:name"`` of a callable (False or an error: not valid) or a pydantic
        model; or one of these itself, which is sent by value. An answer that does not pass is a failed try.
    serves : tuple of str
        Tasks that it can do beside `task`, by names of your own: a selector chooses among those that serve
        one.
    specialities : tuple of str
        Kinds of these tasks that it is made for: ``("legal", "de")``.
    declared : dict of str to float
        What a selector begins from: ``quality`` (0 to 1), ``latency`` (seconds) and ``cost`` of a request,
        which also is what each one is taken to cost.
    device : str
        ``auto``: CUDA where the spec asks for a GPU (without a cluster: where there is one).
    allow : tuple of str
        ``pickle``, ``remote-code``: what is unsafe and meant all the same; logged at each load.
    code : str, optional
        A callable sent by value (base64 of its cloudpickle); set from `source`.

    Raises
    ------
    SpecError
        Where a field is wrong; its text names the field.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ignored_types=(cached_property,), validate_default=True
    )

    id: str = Field(min_length=1, max_length=200)
    runtime: str = "transformers"
    source: str = Field(description='a folder, a file, a hub name, a callable, or "module:callable"')
    task: str | None = None
    revision: str | None = None
    entry: str | None = None
    options: dict[str, Any] = Field(default={}, description="a mapping of names to values")
    parameters: dict[str, Any] = Field(default={}, description="a mapping of names to values")
    outputs: dict[str, str] | None = Field(
        default=None, description='columns and their Arrow types such as {"label": "string"}'
    )
    single: bool = Field(default=False, description="True or False")
    batch: Literal["auto"] | int = Field(default="auto", description='a number of rows, or "auto"')
    resources: dict[str, float] = Field(default={}, description='amounts by name such as {"GPU": 1}')
    labels: dict[str, str] = Field(default={}, description='values by name such as {"zone": "a"}')
    validator: str | None = None
    memory: int | None = Field(default=None, ge=0, description="bytes of at least 0")
    serves: tuple[str, ...] = Field(default=(), description='names of tasks such as ("summarise",)')
    specialities: tuple[str, ...] = Field(default=(), description='kinds of a task such as ("legal",)')
    declared: dict[str, float] = Field(
        default={}, description='figures such as {"quality": 0.8, "latency": 0.2, "cost": 0.01}'
    )
    device: str = "auto"
    allow: tuple[Literal["pickle", "remote-code"], ...] = ()
    code: str | None = None
    code_digest: str | None = None

    if not TYPE_CHECKING:

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                label = f"model {data['id']!r}" if data.get("id") else "a model"
                raise SpecError(explain(ModelSpec, error, label)) from error

    @model_validator(mode="before")
    @classmethod
    def _take_callable(cls, data: Any) -> Any:
        """A callable as `source` is sent by value: it becomes `code`."""
        if not isinstance(data, Mapping):
            return data
        if data.get("code") is not None and data.get("code_digest") is None:
            # written by hand: without a digest of the code, another code would be the same model
            return {**data, "code_digest": hashlib.sha256(str(data["code"]).encode()).hexdigest()}
        if isinstance(data.get("source"), os.PathLike):
            data = {**data, "source": os.fspath(data["source"])}
        if not callable(data.get("source")):
            if isinstance(data.get("source"), str) and _NAMED.fullmatch(data["source"]):
                return {"runtime": "function", **data}
            if isinstance(data.get("source"), str) and data["source"].endswith(_ESTIMATORS):
                return {"runtime": "sklearn", **data}
            return data
        function = data["source"]
        import cloudpickle

        try:
            code = base64.b64encode(cloudpickle.dumps(function)).decode()
        except Exception as error:
            # whatever a closure holds may refuse to be pickled, with any error
            raise ValueError(f"the callable cannot be sent to a worker: {one_line(error)}") from error
        label = getattr(function, "__qualname__", type(function).__name__)
        return {
            "runtime": "function",
            **data,
            "source": f"<{label}>",
            "code": code,
            "code_digest": digest_callable(function),
        }

    @field_validator("memory", mode="before")
    @classmethod
    def _parse_memory(cls, value: Any) -> Any:
        if isinstance(value, str):
            from dask.utils import parse_bytes

            return parse_bytes(value)
        return value

    @field_validator("validator", mode="before")
    @classmethod
    def _take_validator(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if not callable(getattr(value, "model_validate", value)):
            raise ValueError("a validator is a callable, a pydantic model, or 'package.module:name'")
        import cloudpickle

        try:
            return BY_VALUE + base64.b64encode(cloudpickle.dumps(value)).decode()
        except Exception as error:
            # as for a callable as source: with any error
            raise ValueError(f"the validator cannot be sent to a worker: {one_line(error)}") from error

    @field_validator("serves", "specialities", mode="before")
    @classmethod
    def _take_names(cls, value: Any) -> Any:
        names = (value,) if isinstance(value, str) else tuple(value)
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError("that is no name")
        return names

    @field_validator("declared")
    @classmethod
    def _check_declared(cls, value: dict[str, float]) -> dict[str, float]:
        for name, number in value.items():
            if name not in _DECLARED:
                raise ValueError(f"{name!r} cannot be declared: there are {', '.join(_DECLARED)}")
            if not 0.0 <= number <= _DECLARED[name] or math.isinf(number):
                most = " to 1" if name == "quality" else ""
                raise ValueError(f"{name} is declared as {number!r}: a number from 0{most} is needed")
        return value

    @field_validator("options", "parameters", "outputs", "resources", "labels", "declared")
    @classmethod
    def _freeze(cls, value: Any, info: ValidationInfo) -> Any:
        return None if value is None else plain(value, str(info.field_name))

    @field_validator("batch")
    @classmethod
    def _check_batch(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError('batch is a number of rows of at least 1, or "auto"')
        return value

    @field_validator("resources")
    @classmethod
    def _check_resources(cls, value: dict[str, float]) -> dict[str, float]:
        if any(not amount > 0 for amount in value.values()):
            raise ValueError("a resource is asked for with an amount above 0")
        return value

    @model_validator(mode="after")
    def _check_runtime(self) -> ModelSpec:
        if self.code is not None and self.runtime != "function":
            raise ValueError("a callable as source needs runtime='function'")
        if self.runtime == "torch" and not self.entry:
            raise ValueError("runtime 'torch' needs entry='package.module:Class'")
        if self.runtime == "function" and self.code is None and ":" not in self.source:
            raise ValueError("a function's source is a callable, or 'package.module:callable'")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest (64 digits) of what decides how the model answers and where it may run.

        The id, the memory, the batch size, the validator and what a selector is told are left out: they
        change neither.
        """
        fields = self.model_dump(mode="json", exclude=_NO_RECIPE)
        if not self.labels:
            del fields["labels"]  # so that what was computed before there were labels is not stale
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> ModelSpec:
        """A checked copy with other values; `deep` makes no difference, for nothing in it can change.

        Raises
        ------
        SpecError
        """
        # pydantic's own would keep the fingerprint that was computed, and checks nothing
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        fields.update(update or {})
        if update and "source" in update and not isinstance(update["source"], str):
            fields.pop("code", None)
            fields.pop("code_digest", None)
        return type(self)(**fields)

    def __hash__(self) -> int:
        return hash((self.id, self.fingerprint))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it does: its `task`, and what it serves beside that."""
        return tuple(dict.fromkeys((*([self.task] if self.task else ()), *self.serves)))

    @property
    def needs_gpu(self) -> bool:
        """Whether a batch of it takes a GPU token."""
        return self.resources.get("GPU", 0) > 0

    def resolved(self) -> ModelSpec:
        """The same spec with a relative `source` folder or file made absolute, seen from here.

        A name that is no path here, such as ``organisation/model``, stays as it is.
        """
        if self.runtime == "function":
            return self
        explicit = self.runtime in ("torch", "sklearn") or self.source.startswith((".", "~", os.sep))
        try:
            path = Path(self.source).expanduser()
            if not (explicit or path.exists()):
                return self
        except (OSError, RuntimeError) as error:
            # a name too long for a path, or the home of somebody unknown
            raise SpecError(f"model {self.id!r}: source is no path: {one_line(error)}: check it") from error
        return self.model_copy(update={"source": str(path.absolute())})

    def load(self, *, device: str | None = None) -> LoadedModel:
        """Load the model into this process, with no cluster.

        Parameters
        ----------
        device : str, optional
            ``cpu`` or ``cuda``; by default what the spec says.

        Returns
        -------
        LoadedModel
            ``.predict([...])`` gives the numbers that a cluster gives.

        Raises
        ------
        ModelLoadError, UnsafeModel
        """
        from altlas_flow.models.loaded import LoadedModel

        return LoadedModel(self.resolved(), device=device)

    def callable(self) -> Callable[..., Any]:
        """The callable of a ``function`` spec: imported, or rebuilt from what was sent by value."""
        if self.code is not None:
            import pickle

            # The code came over the cluster from the client that wrote it, never from a file:
            # `load_catalog` refuses specs that carry code.
            function: Callable[..., Any] = pickle.loads(base64.b64decode(self.code))
            return function
        named: Callable[..., Any] = import_object(self.source)
        return named

    def checks(self) -> Any:
        """The validator of its answers, or None."""
        if self.validator is None:
            return None
        if self.validator.startswith(BY_VALUE):
            import pickle

            # as for `code`: from the client that wrote it, never from a file
            return pickle.loads(base64.b64decode(self.validator[len(BY_VALUE) :]))
        return import_object(self.validator)

    def _repr_html_(self) -> str:
        """What was said of it beside what is usual; everything is escaped."""
        said = {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name not in _UNREADABLE and getattr(self, name) != field.get_default(call_default_factory=True)
        }
        if self.code is not None:
            said["source"] = f"{self.source}, sent by value"
        if (self.validator or "").startswith(BY_VALUE):
            said["validator"] = "sent by value"
        return facts(f"model {self.id}", [*said.items(), ("fingerprint", self.fingerprint[:16])])

    def __repr__(self) -> str:
        return f"<ModelSpec {self}>"  # the code of a callable would fill pages

    def __str__(self) -> str:
        what = f"{self.id}: {self.runtime}" + (f" {self.task}" if self.task else "")
        return f"{what} from {self.source}"


def import_object(path: str) -> Any:
    """The object that ``"package.module:name"`` names."""
    from importlib import import_module

    module, _, name = path.partition(":")
    if not name:
        head, _, tail = path.rpartition(".")
        written = f"{head}:{tail}" if head else "package.module:name"
        raise SpecError(f"cannot import {path!r}: write the module, a colon and the name, such as {written}")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"cannot import {path!r} ({one_line(error)}): install the module where the workers run, "
            "or pass the callable itself"
        ) from error
    return found


def refuse_code(spec: ModelSpec, path: str) -> None:
    """Refuse a spec read from a file that carries pickled code."""
    if spec.code is not None or (spec.validator or "").startswith(BY_VALUE):
        raise UnsafeModel(
            f"{path}: model {spec.id!r} carries pickled code, which is not read from files: "
            "name the callable as source: package.module:callable"
        )
