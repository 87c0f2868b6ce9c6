"""What tests import: fixtures, a bus and a store that take notes, and the laws of stores and of engines.

With ``pytest_plugins = ["messagebus.testing"]`` in a conftest, `recorded_bus` and `memory_store` are fixtures.
"""

import pytest

# Before they are imported: so that a law that is broken shows what it found.
for _laws in ["laws", "sending", "claims",
              "arrivals", "settlements", "dead_letters", "keys", "waiting", "transactions", "results",
              "schedules", "retention", "broker_laws", "carrying", "replies"]:  # fmt: skip
    pytest.register_assert_rewrite(f"messagebus.testing.{_laws}")

from messagebus.testing.clock import Clock  # noqa: E402
from messagebus.testing.conformance import BrokerConformance, StoreConformance  # noqa: E402
from messagebus.testing.fixtures import bus_class, memory_store, recorded_bus  # noqa: E402
from messagebus.testing.memory import RecordedStore  # noqa: E402
from messagebus.testing.recording import RecordedBus, Recording  # noqa: E402
from messagebus.testing.redelivery import assert_any_order, assert_idempotent  # noqa: E402

__all__ = [
    "BrokerConformance",
    "Clock", "RecordedBus", "RecordedStore", "Recording", "StoreConformance", "assert_any_order", "assert_idempotent",
    "bus_class", "memory_store", "recorded_bus",
]  # fmt: skip
