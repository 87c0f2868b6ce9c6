"""What a JSON Schema of one type, or of one value, takes: its limits, and where they are narrower than another's."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, inf
from typing import Any, Final, Literal

from messagebus.documents.nodes import Node

__all__ = [
    "LIMITS", "OPAQUE", "Finding", "Schema", "compare_bounds", "compare_constant", "compare_number", "compare_sizes",
    "compare_text", "described", "is_alike", "is_kind", "matches", "takes_name",
]  # fmt: skip

Schema = Node | bool
Kind = Literal["unknown", "open", "missing", "optional", "type", "limit", "names", "other"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A place at which a writer may write what a reader refuses."""

    kind: Kind
    """``unknown``: a field that the reader does not know and refuses. ``open``: any such field. ``missing``: one that
    the reader wants and the writer has not. ``optional``: one that it may leave out. ``type``: values of another kind.
    ``limit``: values beyond a limit of the reader's. ``names``: fields of other names. ``other``: what a keyword says
    that is not understood here."""
    field: str = ""
    name: str = ""
    """Of the limit, or the keyword."""
    writer: str = ""
    """Its limit, or what it writes and the reader does not take."""
    reader: str = ""


_COMPARED: Final = frozenset({
    "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "pattern", "format", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "properties", "required",
    "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties",
})  # fmt: skip
OPAQUE: Final = frozenset({
    "allOf", "not", "if", "then", "else", "contains", "minContains", "maxContains", "dependentSchemas",
    "dependentRequired", "unevaluatedItems", "unevaluatedProperties", "contentEncoding", "contentMediaType",
    "contentSchema", "$dynamicRef",
})  # fmt: skip
"""They limit what is taken, and are compared as a whole."""
LIMITS: Final = frozenset({"$ref", "anyOf", "oneOf", "enum", "type", *_COMPARED, *OPAQUE})


# Values and kinds


def described(node: Node, choices: Iterable[Node]) -> str:
    """Say what a schema without alternatives takes, in a word or two."""
    if "const" in node:
        return _shown(node["const"])
    kind = node.get("type")
    if kind is None:
        return "anything else"
    is_part = any("const" in one and is_kind(_kind_of(one["const"]), kind) for one in choices)
    return f"any other {kind}" if is_part else str(kind)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST: Final = 40


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def is_kind(kind: Any, wanted: Any) -> bool:
    return kind is not None and (kind == wanted or (kind == "integer" and wanted == "number"))


def is_alike(writer: Node, reader: Node) -> bool:
    """Say whether a difference between the two says more than that there is one."""
    return "const" not in writer and "const" not in reader and is_kind(writer.get("type"), reader.get("type"))


def compare_constant(writer: Node, reader: Node) -> list[Finding]:
    """Compare two schemas, one of which at least takes a single value."""
    if "const" not in writer:
        return [Finding("type", writer=described(writer, [reader]))]
    value = writer["const"]
    is_taken = _same(value, reader["const"]) if "const" in reader else _takes(reader, value)
    return [] if is_taken else [Finding("type", writer=_shown(value))]


def _takes(reader: Node, value: Any) -> bool:
    """Say whether a reader takes a value for sure."""
    kind = _kind_of(value)
    if not is_kind(kind, reader.get("type", kind)) or reader.keys() & OPAQUE:
        return False
    match value:
        case str():
            pattern, format = reader.get("pattern"), _format(reader)
            length = len(value)
            is_long = reader.get("minLength", 0) <= length <= reader.get("maxLength", inf)
            return is_long and format is None and (pattern is None or matches(pattern, value))
        case bool() | None:
            return True
        case int() | float():
            return not [*compare_number({"type": kind, "minimum": value, "maximum": value}, reader, exact=value)]
    return False


def takes_name(names: Schema, name: str) -> bool:
    return names is True or (isinstance(names, dict) and _takes({**names, "type": "string"}, name))


def matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


# Limits


def _limit(name: str, writer: Any, reader: Any) -> Finding:
    return Finding("limit", name=name, writer=_limit_text(writer), reader=_limit_text(reader))


def _limit_text(value: Any) -> str:
    return "none" if value is None else _shown(value)


def compare_bounds(writer: Node, reader: Node, least: str, most: str) -> Iterator[Finding]:
    if writer.get(least, 0) < reader.get(least, 0):
        yield _limit(least, writer.get(least), reader[least])
    if writer.get(most, inf) > reader.get(most, inf):
        yield _limit(most, writer.get(most), reader[most])


def compare_text(writer: Node, reader: Node) -> Iterator[Finding]:
    yield from compare_bounds(writer, reader, "minLength", "maxLength")
    if "pattern" in reader and reader["pattern"] != writer.get("pattern"):
        yield _limit("pattern", writer.get("pattern"), reader["pattern"])
    wanted, given = _format(reader), _format(writer)
    if wanted is not None and wanted != given and not (wanted == "uuid" and str(given).startswith("uuid")):
        yield _limit("format", given, wanted)


def _format(node: Node) -> str | None:
    """Return the format of text, but for those that any text has."""
    format = node.get("format")
    return None if format in {"password", "binary"} else format


_INT64: Final = 2**63


def compare_number(writer: Node, reader: Node, exact: float | None = None) -> Iterator[Finding]:
    is_integer = writer["type"] == "integer"
    for name, sign in (("minimum", 1), ("maximum", -1)):
        given, wanted = _lower(writer, sign), _lower(reader, sign)
        if is_integer:
            given = _whole(given, sign)
        if wanted is not None and (given is None or given < wanted):
            yield Finding("limit", name=name, writer=_bound(writer, sign), reader=_bound(reader, sign))
    step = reader.get("multipleOf")
    own = exact if exact is not None else writer.get("multipleOf", 1 if is_integer else None)
    if step is not None and (own is None or Fraction(str(own)) % Fraction(str(step))):
        yield _limit("multipleOf", writer.get("multipleOf"), step)


_KEYS: Final = {1: ("minimum", "exclusiveMinimum"), -1: ("maximum", "exclusiveMaximum")}
_EDGES: Final = {1: -_INT64, -1: _INT64 - 1}
"""No message has an integer beyond 64 bits."""


def _lower(node: Node, sign: int) -> tuple[Fraction, bool] | None:
    """Return the lower bound, and whether it is itself left out; of the negative values if the sign is negative."""
    keys = zip(_KEYS[sign], (False, True), strict=True)
    return max(((Fraction(str(node[key])) * sign, is_open) for key, is_open in keys if key in node), default=None)


def _whole(bound: tuple[Fraction, bool] | None, sign: int) -> tuple[Fraction, bool]:
    """Return the lowest integer within a bound."""
    edge = (Fraction(_EDGES[sign] * sign), False)
    if bound is None:
        return edge
    value, is_open = bound
    return max((Fraction(floor(value) + 1 if is_open else ceil(value)), False), edge)


def _bound(node: Node, sign: int) -> str:
    """Return a bound in words; that of 64 bits, which all integers have, is none."""
    closed, open = (node.get(key) for key in _KEYS[sign])
    if open is not None:
        return f"{'above' if sign > 0 else 'below'} {open}"
    return "none" if closed in {None, _EDGES[sign]} else str(closed)


def compare_sizes(writer: Node, reader: Node, *, is_closed: bool) -> Iterator[Finding]:
    known = {"minProperties": len(writer.get("required", []))}
    if is_closed:
        known["maxProperties"] = len(writer.get("properties", {}))
    least = max(known["minProperties"], writer.get("minProperties", 0))
    most = min(known.get("maxProperties", inf), writer.get("maxProperties", inf))
    yield from compare_bounds({"minProperties": least, "maxProperties": most}, reader, "minProperties", "maxProperties")
