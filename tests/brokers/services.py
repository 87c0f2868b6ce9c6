"""Services of tests that run in a thread."""

import threading
from contextlib import contextmanager

from messagebus import Registry
from messagebus.delivery import Retry, Worker
from messagebus.testing.shop import OrderPlaced, PlaceOrder

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


@contextmanager
def working(broker, inbox, registry, *, limit=None, **more):
    """A worker in a thread, to which the engine brings what is sent from here on."""
    worker = Worker(broker, registry, inbox=inbox, **{**QUIET, "retry": Retry(first=0.01), **more})
    has_begun, begin = threading.Event(), broker.begin

    def begin_and_tell(*arguments, **named):
        begin(*arguments, **named)
        has_begun.set()

    broker.begin = begin_and_tell
    thread = threading.Thread(target=worker.run, kwargs={"limit": limit})
    thread.start()
    while not has_begun.wait(0.1):
        assert thread.is_alive()
    broker.begin = begin
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def registry_of(**handlers):
    """Return a registry with handlers for what the tests send."""
    registry = Registry()
    for name, handler in handlers.items():
        registry.register({"place": PlaceOrder, "placed": OrderPlaced}[name], handler)
    return registry
