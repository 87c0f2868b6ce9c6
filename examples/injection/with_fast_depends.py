"""With fast-depends: parameters marked `Depends` are filled in as FastAPI does it.

Output::

        opened
        closed
    [Greeting(text='Hello, Ada!')]
        opened
        closed
    [Greeting(text='Hello, Grace!')]
"""

from typing import Annotated

from fast_depends import Depends, inject

from examples.injection.shop import Connection, Greet, Greeting, demonstrate, opened


@inject(cast=False)  # The message is validated already.
def greet(command: Greet, connection: Annotated[Connection, Depends(opened)]) -> Greeting:
    return Greeting(text=f"Hello, {connection.name_of(command.customer_id)}!")


if __name__ == "__main__":
    demonstrate(greet)
