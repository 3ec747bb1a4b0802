"""Runtime ``function``: a Python callable as a model."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import SpecError
from altlas_flow.models.faults import Miscount
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.common import BaseRuntime, as_list, check_options, is_null, null_fault
from altlas_flow.models.types import declared_types

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

#: Types of which no value is a null: a column of these alone needs no look at each row.
_NEVER_NULL = frozenset({str, bytes, int, bool, dict, list, tuple})


class FunctionRuntime(BaseRuntime):
    """Calls ``spec.callable()`` with a list of rows, or with one row where ``spec.single``.

    The callable may be sync or async and takes the parameters of the call as keywords. Called with
    a list, it answers with a list, a tuple, a NumPy array or a pandas Series, one entry for each
    row. An exception goes up as it is: the batch is then searched for the row that caused it.
    """

    known_parameters = None
    writes = True

    def load(self) -> None:
        """Import or rebuild the callable.

        Raises
        ------
        SpecError
            Where the callable cannot be imported, or what is named is not callable.
        """
        check_options(self.spec, ())
        found: Any = self.spec.callable()
        if inspect.isclass(found) or not callable(found):
            raise SpecError(
                f"model {self.spec.id!r}: {self.spec.source} is a {type(found).__name__}, "
                "not a function or a callable object: name what takes the rows"
            )
        self._function: Callable[..., Any] = found
        called = found if inspect.isroutine(found) else found.__call__
        self._async = inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(called)
        self._parameters = _keywords(found)

    def parameter_names(self) -> frozenset[str] | None:
        """Keywords that the callable takes beside its rows; None where it has ``**kwargs``."""
        return getattr(self, "_parameters", None)

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Find the nulls; a dict (several input columns) is never one."""
        items = as_list(rows)
        if set(map(type, items)) <= _NEVER_NULL:
            return Prepared(items)
        return Prepared(items, faults={at: null_fault() for at, row in enumerate(items) if is_null(row)})

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> np.ndarray | list[Any]:
        """Call the callable.

        Raises
        ------
        ValueError
            Where it answers with another number of entries than there are items.
        TypeError
            Where it answers with something that has no entries, such as a generator.
        """
        if self.spec.single:
            if self._async:
                return asyncio.run(self._gather(items, parameters))
            return [self._function(item, **parameters) for item in items]
        # a list of its own: a callable that changes it must not change what a retry is given
        if self._async:
            answer = asyncio.run(self._function(list(items), **parameters))
        else:
            answer = self._function(list(items), **parameters)
        return _checked(answer, len(items))

    async def _gather(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        ends: list[BaseException] = []

        async def one(item: Any) -> Any:
            try:
                return await self._function(item, **parameters)
            except (KeyboardInterrupt, SystemExit) as error:
                # in a task these would break off the event loop itself, and leave tasks that complain
                ends.append(error)

        answers = await asyncio.gather(*map(one, items))
        if ends:
            raise ends[0]
        return answers

    def output_types(self) -> dict[str, pa.DataType] | None:
        """What the spec declares in ``outputs``."""
        return declared_types(self.spec.outputs) if self.spec.outputs else None

    def unload(self) -> None:
        """Let go of the callable and of what it holds."""
        self.__dict__.pop("_function", None)

    def memory(self) -> int:
        """Bytes, as the spec says; nobody can measure what a callable holds."""
        return self.spec.memory or 0


def _keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """Keywords that a callable takes beside its first argument, None where it takes any."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        # some built-in callables do not tell
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    rest = (
        parameters[1:]
        if parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY
        else parameters
    )
    return frozenset(parameter.name for parameter in rest if parameter.kind in kinds)


def _checked(answer: Any, count: int) -> np.ndarray | list[Any]:
    """The answer of a callable as a list or an array of `count` entries."""
    import numpy as np

    if isinstance(answer, np.ndarray) and answer.ndim > 0:
        result: np.ndarray | list[Any] = answer
    elif isinstance(answer, (list, tuple)):
        result = list(answer)
    elif hasattr(answer, "to_list") and hasattr(answer, "__len__"):
        # a pandas Series or Index
        result = list(answer.to_list())
    else:
        raise TypeError(
            f"returned a {type(answer).__name__}: return a list, a tuple, a NumPy array or a Series "
            "with one entry for each input, or give a function of one row single=True"
        )
    if len(result) != count:
        raise Miscount(
            len(result),
            f"returned {len(result)} answer{'s' * (len(result) != 1)} for {count} "
            f"input{'s' * (count != 1)}: return one for each",
        )
    return result
