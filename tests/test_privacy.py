"""Privacy: a canary in every position that is marked private, looked for wherever the library speaks."""

import asyncio
import json
import re
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    ValidationError,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from messagebus import (
    AsyncMessageBus,
    Command,
    Event,
    InvalidMessageError,
    Message,
    MessageBus,
    MessageBusError,
    MessageClassError,
    Private,
    Registry,
    ReturnMessage,
    handle_json,
    handle_message,
    to_json,
)

SECRET = "Qx7zKw9vJp3uHy5tGr1sMn8bLc2dXf6eWm4hTj0kBv9nRq5yZs3aDp7gFu1i"
# What a secret may hold that is written otherwise in JSON, in a repr, and in both.
AWKWARD = "Qx7zKw9vJp3u\"Hy5tGr1s'Mn8bLc2d\\Xf6eWm4h\nTj0kBv9n\x1b\u2028Rq5yZs3a"

Token = Annotated[str, Private]


def pieces(secret: str) -> set[str]:
    """Return every eight letters in a row of a secret, so that a shortened or an escaped one is found too."""
    words = re.findall("[A-Za-z0-9]{8,}", secret)
    return {word[start : start + 8] for word in words for start in range(len(word) - 7)}


PIECES = pieces(SECRET) | pieces(AWKWARD)


def leaks(*texts: object) -> list[str]:
    """Return what of a secret stands in the texts."""
    return sorted({piece for piece in PIECES for text in texts if piece in str(text)})


# Positions


class Card(BaseModel):
    token: Token


class CardIssued(Event):
    token: Token


class ByCard(BaseModel):
    kind: Literal["card"]
    token: Token


class ByCash(BaseModel):
    kind: Literal["cash"]


class Wallet(BaseModel):
    token: Token = "none"
    inner: "list[Wallet]" = []


class Details(TypedDict):
    token: Token


@dataclass
class Record:
    token: Token


class Pair(NamedTuple):
    name: str
    token: Token


POSITIONS: dict[str, tuple[Any, Any]] = {
    "SecretStr": (SecretStr, SECRET),
    "SecretBytes": (SecretBytes, SECRET.encode()),
    "Private": (Token, SECRET),
    "optional": (Token | None, SECRET),
    "optional within": (Annotated[str | None, Private], SECRET),
    "instance of Private": (Annotated[str, Private()], SECRET),
    "constrained": (Annotated[str, Field(min_length=3), Private], SECRET),
    "constrained after": (Annotated[str, Private, Field(max_length=100)], SECRET),
    "validated": (Annotated[str, Private, AfterValidator(str.strip)], SECRET),
    "validated before": (Annotated[str, BeforeValidator(str.strip), Private], SECRET),
    "Private bytes": (Annotated[bytes, Private], SECRET.encode()),
    "list": (list[Token], ["a", SECRET]),
    "list of SecretStr": (list[SecretStr], ["a", SECRET]),
    "tuple": (tuple[Token, int], (SECRET, 1)),
    "tuple of any length": (tuple[Token, ...], ("a", SECRET)),
    "set": (frozenset[Token], frozenset([SECRET])),
    "set of SecretStr": (frozenset[SecretStr], frozenset([SECRET])),
    "deque": (deque[Token], deque([SECRET])),
    "deque of SecretStr": (deque[SecretStr], deque([SECRET])),
    "dict value": (dict[str, Token], {"a": SECRET}),
    "dict value SecretStr": (dict[str, SecretStr], {"a": SECRET}),
    "dict key": (dict[Token, int], {SECRET: 1}),
    "dict key SecretStr": (dict[SecretStr, int], {SECRET: 1}),
    "nested model": (Card, {"token": SECRET}),
    "nested message": (CardIssued, {"token": SECRET}),
    "list of nested models": (dict[str, list[Card]], {"a": [{"token": SECRET}]}),
    "recursive model": (Wallet, {"inner": [{"inner": [{"token": SECRET}]}]}),
    "typed dict": (Details, {"token": SECRET}),
    "dataclass": (Record, Record(token=SECRET)),
    "named tuple": (Pair, ("a", SECRET)),
    "union": (int | Token, SECRET),
    "union of models": (ByCash | Card, {"token": SECRET}),
    "discriminated union": (Annotated[ByCard | ByCash, Field(discriminator="kind")], {"kind": "card", "token": SECRET}),
    "JSON in a string": (Json[Token], json.dumps(SECRET)),
}


def message_with(position: str, kind: type[Message] = Command) -> Message:
    annotation, value = POSITIONS[position]
    cls = create_model("Pay", __base__=kind, secret=(annotation, ...))
    return cls(secret=value)


def refuse(message: Message) -> None:
    """Raise what a careless handler raises: the secret, the message, and both again as arguments."""
    raise ValueError(f"refused {SECRET} of {message!r}", repr(message), SECRET)


def ignore(message: Message) -> None:
    """Do nothing."""


def holding(message_class: type[Message], *handlers: Callable[..., Any]) -> Registry:
    registry = Registry()
    for handler in handlers:
        registry.register(message_class, handler)
    return registry


# Outlets


def to_stderr(host_structlog: Any, caplog: Any) -> None:
    """Configure nothing."""


def to_structlog_as_text(host_structlog: Any, caplog: Any) -> None:
    processors = structlog.processors
    chain = [structlog.stdlib.add_log_level, processors.format_exc_info, processors.KeyValueRenderer()]
    host_structlog(processors=chain, logger_factory=lambda *args: structlog.PrintLogger(sys.stderr))


def to_structlog_as_data(host_structlog: Any, caplog: Any) -> None:
    processors = structlog.processors
    chain = [structlog.stdlib.add_log_level, processors.dict_tracebacks, processors.JSONRenderer()]
    host_structlog(processors=chain, logger_factory=lambda *args: structlog.PrintLogger(sys.stderr))


def to_structlog_console(host_structlog: Any, caplog: Any) -> None:
    chain = [structlog.stdlib.add_log_level, structlog.dev.ConsoleRenderer(colors=False)]
    host_structlog(processors=chain, logger_factory=lambda *args: structlog.PrintLogger(sys.stderr))


def to_logging(host_structlog: Any, caplog: Any) -> None:
    caplog.set_level("DEBUG", logger="messagebus")


OUTLETS = [to_stderr, to_structlog_as_text, to_structlog_as_data, to_structlog_console, to_logging]


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """A function that returns all that was written anywhere since it was last called."""

    def read() -> str:
        streams = capfd.readouterr()
        logged = "".join(f"{record.getMessage()} {record.args}\n" for record in caplog.records)
        caplog.clear()
        return streams.out + streams.err + logged

    return read


@pytest.mark.parametrize("outlet", OUTLETS)
@pytest.mark.parametrize("position", POSITIONS)
def test_secret_is_in_no_record(host_structlog, host_logger, caplog, written, position, outlet):
    """[L21] At every level, of messages handled, unhandled and failed, through every way a record can go."""
    outlet(host_structlog, caplog)
    command, event = message_with(position), message_with(position, Event)

    for level in ("debug", "info"):
        handle_message(command, registry=holding(type(command), ignore), log_level=level)
        handle_message(event, registry=Registry(), log_level=level)
        for failing in (holding(type(command), refuse), Registry()):
            with suppress(Exception):
                MessageBus(command, registry=failing, log_level=level)()
        with suppress(ExceptionGroup):
            MessageBus(event, registry=holding(type(event), refuse, lambda event: refuse(event)), log_level=level)()

    text = written()
    assert [] == leaks(text)
    assert [2, 2, 6] == [text.count(name) for name in ("command.handled", "event.unhandled", "message.failed")]


@pytest.mark.parametrize("position", POSITIONS)
def test_secret_is_in_no_text_of_a_message(position):
    """[L21] A repr ends up in logs, tracebacks and test reports."""
    message = message_with(position)

    texts = [repr(message), str(message), f"{message}", f"{[message]}", repr({"a": (message,)})]

    assert [] == leaks(*texts)


@pytest.mark.parametrize("position", POSITIONS)
def test_secret_is_in_no_note_on_a_handlers_exception(position):
    """[L21] [L14] The exception is the handler's; the note on it is ours."""
    message = message_with(position)

    with pytest.raises(ValueError, match="refused") as caught:
        handle_message(message, registry=holding(type(message), refuse))

    assert 1 == len(caught.value.__notes__)
    assert [] == leaks(*caught.value.__notes__)


@pytest.mark.parametrize("position", ["Private", "optional", "nested model", "SecretStr"])
def test_secret_is_in_no_warning(position):
    """[L21] pydantic warns of values that do not have the type of their field, and quotes them."""
    cls = type(message_with(position))
    message = cls.model_construct(secret=[[SECRET]])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle_message(message, registry=holding(cls, ignore), log_level="debug")
        with suppress(MessageBusError):
            to_json(message)

    assert [] == leaks(*(one.message for one in caught))


def test_private_text_is_plain_to_handlers_and_on_the_wire():
    """[L21] A token that nobody could use would be no token. (And the canaries above could not be found.)"""
    seen: list[str] = []
    message = CardIssued(token=SECRET)

    handle_message(message, registry=holding(CardIssued, lambda event: seen.append(event.token)))

    assert [SECRET] == seen
    assert {"type": "CardIssued", "data": {"token": SECRET}} == json.loads(to_json(message))


# What handlers raise, in records


class Pay(Command):
    token: Token


class Refund(Command):
    reason: str = "none"


class Client(BaseModel):
    """A model of the application's own, which hides nothing."""

    token: Annotated[str, Field(max_length=3)]


def raise_text(message: Pay) -> None:
    raise ValueError(f"refused {message.token}")


def raise_repr(message: Pay) -> None:
    raise ValueError(f"refused {message.token!r}")


def raise_args(message: Pay) -> None:
    raise ValueError("refused", repr(message), message.token)


def raise_key_error(message: Pay) -> None:
    raise KeyError(message.token)


def raise_json(message: Pay) -> None:
    raise ValueError(json.dumps({"token": message.token}))


def raise_cause(message: Pay) -> None:
    raise ValueError("refused") from ValueError(message.token)


def raise_raised_cause(message: Pay) -> None:
    try:
        raise_text(message)
    except ValueError as error:
        raise LookupError("refused") from error


def raise_context(message: Pay) -> None:
    try:
        raise_text(message)
    except ValueError:
        raise LookupError("refused")


def raise_noted(message: Pay) -> None:
    error = ValueError("refused")
    error.add_note(f"the token was {message.token}")
    raise error


def raise_group(message: Pay) -> None:
    inner = ExceptionGroup(f"with {message.token}", [ValueError(message.token)])
    raise ExceptionGroup("refused", [inner, KeyError(message.token)])


def raise_syntax_error(message: Pay) -> None:
    compile(f"token = {message.token!a} {message.token!a} =", "<token>", "exec")


def raise_half_way(message: Pay) -> Iterator[Message]:
    yield Refund()
    raise_text(message)


def raise_validation_error(message: Pay) -> None:
    Client(token=message.token)


def raise_validation_error_of_a_message(message: Pay) -> None:
    Refund(reason=[message.token])


def raise_unknown_field(message: Pay) -> None:
    Refund(**{message.token: 1})


def raise_long_text(message: Pay) -> None:
    # The canary lies across every place where a text may be cut.
    raise ValueError("." * (1_990 - len("refused ")) + message.token * 100)


def return_text(message: Pay) -> Any:
    return message.token


def return_mapping(message: Pay) -> Any:
    return {message.token: message.token}


def return_model(message: Pay) -> Any:
    return [Card(token=message.token)]


RAISING = [
    raise_text,
    raise_repr,
    raise_args,
    raise_key_error,
    raise_json,
    raise_cause,
    raise_raised_cause,
    raise_context,
    raise_noted,
    raise_group,
    raise_syntax_error,
    raise_half_way,
    raise_validation_error,
    raise_validation_error_of_a_message,
    raise_unknown_field,
    raise_long_text,
    return_text,
    return_mapping,
    return_model,
]


@pytest.mark.parametrize("secret", [SECRET, AWKWARD], ids=["plain", "awkward"])
@pytest.mark.parametrize("handler", RAISING)
def test_secret_that_a_handler_raises_is_in_no_record(written, handler, secret):
    """[L21] The exception keeps its own text; records of it are cleared of what the message holds as private."""
    message = Pay(token=secret)

    with suppress(Exception):
        MessageBus(message, registry=holding(Pay, handler), log_level="debug")()
    of_sync = written()
    with suppress(Exception):
        asyncio.run(AsyncMessageBus(message, registry=holding(Pay, handler), log_level="debug")())
    of_async = written()

    for text in (of_sync, of_async):
        assert [] == leaks(text)
        assert ["handler.failed", "message.failed"] == [json.loads(line)["event"] for line in text.splitlines()]


@pytest.mark.parametrize("outlet", OUTLETS)
def test_secret_of_a_run_within_a_handler_is_in_no_record(host_structlog, host_logger, caplog, written, outlet):
    """[L21] The failure passes through the outer run, whose own message knows nothing of the secret."""
    outlet(host_structlog, caplog)

    def start_payment(command: Refund) -> None:
        MessageBus(Pay(token=SECRET), registry=holding(Pay, raise_text), log_level="debug")()

    with suppress(ValueError):
        MessageBus(Refund(), registry=holding(Refund, start_payment), log_level="debug")()

    text = written()
    assert 2 == text.count("message.failed")
    assert [] == leaks(text)


def test_secret_of_an_async_run_within_a_handler_is_in_no_record(written):
    """[L21] As above, where the inner run is silent and only the outer one writes."""

    async def start_payment(command: Refund) -> None:
        await AsyncMessageBus(
            Pay(token=SECRET), registry=holding(Pay, raise_raised_cause), log_level="disabled",
            error_log_level="disabled",
        )()  # fmt: skip

    with suppress(LookupError):
        asyncio.run(AsyncMessageBus(Refund(), registry=holding(Refund, start_payment))())

    text = written()
    assert 1 == text.count("message.failed")
    assert [] == leaks(text)


def test_secret_is_in_no_record_of_an_override(written):
    """[L21] An override of handle_exception that logs by the bus's own method is as safe as the default."""

    class Patient(MessageBus):
        def handle_exception(self, exc, message):
            self.log_error("payment.refused", exc, attempt=1)

    Patient(Pay(token=SECRET), registry=holding(Pay, raise_text))()

    text = written()
    assert "payment.refused" == json.loads(text)["event"]
    assert [] == leaks(text)


class Shy(Command):
    """Has a field that cannot be written, before the one that is private."""

    amount: int = 1
    token: Token

    @field_serializer("amount")
    def fail(self, amount: int) -> int:
        raise RuntimeError("in a serializer")


def test_secret_beside_a_field_that_cannot_be_written_is_in_no_record(written):
    """[L21] A serializer that fails does not open the rest of the message."""
    with suppress(ValueError):
        MessageBus(Shy(token=SECRET), registry=holding(Shy, raise_text), log_level="debug")()

    text = written()
    assert 1 == text.count("message.failed")
    assert [] == leaks(text)


class Shouted(Command):
    token: Token

    @field_serializer("token")
    def shout(self, token: str) -> str:
        return f"!{token}"


class ShoutedAgain(Command):
    token: Annotated[str, Private, PlainSerializer(lambda token: f"!{token}")]


class ShoutedPerhaps(Command):
    token: Token | None

    @field_serializer("token")
    def shout(self, token: str | None) -> str:
        return f"!{token}"


class ShoutedWhole(Command):
    token: Token

    @model_serializer
    def shout(self) -> dict[str, str]:
        return {"token": f"!{self.token}"}


class ShoutedWithin(Command):
    card: Annotated[Card, PlainSerializer(lambda card: {"token": card.token})]


class ShoutedBefore(Command):
    token: Annotated[str, PlainSerializer(lambda token: f"!{token}"), Private]


@pytest.mark.parametrize("cls", [Shouted, ShoutedAgain, ShoutedPerhaps, ShoutedWhole, ShoutedWithin, ShoutedBefore])
def test_serializer_of_the_user_does_not_undo_private(written, cls):
    """[L21] Either the class is refused, or what it marks private stays so."""

    def raise_it(message: Message) -> None:
        raise ValueError(f"refused {SECRET}")

    data = {"card": {"token": SECRET}} if cls is ShoutedWithin else {"token": SECRET}
    with suppress(MessageClassError):
        handle_message(cls(**data), registry=holding(cls, ignore), log_level="debug")
        with suppress(ValueError):
            MessageBus(cls(**data), registry=holding(cls, raise_it))()
        print(repr(cls(**data)), file=sys.stderr)

    assert [] == leaks(written())


# What the library says of payloads


class Colour(Enum):
    RED = "red"


def bad(value: Any) -> Any:
    raise ValueError(f"bad {value}")


def assert_not(value: Any) -> Any:
    raise AssertionError(value)


def bad_by_template(value: Any) -> Any:
    raise PydanticCustomError("bad_token", "bad {token}", {"token": value})


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    token: Token


class Whole(BaseModel):
    token: Token

    @model_validator(mode="after")
    def check_all(self) -> "Whole":
        raise ValueError(f"bad {self.token}")


class Single(BaseModel):
    token: Token

    @field_validator("token")
    @classmethod
    def check_token(cls, token: str) -> str:
        raise ValueError(f"bad {token}")


ByKind = Annotated[ByCard | ByCash, Field(discriminator="kind")]

# The type of the field named `secret`, and the data of the payload.
REFUSED: dict[str, tuple[Any, Any]] = {
    "list for a text": (Token, {"secret": [SECRET]}),
    "object for a text": (Token, {"secret": {SECRET: SECRET}}),
    "too short": (Annotated[str, Field(min_length=900), Private], {"secret": SECRET}),
    "too long": (Annotated[str, Field(max_length=3), Private], {"secret": SECRET}),
    "wrong pattern": (Annotated[str, Field(pattern="^a$"), Private], {"secret": SECRET}),
    "SecretStr too long": (Annotated[SecretStr, Field(max_length=3)], {"secret": SECRET}),
    "list for a SecretStr": (SecretStr, {"secret": [SECRET]}),
    "text for a number": (int, {"secret": SECRET}),
    "text for a boolean": (bool, {"secret": SECRET}),
    "text for a time": (datetime, {"secret": SECRET}),
    "text for a UUID": (UUID, {"secret": SECRET}),
    "text for bytes": (bytes, {"secret": SECRET + "!"}),
    "text for a list": (list[str], {"secret": SECRET}),
    "text for a model": (Card, {"secret": SECRET}),
    "text for none": (None, {"secret": SECRET}),
    "text for JSON": (Json[Token], {"secret": SECRET}),
    "no such literal": (Literal["a", "b"], {"secret": SECRET}),
    "no such member": (Colour, {"secret": SECRET}),
    "none of a union": (int | list[int], {"secret": SECRET}),
    "none of two models": (Strict | ByCash, {"secret": {"token": [SECRET], SECRET: SECRET}}),
    "key for a number": (dict[int, str], {"secret": {SECRET: "a"}}),
    "value under a key": (dict[str, int], {"secret": {SECRET: SECRET}}),
    "item of a list": (list[int], {"secret": [1, SECRET]}),
    "discriminator": (ByKind, {"secret": {"kind": SECRET}}),
    "discriminator in a list": (list[ByKind], {"secret": [{"kind": SECRET}]}),
    "discriminator missing": (ByKind, {"secret": {"token": SECRET}}),
    "member of a union": (ByKind, {"secret": {"kind": "card", "token": [SECRET]}}),
    "unknown field": (str, {"secret": "a", SECRET: 1}),
    "value of an unknown field": (str, {"secret": "a", "other": SECRET}),
    "unknown field like a known one": (str, {f"secret_{SECRET}": 1}),
    "unknown field of a nested model": (Strict, {"secret": {"token": "a", SECRET: SECRET}}),
    "unknown fields by the dozen": (str, {f"{SECRET}{number}": SECRET for number in range(50)}),
    "unknown fields by the thousand": (str, {f"{SECRET}{number}": SECRET for number in range(1_000)}),
    "field missing": (int, {"other": SECRET}),
    "ValueError of a validator": (Annotated[str, AfterValidator(bad), Private], {"secret": SECRET}),
    "ValueError before": (Annotated[str, BeforeValidator(bad), Private], {"secret": SECRET}),
    "AssertionError of a validator": (Annotated[str, AfterValidator(assert_not), Private], {"secret": SECRET}),
    "error with a template": (Annotated[str, AfterValidator(bad_by_template), Private], {"secret": SECRET}),
    "field validator": (Single, {"secret": {"token": SECRET}}),
    "model validator": (Whole, {"secret": {"token": SECRET}}),
    "validator in a list": (list[Single], {"secret": [{"token": SECRET}]}),
    "no object": (str, SECRET),
    "list for the data": (str, [SECRET]),
    "default": (Annotated[str, Private, Field(max_length=3)], {}),
}


def texts_of(error: BaseException) -> list[str]:
    """Return all that an error says, and what a log or a terminal makes of it."""
    said = [str(error), repr(error), repr(error.args), repr(vars(error)), *getattr(error, "__notes__", ())]
    as_data = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        *said,
        *traceback.format_exception(error),
        json.dumps(as_data((type(error), error, error.__traceback__))),
    ]


def refused(attempt: Callable[[], object]) -> MessageBusError:
    with pytest.raises(MessageBusError) as caught:
        attempt()
    return caught.value


@pytest.mark.parametrize("case", REFUSED)
def test_secret_is_in_no_text_of_an_error_at_the_door(case):
    """[L1] [L21] Not the text, the representation, the arguments, the attributes, nor a traceback."""
    annotation, data = REFUSED[case]
    default = SECRET if case == "default" else ...
    registry = holding(create_model("Buy", __base__=Command, secret=(annotation, default)))
    registry.register(create_model("Buy", __base__=Command, secret=(annotation, default)))
    mapping = {"type": "Buy", "data": data}

    errors = [
        refused(lambda: registry.validate(mapping)),
        refused(lambda: registry.validate_json(json.dumps(mapping))),
        refused(lambda: handle_json(json.dumps(mapping), registry=registry)),
    ]

    for error in errors:
        assert [] == leaks(*texts_of(error))


ENVELOPES: dict[str, Any] = {
    "type that is no name": {"type": f"{SECRET} of mine", "data": {}},
    "type that is long": {"type": SECRET * 10, "data": {}},
    "type that is a list": {"type": [SECRET], "data": {}},
    "type that is an object": {"type": {SECRET: SECRET}, "data": {}},
    "no type": {"data": {"token": SECRET}, SECRET: SECRET},
    "attributes of no CloudEvent": {"type": "Pay", "data": {"token": SECRET}, SECRET: SECRET},
    "version": {"type": "Pay", "data": {"token": SECRET}, "specversion": SECRET, "id": "1", "source": "/"},
    "time": {"type": "Pay", "data": {"token": "a"}, "specversion": "1.0", "id": "1", "source": "/", "time": SECRET},
    "id": {"type": "Pay", "data": {"token": "a"}, "specversion": "1.0", "id": [SECRET], "source": "/"},
    "name of an attribute": {
        "type": "Pay", "data": {"token": SECRET}, "specversion": "1.0", "id": "1", "source": "/", SECRET: SECRET,
    },
    "value of an attribute": {
        "type": "Pay", "data": {"token": SECRET}, "specversion": "1.0", "id": "1", "source": "/", "extra": [SECRET],
    },
    "content type": {
        "type": "Pay", "data": {"token": "a"}, "specversion": "1.0", "id": "1", "source": "/",
        "datacontenttype": SECRET,
    },
    "a text": SECRET,
    "a list": [SECRET],
    "an integer too long": {"type": "Pay", "data": {"token": SECRET, "n": 10**30}},
}  # fmt: skip


@pytest.mark.parametrize("case", ENVELOPES)
def test_secret_is_in_no_text_of_an_error_about_the_envelope(case):
    """[L1] [L21] Around the data as within it."""
    registry = holding(Pay, ignore)
    payload = json.dumps(ENVELOPES[case])

    errors = [refused(lambda: registry.validate_json(payload))]
    if isinstance(ENVELOPES[case], dict) and case != "an integer too long":
        errors.append(refused(lambda: registry.validate(ENVELOPES[case])))

    for error in errors:
        assert [] == leaks(*texts_of(error))


BROKEN = {
    "not closed": '{"type": "Pay", "data": {"token": "%s"}',
    "not quoted": '{"type": "Pay", "data": {"token": %s}}',
    "no JSON": "%s",
    "trailing": '{"type": "Pay", "data": {"token": "a"}} %s',
    "surrogate": '{"type": "Pay", "data": {"token": "%s\\ud800"}}',
    "control": '{"type": "Pay", "data": {"token": "%s\x00"}}',
    "too large": '{"type": "Pay", "data": {"token": "%s"}}' + " " * 2_000_000,
}


@pytest.mark.parametrize("case", BROKEN)
def test_secret_is_in_no_text_of_an_error_about_json(case):
    """[L1] [L21] A parser that quotes the place quotes what stands there."""
    registry = holding(Pay, ignore)

    error = refused(lambda: registry.validate_json(BROKEN[case] % SECRET))

    assert isinstance(error, InvalidMessageError)
    assert [] == leaks(*texts_of(error))


# What the library says of messages and handlers


class Loose(Command):
    """Is checked again when it is dispatched."""

    model_config = ConfigDict(revalidate_instances="always")
    token: Annotated[str, Field(max_length=100), Private]


class Sealed(Command):
    token: SecretStr


class Infinite(Command):
    token: Token
    amount: Any


class Small(MessageBus):
    max_messages = 3


async def handle_later(command: Pay) -> None:
    """Do nothing, later."""


USED: dict[str, Callable[[], object]] = {
    "dict for a message": lambda: handle_message({"token": SECRET}, registry=Registry()),
    "text for a message": lambda: MessageBus(SECRET, registry=Registry()),
    "no handler": lambda: handle_message(Pay(token=SECRET), registry=Registry()),
    "async handler": lambda: handle_message(Pay(token=SECRET), registry=holding(Pay, handle_later)),
    "text returned": lambda: handle_message(Pay(token=SECRET), registry=holding(Pay, return_text)),
    "mapping returned": lambda: handle_message(Pay(token=SECRET), registry=holding(Pay, return_mapping)),
    "model returned": lambda: handle_message(Pay(token=SECRET), registry=holding(Pay, return_model)),
    "no end": lambda: Small(Pay(token=SECRET), registry=holding(Pay, lambda command: command))(),
    "not in hand": lambda: MessageBus(Pay(token=SECRET), registry=holding(Pay, ignore)).dispatch_message(
        Pay(token=SECRET)
    ),
    "checked again": lambda: handle_message(
        Loose.model_construct(token=[SECRET]), registry=holding(Loose, ignore)
    ),
    "secret written": lambda: to_json(Sealed(token=SECRET)),
    "value not written": lambda: to_json(Infinite(token=SECRET, amount=object())),
    "value not read back": lambda: to_json(Infinite(token=SECRET, amount=SecretStr(SECRET))),
    "several written": lambda: to_json([Pay(token=SECRET), Sealed(token=SECRET)]),
    "returned secret written": lambda: handle_json(
        json.dumps({"type": "Pay", "data": {"token": SECRET}}),
        registry=holding(Pay, lambda command: Receipt(token=command.token)),
    ),
    "registered twice": lambda: holding(Pay, ignore, refuse),
}  # fmt: skip


class Receipt(ReturnMessage):
    token: SecretStr


@pytest.mark.parametrize("case", USED)
def test_secret_is_in_no_text_of_an_error_about_use(case):
    """[L21] Errors about messages and handlers name classes and fields, and no values."""
    error = refused(USED[case])

    assert [] == leaks(*texts_of(error))


MADE: dict[str, Callable[[], object]] = {
    "list for a text": lambda: Pay(token=[SECRET]),
    "too long": lambda: Loose(token=SECRET * 3),
    "nested": lambda: create_model("Buy", __base__=Command, card=(Strict, ...))(card={"token": [SECRET]}),
    "union": lambda: create_model("Buy", __base__=Command, card=(int | Strict, ...))(card={"token": [SECRET]}),
    "tag": lambda: create_model("Buy", __base__=Command, by=(ByKind, ...))(by={"kind": "card", "token": [SECRET]}),
    "value of an unknown field": lambda: Pay(token="a", tokens=SECRET),
    "frozen": lambda: setattr(Pay(token=SECRET), "token", SECRET + "!"),
    "read from JSON": lambda: Pay.model_validate_json(json.dumps({"token": [SECRET]})),
    "read from no JSON": lambda: Pay.model_validate_json('{"token": "' + SECRET),
}


@pytest.mark.parametrize("case", MADE)
def test_secret_is_in_no_text_of_an_error_when_a_message_is_made(case):
    """[L21] The error is pydantic's; that it hides its input is ours."""
    with pytest.raises((ValidationError, AttributeError)) as caught:
        MADE[case]()

    error = caught.value
    notes = getattr(error, "__notes__", ())
    assert [] == leaks(str(error), repr(error), *notes, *traceback.format_exception(error))


# Schemas


class WithDefault(Command):
    token: Token = SECRET


class WithExamples(Command):
    token: Annotated[str, Private, Field(examples=[SECRET])] = "a"


class WithSecretDefault(Command):
    token: SecretStr = SecretStr(SECRET)


class WithNestedDefault(Command):
    card: Card = Card(token=SECRET)


class WithDefaultList(Command):
    tokens: tuple[Token, ...] = (SECRET,)


class WithOptionalDefault(Command):
    token: Token | None = SECRET


class WithRecursiveDefault(Command):
    wallet: Wallet = Wallet(inner=[Wallet(token=SECRET)])


class Deeper(Command):
    inner: WithDefault


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize(
    "cls",
    [
        WithDefault,
        WithExamples,
        WithSecretDefault,
        WithNestedDefault,
        WithDefaultList,
        WithOptionalDefault,
        WithRecursiveDefault,
        Deeper,
    ],
)
def test_secret_is_in_no_schema(cls, mode):
    """[L21] A schema is published; neither an example nor a default in it is to be a token."""
    schema = cls.model_json_schema(mode=mode)

    assert [] == leaks(json.dumps(schema))
    assert {*cls.model_fields} == {*schema["properties"]}
