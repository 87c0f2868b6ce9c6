"""By hand: `functools.partial` binds what the handler needs; here, how to open a connection.

Output::

        opened
        closed
    [Greeting(text='Hello, Ada!')]
        opened
        closed
    [Greeting(text='Hello, Grace!')]
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from examples.injection.shop import Connection, Greet, Greeting, demonstrate, lent


def greet(connect: Callable[[], AbstractContextManager[Connection]], command: Greet) -> Greeting:
    with connect() as connection:
        return Greeting(text=f"Hello, {connection.name_of(command.customer_id)}!")


if __name__ == "__main__":
    demonstrate(partial(greet, lent))
