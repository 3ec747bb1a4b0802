"""YAML and JSON texts as plain values, with the line that each of them is on.

Scalars are those of YAML 1.2: ``on``, ``yes`` and ``12:30`` are texts. Nothing else is ever built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from altlas_flow.errors import PipelineError, one_line

#: Bytes of a file.
SIZE = 2**20
#: Values in a file, with those that its aliases repeat.
VALUES = 100_000
#: How deep they may be nested.
DEPTH = 60

Route = tuple[Any, ...]

_MERGE = "tag:yaml.org,2002:merge"
_SCALARS: tuple[tuple[str, str], ...] = (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    ),
)


@dataclass(frozen=True)
class Marked:
    """What a text holds.

    Attributes
    ----------
    value : Any
        Of dicts, lists, texts, numbers, truth values and None.
    where : str
        The file, for errors.
    lines : dict of tuple to int
        The line of a value, by the keys and places that lead to it; empty where none are known.
    """

    value: Any
    where: str
    lines: Mapping[Route, int] = field(default_factory=dict)

    def error(self, text: str, route: Route = ()) -> PipelineError:
        """An error that points at a value, or at what is nearest around it."""
        while route and route not in self.lines:
            route = route[:-1]
        line = self.lines.get(route)
        return PipelineError(f"{self.where}{f', line {line}' if line else ''}: {text}")


def read(path: Path) -> Marked:
    """Read a file.

    Parameters
    ----------
    path : Path
        JSON where its name ends so, YAML otherwise.

    Raises
    ------
    PipelineError
        Where it cannot be read, is too large, or is no YAML or JSON; its text names the line.
    """
    where = str(path)
    try:
        with resolved(path).open("rb") as file:
            data = file.read(SIZE + 1)
    except OSError as error:
        raise PipelineError(
            f"pipeline {where} cannot be read ({error.strerror or error}): check the path"
        ) from error
    if len(data) > SIZE:
        raise PipelineError(f"{where} is larger than {SIZE:,} bytes: a pipeline is small, check the path")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PipelineError(f"{where} is not a text in UTF-8: give a YAML or JSON file") from error
    try:
        return _json(text, where) if path.suffix.lower() == ".json" else _yaml(text, where)
    except RecursionError as error:
        raise PipelineError(f"{where} is nested deeper than {DEPTH} levels: flatten it") from error


def resolved(path: Path) -> Path:
    """Where a path leads.

    Raises
    ------
    PipelineError
        Where it leads to no file, such as to a folder or a pipe.
    """
    try:
        real = path.resolve()
        if real.exists() and not real.is_file():
            raise PipelineError(f"pipeline {path} is no file: give a YAML or JSON file")
    except (OSError, ValueError) as error:
        # a circle of links, or what no path can hold
        raise PipelineError(f"pipeline {one_line(path)} cannot be read ({error}): check the path") from error
    return real


def _json(text: str, where: str) -> Marked:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise PipelineError(f"{where}: the key {one_line(twice, 60)!r} is there twice: keep one")
        return found

    try:
        return Marked(json.loads(text, object_pairs_hook=pairs), where)
    except json.JSONDecodeError as error:
        raise PipelineError(f"{where}, line {error.lineno}: {error.msg}: mend the JSON there") from error
    except ValueError as error:
        # a number of thousands of digits
        raise PipelineError(f"{where}: {one_line(error, 200)}") from error


class _Loader(yaml.SafeLoader):
    """Composes nodes, as deep as they may be; what a plain scalar is, YAML 1.2 says."""

    _deep = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._deep += 1
        if self._deep > 2 * DEPTH:
            problem = f"nested deeper than {DEPTH} levels"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)
        self._deep -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), None)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


def _yaml(text: str, where: str) -> Marked:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = one_line(getattr(error, "problem", None) or error, 200)
        raise PipelineError(f"{where}{line}: {problem}: mend the YAML there") from error
    reader = _Reader(where)
    return Marked(None if node is None else reader.value(node, ()), where, reader.lines)


class _Reader:
    """Plain values of nodes."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[Route, int] = {}
        self._count = 0

    def value(self, node: yaml.Node, route: Route) -> Any:
        """Of a node and all below it."""
        self._count += 1
        if self._count > VALUES:
            raise PipelineError(
                f"{self.where} holds more than {VALUES:,} values, aliases counted: shorten it"
            )
        if len(route) > DEPTH:
            raise self._wrong(node, f"nested deeper than {DEPTH} levels: flatten it")
        self.lines.setdefault(route, node.start_mark.line + 1)
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, route)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*route, at)) for at, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind)
        raise self._wrong(node, f"the tag {_tag(node)} is not taken: write plain values")

    def _mapping(self, node: yaml.MappingNode, route: Route) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._wrong(key_node, "a key is a text or a number")
            key = self._scalar(key_node, str(key_node.tag).removeprefix("tag:yaml.org,2002:"))
            if key in found:
                raise self._wrong(key_node, f"the key {one_line(key, 60)!r} is there twice: keep one")
            self.lines.setdefault((*route, key), key_node.start_mark.line + 1)
            found[key] = self.value(value_node, (*route, key))
        for one in merged:
            if not isinstance(one, yaml.MappingNode):
                raise self._wrong(one, "<< takes a mapping, or a list of them")
            for key, value in self.value(one, route).items():
                found.setdefault(key, value)  # what is written in the mapping itself counts
        return found

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text = str(node.value)
        try:
            match kind:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
                case "float":
                    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError) as error:
            raise self._wrong(node, f"{one_line(text, 60)!r} is no {kind}: write it plainly") from error
        raise self._wrong(node, f"the tag {_tag(node)} is not taken: write plain values")

    def _wrong(self, node: yaml.Node, text: str) -> PipelineError:
        return PipelineError(f"{self.where}, line {node.start_mark.line + 1}: {text}")


def _tag(node: yaml.Node) -> str:
    return one_line(str(node.tag).replace("tag:yaml.org,2002:", "!!"), 60)
