"""Laws of the way through an engine: from a sender to the handlers of each group, and what becomes of failures."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from messagebus import Envelope, current_envelope
from messagebus.brokers import Relay
from messagebus.delivery import Retry, Store
from messagebus.errors import ConfigurationError, UnwritableMessageError
from messagebus.testing.broker_laws import QUIET, BrokerLaws, OpenBroker, OpenInbox, Until, registry_of, working
from messagebus.testing.clock import Clock
from messagebus.testing.shop import LOG_IN, Confirmation, OrderPlaced, PlaceOrder, orders

__all__ = ["CarryingLaws", "FailureLaws", "OrderLaws"]


class CarryingLaws(BrokerLaws):
    """What `Broker`, `Worker` and `Relay` promise of messages that are handled."""

    def test_what_is_sent_is_handled_once_and_acknowledged(
        self, open_broker: OpenBroker, inbox: Store, until: Until, open_inbox: OpenInbox
    ) -> None:
        """[B1] [B5] With its ids; after that the engine has nothing left to bring."""
        got: list[Any] = []
        broker = open_broker()
        registry = registry_of(place=lambda message: got.append((message.order_id, current_envelope().id)))
        ids = [broker.send(PlaceOrder(order_id="o-1")), *broker.send_many(orders("o-2", "o-3"))]
        ids.append(asyncio.run(broker.asend(PlaceOrder(order_id="o-4"))))

        with working(broker, inbox, registry):
            until(lambda: inbox.stats().finished == 4)
        with working(broker, open_inbox(), registry):
            broker.send(PlaceOrder(order_id="last"))
            until(lambda: len(got) == 5)

        assert sorted(zip(["o-1", "o-2", "o-3", "o-4"], ids, strict=True)) == sorted(got[:4])
        assert "last" == got[4][0]

    def test_same_id_is_handled_once(self, open_broker: OpenBroker, inbox: Store, until: Until) -> None:
        """[B3] An engine brings the same twice, or a sender does not know and sends again."""
        got: list[Any] = []
        broker = open_broker()
        message = PlaceOrder(order_id="o-1")
        for _ in range(3):
            broker.send(message, envelope=Envelope(message, id="0123456789abcdef0123456789abcdef"))
        broker.send(PlaceOrder(order_id="o-2"))

        with working(broker, inbox, registry_of(place=lambda message: got.append(message.order_id))):
            until(lambda: len(got) == 2)

        assert ["o-1", "o-2"] == sorted(got)

    def test_event_reaches_each_group_once_and_its_own_too(
        self, open_broker: OpenBroker, inbox: Store, until: Until, open_inbox: OpenInbox
    ) -> None:
        """[B3] A handler's event goes out when its command is settled, to every group that has subscribed."""
        here, there, broker = [], [], open_broker("shop")
        second = open_inbox()
        shop = registry_of(
            place=lambda message: OrderPlaced(order_id=message.order_id),
            placed=lambda message: here.append((message.order_id, current_envelope().causation_id)),
        )
        billing = registry_of(placed=lambda message: there.append((message.order_id, current_envelope().causation_id)))

        with working(open_broker("billing"), second, billing), working(broker, inbox, shop):
            sent = broker.send(PlaceOrder(order_id="o-1"))
            until(lambda: here and there)

        assert [("o-1", sent)] == here == there
        assert {"published to " + broker.name} == {
            outcome.handler for step in inbox.tree(sent)[1:2] for outcome in step.outcomes
        }

    def test_event_that_nobody_handles_here_is_published(
        self, open_broker: OpenBroker, inbox: Store, until: Until, open_inbox: OpenInbox
    ) -> None:
        """A service need not register what only others want."""
        got, home = [], open_broker("billing")
        shop = registry_of(place=lambda message: OrderPlaced(order_id=message.order_id))
        billing = registry_of(placed=lambda message: got.append(message.order_id))

        with working(home, open_inbox(), billing), working(open_broker("shop"), inbox, shop):
            inbox.send(PlaceOrder(order_id="o-1"))
            until(lambda: got)

        assert ["o-1"] == got

    def test_command_sent_in_a_handler_goes_where_its_handler_is(
        self, open_broker: OpenBroker, inbox: Store, until: Until, open_inbox: OpenInbox
    ) -> None:
        """A command that is handled here does not leave; one that is not does."""
        got = []
        away, home = open_broker("shop"), open_broker("billing")
        shop = registry_of(placed=lambda message: PlaceOrder(order_id=message.order_id))
        other = open_inbox()

        with (
            working(home, other, registry_of(place=lambda message: got.append(message.order_id))),
            working(away, inbox, shop),
        ):
            inbox.send(PlaceOrder(order_id="o-1"))
            until(lambda: got)

        assert ["o-1"] == got

    def test_relay_empties_an_outbox(
        self, open_broker: OpenBroker, inbox: Store, until: Until, open_inbox: OpenInbox
    ) -> None:
        """[B3] What a transaction has stored arrives, with its key, and nothing is left."""
        outbox, got = open_inbox(), []
        broker = open_broker()
        registry = registry_of(
            place=lambda message: got.append((message.order_id, current_envelope().headers.get("partitionkey")))
        )
        with working(broker, inbox, registry):
            with outbox.transaction() as transaction:
                for number in range(5):
                    transaction.send(PlaceOrder(order_id=f"o-{number}"), key="k")

            Relay(outbox, open_broker("shop"), **QUIET).run(until_idle=True)

            until(lambda: len(got) == 5)
        assert [(f"o-{number}", "k") for number in range(5)] == got
        assert 5 == outbox.stats().finished

    def test_relay_publishes_what_was_sent_for_later(
        self, open_broker: OpenBroker, until: Until, open_inbox: OpenInbox
    ) -> None:
        """[D7] Delayed, at a time, again and again: when it is due, a command as a command, an event as an event."""
        clock, got, broker = Clock(), [], open_broker()
        outbox, relay_to = open_inbox(clock=clock), open_broker("shop")
        registry = registry_of(
            place=lambda message: got.append(("command", message.order_id)),
            placed=lambda message: got.append(("event", message.order_id)),
        )
        with working(broker, open_inbox(), registry):
            for send in (PlaceOrder, OrderPlaced):
                outbox.send(send(order_id="delayed"), delay=60)
                outbox.send(send(order_id="at"), at=clock.time(60))
                outbox.every("* * * * *", send(order_id="again"), name=f"each minute {send.__name__}")
            relay = Relay(outbox, relay_to, **QUIET)
            assert 0 == relay.run(until_idle=True)

            clock.advance(60)
            relayed = relay.run(until_idle=True)

            until(lambda: len(got) == 6)
        assert 6 == relayed
        assert [(kind, one) for kind in ("command", "event") for one in ("again", "at", "delayed")] == sorted(got)

    def test_return_messages_are_kept_in_the_inbox(self, open_broker: OpenBroker, inbox: Store, until: Until) -> None:
        """[D12] Whoever has the inbox can ask for them."""
        broker = open_broker()
        with working(broker, inbox, registry_of(place=lambda message: Confirmation(order_id=message.order_id))):
            sent = broker.send(PlaceOrder(order_id="o-1"))
            until(lambda: inbox.stats().finished == 1)

        assert b'[{"type":"shop.confirmation","data":{"order_id":"o-1"}}]' == inbox.result(sent)


class OrderLaws(BrokerLaws):
    """What they promise of messages with one key."""

    def test_many_workers_keep_the_order_of_each_key(
        self, open_broker: OpenBroker, inbox: Store, tmp_path: Path, until: Until, open_inbox: OpenInbox
    ) -> None:
        """[D5] Those of one group share an inbox; the other key is not held up."""
        if "order" not in self.capabilities:
            pytest.skip("this engine keeps no order among workers")
        got: dict[str, list[int]] = {"a": [], "b": []}

        def place(message: PlaceOrder) -> None:
            got[message.order_id].append(message.quantity)

        registry, second = registry_of(place=place), open_inbox(f"sqlite:///{tmp_path}/inbox.db")
        workers = [open_broker(ordered=True) for _ in range(2)]
        web = open_broker("web", ordered=True)
        with working(workers[0], inbox, registry, batch=7), working(workers[1], second, registry, batch=7):
            for number in range(0, 100, 20):
                messages = [
                    PlaceOrder(order_id=key, quantity=n) for n in range(number, number + 20) for key in ("a", "b")
                ]
                web.send_many(messages, key=lambda message: message.model_dump()["order_id"])
            until(lambda: sum(map(len, got.values())) == 200)

        assert {"a": [*range(100)], "b": [*range(100)]} == got

    def test_capability_that_is_lacking_is_refused_at_the_start(self, open_broker: OpenBroker) -> None:
        """Not when it is missed; the error names it, and the engine."""
        open_broker(needs=self.capabilities)
        for need in sorted({"order", "replies", "history", "delay"} - self.capabilities):
            with pytest.raises(ConfigurationError, match=f"it lacks {need}, which the application needs"):
                open_broker(needs=[need])
        if "order" not in self.capabilities:
            with pytest.raises(ConfigurationError, match="it lacks order"):
                open_broker(ordered=True)

    def test_new_group_gets_what_was_published_before(
        self, open_broker: OpenBroker, inbox: Store, until: Until
    ) -> None:
        """Where the engine has a history."""
        if "history" not in self.capabilities:
            pytest.skip("this engine keeps events only for groups that have subscribed")
        got: list[str] = []
        open_broker("shop").send(OrderPlaced(order_id="before"))

        with working(open_broker("late"), inbox, registry_of(placed=lambda message: got.append(message.order_id))):
            until(lambda: got)

        assert ["before"] == got


class FailureLaws(BrokerLaws):
    """What they promise of those that are not, or not at once."""

    def test_failing_handler_is_tried_three_times_and_holds_up_nobody(
        self, open_broker: OpenBroker, inbox: Store, until: Until
    ) -> None:
        """[B2] Retries and dead letters are the bus's own; the engine has been told long ago."""
        tried: list[Any] = []
        broker = open_broker()

        def place(message: PlaceOrder) -> None:
            tried.append(message.order_id)
            if message.order_id == "poison":
                raise ValueError

        broker.send_many(orders("poison", "o-1", "o-2"))
        with working(broker, inbox, registry_of(place=place), retry=Retry(attempts=3, first=0.05)):
            until(lambda: len(tried) == 5 and inbox.dead())

        (letter,) = inbox.dead()
        assert 3 == tried.count("poison") == letter.attempts
        assert 2 == inbox.stats().finished

    def test_messages_with_one_key_keep_their_order(self, open_broker: OpenBroker, inbox: Store, until: Until) -> None:
        """[D5] One after another, also if one of them fails and the others could overtake it."""
        got, broker, failed = [], open_broker(), set()

        def place(message: PlaceOrder) -> None:
            if message.order_id == "3" and "3" not in failed:
                failed.add("3")
                raise ValueError
            got.append(message.order_id)

        broker.send_many(orders(*map(str, range(20))), key="k")
        with working(broker, inbox, registry_of(place=place), retry=Retry(first=0.01, factor=1), concurrency=2):
            until(lambda: len(got) == 20)

        assert [*map(str, range(20))] == got

    def test_what_an_engine_cannot_do_is_refused(self, open_broker: OpenBroker) -> None:
        """Delays are kept by a store."""
        broker = open_broker()

        refused: list[dict[str, Any]] = [{"delay": 1.0}, {"dedup": "d"}]
        for more in refused:
            with pytest.raises(ConfigurationError, match="through a store"):
                broker.send(PlaceOrder(order_id="o-1"), **more)
        with pytest.raises(UnwritableMessageError):
            broker.send(LOG_IN)

    def test_closed_broker_says_so(self, open_broker: OpenBroker) -> None:
        """And may be closed twice."""
        broker = open_broker()
        broker.close()
        broker.close()

        with pytest.raises(RuntimeError, match="it is closed"):
            broker.send(PlaceOrder(order_id="o-1"))
