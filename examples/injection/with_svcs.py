"""With svcs: a container for each message, which the handler asks for what it needs.

Output::

        opened
        closed
    [Greeting(text='Hello, Ada!')]
        opened
        closed
    [Greeting(text='Hello, Grace!')]
"""

from functools import partial

import svcs

from examples.injection.shop import Connection, Greet, Greeting, demonstrate, opened


def greet(services: svcs.Registry, command: Greet) -> Greeting:
    with svcs.Container(services) as container:
        return Greeting(text=f"Hello, {container.get(Connection).name_of(command.customer_id)}!")


if __name__ == "__main__":
    with svcs.Registry() as services:
        services.register_factory(Connection, opened)
        demonstrate(partial(greet, services))
