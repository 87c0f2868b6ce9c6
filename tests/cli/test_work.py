"""work: a worker as a process; how it ends, what it writes, and what it leaves in the store."""

import json
import re
import signal
import subprocess

import pytest

STATE = re.compile(r"([\d,]+) of ([\d,]+) messages \((\d+)%\), ([\d,]+) left, [\d,]+ messages/s")
QUIET = ("--log-level", "disabled")


@pytest.fixture
def send(command_line, json_lines, store):
    """A function that stores messages for an application."""

    def send(*messages, target="shop"):
        done = command_line.run("send", target, given=json_lines(*messages))
        assert 0 == done.returncode, done.stderr
        return done.stdout.decode().split()

    return send


def order(order_id):
    return ("PlaceOrder", {"order_id": order_id})


def until(process, event):
    """Return when the process has written a record of this event."""
    for line in process.stderr:
        if f'"event":"{event}"'.encode() in line:
            return
    raise AssertionError(f"no {event}")


def test_handles_what_is_stored_until_nothing_is_due(command_line, records, send, store):
    """And what that leads to; records on standard error, nothing on standard output."""
    send(order("o-1"), order("o-2"))

    done = command_line.run("work", "shop", "--until-idle")

    told = [record["event"] for record in records(done.stderr)]
    assert (0, b"") == (done.returncode, done.stdout)
    assert ["worker.started", *["command.handled"] * 2, *["event.handled"] * 2, "worker.stopped"] == told
    assert (0, 4) == (store.stats().due, store.stats().finished)


def test_makes_the_store_that_is_not_there(command_line):
    """A worker may be the first to come."""
    done = command_line.run("work", "shop", "--until-idle", "--url", "sqlite:///new.db")

    assert 0 == done.returncode
    assert (command_line.directory / "new.db").exists()


def test_a_misspelt_target_makes_no_store(command_line):
    """Exit code 2, and nothing is left behind."""
    done = command_line.run("work", "shopp", "--url", "sqlite:///new.db")

    assert (2, b"") == (done.returncode, done.stdout)
    assert not (command_line.directory / "new.db").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_in_good_order(command_line, send, store, name):
    """Exit code 0 (D10), with what was in hand finished."""
    send(order("o-1"))
    with command_line.start("work", "shop") as process:
        until(process, "event.handled")
        process.send_signal(getattr(signal, name))
        until(process, "worker.stopped")
        assert 0 == process.wait(60)

    assert (2, 0) == (store.stats().finished, store.stats().in_flight)


SLOW = """
import sys, time
from messagebus import Command, handles

class Sleep(Command): pass

@handles(Sleep)
def sleep(command):
    print("asleep", flush=True)
    time.sleep(3600)
"""


def test_when_the_grace_is_over_the_message_is_given_back(command_line, send, store):
    """Exit code 0, and another worker may take it at once (D10)."""
    command_line.write("slow.py", SLOW)
    send(("Sleep", {}), target="slow")
    with command_line.start("work", "slow", *QUIET, "--grace", "0.1") as process:
        assert b"asleep\n" == process.stderr.readline()
        process.terminate()
        assert (0, b"") == (process.wait(60), process.stderr.read())

    assert (1, 0) == (store.stats().due, store.stats().in_flight)


def test_the_grace_is_as_long_as_it_is_told(command_line, send, store):
    """The handler stops its own worker, looks at the clock that now runs, and finishes."""
    text = """
        import os, signal
        from messagebus import Command, handles

        class Stop(Command): pass

        @handles(Stop)
        def stop(command):
            os.kill(os.getpid(), signal.SIGTERM)
            print(round(signal.getitimer(signal.ITIMER_REAL)[0] / 3_600))
        """
    command_line.write("stopping.py", text)
    send(("Stop", {}), target="stopping")

    done = command_line.run("work", "stopping", *QUIET, "--grace", "2h")

    assert (0, b"2\n") == (done.returncode, done.stderr)
    assert 1 == store.stats().finished


def test_a_limit_ends_it(command_line, send, store):
    """The rest stays."""
    send(*[order(f"o-{number}") for number in range(5)])

    done = command_line.run("work", "shop", *QUIET, "--limit", "1")

    assert 0 == done.returncode
    assert 1 == store.stats().finished


def test_a_time_limit_ends_it(command_line, store):
    """It would run for ever otherwise."""
    done = command_line.run("work", "shop", *QUIET, "--time-limit", "0.1")

    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)


def test_what_has_failed_for_good_is_recorded_and_the_work_goes_on(command_line, records, send, store):
    """Exit code 0: the worker has done what it is for."""
    send(("BreakDown", {}), order("o-1"))

    done = command_line.run("work", "shop", *QUIET, "--until-idle", "--attempts", "1")

    told = [(record["event"], record.get("attempts")) for record in records(done.stderr)]
    assert 0 == done.returncode
    assert [("message.failed", None), ("dead_letter.kept", 1)] == told
    assert (1, 2) == (store.stats().dead, store.stats().finished)


def test_a_handler_is_tried_again_later(command_line, records, send, store):
    """By default five times in all: the first failure postpones it."""
    send(("BreakDown", {}))

    done = command_line.run("work", "shop", "--limit", "1")

    assert "handler.postponed" in [record["event"] for record in records(done.stderr)]
    assert 0 == store.stats().dead


def test_any_number_at_the_same_time(command_line, send, store):
    """In threads, on one file."""
    send(*[order(f"o-{number}") for number in range(50)])

    done = command_line.run("work", "shop", *QUIET, "--until-idle", "--concurrency", "4", "--batch", "5")

    assert (0, b"") == (done.returncode, done.stderr)
    assert (0, 100) == (store.stats().due, store.stats().finished)


def test_async_handlers_share_one_event_loop(command_line, send, store):
    """The bus is chosen by the handlers."""
    shop = (command_line.directory / "shop.py").read_text()
    command_line.write("ashop.py", shop.replace("def count", "async def count"))
    send(order("o-1"), target="ashop")

    done = command_line.run("work", "ashop", *QUIET, "--until-idle", "--concurrency", "2")

    assert (0, b"") == (done.returncode, done.stderr)
    assert 2 == store.stats().finished


@pytest.mark.parametrize("level", ["debug", "info", "disabled"])
def test_secrets_show_in_no_record(command_line, send, store, level):
    """The failing handler puts one into its exception (L21)."""
    command_line.write(
        "vault.py",
        """
        from typing import Annotated
        from messagebus import Command, Private, handles

        class Open(Command):
            code: Annotated[str, Private]

        @handles(Open)
        def open_(command):
            raise PermissionError(command.code)
        """,
    )
    send(("Open", {"code": "canary"}), target="vault")

    done = command_line.run("work", "vault", "--until-idle", "--attempts", "1", "--log-level", level)

    assert b"dead_letter.kept" in done.stderr
    assert b"canary" not in done.stdout + done.stderr


def test_what_handlers_print_goes_to_standard_error(command_line, send):
    """As in `handle`."""
    command_line.write(
        "talking.py",
        """
        from messagebus import Command, handles

        class Talk(Command): pass

        @handles(Talk)
        def talk(command):
            print("handled")
        """,
    )
    send(("Talk", {}), target="talking")

    done = command_line.run("work", "talking", *QUIET, "--until-idle")

    assert (b"", b"handled\n") == (done.stdout, done.stderr)


@pytest.mark.parametrize(("call", "code"), [("sys.exit()", 1), ("sys.exit(7)", 7)])
def test_a_handler_that_exits_ends_it_and_never_with_0(command_line, send, store, call, code):
    """0 would say that it was told to stop, or had nothing left to do; the message waits for the end of its lease."""
    text = f"""
        import sys
        from messagebus import Command, handles

        class Leave(Command): pass

        @handles(Leave)
        def leave(command):
            {call}
        """
    command_line.write("leaving.py", text)
    send(("Leave", {}), target="leaving")

    done = command_line.run("work", "leaving", *QUIET, "--until-idle")

    assert code == done.returncode
    assert b"Traceback" not in done.stderr
    assert (code == 1) == (b"a handler called sys.exit()" in done.stderr)
    assert 1 == store.stats().in_flight


def test_handlers_that_cannot_be_told_apart_are_said_at_once(command_line, store):
    """One sentence, exit code 2: the program has to be mended."""
    text = """
        from messagebus import Event, handles

        class Rung(Event): pass

        for number in range(2):
            handles(Rung)(lambda event: None)
        """
    command_line.write("twins.py", text)

    done = command_line.run("work", "twins")

    told = done.stderr.decode()
    assert (2, 1) == (done.returncode, told.count("\n"))
    assert "another handler of twins.Rung has the same name" in told


def test_the_progress_line_says_what_is_done_and_left(in_terminal, send):
    """All of it in the end, what was led to included."""
    send(*[order(f"o-{number}") for number in range(300)])

    done, written = in_terminal("work", "shop", "--until-idle", *QUIET)

    *_, state = STATE.findall(written)
    assert ("600", "600", "100", "0") == state
    assert written.endswith("\n")
    assert 0 == done.returncode


def test_records_stand_above_the_progress_line(in_terminal, send):
    """Each whole, also from many threads."""
    send(*[order(f"o-{number}") for number in range(100)])

    _, written = in_terminal("work", "shop", "--until-idle", "--concurrency", "3", columns=300)

    lines = [re.sub(r"^.*\r", "", line) for line in written.splitlines()]
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert 200 == sum(event.endswith(".handled") for event in events)


@pytest.mark.parametrize("options", [("--until-idle", "--no-progress"), ("--limit", "1")])
def test_there_is_none_where_it_is_not_wanted_or_the_end_not_known(in_terminal, send, options):
    """A worker that goes on has no end."""
    send(order("o-1"))

    _, written = in_terminal("work", "shop", *QUIET, *options)

    assert "" == written


def test_a_worker_without_a_reader_of_its_records_goes_on(command_line, send, store):
    """A broken sink never changes an outcome."""
    send(*[order(f"o-{number}") for number in range(500)])

    done = command_line.run("work", "shop", "--until-idle", stderr=subprocess.DEVNULL)
    closed = command_line.shell("messagebus work shop --until-idle 2>&-")

    assert (0, 0) == (done.returncode, closed.returncode)
    assert 1_000 == store.stats().finished
