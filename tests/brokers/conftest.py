"""What the tests of brokers share: an engine of each kind, a name of one's own on it, services that are killed."""

import os
import secrets
import time

import pytest

from messagebus.brokers import connect
from tests import servers
from tests.brokers.nursery import OPENED, Nursery, hasten, opened

STARTS = {
    "nats": servers.start_nats,
    "redis": servers.start_valkey,
    "rabbitmq": servers.start_rabbitmq,
    "kafka": servers.start_tansu,
}
PACKAGES = {"nats": "faststream.nats", "redis": "faststream.redis", "rabbitmq": "faststream.rabbit",
            "kafka": "faststream.kafka"}  # fmt: skip


USED = set()
"""The engines that tests have had."""


def pytest_terminal_summary(terminalreporter):
    """Say which engines it was that the tests ran on."""
    terminalreporter.write_line(f"engines: {', '.join(sorted(USED)) or 'none'}")


def pytest_sessionfinish(session, exitstatus):
    """Fail if they were fewer than MESSAGEBUS_TEST_ENGINES says: tests that are skipped prove nothing."""
    if exitstatus == 0 and len(USED) < int(os.environ.get("MESSAGEBUS_TEST_ENGINES", "0")):
        session.exitstatus = 1


@pytest.fixture(autouse=True)
def stores_are_closed():
    """Nothing is left open after a test."""
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture(scope="session")
def engines():
    """A function that returns the server of an engine; started when first asked for."""
    started = {}

    def start(name):
        pytest.importorskip(PACKAGES[name], reason=f"no {name} here: pip install 'pydantic-messagebus[{name}]'")
        hasten(name)
        if name not in started:
            given = os.environ.get("MESSAGEBUS_TEST_AMQP") if name == "rabbitmq" else None
            started[name] = servers.Engine(given, [], None) if given else STARTS[name]()
            USED.add(name)
        return started[name]

    yield start
    for server in started.values():
        if server.process is not None:
            server.stop()


@pytest.fixture(params=STARTS)
def engine(request, engines):
    """Each of the engines."""
    server = engines(request.param)
    server.name = request.param
    return server


@pytest.fixture
def namespace():
    """Names on the engine that no other test has."""
    return f"mb{secrets.token_hex(4)}"


@pytest.fixture
def open_broker(engine, namespace):
    """A function that connects to the engine; what it opened is closed after the test."""
    opened = []

    def open_one(group="billing", **more):
        opened.append(connect(engine.url, group=group, **{"namespace": namespace, "partitions": 2, **more}))
        return opened[-1]

    yield open_one
    for broker in opened:
        broker.close()


@pytest.fixture(scope="session")
def shared_nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def nursery(shared_nursery):
    """Starts processes of services; what is left of them after the test is killed."""
    yield shared_nursery
    shared_nursery.kill_all()


@pytest.fixture
def inbox(tmp_path):
    """A store for what comes in."""
    store = opened(f"sqlite:///{tmp_path}/inbox.db")
    yield store
    store.close()


@pytest.fixture
def until():
    """A function that waits until something is true."""

    def wait(condition):
        while not condition():
            time.sleep(0.02)

    return wait
