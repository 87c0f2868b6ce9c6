"""Return messages of a command come back to the sender, who waits for them on another machine."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic_core import from_json

from messagebus import Envelope
from messagebus.brokers import ReplyTimeoutError
from messagebus.delivery import DeliveryFailedError, Retry
from messagebus.errors import BrokerError, DispatchError
from messagebus.testing.shop import Confirmation, OrderPlaced, PlaceOrder
from tests.brokers.services import registry_of, working

ID = "0123456789abcdef0123456789abcdef"


def confirm(message):
    yield OrderPlaced(order_id=message.order_id)
    yield Confirmation(order_id=message.order_id)
    yield Confirmation(order_id=f"{message.order_id}, too")


def test_reply_comes_back(open_broker, inbox):
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


def test_everybody_gets_their_own(open_broker, inbox):
    """Many who ask at the same time, by two brokers, in threads."""
    brokers = [open_broker("web"), open_broker("web")]
    registry = registry_of(place=lambda message: Confirmation(order_id=message.order_id))

    def ask(number):
        return brokers[number % 2].request(PlaceOrder(order_id=f"o-{number}"))

    with working(open_broker(), inbox, registry), ThreadPoolExecutor(20) as threads:
        answers = [*threads.map(ask, range(60))]

    assert [f"o-{number}" for number in range(60)] == [from_json(answer)[0]["data"]["order_id"] for answer in answers]


def test_nobody_answers_in_time(open_broker, inbox):
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


def test_failure_for_good_is_an_answer(open_broker, inbox):
    """Not before the last attempt; it names the handler and the class of the error, and nothing that was said."""
    tried, web = [], open_broker("web")

    def place(message):
        tried.append(message)
        raise ValueError("canary")

    with working(open_broker(), inbox, registry_of(place=place), retry=Retry(attempts=2, first=0.01)):
        with pytest.raises(DeliveryFailedError) as caught:
            web.request(PlaceOrder(order_id="o-1"))

    assert 2 == len(tried)
    assert [f"{__name__}.{place.__qualname__} (ValueError)"] == [*caught.value.dead]
    assert "canary" not in str(caught.value)


def test_who_is_gone_gets_nothing_and_leaves_nothing(open_broker, inbox, until):
    """The worker goes on, and has nothing left to send."""
    web = open_broker("web")
    web.send(PlaceOrder(order_id="o-0"))
    with pytest.raises(ReplyTimeoutError):
        web.request(PlaceOrder(order_id="o-1"), timeout=0.5)
    web.close()

    with working(open_broker(), inbox, registry_of(place=lambda message: Confirmation(order_id=message.order_id))):
        until(lambda: inbox.stats().finished == 3)

    assert [] == inbox.dead()


def test_closing_the_broker_ends_the_waiting(open_broker):
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


def test_only_commands_have_replies(open_broker):
    """Of an event nobody knows how many will handle it."""
    with pytest.raises(DispatchError, match="only of a command"):
        open_broker("web").request(OrderPlaced(order_id="o-1"))


def test_reply_goes_to_no_other_place(open_broker, inbox, until):
    """Who asks cannot have a worker write into a queue of their choice."""
    broker, message = open_broker(), PlaceOrder(order_id="o-1")
    registry = registry_of(place=lambda message: Confirmation(order_id=message.order_id))
    with working(broker, inbox, registry):
        broker.send(message, envelope=Envelope(message, headers={"replyto": "../command.shop.cancel_order"}))
        until(lambda: inbox.stats().finished == 1)

    assert 1 == inbox.stats().finished


def test_reply_outlives_its_worker(open_broker, inbox, until):
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
