"""What the services say to one another: all that they have in common."""

from messagebus import Command, Event, ReturnMessage


class PlaceOrder(Command, name="orders.place_order"):
    order_id: str
    cents: int


class Confirmation(ReturnMessage, name="orders.confirmation"):
    order_id: str


class OrderPlaced(Event, name="orders.order_placed"):
    order_id: str
    cents: int


class InvoiceSent(Event, name="billing.invoice_sent"):
    order_id: str
