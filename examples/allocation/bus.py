"""The bus of the application: who comes too late with a change tries again."""

from contextlib import suppress

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from messagebus import Message, MessageBus

__all__ = ["AllocationBus"]


class AllocationBus(MessageBus):
    """Dispatches a message up to three times if others change, or make, the same product at the same time."""

    def message_dispatcher(self, message: Message) -> None:
        for _ in range(2):
            with suppress(StaleDataError, IntegrityError):
                return self.dispatch_message(message)
        return self.dispatch_message(message)
