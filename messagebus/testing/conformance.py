"""The laws that every store keeps, and every engine, as a class of tests each for those who write one."""

from messagebus.testing.arrivals import ArrivalLaws
from messagebus.testing.carrying import CarryingLaws, FailureLaws, OrderLaws
from messagebus.testing.claims import ClaimLaws, LeaseLaws
from messagebus.testing.dead_letters import DeadLetterLaws
from messagebus.testing.keys import KeyLaws
from messagebus.testing.replies import ReplyLaws
from messagebus.testing.results import HistoryLaws, ResultLaws
from messagebus.testing.retention import PruningLaws, RestartLaws
from messagebus.testing.schedules import ScheduleLaws
from messagebus.testing.sending import DuplicateLaws, SendingLaws
from messagebus.testing.settlements import SettlementLaws
from messagebus.testing.transactions import TransactionLaws, WorkLaws
from messagebus.testing.waiting import WaitingLaws

__all__ = ["BrokerConformance", "StoreConformance"]


class StoreConformance(
    SendingLaws, DuplicateLaws, TransactionLaws, WorkLaws, ClaimLaws, LeaseLaws,
    ArrivalLaws, SettlementLaws, DeadLetterLaws,
    KeyLaws, WaitingLaws, ResultLaws, HistoryLaws, ScheduleLaws, PruningLaws, RestartLaws,
):  # fmt: skip
    """Every law of the port, for a store to be held to: subclass it, and say how the store is opened.

    ::

        class TestMyStore(StoreConformance):
            is_shared = False  # what this store cannot do; see `Laws`

            @pytest.fixture(autouse=True)
            def folder(self, tmp_path):
                self.path = tmp_path / "bus"

            def open_store(self, clock):
                return MyStore(self.path, clock=clock)

    Time passes only by the clock, so that a store has to tell it from nothing else.
    """


class BrokerConformance(CarryingLaws, OrderLaws, FailureLaws, ReplyLaws):
    """Every law of brokers, for an engine to be held to: subclass it, and say how it is connected to.

    ::

        class TestMyEngine(BrokerConformance):
            capabilities = MyEngine.capabilities

            @pytest.fixture(autouse=True)
            def place(self):
                self.namespace = f"mb{secrets.token_hex(4)}"

            def connect(self, group, **more):
                return connect("nats://127.0.0.1:4222", group=group, namespace=self.namespace, **more)
    """
