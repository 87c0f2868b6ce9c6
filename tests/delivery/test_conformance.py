"""Every store of the package keeps every law of the port (D13)."""

import pytest

from messagebus.delivery import open_store
from messagebus.testing import StoreConformance


class TestSQLite(StoreConformance):
    @pytest.fixture(autouse=True)
    def url(self, tmp_path):
        self.place = f"sqlite:///{tmp_path}/bus.db"

    def open_store(self, clock):
        return open_store(self.place, clock=clock)


class TestMemory(StoreConformance):
    is_durable = False
    is_shared = False

    def open_store(self, clock):
        return open_store("memory://", clock=clock)


class TestPostgreSQL(StoreConformance):
    @pytest.fixture(autouse=True)
    def url(self, postgres):
        self.place = postgres.fresh()

    def open_store(self, clock):
        return open_store(self.place, clock=clock)
