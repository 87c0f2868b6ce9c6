"""handle: lines in, runs of the bus, results out; what is refused, what fails, and what the exit code says of it."""

import json

import pytest


def confirmation(order_id):
    return {"type": "Confirmation", "data": {"order_id": order_id}}


def order(order_id, **fields):
    return ("PlaceOrder", {"order_id": order_id, **fields})


def refusal(line, reason, error="InvalidMessageError", file="-"):
    return {
        "logger": "messagebus",
        "event": "line.refused",
        "level": "error",
        "file": file,
        "line": line,
        "error": f"messagebus.errors.{error}",
        "reason": reason,
    }


def test_results_come_out_in_the_order_of_the_input(command_line, json_lines, records):
    """All results of a line, in the order in which they were returned, and then those of the next (L11)."""
    given = json_lines(order("o-1"), order("o-2", quantity=2), order("o-3"))

    done = command_line.run("handle", "shop", given=given)

    ids = ["o-1", "o-2", "o-2 again", "o-3"]
    assert [confirmation(order_id) for order_id in ids] == records(done.stdout)
    assert 0 == done.returncode


def test_a_result_is_one_compact_line(command_line, json_lines):
    """What one command writes another can read: the wire form, a line each."""
    done = command_line.run("handle", "shop", given=json_lines(order("Zoë")))

    assert '{"type":"Confirmation","data":{"order_id":"Zoë"}}\n'.encode() == done.stdout


def test_every_record_says_where_its_message_came_from(command_line, json_lines, records):
    """One record per message (L20), with the file and the line; also for the events that a command led to."""
    done = command_line.run("handle", "shop", given=json_lines(order("o-1"), order("o-2")))

    keys = ("event", "message_type", "file", "line")
    seen = [tuple(record[key] for key in keys) for record in records(done.stderr)]
    assert [
        ("command.handled", "PlaceOrder", "-", 1),
        ("event.handled", "shop.order_placed", "-", 1),
        ("command.handled", "PlaceOrder", "-", 2),
        ("event.handled", "shop.order_placed", "-", 2),
    ] == seen


def test_a_bad_line_is_one_record_and_the_run_goes_on(command_line, json_lines, records):
    """Exit code 3: a payload was refused, and nothing else went wrong."""
    bad = b'{"type": "PlaceOrder"\n' + json_lines(("PlaceOrdr", {}), order("o-1", quantity=-7), ("Confirmation", {}))

    done = command_line.run("handle", "--log-level", "disabled", "shop", given=json_lines(order("o-0")) + bad)

    unknown = "Register its class with @handles(...) or registry.register(...), in a module that is imported."
    refused = records(done.stderr)
    assert [confirmation("o-0")] == records(done.stdout)
    assert 3 == done.returncode
    assert [2, 3, 4, 5] == [record["line"] for record in refused]
    assert refused[1] == refusal(
        3,
        "Cannot read a message: no message class with the wire name 'PlaceOrdr' is registered. "
        f"Did you mean PlaceOrder? {unknown}",
        error="UnknownMessageError",
    )
    assert refusal(4, "Cannot read shop.PlaceOrder: quantity: Input should be greater than 0.") == refused[2]


def test_a_handler_that_fails_is_one_record_and_the_run_goes_on(command_line, json_lines, records):
    """Exit code 1; the results of the lines before and after are there."""
    given = json_lines(order("o-1"), ("BreakDown", {}), order("o-3"))

    done = command_line.run("handle", "--log-level", "disabled", "shop", given=given)

    [failed] = records(done.stderr)
    assert ("message.failed", "BreakDown", "-", 2) == tuple(
        failed[key] for key in ("event", "message_type", "file", "line")
    )
    assert "broken down" == failed["failure"][0]["exc_value"]
    assert [confirmation("o-1"), confirmation("o-3")] == records(done.stdout)
    assert 1 == done.returncode


def test_a_failed_handler_outweighs_a_refused_payload(command_line, json_lines):
    """Exit code 1 if both happened, whichever came first."""
    done = command_line.run("handle", "shop", given=b"{}\n" + json_lines(("BreakDown", {})) + b"{}\n")

    assert 1 == done.returncode


def test_a_result_that_cannot_be_written_is_a_failure(command_line, json_lines, records):
    """None of the line's results is written, and no later line is lost."""
    given = json_lines(("LogIn", {"password": "s3cret-canary", "token": "t"}), order("o-2"))

    done = command_line.run("handle", "--log-level", "disabled", "shop", given=given)

    [record] = records(done.stderr)
    assert ("result.refused", "messagebus.errors.UnwritableMessageError", 1) == tuple(
        record[key] for key in ("event", "error", "line")
    )
    assert [confirmation("o-2")] == records(done.stdout)
    assert 1 == done.returncode
    assert b"canary" not in done.stdout + done.stderr


def test_a_command_without_handler_is_a_failure(command_line, json_lines, records):
    """The payload is well, and the program is not (L6)."""
    command_line.write(
        "empty.py",
        """
        from messagebus import Command, Registry
        class Wait(Command): pass
        registry = Registry()
        registry.register(Wait)
        """,
    )

    done = command_line.run("handle", "empty", given=json_lines(("Wait", {})))

    assert ["message.failed"] == [record["event"] for record in records(done.stderr)]
    assert 1 == done.returncode


def test_no_input_at_all_is_well(command_line):
    """Nothing to do is done."""
    done = command_line.run("handle", "shop", given=b"")

    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)


def test_a_line_over_the_limit_is_refused(command_line, json_lines, records):
    """``--max-bytes`` counts the line without its newline (L4)."""
    fitting, longer = json_lines(order("o-1")), json_lines(order("o-22"))

    limit = len(fitting) - 1
    options = ("--log-level", "disabled", "--max-bytes", str(limit))

    done = command_line.run("handle", "shop", *options, given=fitting + longer + fitting)

    why = f"Cannot read a message: it has {limit + 1} bytes, and the limit is {limit}."
    hint = "Send a reference to large data, or raise max_bytes."
    assert [refusal(2, f"{why} {hint}", error="MessageTooLargeError")] == records(done.stderr)
    assert [confirmation("o-1")] * 2 == records(done.stdout)
    assert 3 == done.returncode


def test_async_handlers_share_one_event_loop(command_line, json_lines, records):
    """What a handler leaves running in the loop goes on while the next lines come."""
    command_line.write(
        "background.py",
        """
        import asyncio
        from messagebus import Command, ReturnMessage, handles

        class Count(Command): pass
        class Counted(ReturnMessage):
            loops: int
            turns: int

        loops, turns = set(), 0

        async def turn():
            global turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        @handles(Count)
        async def count(command):
            if not loops:
                turn.task = asyncio.create_task(turn())
            loops.add(asyncio.get_running_loop())
            return Counted(loops=len(loops), turns=turns)
        """,
    )

    done = command_line.run("handle", "background", given=json_lines(*[("Count", {})] * 5))

    results = [result["data"] for result in records(done.stdout)]
    assert [1] * 5 == [result["loops"] for result in results]
    assert results[0]["turns"] < results[2]["turns"] < results[4]["turns"]
    assert 0 == done.returncode


def test_async_handlers_fail_and_are_refused_as_plain_ones(command_line, json_lines, records):
    """The same records and exit codes, also with a registry that holds both kinds."""
    shop = (command_line.directory / "shop.py").read_text()
    command_line.write("ashop.py", shop.replace("def break_down", "async def break_down"))
    given = json_lines(order("o-1"), ("BreakDown", {})) + b"{}\n" + json_lines(order("o-4"))

    done = command_line.run("handle", "ashop", "--log-level", "disabled", given=given)

    seen = [(record["event"], record["line"]) for record in records(done.stderr)]
    assert [("message.failed", 2), ("line.refused", 3)] == seen
    assert [confirmation("o-1"), confirmation("o-4")] == records(done.stdout)
    assert 1 == done.returncode


@pytest.mark.parametrize("kind", ["", "async "])
def test_a_cancellation_that_a_handler_lets_out_fails_its_line_only(command_line, json_lines, records, kind):
    """The bus lets it pass (L17), but nobody asked the whole to stop."""
    command_line.write(
        "cancelled.py",
        f"""
        import asyncio
        from messagebus import Command, handles

        class Stop(Command): pass

        @handles(Stop)
        {kind}def stop(command):
            raise asyncio.CancelledError
        """,
    )

    done = command_line.run("handle", "cancelled", given=json_lines(("Stop", {}), ("Stop", {})))

    seen = [(record["event"], record["error"], record["line"]) for record in records(done.stderr)]
    error = "asyncio.exceptions.CancelledError"
    assert [("message.failed", error, 1), ("message.failed", error, 2)] == seen
    assert 1 == done.returncode


def test_a_handler_that_cancels_the_whole_interrupts_it(command_line, json_lines, records):
    """The exit code is that of Ctrl-C; what was reached before is written."""
    command_line.write(
        "cancelling.py",
        """
        import asyncio
        from messagebus import Command, handles
        from shop import PlaceOrder

        class Stop(Command): pass

        @handles(Stop)
        async def stop(command):
            asyncio.current_task().cancel()
        """,
    )

    done = command_line.run("handle", "cancelling", given=json_lines(order("o-1"), ("Stop", {}), order("o-3")))

    assert 130 == done.returncode
    assert [confirmation("o-1")] == records(done.stdout)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["", "async "])
@pytest.mark.parametrize(("call", "code"), [("sys.exit()", 1), ("sys.exit(0)", 1), ("sys.exit(7)", 7)])
def test_a_handler_that_exits_ends_the_run_and_never_with_0(command_line, json_lines, records, kind, call, code):
    """0 would say that all lines were handled; what was reached before is written."""
    command_line.write(
        "leaving.py",
        f"""
        import sys
        from messagebus import Command, handles
        from shop import PlaceOrder

        class Leave(Command): pass

        @handles(Leave)
        {kind}def leave(command):
            {call}
        """,
    )

    done = command_line.run("handle", "leaving", given=json_lines(order("o-1"), ("Leave", {}), order("o-3")))

    assert code == done.returncode
    assert [confirmation("o-1")] == records(done.stdout)
    assert b"Traceback" not in done.stderr
    assert (code == 1) == (b"Stopped at line 2 of -" in done.stderr)


def test_a_cloud_event_keeps_its_ids(command_line, records):
    """The envelope that came in is the one in the records (L22)."""
    event = {"specversion": "1.0", "id": "e-1", "source": "/tests", "correlationid": "c-1", "causationid": "b-1"}
    given = json.dumps({**event, "type": "PlaceOrder", "data": {"order_id": "o-1"}}).encode()

    done = command_line.run("handle", "shop", given=given)

    first, second = records(done.stderr)
    assert ("e-1", "c-1", "b-1") == tuple(first[f"{name}_id"] for name in ("message", "correlation", "causation"))
    assert ("c-1", "e-1") == (second["correlation_id"], second["causation_id"])


@pytest.mark.parametrize("level", ["debug", "info", "disabled"])
def test_secrets_show_in_no_output(command_line, json_lines, level):
    """Not in records, refusals, tracebacks or results (L21); the failing handler puts both into its exception."""
    good = {"password": "canary-pw", "token": "canary-t"}
    given = json_lines(
        ("LogIn", good),
        ("LogIn", {**good, "token": "canary-refused"}),
        ("LogIn", {**good, "token": ["canary-list"]}),
        ("LogIn", {"password": "canary-pw"}),
        ("LogIn", {**good, "canary-key": "canary-value"}),
        ("LogIn", good),
    )

    done = command_line.run("handle", "shop", "--log-level", level, given=given[:-5])

    assert 1 == done.returncode
    assert 6 <= done.stderr.count(b"\n")
    assert b"canary" not in done.stdout + done.stderr


def test_a_validator_that_raises_what_it_should_not_is_a_refusal(command_line, json_lines, records):
    """pydantic lets anything but ValueError and AssertionError through; its text may hold the value."""
    command_line.write(
        "checked.py",
        """
        from messagebus import Command, handles
        from pydantic import field_validator

        class Look(Command):
            word: str

            @field_validator("word")
            @classmethod
            def known(cls, word):
                return {"a": "A"}[word]

        @handles(Look)
        def look(command): pass
        """,
    )

    given = json_lines(("Look", {"word": "canary"}), ("Look", {"word": "a"}))
    done = command_line.run("handle", "checked", "--log-level", "disabled", given=given)

    [record] = records(done.stderr)
    assert ("line.refused", 1) == (record["event"], record["line"])
    assert b"canary" not in done.stderr
    assert 3 == done.returncode


def test_what_handlers_print_stays_out_of_the_results(command_line, json_lines, records):
    """Standard output belongs to data."""
    command_line.write(
        "talking.py",
        """
        from messagebus import Command, handles
        from shop import Confirmation, PlaceOrder

        print("imported")

        class Talk(Command): pass

        @handles(Talk)
        def talk(command):
            print("handled")
            return Confirmation(order_id="o-1")
        """,
    )

    done = command_line.run("handle", "talking", "--log-level", "disabled", given=json_lines(("Talk", {})))

    assert [confirmation("o-1")] == records(done.stdout)
    assert b"imported\nhandled\n" == done.stderr


def test_a_return_message_passes_through(command_line, json_lines, records):
    """As in the bus: a message that has no handler comes back; so commands can stand in a row."""
    command_line.write(
        "passing.py",
        """
        from messagebus import Registry
        from shop import Confirmation

        registry = Registry()
        registry.register(Confirmation)
        """,
    )

    done = command_line.run("handle", "passing", given=json_lines(("Confirmation", {"order_id": "o-1"})))

    assert [confirmation("o-1")] == records(done.stdout)
