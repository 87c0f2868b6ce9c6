"""What becomes of messages that have come in: each is run, or each is stored; and the outcome of a stored one."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from pydantic_core import from_json
from pydantic_core import to_json as dump_json
from starlette.responses import Response

from messagebus.bus import AsyncMessageBus
from messagebus.delivery import DeliveryFailedError, ResultTimeoutError, Store, Transaction
from messagebus.envelope import Envelope
from messagebus.errors import ConfigurationError, InvalidMessageError, MessageBusError
from messagebus.http.problems import Problem, refused
from messagebus.http.reading import JSON, Arrived
from messagebus.messages import to_json

__all__ = ["Runs", "Stores", "Taking"]


class Taking(Protocol):
    """What is done with the messages of a request."""

    async def take(self, arrived: Sequence[Arrived], root: str, *, is_batch: bool) -> Response:
        """Return the response; ``root`` is the path that the application is mounted at."""
        ...


class Runs:
    """Runs messages, one after another.

    Args:
        bus: makes a bus of a message and its envelope.
    """

    def __init__(self, bus: Callable[..., AsyncMessageBus]) -> None:
        self._bus = bus

    async def take(self, arrived: Sequence[Arrived], root: str, *, is_batch: bool) -> Response:  # noqa: ARG002
        results: list[bytes] = []
        for message, envelope in arrived:
            try:
                results.append(await self._run(message, envelope or Envelope(message)))
            except Problem as problem:
                if is_batch:
                    problem.members |= {"index": len(results), "results": [*map(from_json, results)]}
                raise
            await asyncio.sleep(0)  # Between the messages of a large batch it is the turn of other requests.
        return Response(b"[%b]" % b",".join(results) if is_batch else results[0], media_type=JSON)

    async def _run(self, message: Any, envelope: Envelope) -> bytes:
        bus = self._bus(message, envelope=envelope)
        try:
            returned = await bus()
        except Exception:  # noqa: BLE001 - the bus has recorded it; nobody outside should read what it says
            raise Problem(500, "handler-failed", message_id=envelope.id) from None
        return to_json(returned)


class Stores:
    """Stores messages, and tells what became of them.

    Args:
        store: keeps them.
        types: the names of those that may be asked for; the store may hold others.
    """

    def __init__(self, store: Store, types: frozenset[str]) -> None:
        self._store, self._types = store, types

    async def take(self, arrived: Sequence[Arrived], root: str, *, is_batch: bool) -> Response:
        try:
            if is_batch:
                ids = await asyncio.to_thread(self._send_all, arrived)
            else:
                [(message, envelope)] = arrived
                ids = [await self._store.asend(message, key=_key(envelope), envelope=envelope)]
        except InvalidMessageError as error:
            problem = refused(error)
        except ConfigurationError as error:  # Of its arguments only these come from outside.
            problem = refused(InvalidMessageError("a CloudEvent", (("", error.why),)))
        else:
            if is_batch:
                return Response(dump_json([{"id": id} for id in ids]), 202, media_type=JSON)
            place = {"Location": f"{root}/messages/{quote(ids[0], safe='')}"}
            return Response(dump_json({"id": ids[0]}), 202, place, JSON)
        raise problem

    def _send_all(self, arrived: Sequence[Arrived]) -> list[str]:
        with self._store.transaction() as transaction:
            return [_send(transaction, index, *one) for index, one in enumerate(arrived)]

    async def outcome(self, id: str) -> Response:
        """Return what became of a message: its return messages when all that it led to is finished."""
        told = await asyncio.to_thread(self._outcome, id)
        return Response(told, headers={"Cache-Control": "no-store"}, media_type=JSON)

    def _outcome(self, id: str) -> bytes:
        if not any(step.id == id and step.type in self._types for step in self._store.tree(id)):
            raise Problem(404, "unknown-message")
        try:
            result = self._store.result(id)
        except ResultTimeoutError:
            return dump_json({"id": id, "status": "waiting"})
        except DeliveryFailedError:
            return dump_json({"id": id, "status": "failed"})
        return b'%b,"result":%b}' % (dump_json({"id": id, "status": "done"})[:-1], result)

    async def look(self) -> None:
        """Read something of the store.

        Raises:
            Problem: If it cannot be reached.
        """
        try:
            await asyncio.to_thread(self._store.next_due)
        except MessageBusError:
            unreachable = Problem(503, detail="The store cannot be reached now.", headers={"Retry-After": "1"})
        else:
            return
        raise unreachable


def _key(envelope: Envelope | None) -> str | None:
    return None if envelope is None else envelope.headers.get("partitionkey")


def _send(transaction: Transaction, index: int, message: Any, envelope: Envelope | None) -> str:
    try:
        return transaction.send(message, key=_key(envelope), envelope=envelope)
    except InvalidMessageError as error:
        problem = refused(error, index)
    except ConfigurationError as error:
        problem = refused(InvalidMessageError("a CloudEvent", (("", error.why),)), index)
    raise problem
