"""Messages: commands, events and return messages; their wire names, their JSON, and what in them is private."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, SecretBytes, SecretStr, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import CoreSchema, PydanticSerializationError, core_schema, from_json
from pydantic_core import to_json as dump_json

from messagebus.errors import MessageClassError, UnwritableMessageError, near_misses

__all__ = ["Command", "Event", "Message", "Private", "ReturnMessage", "to_json", "wire_name"]

MASK: Final = "**********"
HIDDEN: Final = object()  # The serialisation context under which private fields are masked.
_INT64 = 2**63
_WIRE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,199}")


class Private:
    """Marks text that never shows in a log, an error, a note or a ``repr``: ``token: Annotated[str, Private]``.

    Unlike ``SecretStr`` it is a plain ``str`` to the handler, and survives JSON.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        write = core_schema.wrap_serializer_function_ser_schema(_write_private, info_arg=True, schema=schema)
        return {**schema, "serialization": write}


def _write_private(value: Any, write: Callable[[Any], Any], info: Any) -> Any:
    if isinstance(info.context, _Found):
        info.context.append(str(value))
    return MASK if info.context is HIDDEN else write(value)


class _Found(list[str]):
    """A serialisation context that takes down what is private."""


def _as_base_init(function: Callable[..., None]) -> Callable[..., None]:
    # Without this mark pydantic calls __init__, in Python, for every message that it reads from JSON.
    function.__dict__["__pydantic_base_init__"] = True
    return function


_MODELS = frozenset({"model", "dataclass", "typed-dict", "definitions", "definition-ref"})
_SKIPPED = frozenset({"serialization", "metadata", "default", "config"})
_Part = tuple[str, Any, bool]
_JSON_FORM = {"json-or-python": "json_schema", "lax-or-strict": "lax_schema"}


def _schemas(node: Any, field: str = "", *, own: bool = False, written: bool = False) -> "Iterator[_Part]":
    """Yield each schema within a schema, with its field, and whether a serialiser takes care of its JSON.

    ``own`` leaves out models within the model: pydantic validates them by schemas of their own.
    """
    if isinstance(node, list | tuple):
        for part in node:
            yield from _schemas(part, field, own=own, written=written)
    elif isinstance(node, dict) and not (own and field and node.get("type") in _MODELS):
        written = written or "serialization" in node
        yield field, node, written
        yield from ((field, node[key], written) for key in ("serialization",) if key in node)
        form = _JSON_FORM.get(node.get("type", ""))
        for key, part in node.items():
            named = part.items() if key in {"fields", "choices"} and isinstance(part, dict) else [("", part)]
            for name, inner in named if key not in _SKIPPED and form in {None, key} else ():
                yield from _schemas(inner, field or str(name), own=own, written=written)


def _bound(node: dict[str, Any]) -> None:
    """Limit what a field takes: integers of 64 bits, and one error for a container instead of one per item.

    Chosen integers beyond 64 bits make a set or a dict quadratic, and 300,000 bad items make 130 MB of errors.
    """
    if node.get("type") == "int":
        node.setdefault("lt" if "lt" in node else "le", _INT64 - 1)
        node.setdefault("gt" if "gt" in node else "ge", -_INT64)
    elif node.get("type") in {"list", "tuple", "set", "frozenset"}:
        node["fail_fast"] = True


class Message(BaseModel):
    """What commands, events and return messages share: frozen, closed, and the same after a trip through JSON.

    Unknown fields, NaN, infinities and integers beyond 64 bits are refused, in Python as in JSON; bytes are base64 in
    JSON; of a key that stands twice in a JSON object the last counts, as everywhere in pydantic. A subclass may set
    its own ``model_config``. ``frozen`` is shallow: prefer tuples to lists.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        hide_input_in_errors=True,
    )
    __wire_name__: ClassVar[str] = "Message"
    __shape__: ClassVar["Shape | None"] = None

    def __init_subclass__(cls, *, name: str | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        if name is not None and not _WIRE_NAME.fullmatch(name):
            remedy = "Use at most 200 letters, digits, dots, dashes, slashes, colons and underscores."
            raise MessageClassError(
                f"name {full_name(cls)}", "its wire name is nothing that every engine takes", remedy
            )
        cls.__wire_name__ = name or cls.__name__
        cls.__shape__ = None

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        for _, node, _ in _schemas(handler.resolve_ref_schema(schema), own=True):
            _bound(node)
        return schema

    @_as_base_init
    def __init__(self, /, **data: Any) -> None:
        """Validate ``data`` into a message.

        Raises:
            pydantic.ValidationError: If a field is missing, unknown or wrong; a note says which name was meant.
        """
        __tracebackhide__ = True
        try:
            self.__pydantic_validator__.validate_python(data, self_instance=self)
        except ValidationError as error:
            fields = type(self).model_fields
            for word in sorted(data.keys() - fields.keys())[:20]:
                for near in near_misses(word, fields, limit=1):
                    error.add_note(f"{full_name(type(self))} has no field '{word}'. Did you mean '{near}'?")
            raise

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        if not shape_of(type(self)).has_private:
            return super().__repr_args__()
        shown = {name for name, field in type(self).model_fields.items() if field.repr}
        return self.model_dump(include=shown, context=HIDDEN, warnings=False).items()


class Command(Message):
    """Asks for something. Exactly one handler; named in the imperative: ``PlaceOrder``.

    Source: *Architecture Patterns with Python*, ch. 10.
    """


class Event(Message):
    """States that something happened. Any number of handlers; named in the past tense: ``OrderPlaced``.

    Source: *Architecture Patterns with Python*, ch. 8.
    """


class ReturnMessage(Message):
    """Data for whoever started the run. It has no handler."""


def wire_name(message_class: type[Message]) -> str:
    """Return the name of a class in JSON: its own, or the one pinned by ``class PlaceOrder(Command, name=...)``."""
    return message_class.__wire_name__


def full_name(cls: type) -> str:
    """Return ``module.QualName``, as errors show a class."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# JSON out


def to_json(messages: Message | Iterable[Message]) -> bytes:
    """Write a message as ``{"type": ..., "data": {...}}``, or several as an array of these, in UTF-8.

    What is written reads back as an equal message; where the types of the fields do not prove that, it is tried.

    Raises:
        UnwritableMessageError: If a value has no JSON, or would come back changed, as a ``SecretStr`` would.
    """
    # To ask a list whether it is a Message takes longer than to write one.
    several: list[Message] = []
    if isinstance(messages, list) or not isinstance(messages, Message):
        several.extend(messages)
    else:
        several.append(messages)
    try:
        wire = [_wire(message) for message in several]
        return dump_json(wire[0] if several and several[0] is messages else wire)
    except PydanticSerializationError:
        for message in several:
            _prove(message)
        raise


def _wire(message: Message) -> dict[str, Any]:
    cls = type(message)
    if not (cls.__shape__ or shape_of(cls)).is_exact:
        _prove(message)
    return {"type": cls.__wire_name__, "data": message}


def _prove(message: Message) -> None:
    cls = type(message)
    with suppress(Exception):  # Serialisers, validators and __eq__ may be the user's; _culprit says what failed.
        data = dump_json(message)
        if find_unfit(b"[%b]" % data) is None and cls.__pydantic_validator__.validate_json(data) == message:
            return
    raise UnwritableMessageError(full_name(cls), *_culprit(message)) from None


# The shortest integer beyond 64 bits has nineteen digits; a float that overflows has an exponent of three.
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_SUSPECT = (b"0" * 19, b"e000", b"e+000")
_MAX_DEPTH = 190


def find_unfit(payload: bytes) -> str | None:
    """Return what in some JSON no message may hold, wherever it stands; None if there is nothing, or it is no JSON."""
    shapes = payload.translate(_DIGITS)
    is_odd = any(part in shapes for part in _SUSPECT) or b"NaN" in payload or b"Infinity" in payload
    if not is_odd and payload.count(b"[") + payload.count(b"{") < _MAX_DEPTH:
        return None
    try:
        return find_unfit_value(from_json(payload))
    except ValueError:
        return None


def find_unfit_value(value: object) -> str | None:
    """Do as `find_unfit` with Python values."""
    todo = [(value, 1)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, dict | list | tuple):
            if depth > _MAX_DEPTH:
                return f"is nested deeper than {_MAX_DEPTH} levels"
            todo += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]
        elif isinstance(value, int) and not -_INT64 <= value < _INT64:
            return "has an integer beyond 64 bits"
        elif isinstance(value, float) and not isfinite(value):
            return "has a number that is not finite"
    return None


def _culprit(message: Message) -> tuple[str, str]:
    """Return the first field that does not survive JSON, and why."""
    cls = type(message)
    for name in cls.model_fields:
        if name in shape_of(cls).secret_fields:
            return name, f"is of a secret type, which JSON shows as '{MASK}' and cannot bring back"
        try:
            unfit = find_unfit(b"[%b]" % cls.__pydantic_serializer__.to_json(message, include={name}))
        except Exception:  # noqa: BLE001 - as above
            unfit = "has a value that JSON cannot hold"
        if unfit is not None:
            return name, unfit
    try:
        back = cls.__pydantic_validator__.validate_json(dump_json(message))
    except ValidationError as error:
        return str((*error.errors(include_input=False)[0]["loc"], "")[0]), "would be refused when read back"
    changed = (name for name in cls.model_fields if getattr(back, name) != getattr(message, name))
    return next(changed, ""), "would read back as another value"


# What the types of a message class tell


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a message class by the types of its fields alone."""

    words: frozenset[str]  # Names of fields and aliases: what an error about a payload may repeat of it.
    is_exact: bool  # Every value reads back equal from its JSON, so that nothing is tried when it is written.
    has_private: bool
    secret_fields: frozenset[str]  # Of a type that masks itself in JSON, such as SecretStr.
    unwritable_fields: frozenset[str]  # Of a type that has no JSON at all.


# Values of these always read back equal.
_CONTAINERS = {"list", "tuple", "set", "frozenset"}
_EXACT = {"model", "model-fields", "model-field", "default", "nullable", "literal", "dict", *_CONTAINERS} | {
    "str", "int", "float", "bool", "none", "bytes", "uuid", "date"
}  # fmt: skip
_EXACT_CONFIG = ("allow_inf_nan", "validate_default", "ser_json_bytes", "val_json_bytes")
_NOT_EXACT = frozenset({"serialization", "serialization_exclude", "post_init"})
_UNWRITABLE = frozenset({"is-instance", "is-subclass", "callable", "generator"})


def shape_of(cls: type[Message]) -> Shape:
    """Return what the types of the class tell, worked out once.

    Raises:
        MessageClassError: If an annotation of the class cannot be resolved.
    """
    if cls.__shape__ is None:
        try:
            cls.model_rebuild()
        except PydanticUndefinedAnnotation as error:
            why, remedy = (
                f"its annotation {error.name!r} is not defined",
                "Define or import that name beside the class.",
            )
            raise MessageClassError(f"use {full_name(cls)}", why, remedy) from None
        found = list(_schemas(cls.__pydantic_core_schema__))
        config, own = Message.model_config, cls.model_config
        cls.__shape__ = Shape(
            words=frozenset(word for _, node, _ in found for word in _words(node)),
            is_exact=all(_is_exact(cls, node) for _, node, _ in found)
            and all(own.get(key) == config.get(key) for key in _EXACT_CONFIG)
            and own.get("extra") != "allow"
            and not cls.__private_attributes__,
            has_private=any(node.get("function") is _write_private for _, node, _ in found),
            secret_fields=frozenset(f for f, node, _ in found if node.get("function") in (SecretStr, SecretBytes)),
            unwritable_fields=frozenset(
                f for f, node, written in found if not written and node.get("type") in _UNWRITABLE
            ),
        )
    return cls.__shape__


def _words(node: dict[str, Any]) -> Iterator[str]:
    if isinstance(node.get("validation_alias"), str):
        yield node["validation_alias"]
    for key in ("fields", "choices"):
        yield from map(str, node[key] if isinstance(node.get(key), dict) else ())


def _is_exact(cls: type[Message], node: dict[str, Any]) -> bool:
    """Say whether values of this one schema, leaving aside those within it, read back equal."""
    return (
        node.get("type") in _EXACT
        and not node.keys() & _NOT_EXACT
        and node.get("serialization_alias") == node.get("validation_alias")
        and node.get("cls", cls) is cls
        and not node.get("computed_fields")
        and node.get("keys_schema", {"type": "str"})["type"] == "str"
        and all(type(value) in {str, int, bool} for value in node.get("expected", ()))
    )


def private_values(message: Message) -> list[str]:
    """Return the private texts in a message, the longest first, so that other texts can be cleared of them."""
    found = _Found()
    todo: list[Any] = []
    with suppress(Exception):  # A serialiser of the user's; what was found until then is what there is.
        todo.append(message.model_dump(context=found, warnings=False))
    while todo:
        value = todo.pop()
        if isinstance(value, SecretStr | SecretBytes):
            secret = value.get_secret_value()
            found.append(secret if isinstance(secret, str) else secret.decode(errors="replace"))
        elif isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
    return sorted({text for text in found if text}, key=len, reverse=True)
