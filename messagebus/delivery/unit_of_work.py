"""The unit of work over an SQLAlchemy session: what aggregates changed and what they recorded, or nothing of it."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from messagebus.errors import ConfigurationError, DispatchError
from messagebus.messages import Command, Event

try:
    from sqlalchemy import event
    from sqlalchemy.orm import Session
except ImportError:
    remedy = "Install it: pip install 'pydantic-messagebus[sqlalchemy]'."
    raise ConfigurationError("use a unit of work", "SQLAlchemy is not installed", remedy) from None

from messagebus.delivery.outbox import send_in

__all__ = ["UnitOfWork"]


class UnitOfWork:
    """A session, and the messages that the aggregates in it have recorded when it is committed.

    An aggregate is an object of one of the classes named, which the session has loaded or been given; it records
    messages in a list, its attribute ``events``, which is there, empty, when the aggregate comes from the database. ::

        def allocate(command: Allocate) -> list[Command | Event]:
            with UnitOfWork(sessionmaker(engine), Product) as work:
                work.session.get_one(Product, command.sku).allocate(command.order_id, command.quantity)
                work.commit()
            return work.events

    ``commit`` takes the messages from the aggregates, in the order in which these came into the session. They stand in
    ``events`` then, for the handler to return; with ``is_outbox=True`` they are sent in the session's own transaction
    instead (`send_in`), and ``events`` stays empty. What was not committed when the block ends is rolled back, and
    neither it nor what it recorded is ever seen again. May be entered again, but by one thread at a time.

    In a handler that a worker runs, ``lambda: session_in(current_transaction())`` for ``sessions`` has all of it
    committed together with the acknowledgement of the message.

    Args:
        sessions: makes the session of one unit: a ``sessionmaker``, a ``scoped_session``, or any function.
        aggregates: the classes whose objects record messages.
        is_outbox: sends what was recorded, instead of handing it out.

    Source: *Architecture Patterns with Python*, ch. 6 and 8.
    """

    events: list[Command | Event]
    """What was recorded and is committed, first to last, and is for the handler to return."""

    def __init__(self, sessions: Callable[[], Session], *aggregates: type, is_outbox: bool = False) -> None:
        self._sessions, self._aggregates, self._is_outbox = sessions, aggregates, is_outbox
        self._session: Session | None = None
        self._seen: dict[int, Any] = {}  # Also keeps them: a session lets go of what has not changed.
        self.events = []

    @property
    def session(self) -> Session:
        """The session, as long as the block lasts."""
        if self._session is None:
            raise DispatchError("use this unit of work", "it is not open", "Use it within its `with` block.")
        return self._session

    def __enter__(self) -> Self:
        if self._session is not None:
            raise DispatchError("open this unit of work", "it is open already", "Make one for each handler.")
        self.events = []
        self._session = self._sessions()
        for instance in self._session:
            self._see(self._session, instance)
        for moment in _MOMENTS:
            event.listen(self._session, moment, self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session = self.session
        try:
            self.rollback()
        finally:
            for moment in _MOMENTS:
                event.remove(session, moment, self._see)
            self._seen.clear()
            self._session = None
            session.close()

    def commit(self) -> None:
        """Commit what has changed, together with what was recorded; if that raises, neither has happened.

        Raises:
            SQLAlchemyError: As the session's own ``commit``.
            UnwritableMessageError: If a message cannot be sent, with ``is_outbox``.
        """
        try:
            self.session.flush()
            recorded = [message for aggregate in self._seen.values() for message in aggregate.events]
            if self._is_outbox:
                for message in recorded:
                    send_in(self.session, message)
            self.session.commit()
        except BaseException:
            self.rollback()
            raise
        self._forget()
        if not self._is_outbox:
            self.events += recorded

    def rollback(self) -> None:
        """Undo what was not committed, and forget what was recorded of it."""
        self._forget()
        self.session.rollback()

    def _forget(self) -> None:
        for aggregate in self._seen.values():
            aggregate.events.clear()

    def _see(self, session: Session, instance: Any) -> None:  # noqa: ARG002 - SQLAlchemy says which
        if isinstance(instance, self._aggregates):
            vars(instance).setdefault("events", [])
            self._seen[id(instance)] = instance


_MOMENTS = ("loaded_as_persistent", "transient_to_pending", "detached_to_persistent")
