"""Fixtures for users' tests: ``pytest_plugins = ["messagebus.testing"]`` in a conftest makes them known."""

from collections.abc import Iterator

import pytest

from messagebus import MessageBus
from messagebus.testing.memory import RecordedStore
from messagebus.testing.recording import AnyBus, RecordedBus

__all__ = ["bus_class", "memory_store", "recorded_bus"]


@pytest.fixture
def bus_class() -> AnyBus:
    """The application's class of buses, whose registry counts: to be overridden by a fixture of the same name."""
    return MessageBus


@pytest.fixture
def recorded_bus(bus_class: AnyBus) -> Iterator[RecordedBus]:
    """A bus that notes what was dispatched, sent, returned and logged."""
    bus = RecordedBus(bus_class)
    yield bus
    bus.close()


@pytest.fixture
def memory_store(bus_class: AnyBus) -> Iterator[RecordedStore]:
    """A store in memory with a clock that stands still; it notes the same."""
    store = RecordedStore(bus_class)
    yield store
    store.close()
