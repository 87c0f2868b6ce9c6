"""Every exception of the library, each with the sentence it says.

The tree, by what the caller can do about it::

    MessageBusError
    ├── UsageError                  mend the program
    │   ├── ConfigurationError      an argument, or what is installed, cannot work
    │   ├── DispatchError           the bus was called out of turn
    │   ├── HandlerError            a callable cannot be a handler, or returned what is no message
    │   ├── MessageClassError       a class cannot be registered as a message class
    │   ├── NotAMessageError        something that is no message stands where a message belongs
    │   ├── NoHandlerError          nothing is registered for a command
    │   ├── DuplicateHandlerError   a command has a handler already
    │   ├── DuplicateNameError      two classes want one wire name
    │   ├── UpcasterError           older versions of a message cannot all be read, or one in two ways
    │   ├── AsyncHandlerError       an async handler on the sync bus
    │   ├── CascadeLimitError       a run led to more messages than it may
    │   ├── AnswerError             a command that was asked has no answer, or several
    │   └── StoreFileError          a store's file or schema is foreign, newer than this version, or damaged
    ├── InvalidMessageError         drop the message: it does not fit its class
    │   ├── MessageTooLargeError    more bytes than the limit
    │   ├── UnknownMessageError     its type is not in the registry
    │   ├── NewerVersionError       a later version of its class wrote it; keep it until this program is up to date
    │   ├── UnwritableMessageError  it cannot be written as JSON and read back the same
    │   └── ConflictError           another message has its id or its dedup key
    ├── DeliveryFailedError         decide: a stored message, or one it led to, is a dead letter
    ├── StoreError                  try again: nothing was changed
    │   ├── StoreBusyError          others kept the store locked for too long
    │   ├── StoreUnavailableError   it cannot be reached, read or written now
    │   └── ResultTimeoutError      a message is not finished yet
    └── BrokerError                 try again with the same id: the engine may have taken the message all the same
        ├── BrokerUnavailableError  it cannot be reached now
        └── ReplyTimeoutError       no reply has come back yet

Each class takes facts (strings and numbers, so that every error pickles), keeps them as attributes and composes its
sentence in ``__str__``: *Cannot do what: why. What to do.* No sentence repeats a value of a payload. What a handler
raises is never wrapped: it comes out as it is, with a note.
"""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from os.path import relpath
from typing import Any

# A misspelt word is about as long as the right one. What is further away is not shown: it may be a secret in a key.
_CUTOFF = 0.7
_SLACK = 3
_MAX_COMPARED = 500
_MAX_TEXT = 4_000
_MAX_CLASSES = 5


def full_name(cls: type) -> str:
    """Return ``module.QualName``, as errors show a class."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def place_of(thing: Any) -> str:
    """Return ``path/to/file.py:12`` of a function or class, the path from here if it is below."""
    code = getattr(thing, "__code__", None)
    try:
        path, line = (code.co_filename, code.co_firstlineno) if code else (inspect.getfile(thing), 0)
        line = line or inspect.getsourcelines(thing)[1]
        shown = relpath(path)
    except (OSError, TypeError, ValueError):
        return "place unknown"
    return f"{path if shown.startswith('..') else shown}:{line}"


def near_misses(word: str, known: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Return the known words that somebody who wrote ``word`` may have meant, the nearest first."""
    candidates = [name for name in known if abs(len(name) - len(word)) <= _SLACK][:_MAX_COMPARED]
    return tuple(get_close_matches(word, candidates, n=limit, cutoff=_CUTOFF))


def _question(near: Iterable[str]) -> str:
    return f" Did you mean {' or '.join(near)}?" if near else ""


class MessageBusError(Exception):
    """The root of everything the library raises by itself."""


@dataclass(eq=False)
class UsageError(MessageBusError):
    """The program has to be mended; the same call will fail again."""

    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"Cannot {self.what}: {self.why}. {self.remedy}"


class ConfigurationError(UsageError, ValueError):
    """An argument, or what is installed, cannot work."""


class DispatchError(UsageError, RuntimeError):
    """A method of the bus was called out of turn."""


class HandlerError(UsageError, TypeError):
    """A callable cannot serve as a handler, or a handler returned what is no message."""


class MessageClassError(UsageError, TypeError):
    """A class cannot be registered as a message class."""


class NotAMessageError(UsageError, TypeError):
    """Something that is no message stands where a message belongs."""

    def __init__(self, given: str, *, is_class: bool = False) -> None:
        remedy = (
            "Make a message of it first: PlaceOrder(...) in Python, registry.validate({'type': ..., 'data': ...}) "
            "for a mapping, handle_json(payload) for JSON."
        )
        what = f"the class {given} itself" if is_class else f"an object of type {given}"
        super().__init__(f"dispatch {what}", "it is no Command, Event or ReturnMessage", remedy)
        self.given = given


class NoHandlerError(UsageError, LookupError):
    """No handler is registered for a command (or, in a strict registry, for an event)."""

    def __init__(self, message_type: str, near: tuple[str, ...] = ()) -> None:
        remedy = "If its module is not imported yet, import it first."
        super().__init__(f"dispatch {message_type}", "no handler is registered for it", remedy)
        self.message_type, self.near = message_type, near

    def __str__(self) -> str:
        return f"Cannot {self.what}: {self.why}.{_question(self.near)} {self.remedy}"


class DuplicateHandlerError(UsageError):
    """A command has a handler already, or an event has this very handler."""

    def __init__(self, message_type: str, first: str, second: str) -> None:
        why = f"a command has exactly one handler, and it has {first}"
        remedy = "Remove one of them; for several handlers make it an Event; for a test use registry.override()."
        if first == second:
            why, remedy = "it is registered for it already", "Remove one of the two registrations."
        super().__init__(f"register {second} for {message_type}", why, remedy)
        self.message_type, self.first, self.second = message_type, first, second


class DuplicateNameError(UsageError):
    """Two message classes want one wire name in one registry."""

    def __init__(self, name: str, first: str, second: str) -> None:
        remedy = f'Give one of them a name of its own: class ...(..., name="shop.{name}").'
        super().__init__(f"register {second} under the wire name '{name}'", f"{first} has that name", remedy)
        self.name, self.first, self.second = name, first, second


class UpcasterError(UsageError, TypeError):
    """Some older version of a message cannot be read, or could be in two ways."""


class AsyncHandlerError(UsageError, TypeError):
    """An async handler is registered for a message that the sync bus should dispatch."""

    def __init__(self, message_type: str, handler: str) -> None:
        remedy = "Use AsyncMessageBus or `await ahandle_message(...)`."
        super().__init__(f"dispatch {message_type} on the sync bus", f"its handler {handler} is async", remedy)
        self.message_type, self.handler = message_type, handler


class CascadeLimitError(UsageError, RuntimeError):
    """A run led to more messages than ``max_messages``; what still waits is in ``pending`` of the bus."""

    def __init__(self, limit: int, repeating: tuple[str, ...]) -> None:
        why = f"it led to more than {limit:,} messages, lately {', '.join(repeating)}"
        remedy = "Look for handlers that lead back to each other; if it is meant, raise max_messages of the bus class."
        super().__init__("go on with this run", why, remedy)
        self.limit, self.repeating = limit, repeating


class AnswerError(UsageError, LookupError):
    """A command that was asked led to no return message of the class of its answer, or to several.

    ``came`` are pairs of class and number of what came back instead, the most frequent first.
    """

    def __init__(self, message_type: str, answer: str, came: tuple[tuple[str, int], ...]) -> None:
        listed = " and ".join(f"{count:,} {name}" for name, count in came[:_MAX_CLASSES])
        more = f" and those of {len(came) - _MAX_CLASSES:,} other classes" if len(came) > _MAX_CLASSES else ""
        why = f"exactly one {answer} had to come back, and {f'there came {listed}{more}' if came else 'nothing came'}"
        remedy = "Have its handler return one; for any number of return messages use handle_message."
        super().__init__(f"answer {message_type}", why, remedy)
        self.message_type, self.answer, self.came = message_type, answer, came


@dataclass(eq=False)
class InvalidMessageError(MessageBusError, ValueError):
    """A payload, or an instance that asks to be checked again, does not fit its message class.

    ``problems`` are at most twenty pairs of path and reason out of ``count``; neither holds a value of the payload.
    """

    message_type: str
    problems: tuple[tuple[str, str], ...]
    count: int = 1
    hint: str = ""

    def __str__(self) -> str:
        listed = "; ".join(f"{path}: {why}" if path else why for path, why in self.problems)
        more = f"; and {self.count - len(self.problems):,} more" if self.count > len(self.problems) else ""
        end = "" if (listed + more).endswith("?") else "."
        text = f"Cannot read {self.message_type or 'a message'}: {listed}{more}{end}{self.hint and ' ' + self.hint}"
        return text.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore")


class MessageTooLargeError(InvalidMessageError):
    """A payload has more bytes than the limit; it was not parsed."""

    def __init__(self, size: int, limit: int) -> None:
        problems = (("", f"it has {size:,} bytes, and the limit is {limit:,}"),)
        super().__init__("", problems, hint="Send a reference to large data, or raise max_bytes.")
        self.size, self.limit = size, limit


class UnknownMessageError(InvalidMessageError):
    """A payload names a type that the registry does not know. Nothing was imported, or looked up elsewhere.

    ``message_type`` is that name, or empty if it is nothing that a class could have for its wire name.
    """

    def __init__(self, message_type: str, near: tuple[str, ...] = ()) -> None:
        name = f"the wire name '{message_type}'" if message_type else "such a wire name"
        remedy = "Register its class with @handles(...) or registry.register(...), in a module that is imported."
        problems = (("", f"no message class with {name} is registered"),)
        super().__init__(message_type, problems, hint=f"{_question(near)} {remedy}".strip())
        self.near = near

    def __str__(self) -> str:
        return f"Cannot read a message: {self.problems[0][1]}. {self.hint}"


class NewerVersionError(InvalidMessageError):
    """A payload was written for a later version of its class than this program has. Nothing of it was read."""

    def __init__(self, message_type: str, version: int, known: int) -> None:
        problems = (("", f"it is version {version}, and this program reads up to version {known}"),)
        super().__init__(message_type, problems, hint="Keep it, and read it with a newer version of this program.")
        self.version, self.known = version, known


class UnwritableMessageError(InvalidMessageError):
    """A message cannot be written as JSON, or would not read back as the same message."""

    def __init__(self, message_type: str, field: str, why: str) -> None:
        remedy = "Use types that JSON can hold; for a secret that travels, Annotated[str, Private]."
        super().__init__(message_type, ((field, why),), hint=remedy)
        self.field = field

    def __str__(self) -> str:
        subject = f"its field {self.field}" if self.field else "it"
        return f"Cannot write {self.message_type} as JSON: {subject} {self.problems[0][1]}. {self.hint}"


class ConflictError(InvalidMessageError):
    """A message with this id, or this dedup key, is in the store already and has another body."""

    def __init__(self, message_type: str, given: str, value: str) -> None:
        problems = (("", f"the store holds another message with the {given} {value[:100]!r}"),)
        super().__init__(message_type, problems, hint="Give each message an id, or a dedup key, of its own.")
        self.given, self.value = given, value

    def __str__(self) -> str:
        return f"Cannot store {self.message_type}: {self.problems[0][1]}. {self.hint}"


class StoreFileError(UsageError):
    """What a store should open is foreign, was written by a newer version, or is damaged; it is left as it is."""


@dataclass(eq=False)
class StoreError(MessageBusError):
    """A store could not do what it was asked; nothing was changed, and the same call may succeed later."""

    what: str
    why: str
    remedy: str = "Try again."

    def __post_init__(self) -> None:
        self.args = (self.what, self.why, self.remedy)  # An OSError keeps none, and would not pickle.

    def __str__(self) -> str:
        return f"Cannot {self.what}: {self.why}. {self.remedy}"


class StoreBusyError(StoreError):
    """Others kept the store locked for longer than it waits."""


class StoreUnavailableError(StoreError, OSError):
    """The store cannot be reached, read or written: disk full, no permission, connection lost."""


class ResultTimeoutError(StoreError, TimeoutError):
    """A stored message, or something it led to, is not finished yet."""


@dataclass(eq=False)
class BrokerError(MessageBusError):
    """An engine did not confirm what it was asked; whether it was done all the same is not known."""

    what: str
    why: str
    remedy: str = "Try again."

    def __post_init__(self) -> None:
        self.args = (self.what, self.why, self.remedy)  # An OSError keeps none, and would not pickle.

    def __str__(self) -> str:
        return f"Cannot {self.what}: {self.why}. {self.remedy}"


class BrokerUnavailableError(BrokerError, OSError):
    """The engine cannot be reached: it is down, the address is wrong, or it lets nobody in under this name."""


class ReplyTimeoutError(BrokerError, TimeoutError):
    """No reply to a command has come back in time; ``confirmed_after`` tells whether the engine has the command.

    It is None if the engine has not confirmed it: it may have the command all the same.
    """

    def __init__(
        self, message_type: str, message_id: str, broker: str, waited: float, confirmed_after: float | None
    ) -> None:
        if confirmed_after is None:
            why = f"{broker} has not confirmed it after {waited:g} s, and may have it all the same"
            remedy = "Ask again with the same id; it is handled once."
        else:
            why = f"{broker} confirmed it after {confirmed_after:.3g} s, and no reply has come within {waited:g} s"
            remedy = "See that a worker handles it; its inbox keeps the result."
        super().__init__(f"return the reply to {message_type} {message_id}", why, remedy)
        self.args = (message_type, message_id, broker, waited, confirmed_after)
        self.message_type, self.message_id, self.broker = message_type, message_id, broker
        self.waited, self.confirmed_after = waited, confirmed_after


class DeliveryFailedError(MessageBusError):
    """A stored message, or one that it led to, is a dead letter."""

    def __init__(self, message_id: str, dead: tuple[str, ...]) -> None:
        super().__init__(message_id, dead)
        self.message_id, self.dead = message_id, dead

    def __str__(self) -> str:
        listed = "; ".join(self.dead[:5])
        return (
            f"Cannot return the result of message {self.message_id}: {listed} failed for good. "
            "See store.dead(), then decide: store.retry() or store.drop()."
        )
