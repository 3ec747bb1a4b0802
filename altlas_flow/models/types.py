"""Arrow types by their names, as a spec declares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from altlas_flow.errors import SpecError

if TYPE_CHECKING:
    import pyarrow as pa


def declared_types(outputs: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Arrow types out of their names, as a spec gives them.

    ``list<float>[384]`` is a list of fixed size.

    Raises
    ------
    SpecError
    """
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    for key, name in outputs.items():
        inner, bracket, size = name.partition("[")
        try:
            if bracket and inner.startswith("list<"):
                item = pa.type_for_alias(inner[len("list<") : -1])
                types[key] = pa.list_(item, int(size.rstrip("]")))
            elif name.startswith("list<"):
                types[key] = pa.list_(pa.type_for_alias(name[len("list<") : -1]))
            else:
                types[key] = pa.type_for_alias(name)
        except ValueError as error:
            raise SpecError(
                f"outputs: {key}: {name!r} is no Arrow type: give one such as string, double, int64, "
                "list<float> or list<float>[384]"
            ) from error
    return types
