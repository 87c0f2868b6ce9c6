"""What tests import: the laws of stores and of engines, and a clock that stands still until it is moved."""

import pytest

# Before they are imported: so that a law that is broken shows what it found.
for _laws in ["laws", "sending", "claims",
              "arrivals", "settlements", "dead_letters", "keys", "waiting", "transactions", "results",
              "schedules", "retention", "broker_laws", "carrying", "replies"]:  # fmt: skip
    pytest.register_assert_rewrite(f"messagebus.testing.{_laws}")

from messagebus.testing.clock import Clock  # noqa: E402
from messagebus.testing.conformance import BrokerConformance, StoreConformance  # noqa: E402

__all__ = ["BrokerConformance", "Clock", "StoreConformance"]
