"""Asking: the one return message of the class that a command names, or an error that says what came instead."""

import asyncio
import json
import pickle
from typing import Any, Generic, TypeVar, get_type_hints

import pytest
import structlog
from pydantic import create_model
from structlog.testing import LogCapture

from messagebus import (
    AnswerError,
    Command,
    DispatchError,
    Event,
    MessageClassError,
    NotAMessageError,
    Registry,
    ReturnMessage,
    aask,
    ask,
    to_json,
    wire_name,
)

CANARY = "canary-4111"
T = TypeVar("T")


class Price(ReturnMessage):
    amount: int
    secret: str = CANARY


class ReducedPrice(Price):
    pass


class Note(ReturnMessage):
    text: str = CANARY


class Quote(Command[Price], name="shop.quote"):
    product: str = "lamp"


class PlaceOrder(Command):
    pass


class Quoted(Event):
    pass


def ask_later(command: Any, **options: Any) -> Any:
    return asyncio.run(aask(command, **options))


either = pytest.mark.parametrize("asking", [ask, ask_later])


def returning(*messages: Any, command: type[Command] = Quote) -> Registry:
    registry = Registry()
    registry.register(command, lambda _: list(messages))
    return registry


@either
@pytest.mark.parametrize("others", [(), (Note(),), (Note(), Note(text=""))])
def test_returns_the_one_message_of_its_class(asking, others):
    """Return messages of other classes, by a handler of an event say, do not disturb it."""
    price = Price(amount=5)

    assert price is asking(Quote(), registry=returning(*others[:1], price, *others[1:]))


@either
def test_answer_may_come_from_what_the_command_led_to(asking):
    """All of the run counts, not only the handler of the command."""
    registry = returning(Quoted())
    registry.register(Quoted, lambda _: Price(amount=5))

    assert Price(amount=5) == asking(Quote(), registry=registry)


@either
def test_answer_may_be_of_a_subclass(asking):
    """It is a price, too."""
    assert ReducedPrice(amount=4) == asking(Quote(), registry=returning(ReducedPrice(amount=4)))


@either
@pytest.mark.parametrize(
    ("messages", "came"),
    [
        ((), "nothing came"),
        ((Note(),), f"there came 1 {__name__}.Note"),
        ((Note(), Note()), f"there came 2 {__name__}.Note"),
        ((Price(amount=1), Note(), Price(amount=1)), f"there came 2 {__name__}.Price and 1 {__name__}.Note"),
    ],
)
def test_anything_else_is_an_error_that_says_what_came(asking, messages, came):
    """By class and number; no value is repeated [L1]."""
    with pytest.raises(AnswerError) as caught:
        asking(Quote(), registry=returning(*messages))

    assert (
        f"Cannot answer {__name__}.Quote: exactly one {__name__}.Price had to come back, and {came}. "
        "Have its handler return one; for any number of return messages use handle_message." == str(caught.value)
    )
    assert CANARY not in repr(caught.value)


def test_error_is_bounded():
    """However many classes came."""
    classes = [create_model(f"Note{number}", __base__=Note, __module__=__name__) for number in range(20)]

    with pytest.raises(AnswerError, match="and those of 15 other classes") as caught:
        ask(Quote(), registry=returning(*[cls() for cls in classes]))

    assert len(str(caught.value)) < 600
    assert 20 == len(caught.value.came)


@either
def test_plain_command_is_answered_by_the_one_return_message(asking):
    """Of whatever class."""
    assert Note() == asking(PlaceOrder(), registry=returning(Note(), command=PlaceOrder))

    with pytest.raises(AnswerError, match=r"exactly one messagebus\.messages\.ReturnMessage had to come back, and th"):
        asking(PlaceOrder(), registry=returning(Note(), Price(amount=1), command=PlaceOrder))


@either
def test_failure_of_a_handler_comes_out_as_it_is(asking):
    """As from `handle_message`, with its note [L14]."""
    registry = Registry()
    registry.register(Quote, fail)

    with pytest.raises(LookupError, match="no such product") as caught:
        asking(Quote(), registry=registry)

    assert caught.value.__notes__[0].startswith(f"while handling {__name__}.Quote ")


def fail(command: Quote) -> Price:
    raise LookupError("no such product")


@either
@pytest.mark.parametrize(
    ("thing", "error"),
    [(Quoted(), DispatchError), (Note(), DispatchError), (Quote, NotAMessageError), ({}, NotAMessageError)],
)
def test_only_a_command_is_asked(asking, thing, error):
    """Said before anything runs."""
    ran: list[Any] = []
    registry = Registry()
    registry.register(Quoted, ran.append)

    with pytest.raises(error):
        asking(thing, registry=registry)

    assert [] == ran


@either
def test_takes_what_handle_message_takes(asking):
    """Records go where one says, at the level that one says."""
    capture = LogCapture()
    logger = structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug"))

    asking(Quote(), registry=returning(Price(amount=1)), logger=logger, log_level="info", error_log_level="warning")

    assert ["command.handled"] == [record["event"] for record in capture.entries]


# The class


def test_answer_leaves_no_trace_in_the_class():
    """The wire name, the JSON, the schema and pickles are those of a command that says nothing of an answer."""

    class Plain(Command):
        product: str = "lamp"

    assert "shop.quote" == wire_name(Quote)
    assert b'{"type":"shop.quote","data":{"product":"lamp"}}' == to_json(Quote())
    assert Plain.model_json_schema() == {**Quote.model_json_schema(), "title": "Plain"}
    assert Quote() == pickle.loads(pickle.dumps(Quote()))
    assert Plain.__mro__[1:] == Quote.__mro__[1:]
    assert "Command[" not in json.dumps([str(cls) for cls in Command.__subclasses__()])


def test_answer_is_inherited_and_may_be_another():
    """As any attribute of a class."""

    class Again(Quote):
        pass

    class Other(Quote, Command[Note]):
        pass

    assert Price(amount=1) == ask(Again(), registry=returning(Note(), Price(amount=1), command=Again))
    assert Note() == ask(Other(), registry=returning(Note(), Price(amount=1), command=Other))


def test_generic_commands_are_pydantics_as_before():
    """A parameter of the user's own is one of the model; the answer is not."""

    class Put(Command[Note], Generic[T]):
        item: T

    class PutText(Put[str]):
        pass

    assert 3 == Put[int](item="3").item
    assert Note() == ask(PutText(item="a"), registry=returning(Note(), command=PutText))
    with pytest.raises(TypeError):
        Quote[int]


def test_made_models_have_answers():
    """``create_model`` derives as a ``class`` statement does."""
    made = create_model("Made", __base__=Command[Price], product=(str, "lamp"))

    assert Price(amount=1) == ask(made(), registry=returning(Price(amount=1), command=made))


@pytest.mark.parametrize("answer", [int, "Price", None, Price(amount=1), Price | Note, (Price, Note), Quoted, T])
def test_answer_is_one_class_of_return_messages(answer):
    """Said where the class is made."""
    with pytest.raises(MessageClassError, match=r"what stands in Command\[...\] is not the one class of its answer"):

        class Wrong(Command[answer]):
            pass


def test_hints_of_the_functions_can_be_read():
    """Frameworks that look at signatures find something."""
    for function in (ask, aask):
        assert {"command", "return", "registry"} <= get_type_hints(function).keys()
