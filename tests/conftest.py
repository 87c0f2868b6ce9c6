"""What several test files share: fresh logging, fresh interpreters, and records read back from stderr."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import structlog

import messagebus
from tests import servers

PACKAGE = Path(messagebus.__file__).parent


@pytest.fixture
def host_structlog() -> Iterator[Callable[..., None]]:
    """`structlog.configure`, taken back after the test together with what was bound to the context."""
    structlog.contextvars.clear_contextvars()
    yield structlog.configure
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@pytest.fixture
def host_logger() -> Iterator[logging.Logger]:
    """The standard logger named "messagebus", as it was before when the test is over."""
    logger = logging.getLogger("messagebus")
    before = logger.level, logger.propagate, [*logger.handlers]
    yield logger
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1:]


@pytest.fixture
def records(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """A function that returns the records written to stderr since it was last called, and stdout must be empty."""

    def read() -> list[dict[str, Any]]:
        out, err = capsys.readouterr()
        assert out == ""
        return [json.loads(line) for line in err.splitlines()]

    return read


@pytest.fixture
def fresh_python(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """A function that runs a script in an interpreter of its own, which finds the package that is under test."""

    def run(script: str, *options: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONWARNINGS", "PYTHONUNBUFFERED"}}
        command = [sys.executable, *options, "-c", dedent(script)]
        environment = {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(command, cwd=tmp_path, env=environment, encoding="utf-8", check=False, **streams)

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.PostgreSQL]:
    """A real PostgreSQL for all tests."""
    with servers.postgres() as server:
        yield server
