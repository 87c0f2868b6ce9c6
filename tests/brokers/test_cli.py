"""The commands that use an engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

from messagebus.brokers.wire import arrival
from messagebus.testing.shop import orders
from tests.brokers import nursery

SHOP = """
from messagebus import handles
from messagebus.testing.shop import Confirmation, PlaceOrder

@handles(PlaceOrder)
def place(command):
    return Confirmation(order_id=command.order_id)
"""


def environment(folder):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(folder)])}


def run(folder, *arguments):
    quiet = () if arguments[0] == "send" else ("--log-level", "disabled", "--error-log-level", "disabled")
    command = [sys.executable, "-m", "messagebus", *arguments, *quiet]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)


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


def test_send_to_an_engine(engines, tmp_path):
    """The ids, or with --wait what the handler on the other side returned, or that nobody answers."""
    url = engines("nats").url
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "one.jsonl").write_text('{"type": "shop.place_order", "data": {"order_id": "o-1"}}')
    send = ("send", "shop", "one.jsonl", "--to", url, "--group", "cli2")

    sent = run(tmp_path, *send)
    alone = run(tmp_path, *send, "--wait", "--timeout", "1s")
    inbox = ("--group", "cli2", "--inbox", "sqlite:///inbox.db", "--log-level", "disabled")
    with subprocess.Popen([sys.executable, "-m", "messagebus", "work", "shop", "--from", url, *inbox], cwd=tmp_path,
                          env=environment(tmp_path)) as worker:  # fmt: skip
        waited = run(tmp_path, *send, "--wait")
        worker.terminate()

    assert (0, 33) == (sent.returncode, len(sent.stdout))
    assert (1, "") == (alone.returncode, alone.stdout)
    assert "no reply has come within 1 s" in alone.stderr
    assert (0, '{"type":"shop.confirmation","data":{"order_id":"o-1"}}\n', "") == (
        waited.returncode, waited.stdout, waited.stderr,
    )  # fmt: skip


def test_dead_letters_of_an_engine(engines, tmp_path):
    """Bytes that are no message are listed, shown, retried and dropped like any other; --target shows what it can."""
    url, store = engines("nats").url, "sqlite:///inbox.db"
    (tmp_path / "shop.py").write_text(SHOP)
    inbox = nursery.opened(f"sqlite:///{tmp_path}/inbox.db")
    raw = [arrival(b"\xff\x00 canary", {}, place="mb.command", position=str(n), receipt=None) for n in range(2)]
    inbox.receive(raw, 0.0)
    work = ("work", "shop", "--from", url, "--group", "cli", "--inbox", store)
    run(tmp_path, *work, "--limit", "2")

    listed = [json.loads(line) for line in verb(tmp_path, "list", "--json", "--url", store).stdout.splitlines()]
    shown = verb(tmp_path, "show", str(listed[0]["id"]), "--target", "shop", "--url", store)
    retried = verb(tmp_path, "retry", str(listed[0]["id"]), "--url", store)
    waiting = inbox.stats()
    run(tmp_path, *work, "--limit", "1")
    again = inbox.dead()
    dropped = verb(tmp_path, "drop", "--all", "--url", store)

    assert [("", "messagebus.errors.InvalidMessageError")] * 2 == [(one["type"], one["error"]) for one in listed]
    assert "not shown, since it fits no class of shop" in shown.stdout
    assert ("retry: 1 of 1\n", 1, 1) == (retried.stdout, waiting.due, waiting.dead)
    assert [b"\xff\x00 canary"] * 2 == [letter.body for letter in again]
    assert ("drop: 2 of 2\n", 0) == (dropped.stdout, inbox.stats().dead)
    assert "canary" not in shown.stdout + str(listed)


def verb(folder, *arguments):
    return subprocess.run([sys.executable, "-m", "messagebus", "failed", *arguments], cwd=folder,
                          env=environment(folder), capture_output=True, text=True, check=True)  # fmt: skip


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
