"""Emissions: what the return annotation of a handler tells of what it emits."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial, wraps
from typing import Annotated, Any, Generic, List, Never, Optional, TypeVar, Union  # noqa: UP035 - people write so

import pytest

from messagebus import Command, Event, Message, Registry, ReturnMessage
from messagebus.documents.emissions import Emission, emission_of


class Ask(Command): ...


class Placed(Event): ...


class Paid(Event): ...


class Answer(ReturnMessage): ...


T = TypeVar("T")


class Box(Generic[T]): ...


BOTH = Emission((Placed, Answer))


def emission(function: Callable[..., Any]) -> Emission:
    registry = Registry()
    registry.register(Ask, function)
    return emission_of(registry.snapshot[Ask].handlers[0], Ask)


def returning(annotation: Any) -> Callable[..., Any]:
    def handler(message): ...

    handler.__annotations__["return"] = annotation
    return handler


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (None, Emission()),
        (type(None), Emission()),
        ("None", Emission()),
        (Never, Emission()),
        (Placed, Emission((Placed,))),
        ("Placed", Emission((Placed,))),
        (Placed | None, Emission((Placed,))),
        (Optional[Placed], Emission((Placed,))),  # noqa: UP045 - as above
        (Placed | Answer, BOTH),
        (Union[Placed, Answer], BOTH),  # noqa: UP007 - as above
        (Iterator[Placed | Answer], BOTH),
        ("Iterator[Placed | Answer]", BOTH),
        (Iterator["Placed | Answer"], BOTH),
        (Iterable[Placed], Emission((Placed,))),
        (Generator[Placed | Answer, None, None], BOTH),
        (Generator[Placed, Ask, Answer], Emission((Placed,))),
        (list[Placed], Emission((Placed,))),
        (List[Placed], Emission((Placed,))),  # noqa: UP006 - as above
        (Sequence[Placed] | None, Emission((Placed,))),
        (tuple[Placed, Answer], BOTH),
        (tuple[Placed, ...], Emission((Placed,))),
        (tuple[()], Emission()),
        (list[Placed] | Answer, BOTH),
        (AsyncIterator[Placed], Emission((Placed,))),
        (AsyncIterable[Placed], Emission((Placed,))),
        (AsyncGenerator[Placed | Answer, None], BOTH),
        (Awaitable[list[Placed]], Emission((Placed,))),
        (Annotated[Placed, "twice"], Emission((Placed,))),
        (Placed | Paid | Placed, Emission((Placed, Paid))),
        (Iterator[Message], Emission(is_unknown=True)),
        (Iterator[Placed | Message], Emission((Placed,), is_unknown=True)),
        (Event, Emission(is_unknown=True)),
        (ReturnMessage | None, Emission(is_unknown=True)),
        (Any, Emission(is_unknown=True)),
        (list, Emission(is_unknown=True)),
        (list[Any], Emission(is_unknown=True)),
        (object, Emission(is_unknown=True)),
        (T, Emission(is_unknown=True)),
        (Box[Placed], Emission(is_unknown=True)),
        ("Nothing.of.this", Emission(is_unknown=True)),
        ("1 +", Emission(is_unknown=True)),
        (12, Emission(is_unknown=True)),
    ],
    ids=repr,
)
def test_annotation_tells_what_is_emitted(annotation, expected):
    """What is not certain is unknown."""
    assert expected == emission(returning(annotation))


def test_handler_without_annotation_is_unknown():
    """It may return anything."""
    assert Emission(is_unknown=True) == emission(lambda command: None)


def plain(extra: int, command: Ask) -> Placed: ...


async def asking(command: Ask) -> list[Placed]: ...


async def streaming(command: Ask) -> AsyncIterator[Placed]:
    yield Placed()


class Handler:
    def __call__(self, command: Ask) -> Placed: ...

    def method(self, command: Ask) -> "Placed": ...

    @classmethod
    def of_class(cls, command: Ask) -> Placed: ...

    @staticmethod
    def static(command: Ask) -> Placed: ...


def twice(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def inner(command: Any) -> Any:
        return function(1, command)

    return inner


@pytest.mark.parametrize(
    "function",
    [partial(plain, 1), partial(partial(plain), 1), twice(plain), asking, streaming, Handler(), Handler().method,
     Handler.of_class, Handler.static, partial(Handler())],
    ids=repr,
)  # fmt: skip
def test_callable_of_every_kind_is_looked_through(function):
    """What a handler may be, an annotation may be on."""
    assert Emission((Placed,)) == emission(function)


def test_string_may_name_what_only_the_function_knows():
    """With postponed annotations, a class that was made in a function is found where the handler makes one."""

    class Local(Event): ...

    def handler(command: Ask) -> "Iterator[Local]":
        yield Local()

    assert Emission((Local,)) == emission(handler)


def test_annotation_of_a_parameter_need_not_be_known():
    """Only what is returned is looked at; the rest may be imported for type checkers alone."""

    def handler(command: "Nowhere") -> "Placed": ...  # noqa: F821

    assert Emission((Placed,)) == emission(handler)


def test_answer_of_a_command_is_emitted_whatever_the_annotation_says():
    """``class Quote(Command[Answer])`` tells it already."""

    class Quote(Command[Answer]): ...

    registry = Registry()
    registry.register(Quote, lambda command: Answer())

    assert Emission((Answer,), is_unknown=True) == emission_of(registry.snapshot[Quote].handlers[0], Quote)


def test_callable_in_c_is_unknown():
    """It has no annotations."""
    assert Emission(is_unknown=True) == emission(print)
