"""The handlers: each loads what it needs, lets the model decide, and returns what has happened.

What a handler needs beside its message stands first, and is bound by `bootstrap`.
"""

from examples.allocation.mail import Mail
from examples.allocation.messages import Allocate, ChangeBatchQuantity, CreateBatch, Deallocated, OutOfStock
from examples.allocation.model import Batch, OrderLine
from examples.allocation.products import UnitOfWork
from messagebus import Event

__all__ = ["allocate", "change_batch_quantity", "create_batch", "reallocate", "report_shortage"]


def create_batch(unit_of_work: UnitOfWork, command: CreateBatch) -> None:
    with unit_of_work() as products:
        batch = Batch(command.reference, command.sku, command.quantity, command.eta)
        products.get_or_new(command.sku).add(batch)


def allocate(unit_of_work: UnitOfWork, command: Allocate) -> list[Event]:
    with unit_of_work() as products:
        line = OrderLine(command.order_id, command.sku, command.quantity)
        products.get(command.sku).allocate(line)
    return products.events


def change_batch_quantity(unit_of_work: UnitOfWork, command: ChangeBatchQuantity) -> list[Event]:
    with unit_of_work() as products:
        products.of_batch(command.reference).change_quantity(command.reference, command.quantity)
    return products.events


def reallocate(event: Deallocated) -> Allocate:
    return Allocate(order_id=event.order_id, sku=event.sku, quantity=event.quantity)


def report_shortage(mail: Mail, event: OutOfStock) -> None:
    mail.send("buyers@example.com", f"{event.sku} is out of stock, and {event.order_id} waits for it.")
