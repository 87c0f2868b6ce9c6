"""Gauges: what a store says of itself when metrics are collected."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from messagebus.delivery.entries import Stats
from messagebus.delivery.store import Store
from messagebus.errors import MessageBusError
from messagebus.otel.conventions import DEAD, OLDEST, STATE, WAITING

__all__ = ["observe"]


def observe(meter: Meter, store: Store, is_on: Callable[[], bool]) -> None:
    """Make the gauges of a store; they show nothing while it has no figures to give, nor when they are not on."""
    readings = _Readings(store, is_on)

    def gauge(name: str, unit: str, description: str, seen: Callable[[Stats], Iterable[Observation]]) -> None:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            stats = readings.of(name)
            return () if stats is None else seen(stats)

        meter.create_observable_gauge(name, [read], unit, description)

    gauge(WAITING, "{message}", "Messages that are not finished and not dead.", _waiting)
    gauge(OLDEST, "s", "How long the oldest message that is due has been due.", lambda s: [Observation(s.oldest_due)])
    gauge(DEAD, "{dead_letter}", "Dead letters.", lambda stats: [Observation(stats.dead)])


def _waiting(stats: Stats) -> Iterable[Observation]:
    for state in ("due", "delayed", "in_flight"):
        yield Observation(getattr(stats, state), {STATE: state})


class _Readings:
    """What the gauges of one store show: it is asked once for all of them, each time they are collected."""

    def __init__(self, store: Store, is_on: Callable[[], bool]) -> None:
        self._store, self._is_on = store, is_on
        self._lock = Lock()
        self._seen_by: set[str] = set()
        self._stats: Stats | None = None

    def of(self, gauge: str) -> Stats | None:
        """Return figures that this gauge has not seen; None if telemetry is off, or the store has none to give now."""
        if not self._is_on():
            return None
        with self._lock:
            if self._stats is None or gauge in self._seen_by:
                self._seen_by.clear()
                self._stats = None
                with suppress(MessageBusError):
                    self._stats = self._store.stats()
            self._seen_by.add(gauge)
            return self._stats
