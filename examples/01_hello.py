"""A command, its handler, and what comes back.

Output::

    [Greeting(text='Hello, Ada!')]
"""

from messagebus import Command, ReturnMessage, handle_message, handles


class Greet(Command):
    name: str


class Greeting(ReturnMessage):
    text: str


@handles(Greet)
def greet(command: Greet) -> Greeting:
    return Greeting(text=f"Hello, {command.name}!")


print(handle_message(Greet(name="Ada")))
