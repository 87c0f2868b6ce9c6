"""send: lines in, messages on disk, ids or return messages out; what is refused, and what the exit code says."""

import json
import select

import pytest


def order(order_id, **fields):
    return ("PlaceOrder", {"order_id": order_id, **fields})


def event(id, order_id, **attributes):
    """Return a CloudEvent as a line."""
    head = {"specversion": "1.0", "id": id, "source": "/tests", **attributes}
    return json.dumps({**head, "type": "PlaceOrder", "data": {"order_id": order_id}}).encode() + b"\n"


def bodies(store):
    """Return the data of what a store holds that is due, in the order in which workers get it."""
    return [json.loads(message.body)["data"] for message in store.claim(10_000, 60).messages]


def test_prints_the_id_of_each_message_in_the_order_of_the_input(command_line, json_lines, store):
    """An id on standard output is a message on disk (D1)."""
    given = json_lines(*[order(f"o-{number}") for number in range(1_200)])

    done = command_line.run("send", "shop", given=given)

    stored = store.claim(2_000, 60).messages
    assert (0, b"") == (done.returncode, done.stderr)
    assert done.stdout.decode().split() == [message.id for message in stored]
    assert [f"o-{number}" for number in range(1_200)] == [
        json.loads(message.body)["data"]["order_id"] for message in stored
    ]


def test_the_url_may_be_an_option(command_line, json_lines, store):
    """It comes before MESSAGEBUS_URL."""
    done = command_line.run("send", "shop", "--url", "sqlite:///other.db", given=json_lines(order("o-1")))

    assert 0 == done.returncode
    assert 0 == store.stats().due
    assert (command_line.directory / "other.db").exists()


def test_a_bad_line_is_one_record_and_the_run_goes_on(command_line, json_lines, records, store):
    """Exit code 3: a payload was refused, and the others are stored."""
    given = (
        json_lines(order("o-1"), order("o-2", quantity=-7)) + b"{\n" + json_lines(("Confirmation", {}), order("o-5"))
    )

    done = command_line.run("send", "shop", given=given)

    refused = [(record["event"], record["file"], record["line"]) for record in records(done.stderr)]
    assert [("line.refused", "-", 2), ("line.refused", "-", 3), ("line.refused", "-", 4)] == refused
    assert (3, 2) == (done.returncode, done.stdout.count(b"\n"))
    assert ["o-1", "o-5"] == [data["order_id"] for data in bodies(store)]


def test_a_return_message_is_refused(command_line, json_lines, records, store):
    """It has no handler; nobody waits for it in a store."""
    command_line.write(
        "returning.py",
        """
        from messagebus import Registry
        from shop import Confirmation

        registry = Registry()
        registry.register(Confirmation)
        """,
    )

    done = command_line.run("send", "returning", given=json_lines(("Confirmation", {"order_id": "o-1"})))

    [record] = records(done.stderr)
    assert (3, 1, "line.refused") == (done.returncode, record["line"], record["event"])
    assert 0 == store.stats().due


def test_a_message_that_could_not_be_read_back_is_refused(command_line, json_lines, records, store):
    """A secret has no JSON (D1), and shows in no output (L21)."""
    given = json_lines(("LogIn", {"password": "canary-pw", "token": "canary-t"}), order("o-2"))

    done = command_line.run("send", "shop", given=given)

    [record] = records(done.stderr)
    assert ("messagebus.errors.UnwritableMessageError", 1) == (record["error"], record["line"])
    assert b"canary" not in done.stdout + done.stderr
    assert (3, 1) == (done.returncode, store.stats().due)


def test_a_cloud_event_keeps_its_envelope(command_line, store):
    """Ids from outside are those in the store (L22, B5)."""
    given = event("e-1", "o-1", correlationid="c-1", causationid="b-1", traceparent="t-1")

    done = command_line.run("send", "shop", given=given)

    (stored,) = store.claim(10, 60).messages
    assert b"e-1\n" == done.stdout
    assert ("e-1", "c-1", "b-1") == (stored.id, stored.correlation_id, stored.causation_id)
    assert {"source": "/tests", "traceparent": "t-1"} == stored.headers


def test_a_cloud_event_that_is_sent_again_is_not_stored_twice(command_line, store):
    """So a run that was broken off can be repeated (D8)."""
    given = event("e-1", "o-1") + event("e-2", "o-2")

    codes = [command_line.run("send", "shop", given=given).returncode for _ in range(2)]

    assert [0, 0] == codes
    assert 2 == store.stats().due


def test_an_id_with_another_body_is_refused_and_takes_no_other_with_it(command_line, records, store):
    """The same batch, and yet an error of its own, with its line (D8)."""
    given = event("e-1", "o-1") + event("e-1", "o-2") + event("e-3", "o-3")

    done = command_line.run("send", "shop", given=given)

    [record] = records(done.stderr)
    assert ("messagebus.errors.ConflictError", 2) == (record["error"], record["line"])
    assert (3, b"e-1\ne-3\n") == (done.returncode, done.stdout)
    assert ["o-1", "o-3"] == [data["order_id"] for data in bodies(store)]


KEYED = """
from typing import Annotated
from messagebus import Command, Event, Private, handles

class Pay(Command):
    customer: int | None
    card: Annotated[str, Private] = ""
    lines: tuple[int, ...] = ()

class Paid(Event):
    amount: int

@handles(Pay)
def pay(command): pass

@handles(Paid)
def paid(event): pass
"""


def test_the_key_is_the_value_of_a_field(command_line, json_lines, store):
    """As text; null is no key."""
    command_line.write("keyed.py", KEYED)
    given = json_lines(("Pay", {"customer": 7}), ("Pay", {"customer": None}), ("Pay", {"customer": 8}))

    done = command_line.run("send", "keyed", "--key", "customer", given=given)

    assert 0 == done.returncode
    assert ["7", None, "8"] == [message.key for message in store.waiting()]


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("card", "it is private, and a key is shown in listings"),
        ("lines", "its value is no text or number"),
        ("amount", "it has no such field"),
    ],
)
def test_a_message_whose_key_cannot_be_told_is_refused(command_line, json_lines, records, store, field, reason):
    """With the reason, and never with the value."""
    command_line.write("keyed.py", KEYED)
    given = json_lines(("Pay", {"customer": 7, "card": "canary", "lines": [1]}))

    done = command_line.run("send", "keyed", "--key", field, given=given)

    [record] = records(done.stderr)
    assert f"Cannot read keyed.Pay: {field}: it cannot be the key: {reason}." == record["reason"]
    assert b"canary" not in done.stderr
    assert (3, 0) == (done.returncode, store.stats().due)


def test_a_key_that_no_message_has_is_said_at_once(command_line, json_lines, store):
    """A misspelt field would refuse every line."""
    done = command_line.run("send", "shop", "--key", "orderid", given=json_lines(order("o-1")))

    sentence = "Cannot use --key orderid: no message of TARGET has such a field. Did you mean order_id?"
    assert (2, f"messagebus: {sentence}\n") == (done.returncode, done.stderr.decode())


def test_a_delay_lets_messages_wait(command_line, json_lines, store):
    """Units as a person says them."""
    done = command_line.run("send", "shop", "--delay", "2h", given=json_lines(order("o-1")))

    (waiting,) = store.waiting()
    assert 0 == done.returncode
    assert 7_200 == round((waiting.due - waiting.sent_at).total_seconds())


def test_an_id_is_on_the_pipe_before_the_next_line_is_read(command_line, json_lines, store):
    """A batch is what is there: nobody waits for it to be full."""
    with command_line.start("send", "shop") as process:
        for number in range(3):
            process.stdin.write(json_lines(order(f"o-{number}")))
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 60)
            assert ready, "no id came"
            process.stdout.readline()
            assert number + 1 == store.stats().due
        process.stdin.close()
        assert 0 == process.wait(60)


def test_wait_prints_the_return_messages(command_line, json_lines, records, store):
    """Those of each line and all that it led to, in the order of the input (D12)."""
    with command_line.start("work", "shop", "--log-level", "disabled") as worker:
        done = command_line.run("send", "shop", "--wait", given=json_lines(order("o-1", quantity=2), order("o-2")))
        worker.terminate()
        worker.communicate(timeout=60)

    results = [result["data"]["order_id"] for result in records(done.stdout)]
    assert (0, b"") == (done.returncode, done.stderr)
    assert ["o-1", "o-1 again", "o-2"] == results


def test_wait_records_what_failed_and_the_run_goes_on(command_line, json_lines, records, store):
    """Exit code 1; the results of the others are there."""
    given = json_lines(order("o-1"), ("BreakDown", {}), order("o-3"))
    options = ("--attempts", "1", "--log-level", "disabled")
    with command_line.start("work", "shop", *options) as worker:
        done = command_line.run("send", "shop", "--wait", given=given)
        worker.terminate()
        worker.communicate(timeout=60)

    [record] = records(done.stderr)
    assert ("message.failed", "messagebus.errors.DeliveryFailedError", 2) == tuple(
        record[name] for name in ("event", "error", "line")
    )
    assert "shop.break_down (RuntimeError)" in record["reason"]
    assert ["o-1", "o-3"] == [result["data"]["order_id"] for result in records(done.stdout)]
    assert 1 == done.returncode


def test_wait_ends_at_its_timeout(command_line, json_lines, records, store):
    """No worker runs: the message stays stored, and the exit code says that it is not done."""
    done = command_line.run("send", "shop", "--wait", "--timeout", "0.1", given=json_lines(order("o-1")))

    [record] = records(done.stderr)
    assert ("message.failed", "messagebus.errors.ResultTimeoutError", 1) == tuple(
        record[name] for name in ("event", "error", "line")
    )
    assert (1, b"", 1) == (done.returncode, done.stdout, store.stats().due)


def test_a_timeout_without_wait_is_a_wrong_call(command_line, store):
    """There is nothing to wait for."""
    done = command_line.run("send", "shop", "--timeout", "1")

    assert (2, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"messagebus: Cannot use --timeout: ")


@pytest.mark.parametrize(
    ("url", "code", "sentence"),
    [
        ("sqlite:////no/such/folder/bus.db", 1, "No such file or directory"),
        ("sqlite:///shop.py", 2, "it is no SQLite database"),
        ("memory://", 2, "it ends with the process that opened it"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_sentence(command_line, json_lines, url, code, sentence):
    """1 where the same call may succeed later, 2 where it will not."""
    done = command_line.run("send", "shop", "--url", url, given=json_lines(order("o-1")))

    told = done.stderr.decode()
    assert (code, b"", 1) == (done.returncode, done.stdout, told.count("\n"))
    assert sentence in told


def test_what_is_stored_is_the_wire_form(command_line, json_lines, store):
    """Whatever reads the store reads what `to_json` writes."""
    command_line.run("send", "shop", given=json_lines(order("Zoë")))

    (stored,) = store.claim(1, 60).messages
    assert '{"type":"PlaceOrder","data":{"order_id":"Zoë","quantity":1}}'.encode() == stored.body


def test_older_versions_are_stored_as_they_would_be_written_now(command_line, records, store):
    """A line of a newer version is refused by that name, and stays with whoever sent it."""
    command_line.write(
        "gate.py",
        """
        from messagebus import Command, handles, upcasts

        class Open(Command, version=2):
            width: int

        handles(Open)(print)

        @upcasts(Open, from_version=1)
        def widen(data): return {"width": data["far"] * 10}
        """,
    )
    lines = [{"data": {"far": 1}}, {"dataversion": 2, "data": {"width": 2}}, {"dataversion": 3, "data": {}}]
    given = b"".join(json.dumps({"type": "Open", **line}).encode() + b"\n" for line in lines)

    done = command_line.run("send", "gate", given=given)

    bodies = [
        b'{"type":"Open","dataversion":2,"data":{"width":10}}',
        b'{"type":"Open","dataversion":2,"data":{"width":2}}',
    ]
    assert bodies == [message.body for message in store.claim(10, 60).messages]
    assert [(3, "messagebus.errors.NewerVersionError")] == [(it["line"], it["error"]) for it in records(done.stderr)]
    assert 3 == done.returncode
