"""YAML 1.2 as people mean it, bounded: no `on` that becomes true, no `1:30` that becomes 90.

Aliases, duplicate keys, several documents and tags of one's own are refused, and so is what is too
large or too deep: such a document is either a mistake or an attack.
"""

import math
import re
from typing import Any

import yaml

from runnerlib.spec.document import MAX_DEPTH, DocumentRefused

MAX_NODES = 100_000
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """The safe loader with the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own form


for _tag, _pattern, _starts in (
    ("tag:yaml.org,2002:bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    ("tag:yaml.org,2002:null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    (
        "tag:yaml.org,2002:int",
        r"(?:[-+]?(?:0|[1-9][0-9]{0,18})|0o[0-7]{1,21}|0x[0-9a-fA-F]{1,16})\Z",
        "-+0123456789",
    ),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+))\Z",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_starts))


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _construct_float(loader: Any, node: yaml.ScalarNode) -> float:
    value = float(loader.construct_scalar(node))
    if not math.isfinite(value):
        raise _refusal("a number is too large", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def load_yaml(text: str, lines: dict[str, int]) -> object:
    """Return the one document in ``text`` as plain values; put the line of every key into ``lines``.

    Raises:
        DocumentRefused: it is malformed, too deep, or uses what is refused; says where.
    """
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                raise DocumentRefused("is empty")
            _check_keys(root, "", lines)
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _refusal(error.problem or "is malformed", error.problem_mark) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise DocumentRefused(f"is malformed: {error}") from error


def _refusal(detail: str, mark: Any) -> DocumentRefused:
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return DocumentRefused(place + detail)


def _check_events(text: str) -> None:
    """Refuse by the stream of events, before any tree is built."""
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refusal("anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _refusal("tags are not allowed", event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _refusal("only one document is allowed", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _refusal(f"nested deeper than {MAX_DEPTH}", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if nodes > MAX_NODES:
                raise _refusal(f"more than {MAX_NODES} values", event.start_mark)


def _check_keys(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            _check_keys(entry, f"{path}.{index}", lines)
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:str":
            raise _refusal("a key must be text: write it in quotes", key.start_mark)
        if key.value in seen:
            raise _refusal(f"key {key.value!r} comes twice", key.start_mark)
        seen.add(key.value)
        place = f"{path}.{key.value}" if path else key.value
        lines[place] = key.start_mark.line + 1
        _check_keys(value, place, lines)
