"""The shop: its messages and what handles them. Nothing in it knows of HTTP."""

from pydantic import PositiveInt

from messagebus import Command, Event, Registry, ReturnMessage

PRICE = 9

registry = Registry()


class PlaceOrder(Command):
    """Buys so many pieces."""

    order_id: str
    quantity: PositiveInt = 1


class SendInvoice(Command):
    order_id: str


class InvoiceWritten(Event):
    number: str


class Confirmation(ReturnMessage):
    order_id: str
    total: int


class Invoice(ReturnMessage):
    number: str


@registry.handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Confirmation:
    return Confirmation(order_id=command.order_id, total=command.quantity * PRICE)


@registry.handles(SendInvoice)
def send_invoice(command: SendInvoice) -> InvoiceWritten:
    return InvoiceWritten(number=f"INV-{command.order_id}")


@registry.handles(InvoiceWritten)
async def deliver_invoice(event: InvoiceWritten) -> Invoice:
    return Invoice(number=event.number)
