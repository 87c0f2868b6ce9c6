"""What a type checker knows of buses and their overrides, with exactly the documented signatures. Checked, not run."""
# pyright: reportUnnecessaryTypeIgnoreComment=error

from typing import Any, assert_type

from messagebus import (
    AsyncMessageBus,
    Command,
    Envelope,
    Event,
    Message,
    MessageBus,
    Registry,
    ReturnMessage,
    ahandle_json,
    ahandle_message,
    current_envelope,
    handle_json,
    handle_message,
    to_json,
)


class PlaceOrder(Command):
    order_id: str


class OrderPlaced(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


registry = Registry(strict=True)
command = PlaceOrder(order_id="o-1")

# What comes back.

assert_type(handle_message(command), list[ReturnMessage])
assert_type(handle_message(OrderPlaced(order_id="o-1"), registry=registry), list[ReturnMessage])
assert_type(handle_message(Confirmation(order_id="o-1")), list[ReturnMessage])
assert_type(MessageBus(command)(), list[ReturnMessage])
assert_type(MessageBus(command).pending, list[Message])
assert_type(MessageBus(command).return_messages, list[ReturnMessage])
assert_type(handle_json(b"{}"), bytes)
assert_type(handle_json("{}", max_bytes=10, registry=registry), bytes)
assert_type(to_json(command), bytes)
assert_type(to_json([command, command]), bytes)
assert_type(registry.validate({"type": "PlaceOrder", "data": {}}), Message)
assert_type(registry.validate_json(b"{}"), Message)
assert_type(registry.check(), list[str])
assert_type(current_envelope(), Envelope)
assert_type(current_envelope().message, Message)
assert_type(current_envelope().id, str)
assert_type(current_envelope().causation_id, str | None)


async def run() -> None:
    assert_type(await ahandle_message(command), list[ReturnMessage])
    assert_type(await AsyncMessageBus(command)(), list[ReturnMessage])
    assert_type(await ahandle_json(b"{}"), bytes)


# What may be asked for.

MessageBus(command, log_level="debug", error_log_level="info", registry=registry, logger=None)
MessageBus(command, log_level="disabled", error_log_level="disabled")
AsyncMessageBus(command, log_level="info", error_log_level="warning", registry=registry, logger=None)
handle_message(command, log_level="debug", error_log_level="warning", registry=registry, logger=None)

MessageBus(command, log_level="warn")  # type: ignore[arg-type]
MessageBus(command, log_level="error")  # type: ignore[arg-type]
MessageBus(command, error_log_level="debug")  # type: ignore[arg-type]
handle_message(command, error_log_level="info")  # type: ignore[arg-type]
MessageBus(command, "debug")  # type: ignore[call-arg]
MessageBus({"order_id": "o-1"})  # type: ignore[arg-type]
MessageBus(PlaceOrder)  # type: ignore[arg-type]
handle_message("PlaceOrder")  # type: ignore[arg-type]
handle_json({"type": "PlaceOrder"})  # type: ignore[arg-type]


# A subclass with the documented signatures is a bus.


class Bus(MessageBus):
    registry = registry
    max_messages = 1_000

    def message_dispatcher(self, message: Message) -> None:
        self.dispatch_message(message)

    def handle_exception(self, exc: Exception, message: Message) -> None:
        super().handle_exception(exc, message)

    def log_activity(self, *args: Any) -> None:
        super().log_activity(*args)

    def log_error(self, msg: str, exc: Exception | None = None, **kwargs: Any) -> None:
        super().log_error(msg, exc, **kwargs)


class AsyncBus(AsyncMessageBus):
    registry = registry
    max_messages = 1_000
    concurrent = True

    async def message_dispatcher(self, message: Message) -> None:
        await self.dispatch_message(message)

    async def handle_exception(self, exc: Exception, message: Message) -> None:
        await super().handle_exception(exc, message)

    def log_activity(self, *args: Any) -> None:
        super().log_activity(*args)

    def log_error(self, msg: str, exc: Exception | None = None, **kwargs: Any) -> None:
        super().log_error(msg, exc, **kwargs)


assert_type(Bus(command, log_level="debug")(), list[ReturnMessage])


class Final(MessageBus):
    def dispatch_message(self, message: Message) -> None:  # type: ignore[misc]
        """Override what must not be overridden."""


class AsyncFinal(AsyncMessageBus):
    async def dispatch_message(self, message: Message) -> None:  # type: ignore[misc]
        """Override what must not be overridden."""


class Mixed(AsyncMessageBus):
    def message_dispatcher(self, message: Message) -> None:  # type: ignore[override]
        """Override an async method by a plain one."""


class Narrow(MessageBus):
    def handle_exception(self, exc: ValueError, message: Message) -> None:  # type: ignore[override]
        """Take less than the bus passes."""
