"""What a change of messages breaks, told by the documents before and after."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from messagebus.documents.limits import Finding
from messagebus.documents.narrowing import Comparison
from messagebus.documents.nodes import Node, is_sound
from messagebus.errors import ConfigurationError

__all__ = ["Break", "breaking_changes"]

Who = Literal["old messages", "old readers"]


@dataclass(frozen=True, slots=True)
class Break:
    """A change of a message, and whom it breaks."""

    message: str
    """Its wire name."""
    field: str
    """As in ``address.street`` and ``lines[].sku``; empty where it is the message itself."""
    change: str
    """What changed, in words."""
    breaks: Who
    """``old messages``: the new code refuses some that are stored, or on their way. ``old readers``: code that is not
    updated yet refuses some of the new messages."""


def breaking_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Break]:
    """Compare two documents of `messagebus.documents.json_schema`; return what breaks, by message and field.

    Where nothing is returned for a message, whatever fits its old schema fits the new one, and the other way round.
    Where a message has a higher version than before, old messages are read by its upcasters, which are not looked into.
    What cannot be told by the schemas alone, as with a pattern that was rewritten, counts as a break. Validators of
    your own stand in no schema.

    Raises:
        ConfigurationError: If ``old`` or ``new`` is no such document.

    >>> from messagebus import Command, Registry
    >>> from messagebus.documents import json_schema
    >>> def document(**fields):
    ...     registry = Registry()
    ...     registry.register(type("PlaceOrder", (Command,), {"__annotations__": fields}))
    ...     return json_schema(registry)
    >>> for one in breaking_changes(document(quantity=int | None), document(quantity=int)):
    ...     print(f"{one.message}.{one.field} {one.change}: breaks {one.breaks}")
    PlaceOrder.quantity no longer takes null: breaks old messages
    """
    before, after = _messages_in(old), _messages_in(new)
    try:
        found = [*_gone(before, after), *_changed(before, after, old["$defs"], new["$defs"])]
    except RecursionError:
        raise _refusal("its schemas are nested too deep") from None
    return sorted(dict.fromkeys(found), key=lambda one: (one.message, one.field, one.breaks))


# Documents


def _messages_in(document: Mapping[str, Any]) -> dict[str, Node]:
    """Return the schema of each message by its wire name."""
    found = {}
    match document:
        case {"oneOf": list(wires), "$defs": dict(defs)}:
            is_one = all(is_sound(node, defs) for node in (*defs.values(), *wires))
        case _:
            wires, defs, is_one = [], {}, False
    for wire in wires if is_one else ():
        match wire:
            case {"properties": {"type": {"const": str(name)}}} if _is_message(defs.get(name)):
                found[name] = defs[name]
            case _:
                is_one = False
    if not is_one:
        raise _refusal("it is no document of this command")
    return found


def _is_message(node: Node | None) -> bool:
    return node is not None and type(node.get("x-version", 1)) is int


def _refusal(why: str) -> ConfigurationError:
    return ConfigurationError("compare with this document", why, "Write one: messagebus schema TARGET >old.json.")


# Whole messages


def _gone(before: Mapping[str, Node], after: Mapping[str, Node]) -> Iterator[Break]:
    new = [name for name in after if name not in before]
    for name in before:
        if name in after:
            continue
        heirs = [one for one in new if _is_same(before[name], after[one])]
        if heirs:
            yield Break(name, "", f"goes by the name {heirs[0]} now", "old messages")
            yield Break(name, "", f"goes by the name {heirs[0]} now", "old readers")
        else:
            yield Break(name, "", "was removed", "old messages")


def _is_same(one: Node, other: Node) -> bool:
    """Say whether two messages are of one class, or at least look the same."""
    return one.get("title") == other.get("title") or one.get("properties") == other.get("properties") != {}


def _changed(
    before: Mapping[str, Node], after: Mapping[str, Node], old_defs: Mapping[str, Node], new_defs: Mapping[str, Node]
) -> Iterator[Break]:
    onward, backward = Comparison(old_defs, new_defs), Comparison(new_defs, old_defs)
    for name in before:
        if name not in after:
            continue
        old, new = before[name], after[name]
        if old.get("x-kind") != new.get("x-kind"):
            change = f"was of the kind {old.get('x-kind')}, and is of the kind {new.get('x-kind')}"
            yield Break(name, "", change, "old messages")
            yield Break(name, "", change, "old readers")
        first, then = old.get("x-version", 1), new.get("x-version", 1)
        if first != then:
            yield from _renumbered(name, first, then)
            continue
        for finding in onward.narrowed(old, new):
            yield Break(name, finding.field.removeprefix("."), _ONWARD[finding.kind](finding), "old messages")
        for finding in backward.narrowed(new, old):
            yield Break(name, finding.field.removeprefix("."), _BACKWARD[finding.kind](finding), "old readers")


def _renumbered(name: str, first: int, then: int) -> Iterator[Break]:
    """Tell what a new version breaks: upcasters read the older ones, and what is not updated keeps the newer ones."""
    change = f"is version {then} now, and was version {first}"
    if then < first:
        yield Break(name, "", change, "old messages")
    else:
        yield Break(name, "", change, "old readers")


_ONWARD: Final[Mapping[str, Callable[[Finding], str]]] = {
    "unknown": lambda _: "was removed, and unknown fields are refused",
    "open": lambda _: "may hold unknown fields, which are refused now",
    "missing": lambda _: "is new and required",
    "optional": lambda _: "is required now",
    "type": lambda finding: f"no longer takes {finding.writer}",
    "limit": lambda finding: f"has {finding.name} {finding.reader} now, and had {finding.writer}",
    "names": lambda _: "no longer takes fields of every name",
    "other": lambda finding: f"has another {finding.name} now",
}
_BACKWARD: Final[Mapping[str, Callable[[Finding], str]]] = {
    "unknown": lambda _: "is new, and unknown fields were refused",
    "open": lambda _: "may hold unknown fields now, which were refused",
    "missing": lambda _: "was removed, and was required",
    "optional": lambda _: "is optional now, and was required",
    "type": lambda finding: f"takes {finding.writer} now",
    "limit": lambda finding: f"has {finding.name} {finding.writer} now, and had {finding.reader}",
    "names": lambda _: "takes fields of more names now",
    "other": lambda finding: f"has another {finding.name} now",
}
