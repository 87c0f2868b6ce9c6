"""The parts of a JSON Schema: which of its members are schemas, and which are data."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final

__all__ = ["DEFS", "Node", "is_sound", "pointer", "schemas_below", "target"]

Node = dict[str, Any]
"""A JSON Schema that is an object."""

DEFS: Final = "#/$defs/"

_MAPS: Final = ("properties", "patternProperties", "$defs", "dependentSchemas")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE: Final = (
    "items", "additionalProperties", "propertyNames", "contains", "contentSchema", "not", "if", "then", "else",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip


def schemas_below(node: Node) -> Iterator[Node]:
    """Yield the schemas that are members of a schema, not those within them; data such as defaults are none."""
    for key in _MAPS:
        if isinstance(node.get(key), dict):
            yield from (part for part in node[key].values() if isinstance(part, dict))
    for key in _LISTS:
        if isinstance(node.get(key), list):
            yield from (part for part in node[key] if isinstance(part, dict))
    for key in _SINGLE:
        if isinstance(node.get(key), dict):
            yield node[key]


def pointer(name: str) -> str:
    """Return the reference to a definition by its name."""
    return DEFS + name.replace("~", "~0").replace("/", "~1")


_NUMBERS: Final = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems",
    "maxItems", "minProperties", "maxProperties",
)  # fmt: skip
_TEXTS: Final = ("$ref", "pattern", "format")


def target(node: Node, defs: Mapping[str, Node]) -> Node | None:
    """Return the definition that a schema refers to."""
    ref = str(node["$ref"])
    return defs.get(ref.removeprefix(DEFS).replace("~1", "/").replace("~0", "~")) if ref.startswith(DEFS) else None


def is_sound(node: Any, defs: Mapping[str, Node]) -> bool:
    """Say whether a schema from outside is written as JSON Schema wants it, as far as it is looked at here."""
    if not isinstance(node, dict):
        return False
    types = node.get("type", "object")
    return (
        all(_is_number(node[key]) for key in _NUMBERS if key in node)
        and node.get("multipleOf", 1) > 0
        and all(isinstance(node[key], str) for key in _TEXTS if key in node)
        and ("$ref" not in node or target(node, defs) is not None)
        and isinstance(node.get("enum", []), list)
        and all(isinstance(name, str) for name in _list(node.get("required", [])))
        and all(name in _TYPES for name in ([types] if isinstance(types, str) else _list(types)))
        and _has_sound_members(node, defs)
    )


_TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _has_sound_members(node: Node, defs: Mapping[str, Node]) -> bool:
    for key in _MAPS:
        if not isinstance(node.get(key, {}), dict):
            return False
    for key in _LISTS:
        if not isinstance(node.get(key, []), list):
            return False
    members = [
        *(part for key in _MAPS for part in node.get(key, {}).values()),
        *(part for key in _LISTS for part in node.get(key, [])),
        *(node[key] for key in _SINGLE if key in node),
    ]
    return all(isinstance(part, bool) or is_sound(part, defs) for part in members)
