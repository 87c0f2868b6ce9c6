"""`Relay`: empties the outbox of a service that only produces into an engine."""

from dataclasses import replace
from typing import Any

from messagebus import logs
from messagebus.brokers.broker import Broker
from messagebus.delivery.store import Store
from messagebus.delivery.worker import Worker
from messagebus.registry import Registry

__all__ = ["Relay"]


class Relay:
    """Publishes all that waits in a store: ``Relay(store, broker).run()``.

    A message leaves the store when the engine has confirmed it, and is published again if that is not known: an inbox
    sees to it that it has its effects once. Messages with one key leave in their order. As long as the engine is away
    they wait, and none becomes a dead letter but what the engine will never take. Any number of relays may share a
    store; workers of the same store would take its messages too: a service that handles messages has no relay but a
    ``Worker(broker, inbox=store)``.

    Args:
        store: as `open_store` returns it.
        broker: as `connect` returns it.
        batch: so many messages are published at once at most.
        lease: seconds after which the messages of a relay that has died go to others.
        grace: as for `Worker`.
        log_level: as for `MessageBus`.
        error_log_level: as for `MessageBus`.
        logger: as for `MessageBus`.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        *,
        batch: int = 200,
        lease: float = 30.0,
        grace: float = 20.0,
        log_level: logs.LogLevel = "info",
        error_log_level: logs.ErrorLogLevel = "error",
        logger: Any = None,
    ) -> None:
        levels: Any = {"log_level": log_level, "error_log_level": error_log_level, "logger": logger}
        self._worker = Worker(broker, Registry(), inbox=store, batch=batch, lease=lease, grace=grace, **levels)
        self._worker.rules = replace(self._worker.rules, passes_all_on=True)

    def run(self, *, until_idle: bool = False, limit: int | None = None, time_limit: float | None = None) -> int:
        """Publish until told to stop, by SIGTERM, SIGINT or `stop`; see `Worker.run`. Returns how many left."""
        return self._worker.run(until_idle=until_idle, limit=limit, time_limit=time_limit)

    def stop(self) -> None:
        """Let `run` return as soon as what is under way is confirmed. From any thread; idempotent."""
        self._worker.stop()
