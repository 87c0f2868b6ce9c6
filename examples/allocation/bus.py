"""The bus of the application: who comes too late with a change tries again."""

from contextlib import suppress

from examples.allocation.products import StaleProductError
from messagebus import Message, MessageBus

__all__ = ["AllocationBus"]


class AllocationBus(MessageBus):
    """Dispatches a message up to three times if others change the same product at the same time."""

    def message_dispatcher(self, message: Message) -> None:
        for _ in range(2):
            with suppress(StaleProductError):
                return self.dispatch_message(message)
        return self.dispatch_message(message)
