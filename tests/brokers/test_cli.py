"""The commands that use an engine."""

import os
import subprocess
import sys
from pathlib import Path

from messagebus.testing.shop import orders
from tests.brokers import nursery

SHOP = """
from messagebus import handles
from messagebus.testing.shop import PlaceOrder

@handles(PlaceOrder)
def place(command):
    pass
"""


def run(folder, *arguments):
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(folder)])
    command = [sys.executable, "-m", "messagebus", *arguments, "--log-level", "disabled"]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


def test_relay_and_work(engines, tmp_path):
    """From a store through an engine into an inbox."""
    url = engines("nats").url
    (tmp_path / "shop.py").write_text(SHOP)
    outbox = nursery.opened(f"sqlite:///{tmp_path}/outbox.db")
    outbox.send_many(orders("o-1", "o-2"))

    relayed = run(tmp_path, "relay", "sqlite:///outbox.db", url, "--group", "web", "--until-idle")
    worked = run(
        tmp_path, "work", "shop", "--from", url, "--group", "cli", "--inbox", "sqlite:///inbox.db", "--limit", "2"
    )

    assert (0, "", 0, "") == (relayed.returncode, relayed.stderr, worked.returncode, worked.stderr)
    assert 2 == outbox.stats().finished == nursery.opened(f"sqlite:///{tmp_path}/inbox.db").stats().finished


def test_engine_that_is_not_there_is_exit_code_one(tmp_path, engines):
    """And a sentence, without the password."""
    engines("nats")
    nursery.opened(f"sqlite:///{tmp_path}/outbox.db").send_many(orders("o-1"))

    done = run(tmp_path, "relay", "sqlite:///outbox.db", "redis://ann:canary@127.0.0.1:1", "--group", "web")

    assert 1 == done.returncode
    assert done.stderr.startswith("messagebus: Cannot connect to Redis at redis://127.0.0.1:1:")
    assert "canary" not in done.stderr


def test_group_has_to_be_named(tmp_path):
    """Two services under one name would share their events."""
    (tmp_path / "shop.py").write_text(SHOP)

    done = run(tmp_path, "work", "shop", "--from", "nats://127.0.0.1:1", "--inbox", "sqlite:///inbox.db")

    assert 2 == done.returncode
    assert "no --group is given" in done.stderr
