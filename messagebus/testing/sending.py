"""Laws of sending: what is accepted, what is refused, and what is kept of it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

import pytest

from messagebus import ConfigurationError, Message, NotAMessageError, UnwritableMessageError, UsageError, to_json
from messagebus.delivery.store import Store
from messagebus.envelope import CURRENT, Envelope
from messagebus.errors import ConflictError
from messagebus.testing.clock import Clock
from messagebus.testing.laws import Laws, at_once, finish, take, take_one
from messagebus.testing.shop import LOG_IN, Confirmation, OrderPlaced, PlaceOrder, Weigh, order_ids, orders

__all__ = ["DuplicateLaws", "SendingLaws"]

TEXTS = [
    "",
    "plain",
    "nul \x00 in it",
    "'quoted' \"twice\" `three` %s %(a)s :name ? $1 \\",
    "Grüße 北京 🚌 \u2028 \x1b[31m",
]


class SendingLaws(Laws):
    """What `send`, `send_many` and `asend` promise."""

    def test_what_was_sent_is_claimed(self, store: Store, clock: Clock) -> None:
        """[D1] Sent is stored: the wire form, under the id that was returned."""
        message = PlaceOrder(order_id="o-1", quantity=2)

        sent = store.send(message)

        _, claimed = take_one(store)
        assert (sent, "shop.place_order", to_json(message)) == (claimed.id, claimed.type, claimed.body)
        assert (None, clock(), 1, {}) == (claimed.key, claimed.sent_at, claimed.attempt, claimed.outcomes)

    @pytest.mark.parametrize("text", TEXTS)
    def test_every_text_is_kept(self, store: Store, text: str) -> None:
        """[D1] No character means anything to a store."""
        store.send(PlaceOrder(order_id=text))

        _, claimed = take_one(store)
        assert [text] == order_ids([claimed])

    @pytest.mark.parametrize("text", [text for text in TEXTS if "\x00" not in text and text])
    def test_every_word_about_a_message_is_kept(self, store: Store, text: str) -> None:
        """[D1] Nor in a key, a dedup key, an id or a header."""
        envelope = Envelope(PlaceOrder(order_id="o-1"), id=text, headers={"source": text})

        store.send(envelope.message, key=text, dedup=text, envelope=envelope)

        _, claimed = take_one(store)
        assert (text, text, {"source": text}) == (claimed.id, claimed.key, dict(claimed.headers))

    def test_large_message_is_kept(self, store: Store) -> None:
        """[D1] A megabyte is a message like any other."""
        message = PlaceOrder(order_id="x" * 1_000_000)

        store.send(message)

        _, claimed = take_one(store)
        assert to_json(message) == claimed.body

    def test_message_that_cannot_be_read_back_is_refused(self, store: Store) -> None:
        """[D1] A secret type loses its value in JSON: the error names the field, and nothing is stored."""
        with pytest.raises(UnwritableMessageError) as caught:
            store.send(LOG_IN)

        assert "password" == caught.value.field
        assert "canary" not in str(caught.value)
        assert () == take(store)

    @pytest.mark.parametrize("kilograms", [float("nan"), float("inf")])
    def test_value_without_json_is_refused(self, store: Store, kilograms: float) -> None:
        """[D1] It would be written as null, which nobody can read back."""
        with pytest.raises(UnwritableMessageError) as caught:
            store.send(Weigh(parcel_id="p-1", kilograms=kilograms))

        assert "kilograms" == caught.value.field
        assert () == take(store)

    def test_message_that_escaped_validation_is_refused(self, store: Store) -> None:
        """[D1] A copy with changes is not validated by pydantic, and its worker could not read it."""
        with pytest.raises(UnwritableMessageError) as caught:
            store.send(PlaceOrder(order_id="o-1").model_copy(update={"quantity": "many"}))

        assert "quantity" == caught.value.field
        assert () == take(store)

    def test_return_message_is_refused(self, store: Store) -> None:
        """[D1] It has no handler, so that nobody would ever take it."""
        with pytest.raises(UsageError):
            store.send(Confirmation(order_id="o-1"))

        assert () == take(store)

    @pytest.mark.parametrize("wrong", [None, {"order_id": "o-1"}, "PlaceOrder", PlaceOrder])
    def test_what_is_no_message_is_refused(self, store: Store, wrong: Message) -> None:
        """[D1] Whatever it is, the error is the bus's own."""
        with pytest.raises(NotAMessageError):
            store.send(wrong)

        assert () == take(store)

    def test_delay_and_time_together_are_refused(self, store: Store, clock: Clock) -> None:
        """[D7] Only one of the two can be meant."""
        with pytest.raises(ConfigurationError):
            store.send(PlaceOrder(order_id="o-1"), delay=5, at=clock.time(60))

        assert [] == store.waiting()

    def test_time_without_zone_is_refused(self, store: Store) -> None:
        """[D7] It would mean another moment on another machine."""
        with pytest.raises(ConfigurationError):
            store.send(PlaceOrder(order_id="o-1"), at=datetime(2026, 1, 2))  # noqa: DTZ001 - what is refused

        assert [] == store.waiting()

    def test_time_in_any_zone_is_that_moment(self, store: Store, clock: Clock) -> None:
        """[D7] A zone is a way to write a moment."""
        elsewhere = clock.time(3_600).astimezone(timezone(timedelta(hours=-9)))

        store.send(PlaceOrder(order_id="o-1"), at=elsewhere)

        assert [clock.time(3_600)] == [waiting.due for waiting in store.waiting()]

    # Many

    def test_many_are_stored_in_their_order(self, store: Store) -> None:
        """[D1] Their ids come back in that order too."""
        wanted = [f"o-{number}" for number in range(250)]

        sent = store.send_many(message for message in orders(*wanted))

        claimed = take(store, limit=1_000)
        assert wanted == order_ids(claimed)
        assert sent == [message.id for message in claimed]

    def test_many_are_stored_all_or_none(self, store: Store) -> None:
        """[D1] One that is refused keeps the others out."""
        with pytest.raises(UnwritableMessageError):
            store.send_many([*orders("o-1", "o-2"), LOG_IN])

        assert () == take(store)

    def test_none_at_all_is_nothing(self, store: Store) -> None:
        """[D1] Nothing to send is no error."""
        assert [] == store.send_many([])
        assert () == take(store)

    def test_many_have_one_key_or_each_its_own(self, store: Store, clock: Clock) -> None:
        """[D5] A key may be worked out from the message; delay and time are for all."""
        store.send_many(orders("o-1"), key="customer-7", delay=5)
        store.send_many(orders("o-2", "o-3"), key=lambda message: message.model_dump()["order_id"], at=clock.time(9))

        waiting = store.waiting()
        assert ["customer-7", "o-2", "o-3"] == [one.key for one in waiting]
        assert [clock.time(5), clock.time(9), clock.time(9)] == [one.due for one in waiting]

    # From an event loop

    def test_tasks_send_side_by_side(self, store: Store) -> None:
        """[D1] What is awaited is stored, each once, however many share a commit."""

        async def send_all() -> list[str]:
            return await asyncio.gather(*(store.asend(message) for message in orders(*map(str, range(100)))))

        sent = asyncio.run(send_all())

        claimed = take(store)
        assert sorted(map(str, range(100))) == sorted(order_ids(claimed))
        assert sorted(sent) == sorted(message.id for message in claimed)

    def test_one_task_sends_in_order(self, store: Store) -> None:
        """[D1] What was awaited first was sent first; a second event loop is as good as the first."""

        async def send_all(*wanted: str) -> None:
            for message in orders(*wanted):
                await store.asend(message)

        asyncio.run(send_all("o-1", "o-2"))
        asyncio.run(send_all("o-3"))

        assert ["o-1", "o-2", "o-3"] == order_ids(take(store))

    def test_refusal_concerns_one_task(self, store: Store) -> None:
        """[D1] Those whose messages share the commit with a refused one do not notice."""
        store.send(PlaceOrder(order_id="o-0"), dedup="taken")

        async def send_all() -> Sequence[str | BaseException]:
            return await asyncio.gather(
                store.asend(PlaceOrder(order_id="o-1")),
                store.asend(LOG_IN),
                store.asend(PlaceOrder(order_id="o-2"), dedup="taken"),
                store.asend(PlaceOrder(order_id="o-3"), delay=5, key="k"),
                return_exceptions=True,
            )

        got = asyncio.run(send_all())

        assert [str, UnwritableMessageError, ConflictError, str] == [type(one) for one in got]
        assert ["o-0", "o-1"] == order_ids(take(store))
        assert ["k"] == [one.key for one in store.waiting() if not one.is_in_flight]

    # What travels with it

    def test_message_correlates_with_itself(self, store: Store) -> None:
        """[D1] What nothing led to begins a history."""
        sent = store.send(PlaceOrder(order_id="o-1"))

        _, claimed = take_one(store)
        assert (sent, None, {}) == (claimed.correlation_id, claimed.causation_id, dict(claimed.headers))

    def test_envelope_is_kept(self, store: Store) -> None:
        """[D1] Ids and headers from outside go on unchanged."""
        message = PlaceOrder(order_id="o-1")
        headers = {"source": "https://shop.example", "traceparent": "00-1"}
        envelope = Envelope(message, id="id-1", correlation_id="run-1", causation_id="id-0", headers=headers)

        sent = store.send(message, envelope=envelope)

        _, claimed = take_one(store)
        assert ("id-1", "id-1", "run-1", "id-0") == (sent, claimed.id, claimed.correlation_id, claimed.causation_id)
        assert headers == dict(claimed.headers)

    def test_message_in_hand_is_the_cause(self, store: Store) -> None:
        """[D1] What is sent while a message is handled continues its history."""
        before = CURRENT.set(Envelope(PlaceOrder(order_id="o-1"), id="id-1", correlation_id="run-1"))
        try:
            store.send(OrderPlaced(order_id="o-1"))
        finally:
            CURRENT.reset(before)

        _, claimed = take_one(store)
        assert ("run-1", "id-1") == (claimed.correlation_id, claimed.causation_id)
        assert "id-1" != claimed.id


class DuplicateLaws(Laws):
    """What `dedup`, and an id from outside, promise."""

    def test_second_with_one_dedup_key_is_the_first(self, store: Store) -> None:
        """[D8] The same key twice is one message, and its id is that of the first."""
        sent = [store.send(PlaceOrder(order_id="o-1"), dedup="order-1") for _ in range(3)]

        _, claimed = take_one(store)
        assert [claimed.id] * 3 == sent

    def test_dedup_keys_are_apart(self, store: Store) -> None:
        """[D8] Equal messages under other keys, or under none, are other messages."""
        for dedup in ["a", "b", None, None]:
            store.send(PlaceOrder(order_id="o-1"), dedup=dedup)

        assert ["o-1"] * 4 == order_ids(take(store))

    def test_dedup_key_with_another_body_is_an_error(self, store: Store) -> None:
        """[D8] It would be lost without a word; the first stays as it was."""
        store.send(PlaceOrder(order_id="o-1"), dedup="order-1")

        with pytest.raises(ConflictError) as caught:
            store.send(PlaceOrder(order_id="o-2"), dedup="order-1")

        assert "order-1" == caught.value.value
        assert ["o-1"] == order_ids(take(store))

    def test_dedup_key_is_kept_with_the_message(self, store: Store, clock: Clock) -> None:
        """[D8] Finished is not forgotten; pruned is."""
        first = store.send(PlaceOrder(order_id="o-1"), dedup="order-1")
        finish(store)

        assert first == store.send(PlaceOrder(order_id="o-1"), dedup="order-1")
        clock.advance(10)
        assert 1 == store.prune(5)
        assert first != store.send(PlaceOrder(order_id="o-1"), dedup="order-1")
        assert ["o-1"] == order_ids(take(store))

    def test_cancelled_message_leaves_its_dedup_key(self, store: Store) -> None:
        """[D8] Forgotten is as if it had never been sent."""
        first = store.send(PlaceOrder(order_id="o-1"), dedup="order-1")
        store.cancel(first)

        second = store.send(PlaceOrder(order_id="o-2"), dedup="order-1")

        assert first != second
        assert ["o-2"] == order_ids(take(store))

    def test_second_with_one_id_is_the_first(self, store: Store) -> None:
        """[D8] What arrives twice from outside is stored once."""
        message = PlaceOrder(order_id="o-1")

        sent = [store.send(message, envelope=Envelope(message, id="id-1")) for _ in range(2)]

        assert ["id-1"] * 2 == sent
        assert ["id-1"] == [claimed.id for claimed in take(store)]

    def test_id_with_another_body_is_an_error(self, store: Store) -> None:
        """[D8] Two messages with one id cannot both be told apart and kept."""
        first, second = orders("o-1", "o-2")
        store.send(first, envelope=Envelope(first, id="id-1"))

        with pytest.raises(ConflictError) as caught:
            store.send(second, envelope=Envelope(second, id="id-1"))

        assert "id-1" == caught.value.value
        assert ["o-1"] == order_ids(take(store))

    def test_duplicates_within_a_transaction_are_one(self, store: Store) -> None:
        """[D8] Also before anything is committed."""
        with store.transaction() as transaction:
            sent = {transaction.send(PlaceOrder(order_id="o-1"), dedup="order-1") for _ in range(2)}

        assert sent == {claimed.id for claimed in take(store)}
        assert 1 == len(sent)

    def test_duplicates_sent_at_once_are_one(self, another: Callable[[], Store], store: Store) -> None:
        """[D8] Whoever comes first, in whichever thread and process, all get its id."""
        stores = [another() if self.is_shared else store for _ in range(4)]

        sent = at_once(*[lambda to=to: to.send(PlaceOrder(order_id="o-1"), dedup="order-1") for to in stores * 2])

        assert {claimed.id for claimed in take(store)} == set(sent)
        assert 1 == len(set(sent))
