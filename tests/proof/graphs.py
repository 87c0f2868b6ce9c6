"""Random applications: messages, what their handlers do, and what an override of the bus decides."""

import itertools
from typing import NamedTuple

from hypothesis import strategies as st

KINDS = ["C0", "C1", "E0", "E1", "E2", "R0"]
BASES = {"E1": ["E0"], "E2": ["E1", "E0"]}
JUNK = "junk"
LAZY = {"generator", "iterator", "endless"}


class Named(Exception):
    """An error, by the name of its class; what a handler raises has a text too."""

    def __init__(self, called, text=""):
        super().__init__(text)
        self.called = called


class Interruption(BaseException):
    """What is no failure of a handler, by the name of its class."""

    def __init__(self, called):
        super().__init__()
        self.called = called


def called(error):
    return getattr(error, "called", type(error).__name__)


class Sent(NamedTuple):
    """A message: its class, and how far what it leads to may go."""

    kind: str
    n: int


class Step(NamedTuple):
    """What a handler does at one attempt."""

    emits: tuple[str, ...]
    """Kinds; "again" for the message itself, "junk" for what is no message."""
    form: str
    raises_at: int | None
    """So many messages are yielded before the error."""
    interrupts: bool
    nested: str | None
    """The message of a run that is started in the handler."""
    catches: bool
    registers: tuple[str, int] | None
    """A kind, and which of the spare handlers becomes one of its own."""
    waits: int

    def emitted(self, message):
        """Return what is yielded, in full, for a message."""
        if message.n == 0 or self.form == "none":
            return []
        others = {"again": message, JUNK: JUNK}
        found = [others.get(kind) or Sent(kind, message.n - 1) for kind in self.emits]
        return found[:1] if self.form == "one" else found

    def inner(self, message):
        """Return the message of the run within, if there is one."""
        return Sent(self.nested, message.n - 2) if self.nested and message.n >= 2 else None


class Spec(NamedTuple):
    """A handler: plain, async, blocking (in a thread), or plain but returning a coroutine."""

    name: str
    kind: str
    takes_subclasses: bool
    is_lazy: bool
    """An async generator, if it is async."""
    steps: tuple[Step, ...]

    def step(self, attempt):
        return self.steps[min(attempt, len(self.steps)) - 1]

    def is_lazy_at(self, step):
        """Say whether it yields while the bus takes what it yields."""
        return self.is_lazy if self.kind == "async" else step.form in LAZY and self.kind != "sneaky"

    def is_endless_at(self, step):
        return step.form == "endless" and self.is_lazy_at(step)


class Graph(NamedTuple):
    """An application, and the message it is given."""

    initial: Sent
    handlers: tuple[tuple[str, Spec], ...]
    spares: tuple[Spec, ...]
    strict: bool
    max_messages: int
    concurrent: bool
    interruption: str
    tries: int
    goes_on_trying: bool
    swallows: bool
    decisions: tuple[str, ...]


def steps(interrupts, registers):
    return st.builds(
        Step,
        emits=st.lists(st.sampled_from([*KINDS * 5, "R0", "again", JUNK]), min_size=1, max_size=3).map(tuple),
        form=st.sampled_from(["list", "generator", "generator", "tuple", "one", "none", "iterator", "endless"]),
        raises_at=st.sampled_from([*[None] * 5, 0, 1, 2, 9]),
        interrupts=st.sampled_from([False, False, False, True]) if interrupts else st.just(False),
        nested=st.sampled_from([*[None] * 12, *KINDS]),
        catches=st.booleans(),
        registers=st.sampled_from([*[None] * 9, ("E0", 0), ("E1", 1), ("C1", 0)] if registers else [None]),
        waits=st.integers(0, 2),
    )


def specs(kinds, **options):
    return st.builds(
        Spec,
        name=st.just("unnamed"),
        kind=st.sampled_from(kinds),
        takes_subclasses=st.sampled_from([False, False, True]),
        is_lazy=st.booleans(),
        steps=st.lists(steps(**options), min_size=1, max_size=2).map(tuple),
    )


def graphs(bus):
    """Return applications for one of the buses: "sync", "async" or "concurrent"."""
    is_concurrent = bus == "concurrent"
    # Which of two handlers that run at the same time comes first to a thread or to the registry, no law says.
    kinds = ["plain", "plain", "async", "sneaky"] if is_concurrent else ["plain", "plain", "async", "blocking"]
    kinds = ["plain"] * 10 + ["async", "sneaky", "blocking"] if bus == "sync" else [*kinds, "async"]
    spec = specs(kinds, interrupts=True, registers=not is_concurrent)
    interruptions = ["KeyboardInterrupt", "SystemExit", "Stop"] if bus == "sync" else ["CancelledError", "Stop"]
    registered = st.fixed_dictionaries(
        {
            **{kind: st.lists(spec, min_size=0 if kind == "C1" else 1, max_size=1) for kind in ["C0", "C1"]},
            **{kind: st.lists(spec, max_size=3 if kind == "E0" else 2) for kind in ["E0", "E1", "E2"]},
        }
    )
    return st.builds(
        Graph,
        initial=st.builds(Sent, st.sampled_from(["C0", "C0", "C0", *KINDS]), st.integers(2, 4)),
        handlers=registered.map(_named),
        spares=st.tuples(spec, spec).map(lambda two: tuple(one._replace(name=f"s{i}") for i, one in enumerate(two))),
        strict=st.sampled_from([False, False, False, True]),
        max_messages=st.integers(1, 20),
        concurrent=st.just(is_concurrent),
        interruption=st.sampled_from(interruptions),
        tries=st.sampled_from([1, 1, 2, 3, 0]),
        goes_on_trying=st.sampled_from([False, False, True]),
        swallows=st.sampled_from([False, False, True]),
        decisions=st.lists(
            st.sampled_from(["raise", "return", "raise", "log", "other", "interrupt"]), min_size=1, max_size=3
        ).map(tuple),
    )


def _named(registered):
    numbers = itertools.count()
    return tuple(
        (kind, one._replace(name=f"h{next(numbers)}", takes_subclasses=one.takes_subclasses and kind[0] == "E"))
        for kind, several in registered.items()
        for one in several
    )
