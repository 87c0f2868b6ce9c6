"""Records: JSON on standard error whatever the application does with structlog, and what its handlers write."""

import json

import pytest


def test_structlog_lines_of_handlers_come_out_the_same(command_line, json_lines, records):
    """With ids, file and line; what is private in a message stays so; tracebacks are data without locals (L20, L21)."""
    command_line.write(
        "logging_shop.py",
        """
        import structlog
        from messagebus import handles
        from shop import PlaceOrder, LogIn
        import shop

        log = structlog.get_logger()

        def refuse(event):
            secret = "canary"
            try:
                raise ValueError("refused")
            except ValueError:
                log.exception("order.refused", command=shop.LogIn(password="canary", token="canary"))

        @handles(shop.OrderPlaced)
        def refuse_it(event):
            refuse(event)
        """,
    )
    given = json_lines(("PlaceOrder", {"order_id": "o-1"}))

    done = command_line.run("handle", "logging_shop", "--log-level", "disabled", given=given)

    [record] = records(done.stderr)
    assert ("order.refused", "error", "-", 1) == tuple(record[key] for key in ("event", "level", "file", "line"))
    assert {"message_id", "correlation_id", "causation_id"} <= record.keys()
    assert "ValueError" == record["exception"][0]["exc_type"]
    assert b"canary" not in done.stderr


def test_an_application_that_configures_structlog_changes_only_its_own_lines(command_line, json_lines):
    """Whoever reads the records can rely on their form, and on results alone on standard output."""
    command_line.write(
        "configured.py",
        """
        import structlog
        from messagebus import handles
        import shop

        structlog.configure([lambda *args: "plain"], logger_factory=structlog.PrintLoggerFactory())

        @handles(shop.OrderPlaced)
        def tell(event):
            structlog.get_logger().info("told")
        """,
    )

    done = command_line.run("handle", "configured", given=json_lines(("PlaceOrder", {"order_id": "o-1"})))

    own, *ours = sorted(done.stderr.splitlines())
    assert b"plain" == own
    assert {"command.handled", "event.handled"} == {json.loads(line)["event"] for line in ours}
    assert 1 == done.stdout.count(b"\n")


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (("--log-level", "debug"), {"debug", "error"}),
        ((), {"info", "error"}),
        (("--error-log-level", "warning"), {"info", "warning"}),
        (("--log-level", "disabled", "--error-log-level", "info"), {"info"}),
        (("--error-log-level", "disabled"), {"info"}),
        (("--log-level", "disabled", "--error-log-level", "disabled"), set()),
    ],
)
def test_the_two_levels_are_those_of_the_bus(command_line, json_lines, records, levels, expected):
    """Activity at the one, failures and refusals at the other; "disabled" writes nothing (L19)."""
    given = json_lines(("PlaceOrder", {"order_id": "o-1"}), ("BreakDown", {})) + b"{}\n"

    done = command_line.run("handle", "shop", *levels, given=given)

    assert expected == {record["level"] for record in records(done.stderr)}
    assert 1 == done.returncode


def test_debug_shows_the_message(command_line, json_lines, records):
    """And a record per handler."""
    given = json_lines(("PlaceOrder", {"order_id": "o-1"}))

    done = command_line.run("handle", "shop", "--log-level", "debug", given=given)

    found = records(done.stderr)
    assert {"handler.finished", "command.handled", "event.handled"} == {record["event"] for record in found}
    assert "o-1" in json.dumps(found)


def test_a_record_is_ascii_and_so_is_readable_anywhere(command_line, json_lines, records):
    """Whatever the name of the file or the encoding of the terminal."""
    (command_line.directory / "ä.jsonl").write_bytes(b"{}\n")
    command_line.environment["PYTHONIOENCODING"] = "ascii"

    done = command_line.run("handle", "shop", "ä.jsonl", "--log-level", "disabled")

    assert done.stderr.isascii()
    assert "ä.jsonl" == records(done.stderr)[0]["file"]
