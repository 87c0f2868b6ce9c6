"""How to test an application: a strict registry, `check()`, fakes by `override`, and what takes notes.

`messagebus.testing` needs pytest. In a conftest, ``pytest_plugins = ["messagebus.testing"]`` makes fixtures of the bus
and the store below: `recorded_bus` and `memory_store`.

Run it as it is, or with pytest: `pytest examples/08_testing_your_application.py`.

Output::

    passed: every command and event has a handler
    passed: handler alone is a function
    passed: order is confirmed
    passed: customer is thanked
    passed: order leads to an email
    passed: email is sent once however often its message comes
"""

from collections.abc import Iterator

from messagebus import Command, Event, Message, MessageBus, Registry, ReturnMessage, handle_message
from messagebus.testing import RecordedBus, RecordedStore, assert_idempotent

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


class ShopBus(MessageBus):
    registry = registry


# Its tests.


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
    bus = RecordedBus(ShopBus)
    bus.override(SendEmail, lambda _command: None)

    bus.run(PlaceOrder(order_id="o-1"))

    bus.assert_sent(OrderPlaced, order_id="o-1")
    bus.assert_sent(SendEmail, text="Thank you for o-1.")
    bus.close()


def test_email_is_sent_once_however_often_its_message_comes() -> None:
    def scenario(store: RecordedStore) -> list[str]:
        outbox: dict[str, str] = {}
        store.override(SendEmail, lambda command: outbox.setdefault(command.text, command.text))
        store.send(PlaceOrder(order_id="o-1"))
        store.run_until_idle()
        return [*outbox]

    assert_idempotent(scenario, bus=ShopBus)  # Each handler gets each of its messages twice.


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("passed:", name.removeprefix("test_").replace("_", " "))
