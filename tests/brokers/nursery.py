"""Processes of services that are killed: forked by one that has imported everything, so that a life costs little.

``python nursery.py`` reads lines of JSON, ``[role, arguments]``, and answers each with the pid of a process that plays
the role. What processes do they say in a ledger; nothing that was said is lost with its speaker.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from messagebus import Registry
from messagebus.brokers import Relay, connect
from messagebus.delivery import Retry, Worker, current_transaction, open_store
from messagebus.testing.shop import OrderPlaced, PlaceOrder, orders

LEASE = 2.0
ATTEMPTS = 3
QUIET = {"log_level": "disabled", "error_log_level": "disabled"}

OPENED = []


def opened(url, **settings):
    """Open a store that is closed when the test is over."""
    OPENED.append(open_store(url, **settings))
    return OPENED[-1]


def hasten(name):
    """Leave out what only a server that is killed makes necessary, and have Tansu, which waits for it, wait less."""
    module = import_module(f"messagebus.brokers.{name}")
    if name == "rabbitmq":
        module._REST = 0.0
    if name == "kafka":
        module._SESSION = 2.0


def say(ledger, *words):
    """Append a line in one write, which the system keeps whole."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, (" ".join(map(str, (*words, os.getpid()))) + "\n").encode())
    os.close(descriptor)


# Roles


def work(*, url, inbox, ledger, group="billing", **more):
    """Handle commands: each has one effect, in the transaction that settles it; poison fails each time."""
    registry = Registry()

    def place(message: PlaceOrder) -> None:
        say(ledger, "tried", message.order_id)
        if message.order_id.startswith("poison"):
            raise ValueError(message.order_id)
        row = {"id": message.order_id}
        current_transaction().execute("INSERT INTO effect (id) VALUES (:id)", row)

    registry.register(PlaceOrder, place)
    retry = Retry(attempts=ATTEMPTS, first=0.05)
    broker = connect(url, group=group, **more)
    Worker(broker, registry, inbox=open_store(inbox), lease=LEASE, retry=retry, batch=50, **QUIET).run()
    broker.close()


def count(*, url, inbox, ledger, group="billing", **more):
    """Handle events, as a second service does."""
    registry = Registry()
    registry.register(OrderPlaced, lambda message: say(ledger, "tried", message.order_id))
    broker = connect(url, group=group, **more)
    Worker(broker, registry, inbox=open_store(inbox), lease=LEASE, **QUIET).run()


def relay(*, url, outbox, **more):
    """Empty an outbox."""
    Relay(open_store(outbox), connect(url, group="shop", **more), lease=LEASE, **QUIET).run()


def produce(*, url, ledger, first, number, **more):
    """Publish commands one batch after another, and say which were confirmed; what was not is sent again."""
    broker = connect(url, group="shop", **more)
    for start in range(first, first + number, 50):
        ids = [f"o-{one}" for one in range(start, start + 50)]
        while True:
            try:
                broker.send_many(orders(*ids))
                break
            except OSError:
                time.sleep(0.1)
            except Exception:
                time.sleep(0.1)
        say(ledger, "confirmed", *ids)
    broker.close()


def main():
    for name in ("nats", "redis", "rabbitmq", "kafka"):
        try:
            import_module(f"messagebus.brokers.{name}")
        except Exception:  # It is not installed, and nobody will ask for it.
            continue
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for them.
    for line in sys.stdin:
        role, arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                globals()[role](**arguments)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        print(pid, flush=True)


class Nursery:
    """The process that forks the others, seen from a test."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        self.process = subprocess.Popen([sys.executable, __file__], env=environment, **pipes)
        self.living = set()

    def start(self, role, **arguments):
        """Start a process; return its pid."""
        self.process.stdin.write(json.dumps([role, arguments]) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        self.living.add(pid)
        return pid

    def kill(self, pid, how=signal.SIGKILL):
        """End one of them."""
        self.living.discard(pid)
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.005)

    def kill_all(self):
        """End all of them."""
        for pid in [*self.living]:
            self.kill(pid)

    def close(self):
        self.kill_all()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


# What is looked at afterwards


def read(ledger):
    """Return what was said, in words."""
    return [line.split() for line in Path(ledger).read_text().splitlines()] if Path(ledger).exists() else []


def tries(ledger):
    """Return how often each order was begun."""
    return Counter(words[1] for words in read(ledger) if words[0] == "tried")


def create_effects(inbox):
    """Make the table that handlers write to."""
    store = open_store(inbox)
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE effect (id VARCHAR(100))")
    return store


def effects(store):
    """Return how often each order has had its effect."""
    with store.transaction() as transaction:
        return Counter(row[0] for row in transaction.execute("SELECT id FROM effect"))


if __name__ == "__main__":
    main()
