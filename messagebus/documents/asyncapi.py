"""The AsyncAPI document of an application: its channels, what it receives and sends, and the messages."""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, Final

from messagebus.documents.emissions import emission_of, messages_of
from messagebus.documents.nodes import DEFS, Node, schemas_below
from messagebus.documents.schema import definitions, kind_of
from messagebus.messages import Message, ReturnMessage, wire_name
from messagebus.registry import Registry
from messagebus.shapes import VERSION

__all__ = ["asyncapi_document"]

_COMPONENTS: Final = "#/components/"
_CHANNELS: Final = {"command": "commands", "event": "events", "return": "returns"}
_TELLS: Final = {
    "command": "Each command goes to one worker.",
    "event": "Each event goes to one worker of every group that handles it.",
    "return": "What a run returns goes to whoever started it, over no channel of an engine.",
}
_ATTRIBUTES: Final[Mapping[str, Node]] = {
    "specversion": {"const": "1.0"},
    "id": {"type": "string"},
    "source": {"type": "string"},
    "time": {"type": "string", "format": "date-time"},
    "datacontenttype": {"type": "string"},
    "correlationid": {"type": "string"},
    "causationid": {"type": "string"},
}


def asyncapi_document(
    registry: Registry, *, title: str = "messagebus", version: str = "0", namespace: str = "mb"
) -> dict[str, Any]:
    """Describe an application as an AsyncAPI 3.0 document.

    There is a channel for commands, one for events and one for return messages, each with all its messages; the type of
    a message is the last part of the address, as an engine has it. Received is what has a handler; what is sent, and
    what a command is answered with, is what the return annotations of handlers, and ``Command[Price]``, name.

    Args:
        registry: of the application.
        title: of the application.
        version: of the application, for readers of the document.
        namespace: the first word of all names on the engine, as for `messagebus.brokers.connect`.

    Raises:
        ConfigurationError: If no message is registered.
        MessageClassError: If a field of a message has no JSON Schema.
        DuplicateNameError: If two messages want one wire name.

    >>> from messagebus import Command, Registry
    >>> class PlaceOrder(Command):
    ...     order_id: str
    >>> registry = Registry()
    >>> registry.register(PlaceOrder, lambda command: None)
    >>> document = asyncapi_document(registry, title="Shop")
    >>> document["channels"]["commands"]["address"], [*document["operations"]]
    ('mb.command.{type}', ['receive_PlaceOrder'])
    """
    messages = messages_of(registry)
    keys = _keys(messages)
    defs = definitions(messages)
    schema_keys = _keys(defs)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/cloudevents+json",
        "channels": dict(_channels(messages, keys, namespace)),
        "operations": _operations(registry, messages, keys),
        "components": {
            "messages": {
                keys[name]: _message(name, cls, f"{_COMPONENTS}schemas/{schema_keys[name]}")
                for name, cls in messages.items()
            },
            "schemas": {schema_keys[name]: _component(node, schema_keys) for name, node in defs.items()},
        },
    }


_NO_KEY: Final = re.compile(r"[^a-zA-Z0-9_-]")


def _keys(names: Iterable[str]) -> dict[str, str]:
    """Return a key for each name, different ones, in letters that every reader of AsyncAPI takes."""
    keys: dict[str, str] = {}
    for name in names:
        key = _NO_KEY.sub("_", name)
        while key in keys.values():
            key += "_"
        keys[name] = key
    return keys


def _channels(
    messages: Mapping[str, type[Message]], keys: Mapping[str, str], namespace: str
) -> Iterable[tuple[str, Node]]:
    for kind, channel in _CHANNELS.items():
        names = [name for name, cls in messages.items() if kind_of(cls) == kind]
        if not names:
            continue
        node: Node = {
            "address": None,
            "description": _TELLS[kind],
            "messages": {keys[name]: {"$ref": f"{_COMPONENTS}messages/{keys[name]}"} for name in names},
        }
        if kind != "return":
            node["address"] = f"{namespace}.{kind}.{{type}}"
            node["parameters"] = {"type": {"enum": names, "location": "$message.payload#/type"}}
        yield channel, node


def _operations(registry: Registry, messages: Mapping[str, type[Message]], keys: Mapping[str, str]) -> dict[str, Node]:
    operations: dict[str, Node] = {}
    sent: dict[str, None] = {}
    for name, cls in messages.items():
        handlers = registry.snapshot[cls].handlers
        emitted = {wire_name(one): one for handler in handlers for one in emission_of(handler, cls).classes}
        sent |= dict.fromkeys(name for name, one in emitted.items() if not issubclass(one, ReturnMessage))
        if handlers:
            answers = [name for name, one in emitted.items() if issubclass(one, ReturnMessage)]
            operations[f"receive_{keys[name]}"] = _operation("receive", [name], messages, keys) | (
                {"reply": _operation("", answers, messages, keys)} if answers else {}
            )
    return operations | {f"send_{keys[name]}": _operation("send", [name], messages, keys) for name in sorted(sent)}


def _operation(action: str, names: list[str], messages: Mapping[str, type[Message]], keys: Mapping[str, str]) -> Node:
    channel = f"#/channels/{_CHANNELS[kind_of(messages[names[0]])]}"
    found: Node = {
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{keys[name]}"} for name in names],
    }
    return {"action": action, **found} if action else found


def _message(name: str, cls: type[Message], data: str) -> Node:
    """Describe a message on the wire: a CloudEvent, or no more than its type and data."""
    return {
        "name": name,
        "title": cls.__name__,
        "contentType": "application/cloudevents+json",
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {
            "type": "object",
            "properties": {
                **deepcopy(dict(_ATTRIBUTES)),
                "type": {"const": name},
                VERSION: {"const": cls.__version__},
                "data": {"$ref": data},
            },
            "required": ["type", *([VERSION] if cls.__version__ > 1 else []), "data"],
        },
    }


def _component(node: Node, keys: Mapping[str, str]) -> Node:
    """Return a definition as a component: it refers to components, and its discriminator is what OpenAPI calls so."""
    node = deepcopy(node)
    todo = [node]
    while todo:
        part = todo.pop()
        part.pop("discriminator", None)
        if "$ref" in part:
            name = part["$ref"].removeprefix(DEFS).replace("~1", "/").replace("~0", "~")
            part["$ref"] = f"{_COMPONENTS}schemas/{keys[name]}"
        todo += schemas_below(part)
    return node
