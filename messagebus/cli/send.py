"""``messagebus send``: JSON Lines in, messages in a store, their ids or their return messages out."""

import asyncio
import select
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic_core import from_json
from pydantic_core import to_json as dump_json

from messagebus import (
    Command,
    ConfigurationError,
    Envelope,
    InvalidMessageError,
    Message,
    MessageBusError,
    Registry,
    UsageError,
)
from messagebus.cli import records
from messagebus.cli.engine import add_group, connected
from messagebus.cli.reading import FAILED, REFUSED, Desk, add_input, at_desk
from messagebus.cli.stored import add_url, opened
from messagebus.cli.values import seconds
from messagebus.errors import (
    DeliveryFailedError,
    ReplyTimeoutError,
    ResultTimeoutError,
    StoreError,
    full_name,
    near_misses,
)
from messagebus.shapes import shape_of

if TYPE_CHECKING:
    from messagebus.brokers import Broker
    from messagebus.delivery import Store

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "send"
SUMMARY: Final = "store messages from files or a pipe for workers"
DESCRIPTION: Final = """\
Read messages as JSON Lines, {"type": ..., "data": {...}} or CloudEvents, and store each for the workers. The id of a
message goes to standard output, a line each in the order of the input, as soon as the message is on disk; with --wait
its return messages do, when all that it led to is finished. A line that is refused is one record on standard error,
with file and line; the next line is stored all the same. With --to they are published to an engine, and with --wait
what the handler of each command returned comes back from there.

A CloudEvent keeps its id: sent again, it is not stored twice.

exit code: 0 all lines were stored (and handled, with --wait), 1 a message failed or the store did, 2 the call itself is
wrong, 3 a payload was refused"""
EXAMPLE: Final = """\
example:
  messagebus send shop.orders orders.jsonl --url sqlite:///bus.db --key customer"""

_MOST: Final = 500
"""Messages that are stored together at most."""
_MOST_READS: Final = 16
"""Pieces of input, of 64 KiB each, from which they come at most: what is held does not grow with the input."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_input(parser)
    add_url(parser)
    parser.add_argument("--to", dest="engine", metavar="URL", help="publish to an engine, as in nats://host:4222")
    add_group(parser)
    parser.add_argument("--key", metavar="FIELD", help="handle messages with one value of this field one at a time")
    parser.add_argument("--delay", type=seconds, default=0.0, metavar="S", help="seconds, or 5m, 2h, 1d, to wait first")
    parser.add_argument("--wait", action="store_true", help="wait for the workers, and print the return messages")
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help="with --wait: longest time from storing a message to its results"
    )


def run(options: Namespace) -> int:
    """Store every line of every input, and return the exit code that sums them up."""
    if options.timeout is not None and not options.wait:
        raise ConfigurationError("use --timeout", "there is nothing to wait for", "Add --wait.")
    if options.engine is not None and options.delay:
        remedy = "Send it to a store, which `messagebus relay` empties into the engine."
        raise ConfigurationError("use --delay with --to", "an engine keeps nothing for later", remedy)
    with at_desk(options, log_level="disabled", error_log_level="error") as desk:
        if options.key is not None:
            _check_key(options.key, desk.registry)
        way = opened(options, creates=True) if options.engine is None else connected(options)
        with way as store, asyncio.Runner() as runner:
            return _Post(desk, store, runner, options).run()


def _check_key(name: str, registry: Registry) -> None:
    fields = {field for cls in registry.snapshot.names.values() for field in cls.model_fields}
    if name not in fields:
        near = near_misses(name, fields)
        remedy = f"Did you mean {' or '.join(near)}?" if near else "Name a field of the messages."
        raise ConfigurationError(f"use --key {name}", "no message of TARGET has such a field", remedy)


def _key_of(message: Message, name: str | None) -> str | None:
    """Return the value of a field as a key, None for null.

    Raises:
        InvalidMessageError: If there is no such field, or its value can be no key.
    """
    if name is None:
        return None
    cls = type(message)
    if name not in cls.model_fields:
        why = "it has no such field"
    elif name in shape_of(cls).private_fields | shape_of(cls).secret_fields:
        why = "it is private, and a key is shown in listings"
    else:
        (value,) = message.model_dump(mode="json", include={name}).values()
        if value is None or isinstance(value, str | int):
            return None if value is None else str(value)
        why = "its value is no text or number"
    raise InvalidMessageError(full_name(cls), ((name, f"it cannot be the key: {why}"),))


Place = tuple[str, int]


class _Post:
    """All messages of all inputs on their way into the store, a batch at a time."""

    def __init__(self, desk: Desk, store: "Store | Broker", runner: asyncio.Runner, options: Namespace) -> None:
        self._reader, self._results = desk.reader, desk.results
        self._store, self._runner, self._options = store, runner, options
        self._timeout = inf if options.timeout is None else options.timeout
        self._batch: list[tuple[Place, Message, Envelope | None, str | None]] = []
        self._has_failed = False

    def run(self) -> int:
        """Store what comes in; return the exit code."""
        reads = 0
        for entry in self._reader.entries():
            if isinstance(entry, int):
                reads += 1
                # What is there is stored before anybody has to wait for more.
                if reads > _MOST_READS or not _is_ready(entry):
                    self._flush()
                    reads = 0
                continue
            self._take(*entry)
            if len(self._batch) == _MOST:
                self._flush()
        self._flush()
        if self._has_failed:
            return FAILED
        return REFUSED if self._reader.has_refused else 0

    def _take(self, message: Message, envelope: Envelope | None) -> None:
        try:
            key = _key_of(message, self._options.key)
        except Exception as error:  # noqa: BLE001 - a serialiser of the user's may raise anything
            self._reader.refuse(error)
        else:
            self._batch.append((self._reader.in_hand, message, envelope, key))

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._deliver(batch)
        self._results.flush()

    def _deliver(self, batch: Sequence[tuple[Place, Message, Envelope | None, str | None]]) -> None:
        last = self._reader.in_hand
        answers = self._runner.run(self._send(batch))
        stored: list[tuple[Place, str]] = []
        for (place, *_), answer in zip(batch, answers, strict=True):
            if isinstance(answer, str):
                stored.append((place, answer))
            elif isinstance(answer, bytes):
                self._write(answer)
            elif _is_refusal(answer) or isinstance(answer, _NO_REPLY):
                self._reader.take_up(place)
                (self._fail if isinstance(answer, _NO_REPLY) else self._reader.refuse)(answer)
        if self._options.wait:
            self._wait_for(stored)
        else:
            self._results.write("".join(f"{id}\n" for _, id in stored).encode())
        for answer in answers:
            if isinstance(answer, BaseException) and not (_is_refusal(answer) or isinstance(answer, _NO_REPLY)):
                raise answer
        self._reader.take_up(last)

    async def _send(self, batch: Sequence[tuple[Place, Message, Envelope | None, str | None]]) -> Sequence[Any]:
        """Store messages in their order; what is awaited together shares a commit, and each has its own error."""
        store, options = self._store, self._options
        sends: list[Awaitable[str | bytes]] = []
        for _, message, envelope, key in batch:
            if options.engine is not None and options.wait and isinstance(message, Command):
                asked = cast("Broker", store).arequest(message, key=key, envelope=envelope, timeout=self._timeout)
                sends.append(asked)
            else:
                sends.append(store.asend(message, delay=options.delay, key=key, envelope=envelope))
        return await asyncio.gather(*sends, return_exceptions=True)

    # Waiting

    def _wait_for(self, stored: Sequence[tuple[Place, str]]) -> None:
        """Write the return messages of each, or record why there are none."""
        end, store = time.monotonic() + self._timeout, cast("Store", self._store)
        for place, id in stored if self._options.engine is None else ():  # Of an event nobody knows the end.
            self._reader.take_up(place)
            try:
                results = store.result(id, timeout=max(0.0, end - time.monotonic()))
            except StoreError as error:
                if not isinstance(error, ResultTimeoutError):
                    raise
                self._fail(error)
            except MessageBusError as error:
                self._fail(error)
            else:
                self._write(results)

    def _write(self, results: bytes) -> None:
        self._results.write(b"".join(dump_json(one) + b"\n" for one in from_json(results)))

    def _fail(self, error: MessageBusError) -> None:
        self._has_failed = True
        self._reader.record(records.MESSAGE_FAILED, error)


_NO_REPLY: Final = (ReplyTimeoutError, DeliveryFailedError)


def _is_refusal(answer: object) -> bool:
    """Say whether it is the message that could not be stored, and not the store that failed."""
    return isinstance(answer, UsageError | ValueError)  # To write a message may raise pydantic's own ValueError.


def _is_ready(descriptor: int) -> bool:
    """Say whether a read would not have to wait."""
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    except (OSError, ValueError):  # Not every system can tell.
        return False
