"""The JSON Schema of every message of an application, in one document."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import core_schema

from messagebus.documents.emissions import messages_of
from messagebus.documents.nodes import DEFS, Node, pointer, schemas_below
from messagebus.errors import MessageClassError, full_name
from messagebus.messages import Command, Event, Message
from messagebus.registry import Registry
from messagebus.shapes import VERSION, _write_private
from messagebus.versions import refuse_gaps

__all__ = ["DIALECT", "definitions", "json_schema", "kind_of"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(registry: Registry) -> dict[str, Any]:
    """Describe what readers of an application's messages accept, as one JSON Schema 2020-12 document.

    Under ``$defs`` stand the data of each message by its wire name, and the models within them by their class names.
    The document as a whole accepts the wire form, ``{"type": ..., "data": {...}}``, of any of the messages: those that
    are registered, and those that the return annotations of handlers name. Private fields are marked ``writeOnly``; no
    default and no example is shown of them. What validators of your own refuse no JSON Schema can say. Of a class that
    has versions it is the latest; the older ones are read too, by their upcasters.

    Raises:
        ConfigurationError: If no message is registered.
        MessageClassError: If a field of a message has no JSON Schema.
        UpcasterError: If an older version of a message could not be read.
        DuplicateNameError: If two messages want one wire name.

    >>> from messagebus import Command, Registry
    >>> class PlaceOrder(Command, name="shop.place_order"):
    ...     order_id: str
    >>> registry = Registry()
    >>> registry.register(PlaceOrder)
    >>> json_schema(registry)["$defs"]["shop.place_order"]["required"]
    ['order_id']
    """
    messages = messages_of(registry)
    snapshot = registry.snapshot
    refuse_gaps(snapshot.names.values(), snapshot.upcasters)
    defs = definitions(messages)
    wires = [_wire(name, defs[name], cls.__version__) for name, cls in messages.items()]
    return {"$schema": DIALECT, "oneOf": wires, "$defs": defs}


def kind_of(cls: type[Message]) -> str:
    """Return which kind of message a class is, in one word."""
    if issubclass(cls, Command):
        return "command"
    return "event" if issubclass(cls, Event) else "return"


def definitions(messages: Mapping[str, type[Message]]) -> dict[str, Node]:
    """Return the schema of each message by its wire name, and of each model within by its class name."""
    inputs: list[Any] = [(name, "validation", cls.__pydantic_core_schema__) for name, cls in messages.items()]
    try:
        found, raw = _Generator(by_alias=True, ref_template=f"{DEFS}{{model}}").generate_definitions(inputs)
    except PydanticInvalidForJsonSchema:
        raise _without_schema(messages) from None
    taken = {found[name, "validation"].get("$ref", "").removeprefix(DEFS): name for name in messages}
    # A model that has the wire name of a message for its class name makes way.
    names: dict[str, str] = {
        key: taken.get(key) or _free(key, {*messages, *raw} - ({key} - messages.keys())) for key in raw
    }
    defs: dict[str, Node] = {names[key]: node for key, node in raw.items()}
    defs |= {name: found[name, "validation"] for name in messages if name not in names.values()}
    for node in defs.values():
        _rename(node, names)
    _hide(defs)
    for name, cls in messages.items():
        defs[name] |= {"x-kind": kind_of(cls), "x-version": cls.__version__}
    return dict(sorted(defs.items()))


def _wire(name: str, node: Node, version: int) -> Node:
    data = ["data"] if node.get("required") else []
    # What says no version is of the first.
    is_said = [VERSION] if version > 1 else []
    return {
        "type": "object",
        "properties": {"type": {"const": name}, VERSION: {"const": version}, "data": {"$ref": pointer(name)}},
        "required": ["type", *is_said, *data],
    }


def _without_schema(messages: Mapping[str, type[Message]]) -> MessageClassError:
    """Return the error of the first message that has no JSON Schema."""
    culprit = next(full_name(cls) for cls in messages.values() if not _has_schema(cls))
    remedy = "Give it one: Annotated[..., pydantic.WithJsonSchema({...})]."
    return MessageClassError(f"describe {culprit}", "the type of a field has no JSON Schema", remedy)


def _has_schema(cls: type[Message]) -> bool:
    try:
        _Generator().generate(cls.__pydantic_core_schema__)
    except PydanticInvalidForJsonSchema:
        return False
    return True


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _rename(node: Node, names: Mapping[str, str]) -> None:
    """Let the references within a schema refer to the new names of definitions."""
    if "$ref" in node:
        node["$ref"] = pointer(names[node["$ref"].removeprefix(DEFS)])
    mapping = node.get("discriminator", {}).get("mapping", {})
    mapping.update({tag: pointer(names[ref.removeprefix(DEFS)]) for tag, ref in mapping.items()})
    for part in schemas_below(node):
        _rename(part, names)


class _Generator(GenerateJsonSchema):
    """Marks what is private, and says of text what it has to be where pydantic says that it may be any."""

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Warn of nothing: what pydantic would say quotes a default, which may be private."""

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        node = super().generate_inner(schema)
        if schema.get("serialization", {}).get("function") is _write_private:
            node = {**node, "writeOnly": True}
            if node.get("type") == "string":
                node.setdefault("format", "password")
        return node

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        node = super().decimal_schema(schema)
        for part in node.get("anyOf", [node]):
            if part.get("type") == "string":
                part.setdefault("format", "decimal")
        return node

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        node = super().dict_schema(schema)
        if schema.get("keys_schema", {}).get("type") == "int":
            node["propertyNames"] = {"pattern": "^[+-]?[0-9]+$"}
        return node


# What is private

_TELLING: Final = ("default", "examples", "example")


def _hide(defs: Mapping[str, Node]) -> None:
    """Leave out every default and example in which something private may stand."""
    private: set[str] = set()
    count = -1
    while count < len(private):
        count = len(private)
        private |= {pointer(name) for name, node in defs.items() if _is_private(node, private)}
    for node in defs.values():
        _strip(node, private)


def _is_private(node: Node, private: set[str]) -> bool:
    is_marked = node.get("writeOnly") is True or node.get("$ref") in private
    return is_marked or any(_is_private(part, private) for part in schemas_below(node))


def _strip(node: Node, private: set[str]) -> None:
    if not _is_private(node, private):
        return
    for key in (*_TELLING, "const", "enum") if node.get("writeOnly") is True else _TELLING:
        if node.get(key) is not None:
            del node[key]
    for part in schemas_below(node):
        _strip(part, private)
