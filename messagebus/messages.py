"""Messages: commands, events and return messages; their wire names and their JSON."""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticSerializationError
from typing_extensions import TypeVar  # which pydantic brings; that of typing has no default before 3.13

from messagebus.errors import MessageClassError, NotAMessageError, UnwritableMessageError, full_name, near_misses
from messagebus.shapes import HIDDEN, MASK, STANDARD, Shape, bound, find_unfit, schemas_in, shape_of

__all__ = ["Answer_co", "Command", "Event", "Message", "ReturnMessage", "prove", "to_json", "wire_name"]

_WIRE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,199}")
_MAX_VERSIONS = 1_000  # Each has an upcaster; a number that grows by itself, such as a date, is none.


def _as_base_init(function: Callable[..., None]) -> Callable[..., None]:
    # Without this mark pydantic calls __init__, in Python, for every message that it reads from JSON.
    function.__dict__["__pydantic_base_init__"] = True
    return function


class Message(BaseModel):
    """What commands, events and return messages share: frozen, closed, and the same after a trip through JSON.

    Unknown fields, NaN, infinities and integers beyond 64 bits are refused, in Python as in JSON; bytes are base64 in
    JSON; of a key that stands twice in a JSON object the last counts, as everywhere in pydantic. A subclass may set
    its own ``model_config``. ``frozen`` is shallow: prefer tuples to lists.
    """

    model_config = STANDARD
    __wire_name__: ClassVar[str] = "Message"
    __version__: ClassVar[int] = 1
    __shape__: ClassVar[Shape | None] = None

    def __init_subclass__(cls, *, name: str | None = None, version: int = 1, **config: Any) -> None:
        super().__init_subclass__(**config)
        if name is not None and not _WIRE_NAME.fullmatch(name):
            remedy = "Use at most 200 letters, digits, dots, dashes, slashes, colons and underscores."
            raise MessageClassError(
                f"name {full_name(cls)}", "its wire name is nothing that every engine takes", remedy
            )
        if type(version) is not int or not 0 < version < _MAX_VERSIONS:
            why, remedy = "its version is no whole number from 1 to 999", "Count its versions: 1, 2, 3."
            raise MessageClassError(f"number {full_name(cls)}", why, remedy)
        cls.__wire_name__, cls.__version__ = name or cls.__name__, version
        cls.__shape__ = None

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, version: int = 1, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        for _, node, _ in schemas_in(handler.resolve_ref_schema(schema), own=True):
            bound(node)
        return schema

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        json_schema = handler(schema)
        resolved = handler.resolve_ref_schema(json_schema)
        properties = resolved.get("properties", {})
        if shape_of(cls).private_fields:
            for telling in ("examples", "example"):
                resolved.pop(telling, None)
        for name, field in cls.model_fields.items():
            if name in shape_of(cls).private_fields:
                for key in {name, field.alias} & properties.keys():
                    for telling in ("default", "examples", "example", "const"):
                        properties[key].pop(telling, None)
        return json_schema

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

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:  # It would quote the value.
            lines = [InitErrorDetails(type=one["type"], loc=one["loc"], input=None) for one in error.errors()]
            raise ValidationError.from_exception_data(error.title, lines, hide_input=True) from None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        if not shape_of(type(self)).private_fields:
            return super().__repr_args__()
        shown = {name for name, field in type(self).model_fields.items() if field.repr}
        return self.model_dump(include=shown, context=HIDDEN, warnings=False).items()


class ReturnMessage(Message):
    """Data for whoever started the run. It has no handler."""


Answer_co = TypeVar("Answer_co", bound=ReturnMessage, covariant=True, default=ReturnMessage)

if TYPE_CHECKING:

    class _Answered(Generic[Answer_co]):
        """What type checkers know of an answer."""

else:

    class _Answered:
        """Keeps the answer of a command away from pydantic: ``Command[Price]`` is no other class than `Command`."""

        __slots__ = ()

        def __class_getitem__(cls, answer: Any) -> Any:
            if cls is _Answered or cls is Command:
                return GenericAlias(cls, answer)
            return super().__class_getitem__(answer)  # A generic model of the user's.

        def __init_subclass__(cls, **config: Any) -> None:
            super().__init_subclass__(**config)
            for base in cls.__dict__.get("__orig_bases__", ()):
                if isinstance(base, GenericAlias) and issubclass(base.__origin__, _Answered):
                    cls.__answer__ = _checked(cls, *base.__args__)


def _checked(cls: type, *answers: Any) -> type[ReturnMessage]:
    if answers == (Answer_co,):
        return ReturnMessage
    if len(answers) == 1 and isinstance(answers[0], type) and issubclass(answers[0], ReturnMessage):
        return answers[0]
    why = "what stands in Command[...] is not the one class of its answer"
    raise MessageClassError(f"derive {full_name(cls)}", why, "Write Command[Price], with a subclass of ReturnMessage.")


class Command(_Answered[Answer_co], Message):
    """Asks for something. Exactly one handler; named in the imperative: ``PlaceOrder``.

    One whose return message is known beforehand may say so, for `ask`: ``class Quote(Command[Price])``.

    Source: *Architecture Patterns with Python*, ch. 10.
    """

    __answer__: ClassVar[type[ReturnMessage]]


class Event(Message):
    """States that something happened. Any number of handlers; named in the past tense: ``OrderPlaced``.

    Source: *Architecture Patterns with Python*, ch. 8.
    """


def wire_name(message_class: type[Message]) -> str:
    """Return the name of a class in JSON: its own, or the one pinned by ``class PlaceOrder(Command, name=...)``."""
    return message_class.__wire_name__


# JSON out


def to_json(messages: Message | Iterable[Message]) -> bytes:
    """Write a message as ``{"type": ..., "data": {...}}``, or several as an array of these, in UTF-8.

    What is written reads back as an equal message; where the types of the fields do not prove that, it is tried.

    Raises:
        UnwritableMessageError: If a value has no JSON, or would come back changed, as a ``SecretStr`` would.
    """
    # To ask a list whether it is a Message takes longer than to write one.
    if not isinstance(messages, list):
        if isinstance(messages, Message):
            return _wire(messages)
        if not isinstance(messages, Iterable):
            raise NotAMessageError(full_name(type(messages)))
    return b"[" + b",".join([_wire(message) for message in messages]) + b"]"


def prove(message: Message) -> bytes:
    """Do as `to_json`, and try in any case whether what is written reads back: it may have escaped validation."""
    return shape_of(type(message)).opening + _proven(message) + b"}"


def _wire(message: Message) -> bytes:
    cls = type(message)
    try:
        shape = cls.__shape__ or shape_of(cls)
    except AttributeError:
        raise NotAMessageError(full_name(cls)) from None
    try:
        data = _written(message) if shape.is_exact else _proven(message)
    except PydanticSerializationError:
        data = _proven(message)
    return shape.opening + data + b"}"


def _written(message: Message) -> bytes:
    return message.__pydantic_serializer__.to_json(message, by_alias=True, warnings=False)


def _proven(message: Message) -> bytes:
    """Write a message, if what is written reads back equal."""
    cls = type(message)
    with suppress(Exception):  # Serialisers, validators and __eq__ may be the user's; _culprit says what failed.
        data = _written(message)
        # The fields of an exact shape set the limits themselves.
        is_fit = shape_of(cls).is_exact or find_unfit(b"[%b]" % data) is None
        if is_fit and cls.__pydantic_validator__.validate_json(data) == message:
            return data
    raise UnwritableMessageError(full_name(cls), *_culprit(message)) from None


def _alone(message: Message, field: str) -> bytes:
    return message.__pydantic_serializer__.to_json(message, include={field}, warnings=False)


def _culprit(message: Message) -> tuple[str, str]:
    """Return the first field that does not survive JSON, and why."""
    cls = type(message)
    for name in cls.model_fields:
        if name in shape_of(cls).secret_fields:
            return name, f"is of a secret type, which JSON shows as '{MASK}' and cannot bring back"
        try:
            unfit = find_unfit(b"[%b]" % _alone(message, name))
        except Exception:  # noqa: BLE001 - as above
            unfit = "has a value that JSON cannot hold"
        if unfit is not None:
            return name, unfit
    try:
        back = cls.__pydantic_validator__.validate_json(_written(message))
        changed = (name for name in cls.model_fields if getattr(back, name) != getattr(message, name))
        return next(changed, ""), "would read back as another value"
    except ValidationError as error:
        loc = (*error.errors(include_input=False)[0]["loc"], "")
        return loc[0] if loc[0] in shape_of(cls).words else "", "would be refused when read back"
    except Exception:  # noqa: BLE001 - as above
        return "", "has a value that JSON cannot hold, or that cannot be compared"
