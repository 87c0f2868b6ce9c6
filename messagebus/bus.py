"""The bus: a sync and an async driver of one order rule, and the functions that run a message in one call."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Container, Iterator, Sequence
from inspect import isawaitable
from itertools import islice
from typing import Any, Literal, final

from messagebus import logs
from messagebus.dispatch import IN_TURN, Delivery, Initial, Run
from messagebus.errors import full_name
from messagebus.messages import Message, ReturnMessage, to_json
from messagebus.registry import DEFAULT_REGISTRY, MAX_BYTES, Handler, Registry

__all__ = ["AsyncMessageBus", "MessageBus", "ahandle_json", "ahandle_message", "handle_json", "handle_message"]


def _left(handlers: Sequence[Handler], failures: Container[Handler], finished: Handler | None) -> list[Handler]:
    """Return what is to run again after an interruption: what has failed, and all behind the last that finished."""
    begun = 0 if finished is None else handlers.index(finished) + 1
    return [*(handler for handler in handlers[:begun] if handler in failures), *handlers[begun:]]


def _one(failures: list[Exception], message: Message) -> Exception:
    """Return the one failure as it is, or all of them as a group."""
    if len(failures) == 1:
        return failures[0]
    return ExceptionGroup(f"{len(failures)} handlers of {full_name(type(message))} failed", failures)


class MessageBus(Run):
    """One run on the calling thread: ``MessageBus(message)()``.

    A subclass is the configuration (``registry``, ``max_messages``, overridden methods); an instance is one run, which
    sees the registry as it was when the instance was made. Runs are independent: any number, in any threads.

    Source: *Architecture Patterns with Python*, ch. 8 and 9.
    """

    def __call__(self) -> list[ReturnMessage]:
        """Dispatch the message and everything it leads to; after a failure, go on with what is ``pending``.

        Returns:
            The ``return_messages``: all of them, equal ones too, in the order in which they were returned.

        Raises:
            Exception: What a handler raised, as it is; an ExceptionGroup if several handlers of an event failed.
            CascadeLimitError: If this call led to more than ``max_messages`` messages.
        """
        turns = self._turns()
        try:
            for delivery in turns:
                if delivery.stage == IN_TURN:
                    try:
                        self.message_dispatcher(delivery.message)
                    except Exception as exc:  # noqa: BLE001 - handle_exception decides, in a moment
                        delivery.failure = exc
                elif delivery.failure is not None:
                    self._decide(delivery, delivery.failure)
                else:
                    self._log_message(delivery)
        except BaseException:
            turns.close()
            raise
        return self.return_messages

    def _decide(self, delivery: Delivery, failure: Exception) -> None:
        try:
            try:
                raise failure  # So that an override may say `raise`, and that what it raises has this as its context.
            except Exception as exc:  # noqa: BLE001 - the same again
                self.handle_exception(exc, delivery.message)
        except Exception:
            raise
        except BaseException:
            self._put_back(delivery)
            raise

    def message_dispatcher(self, message: Message) -> None:
        """Dispatch one message; override it to retry around ``self.dispatch_message(message)``."""
        self.dispatch_message(message)

    @final
    def dispatch_message(self, message: Message) -> None:  # noqa: C901 - the hot loop; a call more would cost as much
        """Call the handlers of the message in hand; called again, those of them that have not succeeded.

        Raises:
            Exception: What a handler raised, when all have run; an ExceptionGroup if several failed.
        """
        delivery = self._in_hand
        if (
            delivery is None
            or delivery.message is not message
            or delivery.stage != IN_TURN
            or not delivery.plan.is_plain
        ):
            delivery = self._check(message, takes_async=False)
        delivery.attempt += 1
        handlers, is_verbose = delivery.left, self._is_verbose
        finished: Handler | None = None
        failures: dict[Handler, Exception] = {}
        try:
            for handler in handlers:
                try:
                    result = handler.function(message)
                    if result is not None:
                        self._release(delivery, handler, result)
                except Exception as exc:  # noqa: BLE001 - its siblings run all the same, and then it is raised
                    failures[handler] = self._failure(delivery, handler, exc)
                else:
                    finished = handler
                    if is_verbose:
                        self._log_handler(delivery, handler, logs.HANDLER_FINISHED)
        except BaseException:
            delivery.left = _left(handlers, failures, finished)
            raise
        delivery.left = ()
        if failures:
            delivery.left = [*failures]
            raise _one([*failures.values()], message)

    def handle_exception(self, exc: Exception, message: Message) -> None:  # noqa: ARG002 - overrides need it
        """Decide about a message that failed. The default logs and raises; if an override returns, the run goes on."""
        self._log_failure(exc)
        raise exc


class AsyncMessageBus(Run):
    """One run on the event loop: ``await AsyncMessageBus(message)()``; in all else as `MessageBus`.

    Takes ``async def`` handlers and plain ones. The handlers of an event run one after another; with
    ``concurrent = True`` in a subclass at the same time, their follow-ups still in the order of registration.
    """

    concurrent = False

    async def __call__(self) -> list[ReturnMessage]:
        """Dispatch the message and everything it leads to; see `MessageBus.__call__`."""
        turns = self._turns()
        try:
            for delivery in turns:
                if delivery.stage == IN_TURN:
                    try:
                        await self.message_dispatcher(delivery.message)
                    except Exception as exc:  # noqa: BLE001 - handle_exception decides, in a moment
                        delivery.failure = exc
                elif delivery.failure is not None:
                    await self._decide(delivery, delivery.failure)
                else:
                    self._log_message(delivery)
        except BaseException:
            turns.close()
            raise
        return self.return_messages

    async def _decide(self, delivery: Delivery, failure: Exception) -> None:
        try:
            try:
                raise failure  # So that an override may say `raise`, and that what it raises has this as its context.
            except Exception as exc:  # noqa: BLE001 - the same again
                await self.handle_exception(exc, delivery.message)
        except Exception:
            raise
        except BaseException:
            self._put_back(delivery)
            raise

    async def message_dispatcher(self, message: Message) -> None:
        """Dispatch one message; override it to retry around ``await self.dispatch_message(message)``."""
        await self.dispatch_message(message)

    @final
    async def dispatch_message(self, message: Message) -> None:  # noqa: C901 - as in MessageBus
        """Call the handlers of the message in hand; called again, those of them that have not succeeded.

        Raises:
            Exception: What a handler raised, when all have run; an ExceptionGroup if several failed.
        """
        delivery = self._in_hand
        if (
            delivery is None
            or delivery.message is not message
            or delivery.stage != IN_TURN
            or not delivery.plan.is_plain
        ):
            delivery = self._check(message, takes_async=True)
        delivery.attempt += 1
        tasks = await self._together(delivery) if self.concurrent and len(delivery.left) > 1 else {}
        handlers, is_verbose = delivery.left, self._is_verbose
        finished: Handler | None = None
        failures: dict[Handler, Exception] = {}
        try:
            for handler in handlers:
                try:
                    result = await (tasks.get(handler) or self._start(handler, message))
                    if result is not None:
                        self._release(delivery, handler, result)
                except Exception as exc:  # noqa: BLE001 - its siblings run all the same, and then it is raised
                    failures[handler] = self._failure(delivery, handler, exc)
                else:
                    finished = handler
                    if is_verbose:
                        self._log_handler(delivery, handler, logs.HANDLER_FINISHED)
        except BaseException:
            delivery.left = _left(handlers, failures, finished)
            raise
        delivery.left = ()
        if failures:
            delivery.left = [*failures]
            raise _one([*failures.values()], message)

    def _start(self, handler: Handler, message: Message) -> Awaitable[object]:
        return handler.function(message) if handler.is_coroutine else self._call(handler, message)

    async def _call(self, handler: Handler, message: Message) -> object:
        """Call a handler of any kind; return what it returned, with nothing left to wait for."""
        if handler.is_blocking:
            return await asyncio.to_thread(_call_blocking, handler, message, self.max_messages + 1)
        result = handler.function(message)
        if result is None or type(result) in self._snapshot:
            return result
        if isinstance(result, AsyncIterable):
            return await _collect(result, self.max_messages + 1)
        result = await result if isawaitable(result) else result
        # Here, and not where its messages are released: what a generator raises ends this handler alone.
        return list(islice(result, self.max_messages + 1)) if isinstance(result, Iterator) else result

    async def _together(self, delivery: Delivery) -> dict[Handler, asyncio.Task[object]]:
        """Run the handlers at the same time; return when all have ended, also if this is cancelled meanwhile."""
        tasks = {handler: asyncio.create_task(self._call(handler, delivery.message)) for handler in delivery.left}
        interruption: BaseException | None = None
        left = set(tasks.values())
        while left:
            try:
                _, left = await asyncio.wait(left)
            except asyncio.CancelledError as cancellation:
                interruption = cancellation
                for task in left:
                    task.cancel()
        ends = {handler: _end_of(task) for handler, task in tasks.items()}
        passing = [end for end in ends.values() if end is not None and not isinstance(end, Exception)]
        if interruption is None and not passing:
            return tasks
        self._keep(delivery, {handler: tasks[handler] for handler, end in ends.items() if end not in passing})
        raise interruption or passing[0]

    def _keep(self, delivery: Delivery, ended: dict[Handler, asyncio.Task[object]]) -> None:
        """Release what handlers returned beside one that was interrupted; what failed runs again with that."""
        for handler, task in ended.items():
            try:
                if task.result() is not None:
                    self._release(delivery, handler, task.result())
            except Exception as exc:  # noqa: BLE001 - it is raised, or not, when the run goes on
                self._failure(delivery, handler, exc)
            else:
                delivery.left = [other for other in delivery.left if other is not handler]
                if self._is_verbose:
                    self._log_handler(delivery, handler, logs.HANDLER_FINISHED)

    async def handle_exception(self, exc: Exception, message: Message) -> None:  # noqa: ARG002 - overrides need it
        """Decide about a message that failed. The default logs and raises; if an override returns, the run goes on."""
        self._log_failure(exc)
        raise exc


def _end_of(task: asyncio.Task[object]) -> BaseException | None:
    """Return what a finished task raised."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _call_blocking(handler: Handler, message: Message, limit: int) -> object:
    try:
        result = handler.function(message)
        return list(islice(result, limit)) if isinstance(result, Iterator) else result
    except StopIteration as error:
        raise RuntimeError("a handler raised StopIteration") from error  # A future cannot hold it.


async def _collect(source: AsyncIterable[object], limit: int) -> list[object]:
    items: list[object] = []
    iterator = aiter(source)
    try:
        async for item in iterator:
            items.append(item)
            if len(items) >= limit:
                break
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
    return items


# In one call. A bus is made without calling its class, which would pack and unpack the arguments once more.

_new = object.__new__
QuietErrorLogLevel = Literal["warning", "error", "disabled"]


def handle_message(
    message: Initial,
    *,
    log_level: logs.LogLevel = "disabled",
    error_log_level: QuietErrorLogLevel = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> list[ReturnMessage]:
    """Run ``message`` and everything it leads to, and return the return messages; see `MessageBus`."""
    bus = _new(MessageBus)
    bus._prepare(message, log_level, error_log_level, registry, logger)
    return MessageBus.__call__(bus)


async def ahandle_message(
    message: Initial,
    *,
    log_level: logs.LogLevel = "disabled",
    error_log_level: QuietErrorLogLevel = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> list[ReturnMessage]:
    """Run ``message`` and everything it leads to, and return the return messages; see `AsyncMessageBus`."""
    bus = _new(AsyncMessageBus)
    bus._prepare(message, log_level, error_log_level, registry, logger)
    return await AsyncMessageBus.__call__(bus)


def handle_json(
    payload: bytes | str,
    *,
    max_bytes: int = MAX_BYTES,
    log_level: logs.LogLevel = "disabled",
    error_log_level: QuietErrorLogLevel = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> bytes:
    """Validate a payload into a message, run it, and write the return messages as a JSON array.

    Raises:
        InvalidMessageError: If the payload fits no registered class, or a return message has no JSON.
        Exception: What a handler raised.
    """
    message, envelope = (registry or DEFAULT_REGISTRY).read_json(payload, max_bytes=max_bytes)
    bus = _new(MessageBus)
    bus._prepare(message, log_level, error_log_level, registry, logger, envelope)
    return to_json(MessageBus.__call__(bus))


async def ahandle_json(
    payload: bytes | str,
    *,
    max_bytes: int = MAX_BYTES,
    log_level: logs.LogLevel = "disabled",
    error_log_level: QuietErrorLogLevel = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> bytes:
    """Do as `handle_json`, with an `AsyncMessageBus`."""
    message, envelope = (registry or DEFAULT_REGISTRY).read_json(payload, max_bytes=max_bytes)
    bus = _new(AsyncMessageBus)
    bus._prepare(message, log_level, error_log_level, registry, logger, envelope)
    return to_json(await AsyncMessageBus.__call__(bus))
