"""The service for billing: `messagebus work examples.distributed.billing --from URL --inbox STORE --group billing`."""

from examples.distributed.messages import InvoiceSent, OrderPlaced
from messagebus import Registry
from messagebus.delivery import Transaction, current_transaction

registry = Registry()


def create_tables(transaction: Transaction) -> None:
    transaction.execute("CREATE TABLE revenue (cents INTEGER, invoices INTEGER)")
    transaction.execute("INSERT INTO revenue VALUES (0, 0)")


@registry.handles(OrderPlaced)
def send_invoice(event: OrderPlaced) -> InvoiceSent:
    """Add to a number: if it were done twice for one order, this would tell."""
    add = "UPDATE revenue SET cents = cents + :cents, invoices = invoices + 1"
    current_transaction().execute(add, {"cents": event.cents})
    return InvoiceSent(order_id=event.order_id)
