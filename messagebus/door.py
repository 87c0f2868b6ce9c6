"""The door: where a payload becomes a message, or is refused in words that repeat nothing of it."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema

from messagebus.envelope import CloudEvent, Envelope
from messagebus.errors import InvalidMessageError, MessageTooLargeError, UnknownMessageError, near_misses
from messagebus.messages import Message, find_unfit, find_unfit_value, full_name, shape_of

__all__ = ["MAX_BYTES", "Door", "check_again"]

MAX_BYTES = 1_048_576

_WIRE_FORM = 'The wire form is {"type": ..., "data": {...}}, or a CloudEvent 1.0.'
_WIRE_PROBLEMS = {
    "union_tag_not_found": "it has no 'type'",
    "union_tag_invalid": "its 'type' is no text",
    "dict_type": "it is no JSON object",
}
_SAFE_TYPE = re.compile(r"[A-Za-z0-9_.:/-]{1,80}")
_MAX_LISTED = 20
# Of more errors than these not even the first are listed: to build the list takes longer than to parse the payload.
_MAX_COUNTED = 200
_KNOWN_REASONS = frozenset(get_args(core_schema.ErrorType))


class Door:
    """One validator for ``{"type": ..., "data": {...}}``: it parses and picks the class in one pass."""

    def __init__(self, names: Mapping[str, type[Message]]) -> None:
        self.names = names
        # The fields of such classes set the limits themselves; others would let pass what could not be written again.
        self._is_exact = all(shape_of(cls).is_exact for cls in names.values())
        anything = core_schema.typed_dict_field(core_schema.any_schema())
        choices: dict[Any, core_schema.CoreSchema] = {}
        definitions: dict[str, core_schema.CoreSchema] = {}
        for name, cls in names.items():
            schema: Any = cls.__pydantic_core_schema__
            if schema["type"] == "definitions":
                definitions.update((inner["ref"], inner) for inner in schema["definitions"])
                schema = schema["schema"]
            data = core_schema.with_default_schema(schema, default={}, validate_default=True)
            fields = {"type": anything, "data": core_schema.typed_dict_field(data)}
            choices[name] = core_schema.typed_dict_schema(fields, extra_behavior="allow")
        union = core_schema.tagged_union_schema(choices, "type")
        self._validator = SchemaValidator(core_schema.definitions_schema(union, list(definitions.values())))

    def read(self, mapping: Mapping[str, Any]) -> tuple[Message, Envelope | None]:
        """Return the message in a mapping, and its envelope if it is a CloudEvent."""
        if not isinstance(mapping, Mapping):
            raise InvalidMessageError("", (("", "it is no mapping"),), hint=_WIRE_FORM)
        _refuse(find_unfit_value(mapping))
        try:
            wire = self._validator.validate_python(dict(mapping))
        except ValidationError as error:
            raise self._refusal(error) from None
        return wire["data"], self._envelope(wire)

    def read_json(self, payload: bytes | str, max_bytes: int) -> tuple[Message, Envelope | None]:
        """Do as `read` with JSON, which is measured before it is parsed."""
        if isinstance(payload, str) and len(payload) <= max_bytes:
            payload = payload.encode(errors="surrogatepass")
        if len(payload) > max_bytes or isinstance(payload, str):
            raise MessageTooLargeError(len(payload), max_bytes)
        if not self._is_exact:
            _refuse(find_unfit(payload))
        try:
            wire = self._validator.validate_json(payload)
        except ValidationError as error:
            raise self._refusal(error) from None
        return wire["data"], None if len(wire) == len(_TYPE_AND_DATA) else self._envelope(wire)

    def _envelope(self, wire: dict[str, Any]) -> Envelope | None:
        message = wire["data"]
        attributes = {name: value for name, value in wire.items() if name not in _TYPE_AND_DATA}
        if not attributes:
            return None
        if "specversion" not in attributes:
            why = f"it has {len(attributes):,} attributes beside type and data, and no specversion"
            raise InvalidMessageError("", (("", why),), hint=_WIRE_FORM)
        try:
            return CloudEvent.model_validate(attributes).envelope(message)
        except ValidationError as error:
            raise _field_errors(error, "a CloudEvent", frozenset(CloudEvent.model_fields), skip=0) from None

    def _refusal(self, error: ValidationError) -> InvalidMessageError:
        """Say what pydantic found in a payload, in paths and reasons that repeat nothing of it."""
        if error.error_count() > _MAX_COUNTED:
            return InvalidMessageError("", (("", f"it has {error.error_count():,} wrong or unknown fields and items"),))
        match error.errors(include_url=False)[0]:
            case {"type": "union_tag_invalid", "loc": (), "input": {"type": str(name)}}:
                shown = name if _SAFE_TYPE.fullmatch(name) else ""
                return UnknownMessageError(shown, near_misses(name[:100], self.names))
            case {"type": str(kind), "loc": (), "msg": str(why)}:
                return InvalidMessageError("", (("", _WIRE_PROBLEMS.get(kind, why)),), hint=_WIRE_FORM)
            case {"loc": (tag, *_)}:
                cls = self.names[str(tag)]
        return _field_errors(error, full_name(cls), shape_of(cls).words, skip=2)


_TYPE_AND_DATA = frozenset({"type", "data"})


def check_again(message: Message) -> None:
    """Validate a message that asks for it, by ``revalidate_instances="always"`` in its model's config.

    Raises:
        InvalidMessageError: If it is not what its class says.
    """
    try:
        type(message).__pydantic_validator__.validate_python(message)
    except ValidationError as error:
        raise _field_errors(error, full_name(type(message)), shape_of(type(message)).words, skip=0) from None


def _refuse(why: str | None) -> None:
    if why is not None:
        raise InvalidMessageError("", (("", f"it {why}"),))


def _field_errors(error: ValidationError, what: str, words: frozenset[str], skip: int) -> InvalidMessageError:
    errors = error.errors(include_url=False, include_input=False)
    problems = tuple(_problem(one, words, skip) for one in errors[:_MAX_LISTED])
    return InvalidMessageError(what, problems, len(errors))


def _problem(one: Mapping[str, Any], words: frozenset[str], skip: int) -> tuple[str, str]:
    *_, last = loc = one["loc"][skip:] or ("",)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" if part in words else ".*" for part in loc)
    why = one["msg"]
    if one["type"] == "extra_forbidden":
        path, why = path.rpartition(".")[0], "it has a field that the class does not have"
        for near in near_misses(str(last), words, limit=1):
            why = f"it has no field '{last}'. Did you mean '{near}'?"
    elif one["type"] not in _KNOWN_REASONS:
        why = "Refused by a validator of the class"
    elif one["type"] == "union_tag_invalid":
        why = "Its tag is none of the expected ones"
    elif "error" in one.get("ctx", ()):  # The rest may quote the value.
        why = why.partition(",")[0]
    return path.removeprefix(".")[:80], why[:120]
