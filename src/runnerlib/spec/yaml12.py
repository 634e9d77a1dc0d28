"""YAML 1.2 as people mean it, bounded: no `on` that becomes true, no `1:30` that becomes 90.

Aliases, duplicate keys, several documents and tags of one's own are refused, and so is what is too
large or too deep: such a document is either a mistake or an attack.
"""

import contextlib
import json
import math
import re
from typing import Any

import yaml

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 100_000
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlRefused(Exception):
    """A document is not one plain YAML 1.2 (or JSON) document within the bounds; says where."""

    def __init__(self, detail: str, mark: Any = None) -> None:
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        super().__init__(place + detail)


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
        raise YamlRefused("a number is too large", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def load_yaml(data: bytes, lines: dict[str, int] | None = None) -> object:
    """Return the one document in ``data`` as plain values: mappings with text keys, lists, scalars.

    JSON is YAML 1.2, so a JSON document is read alike.

    Args:
        lines: takes the line, from 1, of every key, named by its path such as ``source.url``; a document
            of JSON has none.

    Raises:
        YamlRefused: it is malformed, too large, too deep, or uses what is refused.
    """
    if len(data) > MAX_BYTES:
        raise YamlRefused(f"more than {MAX_BYTES} bytes")
    try:
        text = data.decode()
        if text.lstrip().startswith("{"):
            # Braces begin YAML's mappings too, whose reader says better what is wrong.
            with contextlib.suppress(json.JSONDecodeError):
                return _load_json(text)
        _check_events(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                raise YamlRefused("is empty")
            _check_keys(root, "", {} if lines is None else lines)
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise YamlRefused(f"byte {error.start} is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        raise YamlRefused(error.problem or "is malformed", error.problem_mark) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise YamlRefused(f"is malformed: {error}") from error


def _check_events(text: str) -> None:
    """Refuse by the stream of events, before any tree is built."""
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlRefused("anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise YamlRefused("tags are not allowed", event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise YamlRefused("only one document is allowed", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YamlRefused(f"nested deeper than {MAX_DEPTH}", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if nodes > MAX_NODES:
                raise YamlRefused(f"more than {MAX_NODES} values", event.start_mark)


def _check_keys(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            _check_keys(entry, f"{path}.{index}", lines)
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:str":
            raise YamlRefused("a key must be text: write it in quotes", key.start_mark)
        if key.value in seen:
            raise YamlRefused(f"key {key.value!r} comes twice", key.start_mark)
        seen.add(key.value)
        place = f"{path}.{key.value}" if path else key.value
        lines[place] = key.start_mark.line + 1
        _check_keys(value, place, lines)


def _load_json(text: str) -> object:
    """Read JSON as itself: YAML's reader stumbles over tabs between its tokens."""
    try:
        value: object = json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant)
    except RecursionError:
        raise YamlRefused(f"nested deeper than {MAX_DEPTH}") from None
    _check_depth(value, MAX_DEPTH)
    return value


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        names = [name for name, _ in pairs]
        raise YamlRefused(f"key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return whole


def _refuse_constant(name: str) -> object:
    raise YamlRefused(f"{name} is not a number of JSON")


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, dict | list):
        if left == 0:
            raise YamlRefused(f"nested deeper than {MAX_DEPTH}")
        for entry in value.values() if isinstance(value, dict) else value:
            _check_depth(entry, left - 1)
