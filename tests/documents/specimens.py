"""Random message classes, with values that fit them: what the check of changes is tried on."""

from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from enum import Enum
from itertools import islice, zip_longest
from typing import Annotated, Any, Literal, Union
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from messagebus import Command, Registry


@dataclass(frozen=True)
class Kind:
    """The type of a field: a word, limits, and the types within."""

    word: str
    limits: tuple = ()
    parts: tuple = ()
    fields: tuple = ()
    extra: str = "forbid"


@dataclass(frozen=True)
class Slot:
    """A field: its type, and whether it may be left out."""

    name: str
    kind: Kind
    is_required: bool = True


SCALARS = ("int", "float", "str", "bool", "none", "uuid", "date", "decimal", "literal", "enum", "any")
PLAIN = {"float": float, "bool": bool, "none": None, "uuid": UUID, "date": date, "decimal": Decimal, "any": Any}
NAMES = ("one", "two", "three", "four", "five", "six")
CHOICES = ("red", "green", "blue", 1, 2)


# Random kinds


def limits_for(word: str) -> st.SearchStrategy[tuple]:
    if word in {"int", "str", "list"}:
        top = {"int": 5, "str": 3, "list": 2}[word]
        low = st.none() | st.integers(0, top)
        return st.tuples(low, low).filter(lambda pair: None in pair or pair[0] <= pair[1])
    if word in {"literal", "enum"}:
        return st.lists(st.sampled_from(CHOICES), min_size=1, max_size=3, unique_by=repr).map(tuple)
    return st.just(())


@st.composite
def kinds(draw: st.DrawFn, depth: int = 2) -> Kind:
    words = (
        SCALARS if depth == 0 else (*SCALARS, "int", "str", "list", "set", "tuple", "dict", "union", "model", "model")
    )
    word = draw(st.sampled_from(words))
    below = kinds(depth=depth - 1)
    limits = draw(limits_for(word))
    match word:
        case "list" | "dict":
            return Kind(word, limits, (draw(below),))
        case "set":
            return Kind(word, limits, (Kind(draw(st.sampled_from(["int", "str", "uuid"])), (None, None)),))
        case "tuple":
            return Kind(word, limits, tuple(draw(st.lists(below, min_size=1, max_size=2))))
        case "union":
            return Kind(word, limits, tuple(draw(st.lists(below, min_size=2, max_size=3))))
        case "model":
            return draw(models(depth - 1))
    return Kind(word, limits)


@st.composite
def models(draw: st.DrawFn, depth: int = 2) -> Kind:
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    slots = tuple(Slot(name, draw(kinds(depth=depth)), draw(st.booleans())) for name in names)
    return Kind("model", fields=slots, extra=draw(st.sampled_from(["forbid", "forbid", "ignore", "allow"])))


@st.composite
def changed(draw: st.DrawFn, kind: Kind) -> Kind:
    """Return a kind that differs from the given one in one place, or in none."""
    options = ["itself", "other", "optional"]
    options += (
        ["limits"] * (2 * bool(kind.limits)) + ["part"] * (3 * bool(kind.parts)) + ["field"] * (4 * bool(kind.fields))
    )
    options += ["extra", "new field"] * (kind.word == "model") + ["same"]
    match draw(st.sampled_from(options)):
        case "other":
            return draw(kinds(depth=1))
        case "optional":
            return Kind("union", (), (kind, Kind("none")))
        case "limits":
            return replace(kind, limits=draw(limits_for(kind.word)))
        case "part":
            at = draw(st.integers(0, len(kind.parts) - 1))
            if kind.word == "union" and len(kind.parts) > 1 and draw(st.booleans()):
                return replace(kind, parts=kind.parts[:at] + kind.parts[at + 1 :])
            part = kind.parts[at] if kind.word == "set" else draw(changed(kind.parts[at]))
            return replace(kind, parts=(*kind.parts[:at], part, *kind.parts[at + 1 :]))
        case "field":
            return draw(with_other_field(kind))
        case "extra":
            return replace(kind, extra=draw(st.sampled_from(["forbid", "ignore", "allow"])))
        case "new field":
            name = draw(st.sampled_from([name for name in NAMES if name not in {slot.name for slot in kind.fields}]))
            return replace(kind, fields=(*kind.fields, Slot(name, draw(kinds(depth=1)), draw(st.booleans()))))
    return kind


@st.composite
def with_other_field(draw: st.DrawFn, kind: Kind) -> Kind:
    at = draw(st.integers(0, len(kind.fields) - 1))
    slot, before, after = kind.fields[at], kind.fields[:at], kind.fields[at + 1 :]
    match draw(st.sampled_from(["gone", "required", "kind", "kind"])):
        case "gone":
            return replace(kind, fields=before + after)
        case "required":
            return replace(kind, fields=(*before, replace(slot, is_required=not slot.is_required), *after))
    return replace(kind, fields=(*before, replace(slot, kind=draw(changed(slot.kind))), *after))


# Classes of them


def annotation_of(kind: Kind) -> Any:
    parts = [annotation_of(part) for part in kind.parts]
    match kind.word:
        case "int":
            return Annotated[int, Field(ge=kind.limits[0], le=kind.limits[1])]
        case "str":
            return Annotated[str, Field(min_length=kind.limits[0], max_length=kind.limits[1])]
        case "literal":
            return Literal[kind.limits]
        case "enum":
            return Enum("Choice", {f"c{index}": value for index, value in enumerate(kind.limits)})
        case "list":
            return Annotated[list[parts[0]], Field(min_length=kind.limits[0], max_length=kind.limits[1])]
        case "set":
            return set[parts[0]]
        case "tuple":
            return tuple[*parts]
        case "dict":
            return dict[str, parts[0]]
        case "union":
            return Union[*parts]
        case "model":
            return model_of(kind, BaseModel, "Part")
    return PLAIN[kind.word]


def model_of(kind: Kind, base: type[BaseModel], name: str) -> Any:
    fields: dict[str, Any] = {
        slot.name: (
            annotation_of(slot.kind),
            Field() if slot.is_required else Field(default_factory=lambda: None, validate_default=False),
        )
        for slot in kind.fields
    }
    parent = type("Parent", (base,), {"model_config": ConfigDict(extra=kind.extra), "__module__": __name__})
    return create_model(name, __base__=parent, __module__=__name__, **fields)


def message_class_of(kind: Kind) -> type[Command]:
    return model_of(kind, Command, "Order")


def registry_of(cls: type[Command]) -> Registry:
    registry = Registry()
    registry.register(cls)
    return registry


# Values that fit


def values_of(kind: Kind) -> list[Any]:
    """Return values as JSON has them, in which each limit and each part of the kind is reached."""
    return [*islice(_values(kind), 60)]


def _values(kind: Kind) -> Any:
    low, high = kind.limits if len(kind.limits) == 2 and kind.word in {"int", "str", "list"} else (None, None)
    match kind.word:
        case "int":
            least = low if low is not None else (high or 0) - 7
            most = high if high is not None else least + 16
            return _distinct([least, most, (least + most) // 2])
        case "str":
            shortest, longest = low or 0, 5 if high is None else high
            return _distinct(["x" * shortest, "x" * longest, "1" * max(shortest, min(1, longest))])
        case "literal" | "enum":
            return [*kind.limits]
        case "list":
            items = values_of(kind.parts[0])
            short, long = low or 0, 3 if high is None else high
            lists = [[item] * max(short, min(1, long)) for item in items] if long else []
            return [items[:1] * short, items[:1] * long, *lists]
        case "set":
            items = values_of(kind.parts[0])
            return [[], items]
        case "tuple":
            return [[*row] for row in _rows([values_of(part) for part in kind.parts])]
        case "dict":
            return [
                {},
                *({"key": value} for value in values_of(kind.parts[0])),
                *({"one": v} for v in values_of(kind.parts[0])),
            ]
        case "union":
            return [value for part in kind.parts for value in values_of(part)]
        case "model":
            return _objects(kind)
    return {
        "float": [1.5, -3.0, 7], "bool": [True, False], "none": [None], "decimal": [1.5, "2.50"],
        "uuid": ["6f0b6c5e-1a52-4a57-9d52-0d6a0e3a9d11"], "date": ["2026-11-24"],
        "any": [None, "any", 12, 0.5, True, {"deep": [1]}, []],
    }[kind.word]  # fmt: skip


def _distinct(values: list[Any]) -> list[Any]:
    return [*dict.fromkeys(values)]


def _rows(columns: list[list[Any]]) -> Any:
    return (
        zip_longest(*columns, fillvalue=None)
        if not columns
        else (tuple(column[min(row, len(column) - 1)] for column in columns) for row in range(max(map(len, columns))))
    )


def _objects(kind: Kind) -> list[Any]:
    columns = [values_of(slot.kind) for slot in kind.fields]
    names = [slot.name for slot in kind.fields]
    full = [dict(zip(names, row, strict=True)) for row in _rows(columns)] if names else [{}]
    required = {slot.name for slot in kind.fields if slot.is_required}
    bare = [{name: value for name, value in full[0].items() if name in required}]
    others = [name for name in (*NAMES, "more") if name not in names]
    more = [{**full[0], name: value} for name in others for value in (None, "any", 4)] if kind.extra == "allow" else []
    return [*bare, *full, *more]


__all__ = ["Kind", "Slot", "changed", "field", "message_class_of", "models", "registry_of", "values_of"]
