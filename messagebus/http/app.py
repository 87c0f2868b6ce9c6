"""The ASGI application: messages in; return messages, or an id and later an outcome, out."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any
from urllib.parse import quote

from pydantic_core import to_json as dump_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from messagebus import logs
from messagebus.bus import AsyncMessageBus
from messagebus.delivery import Store, StoreError
from messagebus.errors import ConfigurationError, NoHandlerError, full_name
from messagebus.http.openapi import document
from messagebus.http.problems import Problem, answer_to
from messagebus.http.reading import JSON, limited, read_messages
from messagebus.http.taking import Runs, Stores
from messagebus.messages import Command, Event, Message, wire_name
from messagebus.registry import MAX_BYTES, Registry
from messagebus.shapes import shape_of

__all__ = ["create_app"]

Authenticate = Callable[[Request], object | Awaitable[object]]


def create_app(  # noqa: PLR0913 - settings, each named where it is given
    registry: Registry | None = None,
    *,
    accept: Sequence[type[Message]],
    store: Store | None = None,
    authenticate: Authenticate | None = None,
    max_bytes: int = MAX_BYTES,
    bus: type[AsyncMessageBus] = AsyncMessageBus,
    log_level: logs.LogLevel = "info",
    error_log_level: logs.ErrorLogLevel = "error",
    logger: Any = None,
) -> Starlette:
    """Return an ASGI application that takes messages at ``POST /messages``.

    A body is a message in the wire form (``application/json``, also an array of them), or a CloudEvent 1.0 in
    structured, batch or binary mode. All messages of a batch are read before the first is run or stored: if one does
    not fit, none is.

    Without a store each message is run, and the answer is 200 and its return messages. A batch is run in its order
    until a handler fails; the answer holds a list of return messages for each. What is delivered again is run again. On
    the bus plain handlers run on the event loop: register those that wait for something with ``blocking=True``.

    With a store each message is stored, a batch in one transaction, and the answer is 202 and its id, whose outcome
    ``GET /messages/{id}`` tells. A CloudEvent that is delivered again is stored once, as long as the store holds the
    first; its ``partitionkey`` is the store's ``key``.

    Every refusal is a problem (RFC 9457) that repeats no value of a payload, and nothing that a handler says.
    ``GET /openapi.json`` describes all this; ``GET /healthz`` says whether the store can be reached.

    Args:
        registry: of the handlers; by default that of the bus. With a store it is not looked at.
        accept: the classes of messages that are taken. All others are answered as if there were no such class.
        store: as `messagebus.delivery.open_store` returns it; a worker handles what it holds.
        authenticate: called with each request but those of ``/healthz``, before its body is read; plain or async.
            What it returns decides: if that is false, None too, the answer is 401. It may raise Starlette's
            HTTPException to say more, 403 for instance, and read the body, for a signature.
        max_bytes: of a body, a batch in all. Of a larger one the rest is not read.
        bus: a class of buses; its overrides apply.
        log_level: as for `AsyncMessageBus`.
        error_log_level: as for `AsyncMessageBus`.
        logger: as for `AsyncMessageBus`.

    Raises:
        ConfigurationError: If nothing is accepted, or what can be neither run nor stored.
        NoHandlerError: If a command would be run, and has no handler.
    """
    registry = registry or bus.registry
    door = _door(accept, None if store is not None else registry)
    if store is None:
        levels: dict[str, Any] = {"log_level": log_level, "error_log_level": error_log_level, "logger": logger}
        runs = Runs(partial(bus, registry=registry, **levels))
        return _Service(door, runs, None, authenticate, max_bytes).application()
    stores = Stores(store, frozenset(map(wire_name, accept)))
    return _Service(door, stores, stores, authenticate, max_bytes).application()


def _door(accept: Sequence[type[Message]], handlers: Registry | None) -> Registry:
    """Return a registry of nothing but what is accepted: of others not even a near miss is shown."""
    door = Registry()
    for cls in accept:
        door.register(cls)
        what = f"accept {full_name(cls)} over HTTP"
        if not issubclass(cls, Command | Event):
            raise ConfigurationError(what, "a return message has no handler", "Accept commands and events.")
        if handlers is None:
            if shape_of(cls).secret_fields:
                fields = ", ".join(sorted(shape_of(cls).secret_fields))
                raise ConfigurationError(what, f"{fields} cannot be stored", "Use Annotated[str, Private].")
        elif issubclass(cls, Command) and not handlers.snapshot[cls].handlers:
            raise NoHandlerError(full_name(cls))
    if not accept:
        raise ConfigurationError("take messages over HTTP", "none is accepted", "Name their classes: accept=[...].")
    return door


class _Service:
    """The endpoints."""

    def __init__(
        self,
        door: Registry,
        taking: Runs | Stores,
        stores: Stores | None,
        authenticate: Authenticate | None,
        max_bytes: int,
    ) -> None:
        self._door, self._taking, self._stores = door, taking, stores
        self._authenticate, self._max_bytes = authenticate, max_bytes
        classes = [*door.snapshot.names.values()]
        self._document = document(classes, stores=stores is not None, authenticates=authenticate is not None)

    def application(self) -> Starlette:
        routes = [
            Route("/messages", self.take, methods=["POST"]),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/openapi.json", self.describe, methods=["GET"]),
        ]
        if self._stores is not None:
            routes.append(Route("/messages/{id:path}", partial(self.outcome, self._stores), methods=["GET"]))
        answered = (Problem, HTTPException, StoreError, ClientDisconnect, Exception)
        return Starlette(routes=routes, exception_handlers=dict.fromkeys(answered, answer_to))

    async def take(self, request: Request) -> Response:
        request = await self._admitted(request)
        arrived, is_batch = await read_messages(request, self._door)
        return await self._taking.take(arrived, _root(request), is_batch=is_batch)

    async def outcome(self, stores: Stores, request: Request) -> Response:
        await self._admitted(request)
        return await stores.outcome(request.path_params["id"])

    async def describe(self, request: Request) -> Response:
        await self._admitted(request)
        servers = [{"url": _root(request) or "/"}]
        return Response(dump_json({**self._document, "servers": servers}), media_type=JSON)

    async def health(self, _request: Request) -> Response:
        if self._stores is not None:
            await self._stores.look()
        return Response(dump_json({"status": "ok"}), media_type=JSON)

    async def _admitted(self, request: Request) -> Request:
        """Return the request, if whoever sent it is let in; whoever reads its body finds it limited."""
        request = limited(request, self._max_bytes)
        verdict = True if self._authenticate is None else self._authenticate(request)
        if isawaitable(verdict):
            verdict = await verdict
        if not verdict:
            raise HTTPException(401)
        return request


def _root(request: Request) -> str:
    """Return the path that the application is mounted at, as a URL has it."""
    return quote(request.scope.get("root_path", ""))
