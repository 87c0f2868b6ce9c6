"""Whether everything that one JSON Schema lets a writer write is taken by another, and if not, where and why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Final

from messagebus.documents.limits import (
    LIMITS,
    OPAQUE,
    Finding,
    Schema,
    compare_bounds,
    compare_constant,
    compare_number,
    compare_sizes,
    compare_text,
    described,
    is_alike,
    is_kind,
    matches,
    takes_name,
)
from messagebus.documents.nodes import Node, schemas_below, target

__all__ = ["Comparison"]

_CHOICES: Final = ("$ref", "anyOf", "oneOf", "enum", "type")
_MOST: Final = 200
"""Findings in one place; whoever changes more sees the first."""


class Comparison:
    """Compares schemas of a writer's document with those of a reader's.

    Two schemas that are being compared are taken to fit where they meet again below: that is what makes the comparison
    of recursive schemas end. What was concluded from that is forgotten if they turn out not to fit.
    """

    def __init__(self, writer: Mapping[str, Node], reader: Mapping[str, Node]) -> None:
        self._writer, self._reader = _Side(writer), _Side(reader)
        self._fitting: dict[tuple[int, int], None] = {}
        self._found: dict[tuple[int, int], list[Finding]] = {}

    def narrowed(self, writer: Schema, reader: Schema) -> list[Finding]:
        """Return where the writer may write what the reader refuses; nothing if it takes everything."""
        key = id(writer), id(reader)
        if key in self._fitting:
            return []
        if key not in self._found:
            count = len(self._fitting)
            self._fitting[key] = None
            found = self._alternatives(writer, reader)
            if not found:
                return []
            while len(self._fitting) > count:
                self._fitting.popitem()
            self._found[key] = found[:_MOST]
        return self._found[key]

    def _alternatives(self, writer: Schema, reader: Schema) -> list[Finding]:
        choices = self._reader.alternatives(reader)
        found: list[Finding] = []
        lost: dict[str, None] = {}
        for one in self._writer.alternatives(writer):
            tried = [(choice, self._pair(one, choice)) for choice in choices]
            if any(not findings for _, findings in tried):
                continue
            near = [findings for choice, findings in tried if is_alike(one, choice)]
            if near:
                nearest = min(near, key=len)
                found += nearest
            else:
                lost[described(one, choices)] = None
        return [Finding("type", writer=" nor ".join([*lost][:10])), *found] if lost else found

    def _pair(self, writer: Node, reader: Node) -> list[Finding]:
        """Compare two schemas without alternatives."""
        kind = writer.get("type")
        if not reader.keys() & LIMITS:
            return []
        if "const" in reader or "const" in writer:
            return compare_constant(writer, reader)
        if not is_kind(kind, reader.get("type", kind)):
            return [Finding("type", writer=described(writer, [reader]))]
        odd = [key for key in reader.keys() & OPAQUE if not self._is_same(writer, reader, key)]
        found = [Finding("other", name=key) for key in sorted(odd)]
        match kind:
            case "string":
                found += compare_text(writer, reader)
            case "integer" | "number":
                found += compare_number(writer, reader)
            case "array":
                found += self._array(writer, reader)
            case "object":
                found += self._object(writer, reader)
        return found

    def _is_same(self, writer: Node, reader: Node, key: str) -> bool:
        """Say whether a keyword that is not understood here is the same, with all that it refers to."""
        old, new = {key: writer.get(key)}, {key: reader[key]}
        return old == new and self._writer.reached(old) == self._reader.reached(new)

    # Containers

    def _array(self, writer: Node, reader: Node) -> Iterator[Finding]:
        yield from compare_bounds(writer, reader, "minItems", "maxItems")
        if reader.get("uniqueItems") and not writer.get("uniqueItems"):
            yield Finding("limit", name="uniqueItems", writer="false", reader="true")
        first, second = writer.get("prefixItems", []), reader.get("prefixItems", [])
        most = writer.get("maxItems", inf)
        for index in range(max(len(first), len(second))):
            if index < most:
                pair = [node[index] if index < len(node) else rest.get("items", True) for node, rest in
                        ((first, writer), (second, reader))]  # fmt: skip
                yield from _below(f"[{index}]", self.narrowed(*pair))
        if most > max(len(first), len(second)):
            yield from _below("[]", self.narrowed(writer.get("items", True), reader.get("items", True)))

    def _object(self, writer: Node, reader: Node) -> Iterator[Finding]:
        fields, wanted = writer.get("properties", {}), reader.get("properties", {})
        others = _others(writer)
        required = writer.get("required", [])
        for name in reader.get("required", []):
            if name not in required:
                yield Finding("optional" if name in fields else "missing", f".{name}")
        for name, node in fields.items():
            yield from self._field(name, node, reader)
        for name in wanted.keys() - fields.keys():
            for node in others.values():
                yield from _below(f".{name}", self.narrowed(node, wanted[name]))
        yield from self._rest(others, reader)
        yield from compare_sizes(writer, reader, is_closed=not others)
        yield from self._names(writer, reader, is_closed=not others)

    def _field(self, name: str, node: Schema, reader: Node) -> Iterator[Finding]:
        wanted = reader.get("properties", {})
        matching = [part for pattern, part in reader.get("patternProperties", {}).items() if matches(pattern, name)]
        if name in wanted:
            matching.append(wanted[name])
        if not matching and not reader.get("additionalProperties", "patternProperties" not in reader):
            yield Finding("unknown", f".{name}")
            return
        for part in matching or [reader.get("additionalProperties", True)]:
            yield from _below(f".{name}", self.narrowed(node, part))

    def _rest(self, others: Mapping[str, Schema], reader: Node) -> Iterator[Finding]:
        """Compare what a writer may write under names that its schema does not list."""
        patterns = reader.get("patternProperties", {})
        for pattern, node in others.items():
            if pattern in patterns:
                yield from _below(".*", self.narrowed(node, patterns[pattern]))
            elif reader.get("additionalProperties", True) is False or patterns:
                yield Finding("open")
            else:
                yield from _below(".*", self.narrowed(node, reader.get("additionalProperties", True)))

    def _names(self, writer: Node, reader: Node, *, is_closed: bool) -> Iterator[Finding]:
        wanted = reader.get("propertyNames", True)
        fields = [name for name in writer.get("properties", {}) if not takes_name(wanted, name)]
        yield from (Finding("unknown", f".{name}") for name in fields)
        if not is_closed and wanted is not True and writer.get("propertyNames") != wanted:
            yield Finding("names")


class _Side:
    """A document, and the alternatives that its schemas allow, worked out once: they are told apart by identity."""

    def __init__(self, defs: Mapping[str, Node]) -> None:
        self.defs = defs
        self._known: dict[int, list[Node]] = {}

    def alternatives(self, node: Schema) -> list[Node]:
        """Return schemas, each of one type or of one value, of which a value fits one if it fits the given one."""
        if id(node) not in self._known:
            self._known[id(node)] = [*self._split(node, ())]
        return self._known[id(node)]

    def _split(self, node: Schema, above: tuple[int, ...]) -> Iterator[Node]:
        if isinstance(node, bool):
            yield from [{}] * node
            return
        if id(node) in above:
            return  # A reference that leads to itself allows nothing.
        above = (*above, id(node))
        for key in _CHOICES:
            parts = self._parts(node, key)
            if parts is not None:
                rest = {name: value for name, value in node.items() if name != key and name in LIMITS}
                yield from (_merged(rest, one) for part in parts for one in self._split(part, above))
                return
        yield node

    def _parts(self, node: Node, key: str) -> Sequence[Schema] | None:
        value = node.get(key)
        match key:
            case "$ref" if key in node:
                found = target(node, self.defs)
                return [] if found is None else [found]
            case "anyOf" | "oneOf" if key in node:
                return [part for part in node[key] if isinstance(part, dict | bool)]
            case "enum" if key in node:
                return [{"const": one} for one in node[key]]
            case "type" if isinstance(value, list):
                return [{"type": one} for one in value]
        return None

    def reached(self, node: Node) -> dict[int | str, Node]:
        """Return the definitions that a schema refers to, and those that these refer to."""
        found: dict[int | str, Node] = {}
        todo = [node]
        while todo:
            part = todo.pop()
            if "$ref" in part and part["$ref"] not in found:
                found[part["$ref"]] = target(part, self.defs) or {}
                todo.append(found[part["$ref"]])
            todo += schemas_below(part)
        return found


def _merged(rest: Node, one: Node) -> Node:
    """Return a schema that wants both; where both limit the same, one that is only equal to itself."""
    both = {key for key in rest.keys() & one.keys() if rest[key] != one[key] and key != "type"}
    if both:
        return {"allOf": [rest, one]}
    return {**one, **rest} if rest else one


def _others(node: Node) -> dict[str, Schema]:
    """Return the schemas of what may stand in an object beside its fields, by pattern of the name; "" is any name.

    A model that ignores unknown fields writes none; its schema says nothing of them.
    """
    patterns: dict[str, Schema] = node.get("patternProperties", {})
    rest = node.get("additionalProperties", "properties" not in node and not patterns)
    return patterns if rest is False else {**patterns, "": rest}


def _below(step: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    for one in findings:
        yield replace(one, field=f"{step}{one.field}")
