"""What the tests of the command line share: an application with a store, and processes and terminals that run it."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import messagebus
from messagebus.delivery import Store, open_store

ROOT = Path(messagebus.__file__).parents[1]
UNSET = {"PYTHONWARNINGS", "PYTHONUNBUFFERED", "MESSAGEBUS_URL"}
SHOP = """
from collections.abc import Iterator
from typing import Annotated

from messagebus import Command, Event, Message, Private, ReturnMessage, handles
from pydantic import PositiveInt, SecretStr


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt = 1


class OrderPlaced(Event, name="shop.order_placed"):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


class LogIn(Command):
    password: SecretStr
    token: Annotated[str, Private]


class BreakDown(Command):
    order_id: str = ""


class Ticket(ReturnMessage):
    password: SecretStr


@handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Iterator[Message]:
    yield OrderPlaced(order_id=command.order_id)
    yield Confirmation(order_id=command.order_id)
    if command.quantity == 2:
        yield Confirmation(order_id=command.order_id + " again")


@handles(OrderPlaced)
def count(event: OrderPlaced) -> None:
    pass


@handles(LogIn)
def log_in(command: LogIn) -> Ticket:
    if command.token.endswith("refused"):
        raise PermissionError(command.token, command.password.get_secret_value())
    return Ticket(password=command.password)


@handles(BreakDown)
def break_down(command: BreakDown) -> None:
    raise RuntimeError("broken down")
"""


class CommandLine:
    """``python -m messagebus`` in the directory of an application."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {name: value for name, value in os.environ.items() if name not in UNSET}
        self.environment = {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        self.write("shop.py", SHOP)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the application, or of input."""
        path = self.directory / name
        path.write_text(dedent(text), encoding="utf-8")
        return path

    def words(self, *arguments: str) -> list[str]:
        """Return what starts the command, with every warning an error."""
        return [sys.executable, "-W", "error", "-m", "messagebus", *arguments]

    def start(self, *arguments: str, **settings: Any) -> "subprocess.Popen[bytes]":
        """Start the command; all three streams are pipes unless told otherwise."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options: dict[str, Any] = {"cwd": self.directory, "env": self.environment, **streams, **settings}
        return subprocess.Popen(self.words(*arguments), **options)

    def run(self, *arguments: str, given: bytes | None = b"", **settings: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run the command to its end, with ``given`` on standard input."""
        with self.start(*arguments, **settings) as process:
            try:
                out, err = process.communicate(given, timeout=120)
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def shell(self, script: str) -> "subprocess.CompletedProcess[bytes]":
        """Run a script in bash, where ``messagebus`` is the command."""
        options: dict[str, Any] = {"cwd": self.directory, "env": self.environment, "capture_output": True}
        define = f'messagebus() {{ exec "{sys.executable}" -W error -m messagebus "$@"; }}'
        return subprocess.run(["bash", "-c", f"{define}\n{script}"], check=False, timeout=120, **options)


class Terminal:
    """A pseudo-terminal: what a process writes to it, and what somebody would see."""

    def __init__(self, columns: int) -> None:
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # EIO: nobody has the other end open any more.
                piece = b""
            if not piece:
                return
            self._pieces.append(piece)

    def close(self) -> str:
        os.close(self.slave)
        self._reader.join(60)
        os.close(self._master)
        return b"".join(self._pieces).decode()


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    """The command line of an application ``shop``."""
    return CommandLine(tmp_path)


@pytest.fixture
def store(command_line: CommandLine) -> Iterator[Store]:
    """A store in a file of the application, which the commands find without being told."""
    url = f"sqlite:///{command_line.directory}/bus.db"
    command_line.environment["MESSAGEBUS_URL"] = url
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def in_terminal(command_line: CommandLine) -> Callable[..., "tuple[subprocess.CompletedProcess[bytes], str]"]:
    """A function that runs the command with its standard error on a terminal."""

    def run(
        *arguments: str, columns: int = 100, is_all: bool = False, **settings: Any
    ) -> "tuple[subprocess.CompletedProcess[bytes], str]":
        terminal = Terminal(columns)
        try:
            if is_all:
                settings["stdout"] = terminal.slave
            done = command_line.run(*arguments, stderr=terminal.slave, **settings)
        finally:
            written = terminal.close()
        return done, written

    return run


@pytest.fixture
def json_lines() -> Callable[..., bytes]:
    """A function that writes messages, ``("PlaceOrder", {"order_id": "o-1"})``, as JSON Lines."""

    def write(*messages: tuple[str, dict[str, Any]]) -> bytes:
        return b"".join(json.dumps({"type": name, "data": data}).encode() + b"\n" for name, data in messages)

    return write


@pytest.fixture
def records() -> Callable[[bytes], Sequence[dict[str, Any]]]:
    """A function that reads JSON Lines, and leaves out the time at which a record was written."""

    def read(output: bytes) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in output.splitlines()]
        for record in found:
            record.pop("timestamp", None)
        return found

    return read
