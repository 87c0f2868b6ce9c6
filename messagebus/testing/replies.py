"""Laws of replies: return messages of a command come back to the sender, who waits for them on another machine."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic_core import from_json

from messagebus import Envelope, Message
from messagebus.brokers import BrokerError, ReplyTimeoutError
from messagebus.delivery import DeliveryFailedError, Retry, Store
from messagebus.errors import DispatchError
from messagebus.testing.broker_laws import BrokerLaws, OpenBroker, Until, registry_of, working
from messagebus.testing.shop import Confirmation, OrderPlaced, PlaceOrder

__all__ = ["ReplyLaws"]

ID = "0123456789abcdef0123456789abcdef"


def confirm(message: PlaceOrder) -> Iterator[Message]:
    """Handle a command: two return messages, and an event that is none of them."""
    yield OrderPlaced(order_id=message.order_id)
    yield Confirmation(order_id=message.order_id)
    yield Confirmation(order_id=f"{message.order_id}, too")


class ReplyLaws(BrokerLaws):
    """What `request` and `arequest` promise."""

    @pytest.fixture(autouse=True)
    def _has_replies(self) -> None:
        if "replies" not in self.capabilities:
            pytest.skip("this engine has no replies")

    def test_reply_comes_back(self, open_broker: OpenBroker, inbox: Store) -> None:
        """In the order in which the handler returned them, as `Store.result` shows them, and from async code too."""
        web = open_broker("web")
        with working(open_broker(), inbox, registry_of(place=confirm)):
            first = web.request(PlaceOrder(order_id="o-1"), envelope=Envelope(PlaceOrder(order_id="o-1"), id=ID))
            second = asyncio.run(web.arequest(PlaceOrder(order_id="o-2")))

        assert [
            {"type": "shop.confirmation", "data": {"order_id": "o-1"}},
            {"type": "shop.confirmation", "data": {"order_id": "o-1, too"}},
        ] == from_json(first)
        assert second == first.replace(b"o-1", b"o-2")
        assert first == inbox.result(ID)

    def test_everybody_gets_their_own(self, open_broker: OpenBroker, inbox: Store) -> None:
        """Many who ask at the same time, by two brokers, in threads."""
        brokers = [open_broker("web"), open_broker("web")]
        registry = registry_of(place=lambda message: Confirmation(order_id=message.order_id))

        def ask(number: int) -> bytes:
            return brokers[number % 2].request(PlaceOrder(order_id=f"o-{number}"))

        with working(open_broker(), inbox, registry), ThreadPoolExecutor(20) as threads:
            answers = [*threads.map(ask, range(60))]

        assert [f"o-{number}" for number in range(60)] == [
            from_json(answer)[0]["data"]["order_id"] for answer in answers
        ]

    def test_nobody_answers_in_time(self, open_broker: OpenBroker, inbox: Store) -> None:
        """The error says that the engine has the command; asked again it is handled once, and answered."""
        handled, web, message = [], open_broker("web"), PlaceOrder(order_id="o-1")
        web.send(PlaceOrder(order_id="o-0"))  # What has to be made on the engine is there.
        with pytest.raises(
            ReplyTimeoutError, match=f"{web.name} confirmed it after .* s, and no reply has come within 0.5 s"
        ) as caught:
            web.request(message, envelope=Envelope(message, id=ID), timeout=0.5)

        with working(open_broker(), inbox, registry_of(place=lambda message: handled.append(message.order_id))):
            answer = web.request(message, envelope=Envelope(message, id=ID))

        assert (ID, "shop.place_order") == (caught.value.message_id, caught.value.message_type)
        assert isinstance(caught.value, TimeoutError)
        assert b"[]" == answer
        assert ["o-0", "o-1"] == sorted(handled)

    def test_failure_for_good_is_an_answer(self, open_broker: OpenBroker, inbox: Store) -> None:
        """Not before the last attempt; it names the handler and the class of the error, and nothing that was said."""
        tried, web = [], open_broker("web")

        def place(message: PlaceOrder) -> None:
            tried.append(message)
            raise ValueError("canary")

        with (
            working(open_broker(), inbox, registry_of(place=place), retry=Retry(attempts=2, first=0.01)),
            pytest.raises(DeliveryFailedError) as caught,
        ):
            web.request(PlaceOrder(order_id="o-1"))

        assert 2 == len(tried)
        assert [f"{__name__}.{place.__qualname__} (ValueError)"] == [*caught.value.dead]
        assert "canary" not in str(caught.value)

    def test_who_is_gone_gets_nothing_and_leaves_nothing(
        self, open_broker: OpenBroker, inbox: Store, until: Until
    ) -> None:
        """The worker goes on, and has nothing left to send."""
        web = open_broker("web")
        web.send(PlaceOrder(order_id="o-0"))
        with pytest.raises(ReplyTimeoutError):
            web.request(PlaceOrder(order_id="o-1"), timeout=0.5)
        web.close()

        with working(open_broker(), inbox, registry_of(place=lambda message: Confirmation(order_id=message.order_id))):
            until(lambda: inbox.stats().finished == 3)

        assert [] == inbox.dead()

    def test_closing_the_broker_ends_the_waiting(self, open_broker: OpenBroker) -> None:
        """Nobody waits for what cannot come."""
        web = open_broker("web")
        web.send(PlaceOrder(order_id="o-0"))
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(web.request, PlaceOrder(order_id="o-1"))
            while not web._requests._waiting:
                pass
            web.close()

            with pytest.raises(BrokerError):
                asked.result()

    def test_only_commands_have_replies(self, open_broker: OpenBroker) -> None:
        """Of an event nobody knows how many will handle it."""
        event: Any = OrderPlaced(order_id="o-1")

        with pytest.raises(DispatchError, match="only of a command"):
            open_broker("web").request(event)

    def test_reply_goes_to_no_other_place(self, open_broker: OpenBroker, inbox: Store, until: Until) -> None:
        """Who asks cannot have a worker write into a queue of their choice."""
        broker, message = open_broker(), PlaceOrder(order_id="o-1")
        registry = registry_of(place=lambda message: Confirmation(order_id=message.order_id))
        with working(broker, inbox, registry):
            broker.send(message, envelope=Envelope(message, headers={"replyto": "../command.shop.cancel_order"}))
            until(lambda: inbox.stats().finished == 1)

        assert 1 == inbox.stats().finished

    def test_reply_outlives_its_worker(self, open_broker: OpenBroker, inbox: Store, until: Until) -> None:
        """It is stored with the settlement, and published by whoever works next."""
        web = open_broker("web")
        registry = registry_of(place=lambda message: Confirmation(order_id=message.order_id))
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(web.request, PlaceOrder(order_id="o-1"))
            with working(open_broker(), inbox, registry, limit=1):
                until(lambda: inbox.stats().finished)
            before = inbox.stats()

            with working(open_broker(), inbox, registry_of()):
                answer = asked.result()

        assert (1, 1) == (before.finished, before.due)
        assert b"o-1" in answer
