"""Drives bus-ride: attrs classes, logs disabled as by default in ``handle_message``."""

from collections import deque
from functools import partial
from typing import Any

from attrs import define, field
from attrs.validators import gt
from bus_ride import Command, Event, Handler, Receiver, ReturnMessage, handle_message


@define
class PlaceOrder(Command):
    order_id: str
    quantity: int = field(validator=gt(0))
    unit_price: float


@define(frozen=True)
class Confirmation(ReturnMessage):
    quantity: int
    total: float


@define
class PlaceOrderReceiver(Receiver):
    handles_command_cls = PlaceOrder
    command: PlaceOrder

    def execute_command(self) -> list[Any]:
        command = self.command
        total = command.quantity * command.unit_price
        return [Confirmation(data=command.order_id, quantity=command.quantity, total=total)]


@define
class OrderPlaced(Event):
    order_id: str


seen: deque[OrderPlaced] = deque(maxlen=3)


class SendMail(Handler):
    handles_events = [OrderPlaced]

    def handle_event(self) -> list[Any]:
        seen.append(self.event)
        return []


class ReserveStock(Handler):
    handles_events = [OrderPlaced]

    def handle_event(self) -> list[Any]:
        seen.append(self.event)
        return []


class CountSales(Handler):
    handles_events = [OrderPlaced]

    def handle_event(self) -> list[Any]:
        seen.append(self.event)
        return []


command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = partial(OrderPlaced, order_id="o-1")
send = publish = handle_message


def handle(message: PlaceOrder) -> list[Any]:
    return PlaceOrderReceiver(message).execute_command()


def total(outcome: list[Confirmation]) -> float:
    return outcome[0].total
