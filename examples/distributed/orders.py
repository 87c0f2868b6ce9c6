"""The service for orders: `messagebus work examples.distributed.orders --from URL --inbox STORE --group orders`."""

from collections.abc import Iterator

from examples.distributed.messages import Confirmation, InvoiceSent, OrderPlaced, PlaceOrder
from messagebus import Message, Registry
from messagebus.delivery import Transaction, current_transaction

registry = Registry()


def create_tables(transaction: Transaction) -> None:
    transaction.execute("CREATE TABLE customer_order (order_id TEXT PRIMARY KEY, cents INTEGER, is_billed INTEGER)")


@registry.handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Iterator[Message]:
    """The row, the event, and the note that the command is done are one transaction of the inbox."""
    current_transaction().execute("INSERT INTO customer_order VALUES (:order_id, :cents, 0)", command.model_dump())
    yield OrderPlaced(order_id=command.order_id, cents=command.cents)
    yield Confirmation(order_id=command.order_id)


@registry.handles(InvoiceSent)
def mark_as_billed(event: InvoiceSent) -> None:
    update = "UPDATE customer_order SET is_billed = is_billed + 1 WHERE order_id = :order_id"
    current_transaction().execute(update, event.model_dump())
