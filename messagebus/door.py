"""The door: where a payload becomes a message, or is refused in words that repeat nothing of it."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import PydanticKnownError, SchemaValidator, core_schema, from_json, to_json

from messagebus.envelope import CloudEvent, Envelope
from messagebus.errors import (
    InvalidMessageError,
    MessageTooLargeError,
    NewerVersionError,
    UnknownMessageError,
    full_name,
    near_misses,
)
from messagebus.messages import Message
from messagebus.shapes import COLLIDING, VERSION, bounded, find_unfit_value, is_suspect, shape_of
from messagebus.versions import Upcasters, refuse_gaps, upcast, version_in

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
_MAX_ATTRIBUTES = 100
_MANY_MEMBERS = 10_000
_LARGE_OBJECT = 1_000


class Door:
    """One validator for ``{"type": ..., "data": {...}}``: it parses and picks the class in one pass."""

    def __init__(self, names: Mapping[str, type[Message]], upcasters: Upcasters) -> None:
        refuse_gaps(names.values(), upcasters)
        self.names, self._upcasters = names, upcasters
        self._has_versions = any(cls.__version__ > 1 for cls in names.values())
        # The fields of such classes set the limits themselves; others would let pass what could not be written again.
        self._is_exact = all(shape_of(cls).is_exact for cls in names.values())
        anything = core_schema.typed_dict_field(core_schema.any_schema())
        nothing = core_schema.typed_dict_field(core_schema.none_schema(), required=False)
        choices: dict[Any, core_schema.CoreSchema] = {}
        definitions: dict[str, core_schema.CoreSchema] = {}
        for name, cls in names.items():
            schema = bounded(cls.__pydantic_core_schema__)
            if schema["type"] == "definitions":
                definitions.update((inner["ref"], inner) for inner in schema["definitions"])
                schema = schema["schema"]
            data = core_schema.with_default_schema(schema, default={}, validate_default=True)
            fields = {"type": anything, "data": core_schema.typed_dict_field(data), "data_base64": nothing}
            choices[name] = core_schema.typed_dict_schema(fields, extra_behavior="allow")
            if cls.__version__ > 1:  # Data of another version never gets as far as the class.
                choices[name] = core_schema.tagged_union_schema({cls.__version__: choices[name]}, VERSION)
        union = core_schema.tagged_union_schema(choices, "type")
        schema = core_schema.definitions_schema(union, list(definitions.values()))
        # A prebuilt validator is the class's own, which is not bounded.
        self._validator = SchemaValidator(schema, _use_prebuilt=False)

    def read(self, mapping: Mapping[str, Any]) -> tuple[Message, Envelope | None]:
        """Return the message in a mapping, and its envelope if it is a CloudEvent."""
        if not isinstance(mapping, Mapping):
            raise InvalidMessageError("", (("", "it is no mapping"),), hint=_WIRE_FORM)
        mapping = dict(mapping)
        _refuse_unfit(mapping)
        self._refuse_flood(mapping, self._validator.validate_python)
        return self._admit(self._validator.validate_python, mapping)

    def read_json(self, payload: bytes | str, max_bytes: int) -> tuple[Message, Envelope | None]:
        """Do as `read` with JSON, which is measured before it is parsed."""
        size = len(payload)
        if isinstance(payload, str) and size <= max_bytes:
            payload = payload.encode(errors="surrogatepass")
            size = len(payload)
        if size > max_bytes:
            raise MessageTooLargeError(size, max_bytes)
        if size > _MANY_MEMBERS or not self._is_exact:
            self._look_at(payload)
        return self._admit(self._validator.validate_json, payload)

    def _look_at(self, payload: Any) -> None:
        """Parse what may hold what no message may, or very many unknown fields, and refuse it if it does."""
        has_many = payload.count(b":") > _MANY_MEMBERS
        if has_many or (not self._is_exact and is_suspect(payload)):
            wire = _parsed(payload)
            if not self._is_exact:
                _refuse_unfit(wire)
            if has_many:
                if isinstance(wire, dict) and "type" in wire and len(wire) > _MAX_ATTRIBUTES + _BARE:
                    _refuse_attributes(wire.keys() - _TYPE_AND_DATA)
                self._refuse_flood(wire, lambda part: self._validator.validate_json(to_json(part)))

    def _refuse_flood(self, wire: Any, validate: Callable[[Any], object]) -> None:
        """Refuse thousands of unknown fields by a part of them: an error of each takes more memory than all else."""
        cls = self.names.get(str(wire.get("type"))) if isinstance(wire, dict) else None
        if cls is None or not _has_large_object(wire):
            return
        refusal: InvalidMessageError | None = None
        try:
            validate(_without_most(wire, shape_of(cls).words | _TYPE_AND_DATA))
        except ValidationError as error:
            refusal = self._refusal(error) if error.error_count() > _MAX_COUNTED else None
        except Exception:  # noqa: BLE001 - a validator of the user's, which will say the same of the whole
            return
        if refusal is not None:
            raise refusal

    def _admit(self, validate: Callable[[Any], dict[str, Any]], payload: Any) -> tuple[Message, Envelope | None]:
        try:
            wire = validate(payload)
            return wire["data"], None if len(wire) == _BARE else self._envelope(wire)
        except ValidationError as error:
            refusal = self._refusal(error)
        except InvalidMessageError:
            raise
        except Exception as error:  # noqa: BLE001 - a validator of the user's that was not prepared for such a value
            refusal = InvalidMessageError("", (("", f"a validator of its class raised {type(error).__name__}"),))
        # Out here, so that nothing refers to pydantic's error, which holds the payload.
        return self._read_again(payload, refusal)

    def _read_again(self, payload: Any, refusal: InvalidMessageError) -> tuple[Message, Envelope | None]:
        """Read a payload that is refused as it is, if an older version of its class wrote it; otherwise say why not."""
        is_json = not isinstance(payload, dict)
        wire: Any = payload
        if is_json:
            wire = _parsed(payload) if self._has_versions or payload.find(VERSION.encode()) >= 0 else None
        cls = self.names.get(str(wire.get("type"))) if isinstance(wire, dict) else None
        if cls is None:
            raise refusal
        version = _known_version(wire, cls)
        if version == wire.get(VERSION, 1) == cls.__version__:
            raise refusal
        data = wire.get("data", {})
        data = upcast(cls, version, data if is_json else deepcopy(data), self._upcasters)
        try:
            return self._read_upcast(cls, {**wire, VERSION: cls.__version__, "data": data}, is_json=is_json)
        except InvalidMessageError as error:
            if version < cls.__version__:
                error.hint = error.hint or f"It came as version {version} and was brought up to {cls.__version__}."
            raise

    def _read_upcast(
        self, cls: type[Message], wire: dict[str, Any], *, is_json: bool
    ) -> tuple[Message, Envelope | None]:
        if not is_json:
            return self.read(wire)
        payload: bytes | None = None
        with suppress(Exception):  # Whatever a user's function put there.
            payload = to_json(wire)
        if payload is None:
            raise InvalidMessageError(full_name(cls), (("", "its upcasters returned what has no JSON form"),))
        return self.read_json(payload, len(payload))

    def _envelope(self, wire: dict[str, Any]) -> Envelope | None:
        message = wire["data"]
        attributes = {name: value for name, value in wire.items() if name not in _TYPE_AND_DATA}
        if VERSION in attributes:
            _known_version(attributes, type(message))
            del attributes[VERSION]
        if not attributes:
            return None
        if "specversion" not in attributes or len(attributes) > _MAX_ATTRIBUTES:
            _refuse_attributes(attributes)
        try:
            return CloudEvent.model_validate(attributes).envelope(message)
        except ValidationError as error:
            refusal = _field_errors(error, "a CloudEvent", frozenset(CloudEvent.model_fields))
        raise refusal

    def _refusal(self, error: ValidationError) -> InvalidMessageError:
        """Say what pydantic found in a payload, in paths and reasons that repeat nothing of it."""
        if error.error_count() > _MAX_COUNTED:
            why = f"it has more than {_MAX_COUNTED} wrong or unknown fields and items"
            return InvalidMessageError("", (("", why),), error.error_count())
        match _listed(error)[0]:
            case {"type": "union_tag_invalid", "loc": (), "input": {"type": str(name)}}:
                shown = name if _SAFE_TYPE.fullmatch(name) else ""
                return UnknownMessageError(shown, near_misses(name[:100], self.names))
            case {"type": str(kind), "loc": (), "msg": str(why)}:
                return InvalidMessageError("", (("", _WIRE_PROBLEMS.get(kind, why)),), hint=_WIRE_FORM)
            case one:
                cls = self.names[str(one["loc"][0])]
                return _class_errors(error, cls, head=1 if cls.__version__ == 1 else 2)


def _known_version(wire: Mapping[str, Any], cls: type[Message]) -> int:
    version = version_in(wire, cls)
    if version > cls.__version__:
        raise NewerVersionError(full_name(cls), version, cls.__version__)
    return version


_TYPE_AND_DATA = frozenset({"type", "data"})
_BARE = len(_TYPE_AND_DATA)


def _refuse_attributes(attributes: Collection[str]) -> NoReturn:
    why = f"it has {len(attributes):,} attributes beside type and data, and no specversion or too many"
    raise InvalidMessageError("", (("", why),), hint=_WIRE_FORM)


def _refuse_unfit(wire: Any) -> None:
    why = find_unfit_value(wire)
    if why is not None:
        raise InvalidMessageError("", (("", f"it {why}"),))


def _has_large_object(value: Any) -> bool:
    is_object = isinstance(value, dict)
    parts = value.values() if is_object else value
    inner = [part for part in parts if isinstance(part, dict | list | tuple)]
    return (is_object and len(value) > _LARGE_OBJECT) or any(map(_has_large_object, inner))


def _without_most(value: Any, words: frozenset[str]) -> Any:
    """Return a copy of parsed JSON in which objects have but a few members whose names are none of the words."""
    if isinstance(value, list | tuple):
        return [_without_most(part, words) for part in value]
    if not isinstance(value, dict):
        return value
    left_out = {*[name for name in value if name not in words][_MAX_COUNTED + 1 :]}
    return {name: _without_most(part, words) for name, part in value.items() if name not in left_out}


def _parsed(payload: bytes) -> Any:
    with suppress(ValueError):  # What is no JSON is refused in a moment.
        return from_json(payload)
    return None


def check_again(message: Message) -> None:
    """Validate a message that asks for it, by ``revalidate_instances="always"`` in its model's config.

    Raises:
        InvalidMessageError: If it is not what its class says.
    """
    refusal: InvalidMessageError | None = None
    try:
        type(message).__pydantic_validator__.validate_python(message)
    except ValidationError as error:
        refusal = _class_errors(error, type(message), head=0)
    if refusal is not None:
        raise refusal


def _class_errors(error: ValidationError, cls: type[Message], *, head: int) -> InvalidMessageError:
    shape = shape_of(cls)
    return _field_errors(error, full_name(cls), shape.words, head=head, keyed=shape.keyed_fields)


def _field_errors(
    error: ValidationError, what: str, words: frozenset[str], *, head: int = 0, keyed: frozenset[str] = frozenset()
) -> InvalidMessageError:
    """Say what is wrong with fields; of the ``head`` of a path, and the wire's own "data" after it, nothing is said."""
    start = head and head + 1
    errors = _listed(error)
    problems = []
    for one in errors[:_MAX_LISTED]:
        # What is wrong with the wire's own "data" is said of it; of what is in it, without it.
        parts = one["loc"][start:] or one["loc"][head:]
        shown = words | {"data", "data_base64"} if parts == one["loc"][head:] else words
        # A number is an index, but for where it may be a key.
        hides = not parts or isinstance(parts[0], int) or parts[0] in keyed
        path = [
            f"[{'*' if hides else part}]" if isinstance(part, int) else f".{part if part in shown else '*'}"
            for part in parts
        ]
        if one["type"] == "extra_forbidden":
            path, why = path[:-1], "it has a field that the class does not have"
            for near in near_misses(str(parts[-1]), words - {str(parts[-1])}, limit=1):
                why = f"it has no field '{parts[-1]}'. Did you mean '{near}'?"
        else:
            why = _reason(one)
        problems.append(("".join(path).removeprefix(".")[:60], why[:100]))
    return InvalidMessageError(what, tuple(problems), len(errors))


def _listed(error: ValidationError) -> Sequence[Mapping[str, Any]]:
    try:
        return error.errors(include_url=False)
    except UnicodeError:  # A validator of the user's quotes a lone surrogate.
        return [{"type": "value_error", "loc": (), "msg": "Refused by a validator of the class"}]


def _reason(one: Mapping[str, Any]) -> str:
    """Return what is wrong in pydantic's own words, which a custom error may have replaced by words with the value."""
    if one["msg"] == COLLIDING:
        return COLLIDING
    if one["type"] == "union_tag_invalid":
        return "Its tag is none of the expected ones"
    context = one.get("ctx", {})
    try:
        text = PydanticKnownError(one["type"], context).message()
    except (KeyError, TypeError, ValueError):
        return "Refused by a validator of the class"
    return text.partition(",")[0] if "error" in context else text  # What follows the comma may quote the value.
