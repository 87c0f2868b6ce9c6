"""Failures: retry in `message_dispatcher`, decide in `handle_exception`; an exception says where it comes from.

Output::

    Retry: only what has not succeeded is called again.
        pack o-1
        charge o-1 attempt 1
        charge o-1 attempt 2
        charge o-1 attempt 3
        pack o-2
        charge o-2 attempt 1
        [Receipt(order_id='o-1'), Receipt(order_id='o-2')]
    Go on: the rest of the run is done.
        pack o-1
        charge o-1 attempt 1
        put aside: OrderPlaced(order_id='o-1', bank_answers_at=3), ConnectionError('the bank does not answer')
        pack o-2
        charge o-2 attempt 1
        [Receipt(order_id='o-2')]
    Give up, as is the default: the handler's own exception comes out, with a note.
        pack o-3
        charge o-3 attempt 1
        ConnectionError('the bank does not answer')
        while handling __main__.OrderPlaced m-3 in __main__.charge (examples/06_failures_and_retry.py:58)
"""

from collections.abc import Iterator

from tenacity import Retrying, stop_after_attempt

from messagebus import Command, Envelope, Event, Message, MessageBus, ReturnMessage, current_envelope, handles


class CloseDay(Command):
    pass


class OrderPlaced(Event):
    order_id: str
    bank_answers_at: int


class Receipt(ReturnMessage):
    order_id: str


@handles(CloseDay)
def close_day(command: CloseDay) -> Iterator[OrderPlaced]:
    yield OrderPlaced(order_id="o-1", bank_answers_at=3)
    yield OrderPlaced(order_id="o-2", bank_answers_at=1)


@handles(OrderPlaced)
def pack(event: OrderPlaced) -> None:
    print("    pack", event.order_id)


@handles(OrderPlaced)
def charge(event: OrderPlaced) -> Receipt:
    attempt = current_envelope().attempt
    print("    charge", event.order_id, "attempt", attempt)
    if attempt < event.bank_answers_at:
        raise ConnectionError("the bank does not answer")
    return Receipt(order_id=event.order_id)


class RetryingBus(MessageBus):
    def message_dispatcher(self, message: Message) -> None:
        attempts = Retrying(stop=stop_after_attempt(3), reraise=True)
        attempts(self.dispatch_message, message)


class ForgivingBus(MessageBus):
    def handle_exception(self, exc: Exception, message: Message) -> None:
        print(f"    put aside: {message!r}, {exc!r}")


print("Retry: only what has not succeeded is called again.")
print("   ", RetryingBus(CloseDay(), log_level="disabled")())

print("Go on: the rest of the run is done.")
print("   ", ForgivingBus(CloseDay(), log_level="disabled")())

print("Give up, as is the default: the handler's own exception comes out, with a note.")
event = OrderPlaced(order_id="o-3", bank_answers_at=9)
bus = MessageBus(event, envelope=Envelope(event, id="m-3"), log_level="disabled", error_log_level="disabled")
try:
    bus()
except ConnectionError as error:
    print("   ", repr(error))
    print("   ", *error.__notes__)
