"""What tests import: the laws that every store keeps, and a clock that stands still until it is moved."""

import pytest

# Before they are imported: so that a law that is broken shows what it found.
for _laws in ["laws", "sending", "claims",
              "arrivals", "settlements", "dead_letters", "keys", "waiting", "transactions", "results",
              "schedules", "retention"]:  # fmt: skip
    pytest.register_assert_rewrite(f"messagebus.testing.{_laws}")

from messagebus.testing.clock import Clock  # noqa: E402
from messagebus.testing.conformance import StoreConformance  # noqa: E402

__all__ = ["Clock", "StoreConformance"]
