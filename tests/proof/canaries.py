"""A secret in every position of a message, told by handlers in every way, looked for wherever something is shown.

`tests/test_privacy.py` looks at what one process shows of messages, records and refusals. Here the same positions go
through a store, its workers and the command line as well.
"""

import io
import json
import pickle
import sys
import tempfile
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from pydantic import Field, create_model

import messagebus.cli
from messagebus import Command, Event, MessageBusError, Registry, ReturnMessage, UnwritableMessageError, to_json
from messagebus.cli import main
from messagebus.delivery import Retry, Worker, open_store
from tests.test_privacy import POSITIONS, SECRET, leaks

COUNTS, SHORT, LONG = "positions", len(POSITIONS), len(POSITIONS)
APPLICATION = "canary_application"  # The name of the module that the command line is given.


class Told(Exception):
    """Keeps what it is told in attributes, and says it in its own words."""

    def __init__(self, *facts):
        super().__init__("told")
        self.facts = facts

    def __str__(self):
        return f"told {self.facts}"


def by_text(secret, message):
    raise ValueError(f"refused {secret} of {message!r}")


def by_arguments(secret, message):
    raise KeyError(secret, message)


def by_attributes(secret, message):
    raise Told(secret, message)


def by_cause(secret, message):
    try:
        by_text(secret, message)
    except ValueError as error:
        raise LookupError("refused") from error


def by_context(secret, message):
    try:
        by_text(secret, message)
    except ValueError:
        by_arguments(secret, message)


def by_note(secret, message):
    error = ValueError("refused")
    error.add_note(f"it was {secret}")
    raise error


def by_group(secret, message):
    raise ExceptionGroup(f"with {secret}", [ValueError(secret), ExceptionGroup("inner", [KeyError(message)])])


def by_json(secret, message):
    raise ValueError(to_json(message).decode())


def by_locals(secret, message):
    local = {"secret": secret, "message": message, "text": f"{secret}"}
    raise ValueError(f"refused, with {len(local)} locals")


def by_length(secret, message):
    # Across each place where a text may be cut.
    raise ValueError("." * 480 + secret * 200)


def by_generator(secret, message):
    yield Placed(note="begun")
    by_text(secret, message)


def by_wrong_result(secret, message):
    return [secret]


def by_refusal(secret, message):
    Placed(note=[secret])


def by_unknown_field(secret, message):
    Placed(**{secret: secret})


WAYS = [
    by_text, by_arguments, by_attributes, by_cause, by_context, by_note, by_group, by_json, by_locals, by_length,
    by_generator, by_wrong_result, by_refusal, by_unknown_field,
]  # fmt: skip


class Placed(Event):
    note: str


class Answer(ReturnMessage):
    note: str


class Application:
    """One position of a secret in a command and in an event, with handlers that tell it in every way."""

    def __init__(self, annotation, value, secret=SECRET):
        self.value, self.secret, self.registry = value, secret, Registry()
        fields: Any = {"how": (str, "quietly"), "secret": (annotation, ...)}
        self.command = create_model("Pay", __base__=Command, __module__=APPLICATION, **fields)
        self.event = create_model("Paid", __base__=Event, __module__=APPLICATION, **fields)
        self.registry.register(self.command, self.pay)
        self.registry.register(self.event, self.tell)
        self.registry.register(self.event, self.tell_again)
        self.registry.register(Placed, ignore)
        kept: Any = {"secret": (annotation, Field(default=value, examples=[value]))}
        self.with_default = create_model("Kept", __base__=Event, __module__=APPLICATION, **kept)
        self.registry.register(self.with_default)
        module = sys.modules[APPLICATION] = ModuleType(APPLICATION)
        module.registry = self.registry

    def pay(self, command):
        yield self.event(how=command.how, secret=self.value)
        yield Answer(note="paid")
        result = self.tell(command)
        yield from result or ()

    def tell(self, message):
        for way in WAYS:
            if way.__name__ == message.how:
                return way(self.secret, message)
        return None

    def tell_again(self, message):
        return self.tell(message)

    def messages(self):
        return [self.command(how=way.__name__, secret=self.value) for way in WAYS]

    def lines(self):
        """Return JSON Lines: good ones, and some that are refused."""
        good = [to_json(message) for message in self.messages()]
        wrong = [{"how": [self.secret], "secret": {self.secret: self.secret}}, {self.secret: 1}, self.secret]
        return [*good, *(json.dumps({"type": "Pay", "data": data}).encode() for data in wrong), good[0][:-5]]


def ignore(event):
    """Do nothing."""


class Outlets:
    """Everything that is shown, by where it is shown."""

    def __init__(self):
        self.shown = Counter()
        self.leaks = {}

    def show(self, outlet, *texts):
        self.shown[outlet] += 1
        found = leaks(*texts)
        if found:
            self.leaks.setdefault(outlet, (found, next(text for text in map(str, texts) if leaks(text))))

    def error(self, outlet, attempt):
        """Show all that an error of ours tells, in every way it can be written down."""
        try:
            attempt()
        except MessageBusError as error:
            written = pickle.dumps(error)
            told = [str(error), repr(error), repr(error.args), repr(vars(error)), written, pickle.loads(written)]
            self.show(outlet, *told, *traceback.format_exception(error))
        else:
            self.shown[f"{outlet} (none)"] += 1


def command(outlets, name, *words):
    """Run the command line in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    structlog.reset_defaults()  # The command line is an application, and configures what is its own.
    shown = [stream.buffer.getvalue().decode() for stream in (out, err) if stream.flush() is None]
    outlets.show(name, *shown)
    assert code in {0, 1, 3}, f"{name}: {code} {shown}"


def durable(outlets, application, folder):
    """Send, fail, list and look, in Python and by the command line."""
    url = f"sqlite:///{folder}/bus.db"
    store, err = open_store(url), io.StringIO()
    ids = store.send_many(application.messages())
    late = store.send(application.messages()[0], delay=3_600)
    outlets.error("error of a conflict", lambda: (store.send(application.messages()[0], dedup="1"),
                                                  store.send(application.messages()[1], dedup="1")))  # fmt: skip
    with redirect_stderr(err):
        retry = Retry(attempts=2, first=0)
        Worker(store, application.registry, retry=retry, log_level="debug", error_log_level="info").run(until_idle=True)
    assert err.getvalue().count("message.failed") > len(WAYS)
    outlets.show("records of a worker", err.getvalue())
    letters = store.dead()
    assert len(letters) > len(WAYS)
    outlets.show("dead letters", *map(repr, letters), *(letter.failure for letter in letters))
    outlets.show("what waits", *map(repr, store.waiting()))
    outlets.show("history", *(repr(step) for id in ids for step in store.tree(id)))
    objects = [store, store.stats(), application.registry, application.registry.check()]
    outlets.show("objects", *map(repr, objects))
    for id in ids:
        outlets.error("error of a result", lambda id=id: store.result(id, timeout=0))
    outlets.error("error of a wait", lambda: store.result(late, timeout=0))
    store.close()
    at, lines = ("--url", url), Path(folder, "lines.jsonl")
    lines.write_bytes(b"\n".join(application.lines()))
    for name in ["failed list", "waiting list", "stats"]:
        command(outlets, f"messagebus {name}", *name.split(), *at)
        command(outlets, f"messagebus {name} --json", *name.split(), *at, "--json")
    for letter in letters[:: len(letters) // 6]:
        command(outlets, "messagebus failed show", "failed", "show", letter.id, *at)
        command(outlets, "messagebus failed show --target", "failed", "show", letter.id, *at, "--target", APPLICATION)
        dry = ["failed", "retry", letter.id, *at, "--dry-run", "--target", APPLICATION]
        command(outlets, "messagebus failed retry --dry-run", *dry)
    for id in ids[:3]:
        command(outlets, "messagebus tree", "tree", id, *at)
        command(outlets, "messagebus tree --json", "tree", id, *at, "--json")
    command(outlets, "messagebus handle", "handle", APPLICATION, lines, "--log-level", "debug")
    command(outlets, "messagebus send", "send", APPLICATION, lines, *at)
    once = ["--until-idle", "--attempts", "1", "--log-level", "debug"]
    command(outlets, "messagebus work", "work", APPLICATION, *at, *once)
    command(outlets, "messagebus failed retry", "failed", "retry", "--all", *at)
    command(outlets, "messagebus failed drop", "failed", "drop", "--all", *at)


def documents(outlets, application):
    """Show what is written about an application: schemas, and what is made of them."""
    for verb in {"schema", "asyncapi", "graph"} & {*vars(messagebus.cli)}:
        command(outlets, f"messagebus {verb}", verb, APPLICATION)
    command(outlets, "messagebus list", "list", APPLICATION)
    for cls in (application.command, application.with_default):
        for mode in ("validation", "serialization"):
            outlets.show("JSON Schema", cls.model_json_schema(mode=mode))


def look(outlets, application):
    """Show everything there is to see of an application with a secret in one position."""
    documents(outlets, application)
    try:
        to_json(application.messages()[0])
    except UnwritableMessageError:  # Of a secret type, it cannot be sent: there is only the refusal.
        store = open_store("memory://")
        outlets.error("error of sending", lambda: store.send(application.messages()[0]))
        store.close()
    else:
        with tempfile.TemporaryDirectory() as folder:
            durable(outlets, application, folder)


def control():
    """Return where a text shows that nobody has marked private: the same ways, the same outlets."""
    outlets = Outlets()
    look(outlets, Application(str, SECRET))
    return {*outlets.leaks}


def prove(size, report):
    outlets = Outlets()
    for position, (annotation, value) in [*POSITIONS.items()][:size]:
        look(outlets, Application(annotation, value))
        report(f"{position}: {sum(outlets.shown.values()):,} looks so far")
        found = "\n".join(f"{outlet}: {pieces} in {text}" for outlet, (pieces, text) in outlets.leaks.items())
        assert not outlets.leaks, f"a secret shows, as {position}\n{found}"
    looks = sum(outlets.shown.values())
    return f"{size} positions, {len(WAYS)} ways to tell, {len(outlets.shown)} outlets, {looks:,} looks: found nowhere"
