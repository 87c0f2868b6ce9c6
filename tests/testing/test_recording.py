"""A bus, and a store, that note what happened, for users' tests to look at."""

import asyncio
import re
import subprocess
import sys
from textwrap import dedent
from typing import Annotated

import pytest

from messagebus import AsyncMessageBus, Command, Event, MessageBus, Private, Registry, ReturnMessage
from messagebus.delivery import Retry
from messagebus.testing import RecordedBus, RecordedStore


class PlaceOrder(Command):
    order_id: str


class OrderPlaced(Event):
    order_id: str
    quantity: int = 1
    token: Annotated[str, Private] = "t"


class SendEmail(Command):
    text: str


class Confirmation(ReturnMessage):
    order_id: str


def place_order(command):
    yield OrderPlaced(order_id=command.order_id)
    yield Confirmation(order_id=command.order_id)


def thank(event):
    return [SendEmail(text=f"Thank you for {event.order_id}.")]


async def thank_later(event):
    yield SendEmail(text=f"Thank you for {event.order_id}.")


def send_email(command):
    raise ConnectionError("there is no mail server here")


def bus_with(base, *handlers):
    """Return a class of buses with a registry of its own."""

    class ShopBus(base):
        registry = Registry()

    for cls, handler in zip((PlaceOrder, OrderPlaced, SendEmail), handlers, strict=True):
        ShopBus.registry.register(cls, handler)
    return ShopBus


@pytest.fixture(params=["sync", "async"])
def bus(request):
    base, thanks = (MessageBus, thank) if request.param == "sync" else (AsyncMessageBus, thank_later)
    recorded = RecordedBus(bus_with(base, place_order, thanks, send_email))
    yield recorded
    recorded.close()


@pytest.fixture(params=["sync", "async"])
def store(request):
    base, thanks = (MessageBus, thank) if request.param == "sync" else (AsyncMessageBus, thank_later)
    recorded = RecordedStore(bus_with(base, place_order, thanks, send_email))
    yield recorded
    recorded.close()


def test_bus_notes_what_happens(bus):
    """What was dispatched, sent, returned and logged, each in its order."""
    bus.override(SendEmail, lambda _: None)

    results = bus.run(PlaceOrder(order_id="o-1"))

    placed, email = OrderPlaced(order_id="o-1"), SendEmail(text="Thank you for o-1.")
    assert [Confirmation(order_id="o-1")] == results == bus.returned
    assert [PlaceOrder(order_id="o-1"), placed, email] == bus.dispatched
    assert [placed, email] == bus.sent
    assert ["command.handled", "event.handled", "command.handled"] == [record["event"] for record in bus.logged]


def test_bus_runs_in_the_loop_of_a_test_too(bus):
    """An async test awaits it."""
    bus.override(SendEmail, lambda _: None)

    results = asyncio.run(bus.arun(PlaceOrder(order_id="o-1")))

    assert [Confirmation(order_id="o-1")] == results


def test_what_fails_is_raised_and_noted(bus):
    """As the application's own bus would, and what was sent before is seen."""
    with pytest.raises(ConnectionError):
        bus.run(PlaceOrder(order_id="o-1"))

    assert 3 == len(bus.dispatched)
    record = bus.assert_logged("message.failed", message_type="SendEmail")
    assert "ConnectionError" == record["failure"][0]["exc_type"]


def test_overrides_end_with_the_recording(bus):
    """The next test meets the application as it is."""
    bus.override(SendEmail, lambda _: None)
    bus.close()

    with pytest.raises(ConnectionError):
        bus.run(PlaceOrder(order_id="o-1"))


def test_overridden_methods_of_the_bus_are_kept():
    """A subclass is the configuration, also here."""
    attempts = []

    class Retrying(bus_with(MessageBus, place_order, thank, send_email)):
        def message_dispatcher(self, message):
            attempts.append(message)
            super().message_dispatcher(message)

        def handle_exception(self, exc, message):
            """Go on."""

    recorded = RecordedBus(Retrying)
    recorded.run(PlaceOrder(order_id="o-1"))

    assert attempts == recorded.dispatched
    assert 3 == len(attempts)


# What a test states


def test_what_was_sent_is_returned(bus):
    """For the test to look at the rest of it."""
    bus.override(SendEmail, lambda _: None)
    bus.run(PlaceOrder(order_id="o-1"))

    assert 1 == bus.assert_sent(OrderPlaced, order_id="o-1").quantity
    assert Confirmation(order_id="o-1") == bus.assert_returned(Confirmation)
    bus.assert_not_sent(OrderPlaced, order_id="o-2")
    bus.assert_not_sent(Confirmation)


def test_nearest_miss_is_shown(bus):
    """Field by field, of the message that differs least; nothing private, and what failed meanwhile."""
    for order_id in ("o-2", "o-1"):
        with pytest.raises(ConnectionError):
            bus.run(PlaceOrder(order_id=order_id))

    with pytest.raises(AssertionError) as caught:
        bus.assert_sent(OrderPlaced, order_id="o-1", quantity=2, token="canary")

    name = f"{__name__}.OrderPlaced"
    assert dedent(f"""\
        No {name}(order_id='o-1', quantity=2, token=**) was sent.
        The nearest of 2:
            quantity: 1, not 2
            token: '**********', not **
        Sent were: 2 {name}, 2 {__name__}.SendEmail.
        SendEmail failed: ConnectionError: there is no mail server here
        SendEmail failed: ConnectionError: there is no mail server here""") == str(caught.value)


def test_other_statements_that_are_wrong_say_so(bus):
    """Each in a line or two."""
    bus.override(SendEmail, lambda _: None)
    bus.run(PlaceOrder(order_id="o-1"))

    with pytest.raises(AssertionError, match=r"No .*Confirmation\(order_id='o-2'\) was returned"):
        bus.assert_returned(Confirmation, order_id="o-2")
    with pytest.raises(AssertionError, match=r"OrderPlaced\(\) was sent 1 times"):
        bus.assert_not_sent(OrderPlaced)
    with pytest.raises(AssertionError, match=r"(?s)No record 'command.handled' .*'message_type': 'SendEmail'"):
        bus.assert_logged("command.handled", message_type="Nobody")
    with pytest.raises(TypeError, match=re.escape("has no field 'orderid'. Did you mean 'order_id'?")):
        bus.assert_sent(OrderPlaced, orderid="o-1")


# The store


def test_store_notes_what_happens(store):
    """What a test sends is handled when it says so, and all of it is seen."""
    store.override(SendEmail, lambda _: None)
    store.send(PlaceOrder(order_id="o-1"))
    assert [] == store.dispatched

    results = store.run_until_idle()

    assert [Confirmation(order_id="o-1")] == results == store.returned
    assert [PlaceOrder, OrderPlaced, SendEmail] == [type(one) for one in store.sent]
    assert 3 == len(store.dispatched)
    assert 1 == store.assert_sent(OrderPlaced, order_id="o-1").quantity
    assert 2 == store.assert_logged("event.handled")["emitted"] + 1


def test_store_notes_what_was_committed_alone(store):
    """However it is sent; what was rolled back was not sent."""

    class Unknown(Command):
        """Of another application."""

    with store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="o-1"))
    with pytest.raises(LookupError), store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="ghost"))
        raise LookupError
    asyncio.run(store.asend(Unknown()))
    store.send_many([PlaceOrder(order_id="o-2")])

    assert ["o-1", "o-2"] == [one.order_id for one in store.sent]
    store.assert_not_sent(PlaceOrder, order_id="ghost")
    assert Unknown() == store.assert_sent(Unknown)


def test_time_passes_when_it_is_told_to(store):
    """Delays and retries wait for the clock, and nobody waits for them."""
    attempts = []

    def at_the_third_attempt(command):
        attempts.append(store.clock())
        if len(attempts) < 3:
            raise ConnectionError

    store.override(SendEmail, at_the_third_attempt)
    begun = store.clock()
    store.send(SendEmail(text="hello"), delay=60)

    store.run_until_idle()
    assert [] == attempts
    store.clock.advance(60)
    store.run_until_idle()
    assert [begun + 60] == attempts
    store.run_until_idle(within=3_600, retry=Retry(attempts=3))

    assert 3 == len(attempts)
    assert attempts == sorted(set(attempts))
    assert [] == store.dead()


def test_time_passes_no_further_than_it_may(store):
    """What is due after that is left, and the clock stands still."""
    store.override(SendEmail, lambda _: None)
    begun = store.clock()
    store.send(SendEmail(text="hello"), delay=60)

    store.run_until_idle(within=59)

    assert ([], begun) == (store.dispatched, store.clock())


# Fixtures


def test_fixtures_are_there_for_users(tmp_path):
    """One line in a conftest; the application's bus is a fixture of theirs."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["messagebus.testing"]\n')
    (tmp_path / "test_shop.py").write_text(
        dedent("""
            import pytest
            from messagebus import Command, Event, MessageBus, Registry

            class PlaceOrder(Command): ...
            class OrderPlaced(Event): ...

            class ShopBus(MessageBus):
                registry = Registry()

            ShopBus.registry.register(PlaceOrder, lambda _: OrderPlaced())

            def note(event): ...

            ShopBus.registry.register(OrderPlaced, note)

            @pytest.fixture
            def bus_class():
                return ShopBus

            def test_bus(recorded_bus):
                recorded_bus.run(PlaceOrder())
                recorded_bus.assert_sent(OrderPlaced)
                recorded_bus.override(PlaceOrder, lambda _: None)

            def test_store(memory_store):
                memory_store.send(PlaceOrder())
                memory_store.run_until_idle()
                memory_store.assert_sent(OrderPlaced)
        """)
    )

    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (0, "2 passed") == (done.returncode, done.stdout.splitlines()[-1][:8]), done.stdout
