"""What all groups of laws stand on: the store under test, what it can do, and the steps that a worker takes."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from messagebus import Message, to_json
from messagebus.delivery.entries import Failure, Outcome, Sending, Settlement, State, Stored
from messagebus.delivery.store import Store
from messagebus.envelope import Envelope
from messagebus.testing.clock import Clock

__all__ = ["HANDLER", "LEASE", "Laws", "at_once", "dies", "end", "finish", "outcome", "sending", "take", "take_one"]

LEASE = 30.0
HANDLER = "shop.place_order"
FAILURE = Failure("shop.OutOfStock", "there is none left", "shop/orders.py:12")


class Laws:
    """What a store under test can do, and how it is opened."""

    is_durable: ClassVar[bool] = True
    """What was stored is there when the store is opened again."""
    is_shared: ClassVar[bool] = True
    """Two stores may be open on one place at the same time."""
    speaks_sql: ClassVar[bool] = True
    """The application's own rows are written by SQL."""

    def open_store(self, clock: Clock) -> Store:
        """Open the store; whenever it is called in one test, on the same place, and for each test on an empty one."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        """The time, which passes only when told to."""
        return Clock()

    @pytest.fixture
    def another(self, clock: Clock) -> Iterator[Callable[[], Store]]:
        """A function that opens the store; all are closed when the test is over."""
        opened: list[Store] = []

        def open_another() -> Store:
            opened.append(self.open_store(clock))
            return opened[-1]

        yield open_another
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, another: Callable[[], Store]) -> Store:
        """The store under test."""
        return another()

    @pytest.fixture
    def rival(self, store: Store, another: Callable[[], Store]) -> Store:  # noqa: ARG002 - the first one is open
        """A second store on the same place, as another process has it."""
        if not self.is_shared:
            pytest.skip("this store is not shared")
        return another()

    @pytest.fixture
    def reopened(self, store: Store, another: Callable[[], Store]) -> Callable[[], Store]:
        """A function that closes the store and opens it again, as a restart does."""
        if not self.is_durable:
            pytest.skip("this store is not durable")

        def reopen() -> Store:
            store.close()
            return another()

        return reopen

    @pytest.fixture
    def rows(self, store: Store) -> Callable[[], list[str]]:
        """A function that returns the application's own rows: what is in the one column, id, of the table invoice."""
        if not self.speaks_sql:
            pytest.skip("this store speaks no SQL")
        with store.transaction() as transaction:
            transaction.execute("CREATE TABLE invoice (id VARCHAR(100))")

        def read() -> list[str]:
            with store.transaction() as transaction:
                return [row[0] for row in transaction.execute("SELECT id FROM invoice ORDER BY id")]

        return read


# The steps of a worker


def take(store: Store, limit: int = 100, lease: float = LEASE) -> tuple[Stored, ...]:
    """Claim messages for a worker that is not going to settle them."""
    return tuple(store.claim(limit, lease).messages)


def take_one(store: Store, lease: float = LEASE) -> tuple[str, Stored]:
    """Claim the one message that is due, and return it with its token."""
    claim = store.claim(100, lease)
    (message,) = claim.messages
    return claim.token, message


def outcome(
    state: State = "done", handler: str = HANDLER, attempts: int = 1, due: float | None = None, error: str = ""
) -> Outcome:
    """Return what became of a handler; with a failure where one belongs."""
    failure = Failure(error or FAILURE.error, FAILURE.text, FAILURE.place) if state in {"retry", "dead"} else None
    return Outcome(handler, state, attempts, 1.5, due, failure)


def end(store: Store, token: str, message: Stored, *outcomes: Outcome, **more: Any) -> set[int]:
    """Settle one message; by default its one handler is done."""
    return store.settle(token, [Settlement(message.seq, outcomes or (outcome(),), **more)])


def finish(store: Store, handler: str = HANDLER, **more: Any) -> Stored:
    """Handle the one message that is due, with one handler."""
    token, message = take_one(store)
    assert set() == end(store, token, message, outcome("done", handler), **more)
    return message


def dies(store: Store, *handlers: str, **more: Any) -> Stored:
    """Let handlers of the one message that is due fail for good."""
    token, message = take_one(store)
    outcomes = [outcome("dead", handler, attempts=5) for handler in handlers or [HANDLER]]
    assert set() == end(store, token, message, *outcomes, **more)
    return message


def sending(message: Message, cause: Stored, **more: Any) -> Sending:
    """Return what a handler of ``cause`` sends."""
    envelope = Envelope(message, correlation_id=cause.correlation_id, causation_id=cause.id)
    return Sending(envelope, to_json(message), **more)


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs at the same time, each in a thread, and return what they returned."""
    begin = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        begin.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as threads:
        return [future.result() for future in [threads.submit(run, job) for job in jobs]]
