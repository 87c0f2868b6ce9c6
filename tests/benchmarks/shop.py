"""The messages and handlers that are measured: an everyday order, the smallest command, an event, a cascade."""

from collections import deque

from pydantic import BaseModel, ConfigDict, PositiveInt

from messagebus import Command, Event, ReturnMessage, handles


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt
    unit_price: float


class Confirmation(ReturnMessage):
    order_id: str
    quantity: int
    total: float


class PlainOrder(BaseModel):
    """`PlaceOrder` without the bus: the same fields, as strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    order_id: str
    quantity: PositiveInt
    unit_price: float


@handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Confirmation:
    total = command.quantity * command.unit_price
    return Confirmation(order_id=command.order_id, quantity=command.quantity, total=total)


class Ask(Command):
    number: int


class Answer(ReturnMessage):
    number: int


@handles(Ask)
def answer(command: Ask) -> Answer:
    return Answer(number=command.number)


class AskLater(Command):
    """As `PlaceOrder`, for a handler that is awaited."""

    order_id: str
    quantity: PositiveInt
    unit_price: float


@handles(AskLater)
async def answer_later(command: AskLater) -> Confirmation:
    total = command.quantity * command.unit_price
    return Confirmation(order_id=command.order_id, quantity=command.quantity, total=total)


class OrderPlaced(Event):
    order_id: str


seen: deque[OrderPlaced] = deque(maxlen=3)


@handles(OrderPlaced)
def send_mail(event: OrderPlaced) -> None:
    seen.append(event)


@handles(OrderPlaced)
def reserve_stock(event: OrderPlaced) -> None:
    seen.append(event)


@handles(OrderPlaced)
def count_sales(event: OrderPlaced) -> None:
    seen.append(event)


class Step(Event):
    """Leads to ``left`` more of its kind, one after another."""

    left: int


@handles(Step)
def go_on(event: Step) -> Step | None:
    return Step(left=event.left - 1) if event.left else None


ORDER = PlaceOrder(order_id="o-1", quantity=2, unit_price=9.5)
QUESTION = Ask(number=1)
LATER = AskLater(order_id="o-1", quantity=2, unit_price=9.5)
PLACED = OrderPlaced(order_id="o-1")
