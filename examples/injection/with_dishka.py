"""With dishka: parameters marked `FromDishka` are filled in from a scope for each message.

Output::

        opened
        closed
    [Greeting(text='Hello, Ada!')]
        opened
        closed
    [Greeting(text='Hello, Grace!')]
"""

from dishka import FromDishka, Provider, Scope, make_container
from dishka.integrations.base import wrap_injection

from examples.injection.shop import Connection, Greet, Greeting, demonstrate, opened


def greet(command: Greet, connection: FromDishka[Connection]) -> Greeting:
    return Greeting(text=f"Hello, {connection.name_of(command.customer_id)}!")


if __name__ == "__main__":
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(opened)
    container = make_container(provider)
    demonstrate(wrap_injection(func=greet, container_getter=lambda _args, _kwargs: container, manage_scope=True))
    container.close()
