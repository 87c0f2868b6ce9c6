"""How to test an application: a strict registry, `check()`, fakes by `override`, and a bus that takes notes.

Run it as it is, or with pytest: `pytest examples/08_testing_your_application.py`.

Output::

    passed: every command and event has a handler
    passed: handler alone is a function
    passed: order is confirmed
    passed: customer is thanked
    passed: order leads to an email
"""

from collections.abc import Iterator

from messagebus import Command, Event, Message, MessageBus, Registry, ReturnMessage, handle_message

# The application. A strict registry refuses events that nobody handles, too.

registry = Registry(strict=True)


class PlaceOrder(Command):
    order_id: str


class OrderPlaced(Event):
    order_id: str


class SendEmail(Command):
    text: str


class Confirmation(ReturnMessage):
    order_id: str


@registry.handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Iterator[Message]:
    yield OrderPlaced(order_id=command.order_id)
    yield Confirmation(order_id=command.order_id)


@registry.handles(OrderPlaced)
def thank_customer(event: OrderPlaced) -> SendEmail:
    return SendEmail(text=f"Thank you for {event.order_id}.")


@registry.handles(SendEmail)
def send_email(command: SendEmail) -> None:
    raise ConnectionError("There is no mail server where tests run.")


# Its tests.


class Recorder(MessageBus):
    """A bus that notes what it dispatches."""

    registry = registry

    def __init__(self, message: Command | Event) -> None:
        super().__init__(message, log_level="disabled", error_log_level="disabled")
        self.dispatched: list[Message] = []

    def message_dispatcher(self, message: Message) -> None:
        self.dispatched.append(message)
        super().message_dispatcher(message)


def test_every_command_and_event_has_a_handler() -> None:
    assert registry.check() == []


def test_handler_alone_is_a_function() -> None:
    follow_ups = list(place_order(PlaceOrder(order_id="o-1")))

    assert follow_ups == [OrderPlaced(order_id="o-1"), Confirmation(order_id="o-1")]


def test_order_is_confirmed() -> None:
    with registry.override(SendEmail, lambda _command: None):
        results = handle_message(PlaceOrder(order_id="o-1"), registry=registry)

    assert results == [Confirmation(order_id="o-1")]


def test_customer_is_thanked() -> None:
    sent: list[SendEmail] = []

    with registry.override(SendEmail, sent.append):
        handle_message(PlaceOrder(order_id="o-1"), registry=registry)

    assert sent == [SendEmail(text="Thank you for o-1.")]


def test_order_leads_to_an_email() -> None:
    with registry.override(SendEmail, lambda _command: None):
        bus = Recorder(PlaceOrder(order_id="o-1"))
        bus()

    assert bus.dispatched == [
        PlaceOrder(order_id="o-1"),
        OrderPlaced(order_id="o-1"),
        SendEmail(text="Thank you for o-1."),
    ]


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("passed:", name.removeprefix("test_").replace("_", " "))
