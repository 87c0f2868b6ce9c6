"""What all groups of laws of brokers stand on: the engine under test, and services that run in a thread."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from messagebus import Registry
from messagebus.brokers import Broker, Capability
from messagebus.delivery import Retry, Store, Worker, open_store
from messagebus.testing.shop import OrderPlaced, PlaceOrder

__all__ = ["QUIET", "BrokerLaws", "OpenBroker", "OpenInbox", "Until", "registry_of", "working"]

QUIET: dict[str, Any] = {"log_level": "disabled", "error_log_level": "disabled"}
OpenBroker = Callable[..., Broker]
OpenInbox = Callable[..., Store]
Until = Callable[[Callable[[], object]], None]
_PATIENCE = 60.0


class BrokerLaws:
    """What an engine under test can do, and how it is connected to."""

    capabilities: ClassVar[frozenset[Capability]]
    """Of the engine: laws about others are skipped."""

    def connect(self, group: str, **more: Any) -> Broker:
        """Connect as `messagebus.brokers.connect` does: in one test to one namespace, in each to one of its own."""
        raise NotImplementedError

    @pytest.fixture
    def open_broker(self) -> Iterator[OpenBroker]:
        """A function that connects, by default as the group billing; all are closed when the test is over."""
        opened: list[Broker] = []

        def open_another(group: str = "billing", **more: Any) -> Broker:
            opened.append(self.connect(group, **more))
            return opened[-1]

        yield open_another
        for broker in opened:
            broker.close()

    @pytest.fixture
    def open_inbox(self) -> Iterator[OpenInbox]:
        """A function that opens a store, by default in memory; all are closed when the test is over."""
        opened: list[Store] = []

        def open_another(url: str = "memory://", **more: Any) -> Store:
            opened.append(open_store(url, **more))
            return opened[-1]

        yield open_another
        for store in opened:
            store.close()

    @pytest.fixture
    def inbox(self, open_inbox: OpenInbox, tmp_path: Path) -> Store:
        """A store for what comes in."""
        return open_inbox(f"sqlite:///{tmp_path}/inbox.db")

    @pytest.fixture
    def until(self) -> Until:
        """A function that waits until something is true."""

        def wait(condition: Callable[[], object]) -> None:
            end = time.monotonic() + _PATIENCE
            while not condition():
                assert time.monotonic() < end, f"nothing has come of it in {_PATIENCE:g} s"
                time.sleep(0.02)

        return wait


# Services


class _Telling(Worker):
    """Tells when the engine has been told what is wanted."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.has_begun = threading.Event()

    @contextmanager
    def _carried(self) -> Generator[None, None, None]:
        with super()._carried():
            self.has_begun.set()
            yield


@contextmanager
def working(
    broker: Broker, inbox: Store, registry: Registry, *, limit: int | None = None, **more: Any
) -> Iterator[None]:
    """Let a worker run in a thread, to which the engine brings what is sent from here on."""
    worker = _Telling(broker, registry, inbox=inbox, **{**QUIET, "retry": Retry(first=0.01), **more})
    thread = threading.Thread(target=worker.run, kwargs={"limit": limit})
    thread.start()
    while not worker.has_begun.wait(0.1):
        assert thread.is_alive(), "the worker has ended before it began"
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def registry_of(
    place: Callable[[Any], object] | None = None, placed: Callable[[Any], object] | None = None
) -> Registry:
    """Return a registry with handlers of a command and of an event."""
    registry = Registry()
    for cls, handler in ((PlaceOrder, place), (OrderPlaced, placed)):
        if handler is not None:
            registry.register(cls, handler)
    return registry
