"""The transaction that the application's rows and its messages share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from messagebus.delivery.connection import Connection
from messagebus.delivery.sending import add_all, prepare, row_of
from messagebus.envelope import Envelope
from messagebus.errors import DispatchError
from messagebus.messages import Message
from messagebus.telemetry import sends

__all__ = ["SqlTransaction"]


class SqlTransaction:
    """A transaction on one connection; see `messagebus.delivery.store.Transaction`."""

    def __init__(self, connection: Connection, now: Callable[[], int]) -> None:
        self._connection: Connection | None = connection
        self._now = now
        self._depth = 0

    @property
    def connection(self) -> Connection:
        """The connection, as long as the transaction is open."""
        if self._connection is None:
            remedy = "Use it within its `with` block, or in the handler that it was opened for."
            raise DispatchError("use this transaction", "it is over", remedy)
        return self._connection

    def end(self) -> None:
        """Let nobody use it any more."""
        self._connection = None

    def execute(
        self, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    ) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, parameters)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        connection = self.connection
        self._depth += 1
        name = f"mb_{self._depth}"
        connection.change(f"SAVEPOINT {name}", {})
        try:
            yield
        except BaseException:
            connection.change(f"ROLLBACK TO SAVEPOINT {name}", {})
            raise
        finally:
            self._depth -= 1
            connection.change(f"RELEASE SAVEPOINT {name}", {})

    @sends("send")
    def send(
        self,
        message: Message,
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        key: str | None = None,
        dedup: str | None = None,
        envelope: Envelope | None = None,
    ) -> str:
        sending = prepare(message, delay=delay, at=at, key=key, dedup=dedup, envelope=envelope)
        return add_all(self.connection, [row_of(sending, self._now())])[0]
