"""A rehearsal: the handler of a dead letter runs as it would if it were retried, and nothing of that is kept."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

from messagebus.bus import AsyncMessageBus
from messagebus.delivery.entries import DeadLetter, Outcome, Stored
from messagebus.delivery.handling import Bus, Handling, Reporting, Rules
from messagebus.delivery.retry import Retry
from messagebus.delivery.store import WORK, Store, Transaction
from messagebus.delivery.worker import _bus_for
from messagebus.errors import ConfigurationError, ConflictError, HandlerError, full_name
from messagebus.messages import Message, to_json, wire_name
from messagebus.registry import Registry

__all__ = ["rehearse"]


def rehearse(
    store: Store,
    dead_letter_id: int,
    registry: Registry,
    *,
    bus: type[Bus] | None = None,
    message: Message | None = None,
) -> list[Message]:
    """Run the handler of a dead letter, and return what it would send; nothing of that is stored.

    What the handler writes through `current_transaction` is rolled back. What else it does, to a mail server say, is
    done. The dead letter stays as it is. Blocks.

    Args:
        store: where the dead letter is.
        dead_letter_id: as `Store.dead` tells it.
        registry: of the handlers.
        bus: a class of buses; by default as in `Worker`.
        message: takes the place of the stored one, as in `Store.retry`.

    Returns:
        The commands and events, in the order in which they would be stored.

    Raises:
        ConfigurationError: If there is no such dead letter.
        InvalidMessageError: If the stored message cannot be read.
        ConflictError: If ``message`` is of another type.
        HandlerError: If no handler of the message has the name of the one that failed.
        Exception: What the handler raised, as it is.
    """
    letters = store.dead(id=dead_letter_id)
    if not letters:
        remedy = "Take one that store.dead() returns."
        raise ConfigurationError("rehearse a dead letter", f"there is none with the id {dead_letter_id}", remedy)
    letter = letters[0]
    if message is None:
        message = registry.validate_json(letter.body, max_bytes=len(letter.body))
    elif wire_name(type(message)) != letter.type:
        raise ConflictError(full_name(type(message)), "dead letter id", str(dead_letter_id))
    bus = bus or _bus_for(registry)
    made: Callable[..., Bus] = partial(bus, log_level="disabled", error_log_level="disabled")
    rules = Rules(store, Reporting(registry, is_async=issubclass(bus, AsyncMessageBus)), made, Retry())
    stage = _Stage(store)
    handling = Handling(rules, stage, _stored(letter, message, registry))
    with stage:
        _run(handling)
    if handling.error is not None:
        raise handling.error
    # What was sent through the transaction would be stored first.
    settlement = handling.settle()
    return [*stage.sent, *(sending.envelope.message for sending in settlement.sends)]


def _stored(letter: DeadLetter, message: Message, registry: Registry) -> Stored:
    """Return the message as a worker would get it after a retry: all but one of its handlers are done."""
    names = [handler.name for handler in registry.snapshot[type(message)].handlers]
    if letter.handler and letter.handler not in names:
        why = f"no handler of {letter.type} has this name any more"
        raise HandlerError(f"run {letter.handler}", why, "Register it, or drop the dead letter.")
    others = [name for name in names if letter.handler and name != letter.handler]
    return Stored(
        seq=0,
        id=letter.message_id,
        type=letter.type,
        body=to_json(message),
        key=letter.key,
        correlation_id=letter.correlation_id,
        causation_id=letter.causation_id,
        sent_at=letter.sent_at.timestamp(),
        headers=letter.headers,
        attempt=1,
        outcomes={name: Outcome(name, "done", 0) for name in others},
    )


def _run(handling: Handling) -> None:
    token = WORK.set(handling)
    try:
        handling.open()
        if isinstance(handling.bus, AsyncMessageBus):
            asyncio.run(_call(handling.bus))
        elif handling.bus is not None:
            handling.bus()
    except Exception as error:  # noqa: BLE001 - raised again when the transaction is undone
        handling.error = error
    finally:
        WORK.reset(token)


async def _call(bus: AsyncMessageBus) -> None:
    await bus()


class _Undone(Exception):  # noqa: N818 - no error: it ends a transaction
    """Makes a transaction roll back."""


class _Stage:
    """Where a rehearsal takes place: its one transaction is opened when first asked for, and rolled back."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open = ExitStack()
        self._transaction: _Watched | None = None
        self.sent: list[Message] = []

    def __enter__(self) -> None:
        """Begin; there is nothing to do yet."""

    def __exit__(self, *_: object) -> None:
        self._open.__exit__(_Undone, _Undone(), None)

    def transaction_for(self, seq: int) -> Transaction:  # noqa: ARG002 - there is one message
        if self._transaction is None:
            token = WORK.set(None)  # This is not the handler's own.
            try:
                inner = self._open.enter_context(self._store.transaction())
            finally:
                WORK.reset(token)
            self._transaction = _Watched(inner, self.sent)
        return self._transaction

    async def turn(self) -> None:
        """Nobody else is writing."""


class _Watched:
    """A transaction that remembers what is sent through it."""

    def __init__(self, inner: Transaction, sent: list[Message]) -> None:
        self._inner, self._sent = inner, sent

    @property
    def connection(self) -> Any:
        """The connection below, for whoever writes by other means."""
        return getattr(self._inner, "connection", None)

    def execute(
        self, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    ) -> list[tuple[Any, ...]]:
        return self._inner.execute(statement, parameters)

    def savepoint(self) -> AbstractContextManager[None]:
        return self._inner.savepoint()

    def send(self, message: Message, **options: Any) -> str:
        id = self._inner.send(message, **options)
        self._sent.append(message)
        return id
