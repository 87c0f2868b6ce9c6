"""Tests are run again with messages delivered twice and in other orders, and name who does not bear it."""

import pytest

from messagebus import AsyncMessageBus, Command, Event, MessageBus, Registry
from messagebus.delivery import current_transaction
from messagebus.testing import assert_any_order, assert_idempotent


class Place(Command):
    order_id: str


class Placed(Event):
    order_id: str


class Cancel(Command):
    order_id: str


def place(command):
    return Placed(order_id=command.order_id)


@pytest.fixture
def bus():
    class Bus(MessageBus):
        registry = Registry()

    Bus.registry.register(Place, place)
    return Bus


def scenario_of(bus, make, **options):
    """Return a scenario of three orders, whose outcome is what the handlers have in common."""

    def scenario(store):
        common = make()
        with bus.registry.override(Placed, *common.handlers):
            for order_id in ("1", "2", "3"):
                store.send(Place(order_id=order_id), **options)
            store.run_until_idle()
        return common.outcome

    return scenario


class Counting:
    """Counts pieces in one handler, and keeps names in the other."""

    def __init__(self):
        self.outcome = {"count": 0, "names": set()}
        self.handlers = [self.keep, self.count]

    def keep(self, event):
        self.outcome["names"].add(event.order_id)

    def count(self, event):
        self.outcome["count"] += 1


class Keeping(Counting):
    """Bears anything."""

    def __init__(self):
        super().__init__()
        self.handlers = [self.keep]


class Listing(Counting):
    """Bears everything but another order."""

    def __init__(self):
        self.outcome = []
        self.handlers = [self.keep]

    def keep(self, event):
        if event.order_id not in self.outcome:
            self.outcome.append(event.order_id)


def test_handler_that_is_not_idempotent_is_named(bus):
    """And its innocent sibling is not."""
    with pytest.raises(AssertionError) as caught:
        assert_idempotent(scenario_of(bus, Counting), bus=bus)

    text = str(caught.value)
    assert text.startswith(f"{__name__}.Counting.count (")
    assert "is not idempotent: when it gets each message twice, the outcome is {'count': 6" in text


def test_handlers_that_bear_it_pass(bus):
    """Each was tried."""
    assert_idempotent(scenario_of(bus, Keeping), bus=bus)
    assert_idempotent(scenario_of(bus, Listing), bus=bus)
    assert_any_order(scenario_of(bus, Keeping), bus=bus)


def test_generator_is_run_to_its_end_the_first_time(bus):
    """A crash comes after a handler has run, and not before."""

    class Yielding(Counting):
        def __init__(self):
            super().__init__()
            self.handlers = [self.count_and_go_on]

        def count_and_go_on(self, event):
            yield from ()
            self.outcome["count"] += 1

    with pytest.raises(AssertionError, match="count_and_go_on"):
        assert_idempotent(scenario_of(bus, Yielding), bus=bus)


def test_what_is_written_through_the_transaction_happens_once(bus):
    """The worker undoes it, as it would; and what was sent in vain is not sent."""

    def count(event):
        current_transaction().execute("UPDATE counter SET value = value + 1")

    def scenario(store):
        with store.transaction() as transaction:
            transaction.execute("CREATE TABLE counter AS SELECT 0 AS value")
        with bus.registry.override(Placed, count):
            store.send(Place(order_id="1"))
            store.run_until_idle()
        with store.transaction() as transaction:
            return transaction.execute("SELECT value FROM counter"), len(store.sent)

    assert_idempotent(scenario, bus=bus)


def test_async_handlers_are_tried_too():
    """On the bus that they need."""
    counted = []

    class Bus(AsyncMessageBus):
        registry = Registry()

    @Bus.registry.handles(Place)
    async def count(command):
        counted.append(command)

    def scenario(store):
        counted.clear()
        store.send(Place(order_id="1"))
        store.run_until_idle()
        return len(counted)

    with pytest.raises(AssertionError, match=r"count \(.* the outcome is 2, not 1"):
        assert_idempotent(scenario, bus=Bus)


def test_assertions_of_the_scenario_count(bus):
    """It need not return anything."""

    def scenario(store):
        seen = []
        with bus.registry.override(Placed, seen.append):
            store.send(Place(order_id="1"))
            store.run_until_idle()
        assert 1 == len(seen)

    with pytest.raises(AssertionError, match="twice, it ends with AssertionError"):
        assert_idempotent(scenario, bus=bus)


def test_scenario_that_differs_by_itself_is_refused(bus):
    """Nothing would follow from it."""
    outcomes = iter(range(10))

    with pytest.raises(AssertionError, match="cannot be repeated"):
        assert_idempotent(lambda _store: next(outcomes), bus=bus)


def test_order_that_matters_is_found(bus):
    """And not where a key keeps it."""
    with pytest.raises(AssertionError, match="when several Placed are handled backwards"):
        assert_any_order(scenario_of(bus, Listing), bus=bus)


def test_key_keeps_the_order():
    """Which is how to mend it."""

    class Bus(MessageBus):
        registry = Registry()

    def scenario(key):
        def run(store):
            seen = []
            with Bus.registry.override(Place, lambda command: seen.append(command.order_id)):
                for order_id in "123":
                    store.send(Place(order_id=order_id), key=key)
                store.run_until_idle()
            return seen

        return run

    assert_any_order(scenario("k"), bus=Bus)
    with pytest.raises(AssertionError, match="order matters"):
        assert_any_order(scenario(None), bus=Bus)


def test_type_that_must_not_come_late_is_named(bus):
    """A cancellation that overtakes its order is the classic."""

    def scenario(store):
        open_orders, cancelled = set(), set()

        def note(command):
            if command.order_id not in cancelled:
                open_orders.add(command.order_id)

        def cancel(command):
            open_orders.discard(command.order_id)  # And does not remember it.

        with bus.registry.override(Place, note), bus.registry.override(Cancel, cancel):
            store.send(Place(order_id="1"))
            store.send(Cancel(order_id="1"))
            store.run_until_idle()
        return open_orders

    with pytest.raises(AssertionError, match="when Place is handled after the others"):
        assert_any_order(scenario, bus=bus)
