"""Failed messages: a handler that fails is tried again, alone; one that fails for good is kept until you decide.

Output::

    Two handlers, of which one fails three times.
        pack   o-1
        charge o-1, attempt 1
        charge o-1, attempt 2
        charge o-1, attempt 3
    What failed is kept.
        OrderPlaced  __main__.charge  3 attempts
        ConnectionError: the bank does not answer (examples/10_failed_messages.py:40)
    The bank is back: that handler runs again, and no other; its attempts are counted anew.
        charge o-1, attempt 1
        dead letters: 0
"""

from contextlib import closing
from tempfile import TemporaryDirectory

from messagebus import Event, current_envelope, handles
from messagebus.delivery import Retry, Worker, open_store

bank = {"answers": False}


class OrderPlaced(Event):
    order_id: str


@handles(OrderPlaced)
def pack(event: OrderPlaced) -> None:
    print("    pack  ", event.order_id)


@handles(OrderPlaced)
def charge(event: OrderPlaced) -> None:
    print(f"    charge {event.order_id}, attempt {current_envelope().attempt}")
    if not bank["answers"]:
        raise ConnectionError("the bank does not answer")


with TemporaryDirectory() as folder, closing(open_store(f"sqlite:///{folder}/bus.db")) as store:
    # Without waits, to be quick. `Retry()` tries five times, with waits that grow from a second to an hour.
    retry = Retry(attempts=3, first=0)
    worker = Worker(store, retry=retry, log_level="disabled", error_log_level="disabled")

    print("Two handlers, of which one fails three times.")
    store.send(OrderPlaced(order_id="o-1"))
    worker.run(until_idle=True)

    print("What failed is kept.")
    [letter] = store.dead()
    failure = letter.failure
    print(f"    {letter.type}  {letter.handler}  {letter.attempts} attempts")
    print(f"    {failure.error}: {failure.text} ({failure.place})")

    print("The bank is back: that handler runs again, and no other; its attempts are counted anew.")
    bank["answers"] = True
    store.retry(letter.id)
    worker.run(until_idle=True)
    print("    dead letters:", len(store.dead()))
