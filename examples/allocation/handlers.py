"""The handlers: each loads what it needs, lets the model decide, and returns what has happened.

What a handler needs beside its message stands first, and is bound by `bootstrap`.
"""

from examples.allocation.mail import Mail
from examples.allocation.messages import Allocate, ChangeBatchQuantity, CreateBatch, Deallocated, OutOfStock
from examples.allocation.model import Batch, OrderLine
from examples.allocation.products import UnitsOfWork
from messagebus import Command, Event

__all__ = ["allocate", "change_batch_quantity", "create_batch", "reallocate", "report_shortage"]


def create_batch(unit_of_work: UnitsOfWork, command: CreateBatch) -> None:
    with unit_of_work() as work:
        batch = Batch(command.reference, command.sku, command.quantity, command.eta)
        work.products.get_or_new(command.sku).add(batch)
        work.commit()


def allocate(unit_of_work: UnitsOfWork, command: Allocate) -> list[Command | Event]:
    with unit_of_work() as work:
        line = OrderLine(command.order_id, command.sku, command.quantity)
        work.products.get(command.sku).allocate(line)
        work.commit()
    return work.events


def change_batch_quantity(unit_of_work: UnitsOfWork, command: ChangeBatchQuantity) -> list[Command | Event]:
    with unit_of_work() as work:
        work.products.of_batch(command.reference).change_quantity(command.reference, command.quantity)
        work.commit()
    return work.events


def reallocate(event: Deallocated) -> Allocate:
    return Allocate(order_id=event.order_id, sku=event.sku, quantity=event.quantity)


def report_shortage(mail: Mail, event: OutOfStock) -> None:
    mail.send("buyers@example.com", f"{event.sku} is out of stock, and {event.order_id} waits for it.")
