"""The same application, durable, and a worker that is killed in the middle: `python -m examples.allocation.durable`.

The messages are in the same SQLite file as the application's tables. So an order and the command to allocate it are
one transaction; so are what a handler writes, the events it returns, and the note that its message is done. Only an
email is outside of it: after a crash it may go out twice.

Output::

    100 orders are taken; each is in the file, and with it the command to allocate it.
    A worker has allocated o-50, and is killed before it commits: of that, there are 0 rows in the file.
    Another worker takes over, and allocates o-50 at attempt 2.
    Nothing is lost, and nothing is done twice:
        orders         100
        order lines    100
        in the view    100
        lamps sold     200
        messages left  0
        dead letters   0
"""

import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory

from examples.allocation.bootstrap import bind
from examples.allocation.database import create_tables
from examples.allocation.mail import KeptMail, Mail
from examples.allocation.messages import Allocate, Allocated, CreateBatch
from messagebus import Message, MessageBus, Registry
from messagebus.delivery import Store, Worker, current_transaction, open_store
from messagebus.delivery.outbox import session_in


def bootstrap(store: Store, mail: Mail) -> Registry:
    """Return the application's registry, its handlers bound to the transaction of the worker that runs them."""
    with store.transaction() as transaction:
        with session_in(transaction) as session:
            create_tables(session)
            session.commit()
        transaction.execute("CREATE TABLE IF NOT EXISTS customer_order (order_id TEXT PRIMARY KEY, sku, quantity)")
        transaction.execute("CREATE TABLE IF NOT EXISTS sold (sku TEXT PRIMARY KEY, quantity INTEGER)")
    registry = bind(lambda: session_in(current_transaction()), mail)
    registry.register(Allocated, count_sold)
    return registry


def count_sold(event: Allocated) -> None:
    """Add to a number: of all handlers, this is the one that would tell if it were run twice."""
    upsert = "INSERT INTO sold VALUES (:sku, :quantity) ON CONFLICT DO UPDATE SET quantity = quantity + :quantity"
    current_transaction().execute(upsert, event.model_dump())


def take_order(store: Store, command: Allocate) -> str:
    """Keep an order, and the command to allocate it: both, or neither. With a key, first come is first served."""
    with store.transaction() as transaction:
        insert = "INSERT INTO customer_order VALUES (:order_id, :sku, :quantity)"
        transaction.execute(insert, command.model_dump())
        return transaction.send(command, key=command.sku)


# The worker, as a process of its own


def work(url: str, pause_at: str) -> None:
    """Handle messages until killed, and stand still where an order has been allocated and that is not committed."""

    class PausingBus(MessageBus):
        def message_dispatcher(self, message: Message) -> None:
            super().message_dispatcher(message)
            if isinstance(message, Allocate) and message.order_id == pause_at:
                print("paused", flush=True)
                sys.stdin.read()

    with closing(open_store(url)) as store:
        Worker(store, bootstrap(store, KeptMail()), bus=PausingBus, lease=1, log_level="disabled").run()


@contextmanager
def worker(url: str, pause_at: str = "") -> Generator[Popen[str]]:
    """Run a worker beside the block, and kill it at its end."""
    command = [sys.executable, "-m", "examples.allocation.durable", url, pause_at]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:  # noqa: S603 - it is this very file
        try:
            yield process
        finally:
            process.kill()  # SIGKILL: nothing of it runs any more.


# The demonstration


def main() -> None:
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder, 'shop.db')}"
        with closing(open_store(url)) as store:
            demonstrate(store, url)


def demonstrate(store: Store, url: str) -> None:
    def count(select: str) -> int:
        with store.transaction() as transaction:
            return int(transaction.execute(select)[0][0])

    bootstrap(store, KeptMail())
    store.send(CreateBatch(reference="here", sku="lamp", quantity=1_000), key="lamp")
    orders = [f"o-{number}" for number in range(1, 101)]
    ids = {order: take_order(store, Allocate(order_id=order, sku="lamp", quantity=2)) for order in orders}
    print(f"{len(ids)} orders are taken; each is in the file, and with it the command to allocate it.")

    with worker(url, pause_at="o-50") as first:
        assert first.stdout
        first.stdout.readline()
    rows = count("SELECT count(*) FROM order_line WHERE order_id = 'o-50'")
    print(f"A worker has allocated o-50, and is killed before it commits: of that, there are {rows} rows in the file.")

    with worker(url):
        for message_id in ids.values():
            store.result(message_id, timeout=30)  # Waits for all that the message leads to.
    [handled] = store.tree(ids["o-50"])[0].outcomes
    print(f"Another worker takes over, and allocates o-50 at attempt {handled.attempts}.")

    stats = store.stats()
    print("Nothing is lost, and nothing is done twice:")
    print("    orders        ", count("SELECT count(*) FROM customer_order"))
    print("    order lines   ", count("SELECT count(*) FROM order_line"))
    print("    in the view   ", count("SELECT count(*) FROM allocation_view"))
    print("    lamps sold    ", count("SELECT quantity FROM sold"))
    print("    messages left ", stats.due + stats.delayed + stats.in_flight)
    print("    dead letters  ", stats.dead)


if __name__ == "__main__":
    work(*sys.argv[1:]) if sys.argv[1:] else main()
