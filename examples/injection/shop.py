"""The application that each of them puts together: its messages, and the connection that a handler needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from messagebus import Command, Registry, ReturnMessage, handle_message

__all__ = ["Connection", "Greet", "Greeting", "demonstrate", "opened"]


class Greet(Command):
    customer_id: str


class Greeting(ReturnMessage):
    text: str


class Connection:
    """Stands for a connection to a database."""

    def name_of(self, customer_id: str) -> str:
        return {"c-1": "Ada", "c-2": "Grace"}[customer_id]


def opened() -> Iterator[Connection]:
    """Open a connection, and close it when it has been used."""
    print("    opened")
    yield Connection()
    print("    closed")


lent = contextmanager(opened)


def demonstrate(handler: Callable[..., Greeting]) -> None:
    """Register the handler, and run two messages."""
    registry = Registry()
    registry.register(Greet, handler)
    for customer_id in ("c-1", "c-2"):
        print(handle_message(Greet(customer_id=customer_id), registry=registry))
