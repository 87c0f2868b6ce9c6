"""The OpenAPI 3.1 document of the application, made from the classes that are accepted."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from messagebus.http.problems import KINDS, PROBLEM_JSON
from messagebus.http.reading import BATCH, EVENT, JSON
from messagebus.messages import Message, wire_name

__all__ = ["document"]

Schema = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas/"
_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[^\\u0000]*$"}
_BINARY_MODE: Final = (
    "A CloudEvent may come in binary mode too: its attributes are headers (`ce-specversion`, `ce-id`, `ce-source`, "
    "`ce-type`, ...), the body is its data."
)
# Names with a dot are no names of classes.
_PROBLEM: Final = "messagebus.Problem"
_RETURNED: Final = "messagebus.ReturnMessages"
_WIRE_FORM: Final = "messagebus.WireForm"
_CLOUD_EVENT: Final = "messagebus.CloudEvent"


def document(classes: Sequence[type[Message]], *, stores: bool, authenticates: bool) -> Schema:
    """Return the document, but for the servers.

    Args:
        classes: that are accepted.
        stores: messages are stored, not run.
        authenticates: some who ask are let in, and some are not.
    """
    refusals = [401, 403] if authenticates else []
    take = {
        "operationId": "sendMessage",
        "summary": "Store a message, or a batch" if stores else "Run a message, or a batch",
        "description": _BINARY_MODE,
        "requestBody": {"required": True, "content": _bodies()},
        "responses": {
            **(_stored() if stores else _run()),
            **_problems(400, 413, 415, 422, 500, *refusals, *([409, 503] if stores else [])),
        },
    }
    health = {
        "operationId": "getHealth",
        "summary": "Whether this service can do its work",
        "responses": {**_answer(200, _object(status={"const": "ok"})), **(_problems(503) if stores else {})},
    }
    paths: Schema = {"/messages": {"post": take}, "/healthz": {"get": health}}
    if stores:
        paths["/messages/{id}"] = {"get": _outcome(refusals)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Messages", "version": "1"},
        "paths": paths,
        "components": {"schemas": _schemas(classes)},
    }


def _outcome(refusals: Sequence[int]) -> Schema:
    waiting = _object(id={"type": "string"}, status={"enum": ["waiting", "failed"]})
    done = _object(id={"type": "string"}, status={"const": "done"}, result=_ref(_RETURNED))
    return {
        "operationId": "getOutcome",
        "summary": "What became of a message and all that it led to",
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}],
        "responses": {**_answer(200, {"anyOf": [waiting, done]}), **_problems(404, 500, 503, *refusals)},
    }


# Requests


def _bodies() -> Schema:
    one = [_ref(_WIRE_FORM), _ref(_CLOUD_EVENT)]
    schemas = {
        JSON: {"anyOf": [*one, {"type": "array", "items": {"anyOf": one}}]},
        EVENT: _ref(_CLOUD_EVENT),
        BATCH: {"type": "array", "items": _ref(_CLOUD_EVENT)},
    }
    return {media: {"schema": schema} for media, schema in schemas.items()}


def _schemas(classes: Sequence[type[Message]]) -> Schema:
    found, defined = models_json_schema([(cls, "validation") for cls in classes], ref_template=f"{_SCHEMAS}{{model}}")
    definitions: Schema = defined["$defs"]
    of_class = {cls: found[cls, "validation"] for cls in classes}
    needs_data = {
        cls: bool(definitions[ref["$ref"].removeprefix(_SCHEMAS)].get("required")) for cls, ref in of_class.items()
    }
    return {
        **definitions,
        _WIRE_FORM: {"anyOf": [_wire_form(cls, of_class[cls], needs_data=needs_data[cls]) for cls in classes]},
        _CLOUD_EVENT: {"anyOf": [_cloud_event(cls, of_class[cls], needs_data=needs_data[cls]) for cls in classes]},
        _RETURNED: {"type": "array", "items": _object(type={"type": "string"}, data={"type": "object"})},
        _PROBLEM: _problem(),
    }


def _wire_form(cls: type[Message], data: Schema, *, needs_data: bool) -> Schema:
    return {
        "type": "object",
        "title": wire_name(cls),
        "properties": {"type": {"const": wire_name(cls)}, "data": data},
        "required": ["type", "data"] if needs_data else ["type"],
        "additionalProperties": False,
    }


def _cloud_event(cls: type[Message], data: Schema, *, needs_data: bool) -> Schema:
    wire_form = _wire_form(cls, data, needs_data=needs_data)
    optional: Schema = {
        "time": {"format": "date-time"},
        "datacontenttype": {"pattern": "^[a-z]+/([a-z0-9.+-]+[+])?json *(;.*)?$"},
        "correlationid": _TEXT,
        "causationid": _TEXT,
    }
    attributes: Schema = {
        "specversion": {"const": "1.0"},
        "id": _TEXT,
        "source": _TEXT,
        **{name: {**schema, "type": ["string", "null"]} for name, schema in optional.items()},
    }
    return {
        **wire_form,
        "title": f"{wire_name(cls)} as a CloudEvent",
        "properties": {**attributes, **wire_form["properties"]},
        "required": ["specversion", "id", "source", *wire_form["required"]],
        "propertyNames": {"pattern": "^[a-z0-9]{1,64}$"},
        "additionalProperties": {
            "type": ["string", "boolean", "integer", "null"],
            "minimum": -(2**31),  # An integer of a CloudEvent has 32 bits.
            "maximum": 2**31 - 1,
        },
    }


# Responses


def _run() -> Schema:
    several = {"type": "array", "items": _ref(_RETURNED)}
    return _answer(200, {"anyOf": [_ref(_RETURNED), several]}, "The return messages; of a batch, those of each message")


def _stored() -> Schema:
    one = _object(id={"type": "string"})
    answer = _answer(202, {"anyOf": [one, {"type": "array", "items": one}]}, "It is stored, and will be handled")
    answer["202"] |= {
        "headers": {"Location": {"description": "Of one message: its outcome", "schema": {"type": "string"}}},
        "links": {"outcome": {"operationId": "getOutcome", "parameters": {"id": "$response.body#/id"}}},
    }
    return answer


def _answer(status: int, schema: Schema, description: str = "") -> Schema:
    content = {JSON: {"schema": schema}}
    return {str(status): {"description": description or HTTPStatus(status).phrase, "content": content}}


def _problems(*statuses: int) -> Schema:
    content = {PROBLEM_JSON: {"schema": _ref(_PROBLEM)}}
    return {str(status): {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}


def _problem() -> Schema:
    kinds = [f"urn:messagebus:problem:{kind}" for kind in KINDS]
    problem = _object(type={"enum": ["about:blank", *kinds]}, title={"type": "string"}, status={"type": "integer"})
    where = _object(path={"type": "string"}, detail={"type": "string"})
    problem["properties"] |= {
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": where},
        "count": {"type": "integer", "description": "Of errors: not all of very many are listed"},
        "index": {"type": "integer", "description": "The place in the batch of the message that it is about"},
        "results": {"type": "array", "items": _ref(_RETURNED), "description": "Of those before it in the batch"},
        "message_id": {"type": "string", "description": "By which the records of this service know it"},
    }
    return problem


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _ref(name: str) -> Schema:
    return {"$ref": f"{_SCHEMAS}{name}"}
