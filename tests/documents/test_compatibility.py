"""Compatibility: what a change of messages breaks, tried with the classes themselves."""

import json
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, Json, StringConstraints, ValidationError, create_model
from typing_extensions import TypedDict

from messagebus import Command, ConfigurationError, Event, Private, Registry, UpcasterError
from messagebus.documents import Break, breaking_changes, json_schema
from tests.documents.specimens import changed, message_class_of, models, values_of


def document(*classes: type[Any]) -> dict[str, Any]:
    """Return the document of classes, as it comes back from a file."""
    registry = Registry()
    for cls in classes:
        registry.register(cls)
    found: dict[str, Any] = json.loads(json.dumps(json_schema(registry)))
    return found


def refused(cls: Any, values: list[Any]) -> list[Any]:
    """Return the values that a class refuses to read; what it would only read as another value is refused too."""
    found = []
    for value in values:
        try:
            cls.model_validate_json(json.dumps(value), strict=True)
        except ValidationError:
            found.append(value)
    return found


# Random changes

# The first test tells no falsehood, whatever it is given; a union may take together what no part of it takes alone, so
# that the second would be wrong once in a hundred thousand times.
TRIED = settings(max_examples=80, deadline=None)
TRIED_AGAIN = settings(max_examples=80, deadline=None, derandomize=True)


@st.composite
def pairs(draw: st.DrawFn) -> Any:
    old = draw(models())
    new = draw(changed(old).filter(lambda kind: kind.word == "model"))
    twice = changed(new).filter(lambda kind: kind.word == "model")
    return old, draw(twice) if draw(st.integers(0, 3)) == 0 else new


def compare(pair):
    """Return whom a change breaks, the old values that the new class refuses, and the other way round."""
    old, new = pair
    before, after = message_class_of(old), message_class_of(new)
    broken = {one.breaks for one in breaking_changes(document(before), document(after))}
    assert ([], []) == (refused(before, values_of(old)), refused(after, values_of(new)))
    return broken, refused(after, values_of(old)), refused(before, values_of(new))


@TRIED
@given(pairs())
def test_what_is_called_compatible_is_read(pair):
    """Where nothing breaks old messages the new class reads each of them; and the old class the new ones."""
    broken, by_new, by_old = compare(pair)

    assert "old messages" in broken or by_new == []
    assert "old readers" in broken or by_old == []


@TRIED_AGAIN
@given(pairs())
def test_what_is_called_broken_has_a_witness(pair):
    """A check that cries wolf is turned off: where it says that something breaks, there is a value that is refused."""
    broken, by_new, by_old = compare(pair)

    assert "old messages" not in broken or by_new != []
    assert "old readers" not in broken or by_old != []


# One change after another


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Red(Enum):
    RED = "red"


class Street(BaseModel):
    street: str


class Alley(BaseModel):
    street: str


class Town(BaseModel):
    street: str
    town: str


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


class Doc(TypedDict):
    page: int


class Tree(BaseModel):
    size: int
    below: "list[Tree]" = []


class Bush(BaseModel):
    size: Annotated[int, Field(le=3)]
    below: "list[Bush]" = []


OLD, NEW = "old messages", "old readers"
Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
NO = ...
UUID_TEXT = "6f0b6c5e-1a52-4a57-9d52-0d6a0e3a9d11"


def order(annotation: Any, name: str = "Order", **config: Any) -> Any:
    """Return a class with a field of the type, or without; a pair is a type and a default."""
    fields: dict[str, Any] = {}
    if annotation is not NO:
        fields["it"] = annotation if isinstance(annotation, tuple) else (annotation, ...)
    return create_model(name, __base__=Command, __cls_kwargs__=config, __module__=__name__, **fields)


# Before, after, what is said, whom it breaks; and a value that only the one class reads, and the other refuses.
CHANGES = [
    (str, NO, "it was removed, and unknown fields are refused", OLD, {"it": ""}),
    (str, NO, "it was removed, and was required", NEW, {}),
    ((str, ""), NO, "it was removed, and unknown fields are refused", OLD, {"it": ""}),
    (NO, str, "it is new and required", OLD, {}),
    (NO, str, "it is new, and unknown fields were refused", NEW, {"it": ""}),
    (NO, (str, ""), "it is new, and unknown fields were refused", NEW, {"it": ""}),
    ((str, ""), str, "it is required now", OLD, {}),
    (str, (str, ""), "it is optional now, and was required", NEW, {}),
    (int | None, int, "it no longer takes null", OLD, {"it": None}),
    (int, int | None, "it takes null now", NEW, {"it": None}),
    (float, int, "it no longer takes number", OLD, {"it": 1.5}),
    (int, float, "it takes number now", NEW, {"it": 1.5}),
    (str, int, "it no longer takes string", OLD, {"it": "a"}),
    (str, int, "it takes integer now", NEW, {"it": 1}),
    (int | str, str, "it no longer takes integer", OLD, {"it": 1}),
    (Any, str, "it no longer takes anything else", OLD, {"it": 1}),
    (Colour, Red, "it no longer takes 'blue'", OLD, {"it": "blue"}),
    (Red, Colour, "it takes 'blue' now", NEW, {"it": "blue"}),
    (str, Red, "it no longer takes any other string", OLD, {"it": "blue"}),
    (Literal["a", 1], Literal["a", "b"], "it no longer takes 1", OLD, {"it": 1}),
    (Literal["a", 1], Literal["a", "b"], "it takes 'b' now", NEW, {"it": "b"}),
    (int, Annotated[int, Field(gt=0)], "it has minimum above 0 now, and had none", OLD, {"it": 0}),
    (Annotated[int, Field(ge=0)], Annotated[int, Field(ge=2)], "it has minimum 2 now, and had 0", OLD, {"it": 1}),
    (Annotated[int, Field(le=9)], Annotated[int, Field(le=5)], "it has maximum 5 now, and had 9", OLD, {"it": 9}),
    (Annotated[int, Field(le=5)], Annotated[int, Field(le=9)], "it has maximum 9 now, and had 5", NEW, {"it": 9}),
    (int, Annotated[int, Field(multiple_of=2)], "it has multipleOf 2 now, and had none", OLD, {"it": 3}),
    (dict[int, int], dict[str, int], "it takes fields of more names now", NEW, {"it": {"a": 1}}),
    (float, Annotated[float, Field(ge=0)], "it has minimum 0 now, and had none", OLD, {"it": -1.5}),
    (Annotated[float, Field(lt=9)], float, "it has maximum none now, and had below 9", NEW, {"it": 9.5}),
    (Literal["a", "abc"], Annotated[str, Field(max_length=2)], "it no longer takes 'abc'", OLD, {"it": "abc"}),
    (Literal["a"], UUID, "it no longer takes 'a'", OLD, {"it": "a"}),
    (Literal[1, 5], Annotated[int, Field(le=3)], "it no longer takes 5", OLD, {"it": 5}),
    (str, Annotated[str, Field(max_length=2)], "it has maxLength 2 now, and had none", OLD, {"it": "abc"}),
    (str, Annotated[str, Field(min_length=2)], "it has minLength 2 now, and had none", OLD, {"it": ""}),
    (str, Annotated[str, StringConstraints(pattern="^a")], "it has pattern '^a' now, and had none", OLD, {"it": "b"}),
    (str, UUID, "it has format 'uuid' now, and had none", OLD, {"it": "b"}),
    (str, Decimal, "it has format 'decimal' now, and had none", OLD, {"it": "b"}),
    (date, str, "it has format none now, and had 'date'", NEW, {"it": "b"}),
    (list[int], list[str], "it[] no longer takes integer", OLD, {"it": [1]}),
    (list[int], Annotated[list[int], Field(min_length=1)], "it has minItems 1 now, and had none", OLD, {"it": []}),
    (list[int], tuple[int, str], "it[1] no longer takes integer", OLD, {"it": [1, 1]}),
    (tuple[int, int], tuple[int, str], "it[1] no longer takes integer", OLD, {"it": [1, 1]}),
    (tuple[int, int], list[str], "it[0] no longer takes integer", OLD, {"it": [1, 1]}),
    (dict[str, int], dict[str, str], "it.* no longer takes integer", OLD, {"it": {"a": 1}}),
    (dict[str, int], dict[int, int], "it no longer takes fields of every name", OLD, {"it": {"a": 1}}),
    (dict[str, int], Doc, "it may hold unknown fields, which are refused now", OLD, {"it": {"page": 1, "a": 1}}),
    (dict[str, int], dict[Annotated[str, StringConstraints(pattern="^a")], int],
     "it may hold unknown fields, which are refused now", OLD, {"it": {"b": 1}}),
    (Street, Town, "it.town is new and required", OLD, {"it": {"street": ""}}),
    (list[Street], list[Town], "it[].town is new and required", OLD, {"it": [{"street": ""}]}),
    (Town, Street, "it.town was removed, and was required", NEW, {"it": {"street": ""}}),
    (Pet, Cat, "it.kind no longer takes 'dog'", OLD, {"it": {"kind": "dog"}}),
    (Tree, Bush, "it.size has maximum 3 now, and had none", OLD, {"it": {"size": 1, "below": [{"size": 4}]}}),
    (Json[int], Json[str], "it has another contentSchema now", OLD, {"it": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said", "broken", "witness"), CHANGES, ids=[one[2] for one in CHANGES])
def test_change_is_named_with_whom_it_breaks(before, after, said, broken, witness):
    """In words, with the path to the field; and there is a value that shows it."""
    old, new = order(before), order(after)

    found = [
        f"{one.field} {one.change}" for one in breaking_changes(document(old), document(new)) if one.breaks == broken
    ]

    assert said in found
    writer, reader = (old, new) if broken == OLD else (new, old)
    assert ([], [witness]) == (refused(writer, [witness]), refused(reader, [witness]))


HARMLESS = [
    (int, float),
    (int, int | None),
    (Red, Colour),
    (Red, str),
    (Cat, Pet),
    (UUID, str),
    (str, Annotated[str, Private]),
    (Annotated[str, Private], str),
    (Annotated[int, Field(ge=2)], Annotated[int, Field(gt=1)]),
    (Annotated[int, Field(multiple_of=4)], Annotated[int, Field(multiple_of=2)]),
    (tuple[int, int], list[int]),
    (Doc, dict[str, int]),
    (Town, Street),
    (Bush, Tree),
    (str, (str, "")),
    (Literal["a"], Annotated[str, Field(max_length=1)]),
    (int, Any),
]


@pytest.mark.parametrize(("before", "after"), HARMLESS, ids=repr)
def test_what_takes_more_breaks_no_old_message(before, after):
    """Wider types, new values, fields that may be left out, what is ignored where unknown fields are."""
    changes = breaking_changes(document(order(before)), document(order(after)))

    assert [] == [one for one in changes if one.breaks == OLD]


@pytest.mark.parametrize("annotation", [*(one[0] for one in CHANGES), *(one[1] for one in HARMLESS)], ids=repr)
def test_nothing_changed_is_nothing_broken(annotation):
    """Also where a type is recursive, a union, or nothing that is understood."""
    assert [] == breaking_changes(document(order(annotation)), document(order(annotation)))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("forbid", "ignore", []),
        ("ignore", "forbid", []),
        ("forbid", "allow", [Break("Order", "", "may hold unknown fields now, which were refused", NEW)]),
        ("allow", "forbid", [Break("Order", "", "may hold unknown fields, which are refused now", OLD)]),
        ("allow", "ignore", []),
    ],
)
def test_only_what_is_written_can_be_refused(before, after, expected):
    """A class that ignores unknown fields writes none; one that allows them does."""
    old, new = order(int, extra=before), order(int, extra=after)

    assert expected == breaking_changes(document(old), document(new))


def test_tolerant_reader_takes_new_fields():
    """What is new breaks no reader that ignores what it does not know."""
    old, new = order(NO, extra="ignore"), order((str, ""), extra="ignore")

    assert [] == breaking_changes(document(old), document(new))


def test_extra_field_that_got_a_type_may_be_refused():
    """Old messages may hold anything under that name."""
    old, new = order(NO, extra="allow"), order((int, 0), extra="allow")

    changes = breaking_changes(document(old), document(new))

    assert [Break("Order", "it", "no longer takes anything else", OLD)] == changes
    assert [{"it": "a"}] == refused(new, [{"it": "a"}])


def test_one_is_not_true():
    """Python takes the one for the other; readers in other languages do not."""
    changes = breaking_changes(document(order(Literal[1])), document(order(Literal[True])))

    assert ["no longer takes 1", "takes True now"] == [change.change for change in changes]


# Whole messages


def test_message_that_is_gone_breaks_what_is_stored():
    """Nobody reads it any more."""
    kept = order(int, name="Kept")

    changes = breaking_changes(document(kept, order(int)), document(kept))

    assert [Break("Order", "", "was removed", OLD)] == changes


def test_new_message_breaks_nothing():
    """Nobody has sent one, and nobody wants one."""
    kept = order(int, name="Kept")

    assert [] == breaking_changes(document(kept), document(kept, order((str, ""))))


def test_new_wire_name_breaks_both():
    """It is found by the class, or by its fields if that has another name too."""
    for new in [_named("Order", str), _named("Purchase", int)]:
        changes = breaking_changes(document(order(int)), document(new))

        assert [
            Break("Order", "", "goes by the name shop.order now", OLD),
            Break("Order", "", "goes by the name shop.order now", NEW),
        ] == changes


def _named(class_name: str, annotation: Any) -> Any:
    fields = {"__annotations__": {"it": annotation}, "__module__": __name__}
    return type(class_name, (Command,), fields, name="shop.order")


def test_command_that_becomes_an_event_breaks_both():
    """They go other ways."""
    event = create_model("Order", __base__=Event, __module__=__name__, it=(int, ...))

    changes = breaking_changes(document(order(int)), document(event))

    assert [(change.breaks, change.change) for change in changes] == [
        (OLD, "was of the kind command, and is of the kind event"),
        (NEW, "was of the kind command, and is of the kind event"),
    ]


def versioned(version: int, annotation: Any) -> dict[str, Any]:
    """Return the document of a class of a version that reads all that are older."""
    registry, cls = Registry(), order(annotation, version=version)
    registry.register(cls)
    for older in range(1, version):
        registry.upcasts(cls, from_version=older)(lambda data: data)
    found: dict[str, Any] = json.loads(json.dumps(json_schema(registry)))
    return found


def test_new_version_breaks_no_old_message():
    """Upcasters read these, whatever changed; what is not updated keeps the new ones for later."""
    changes = breaking_changes(versioned(1, str), versioned(3, int))

    assert [Break("Order", "", "is version 3 now, and was version 1", NEW)] == changes


def test_version_without_upcaster_has_no_document():
    """The check fails before it compares."""
    with pytest.raises(UpcasterError, match="no upcaster takes version 1"):
        document(order(str, version=2))


def test_version_that_is_lower_than_before_breaks_old_messages():
    """They come from the future."""
    changes = breaking_changes(versioned(2, str), versioned(1, str))

    assert [Break("Order", "", "is version 1 now, and was version 2", OLD)] == changes


def test_same_version_is_compared_as_ever():
    """A number that was not raised excuses nothing."""
    changes = breaking_changes(versioned(2, str), versioned(2, int))

    assert [OLD, NEW] == [change.breaks for change in changes]


def test_changes_come_in_the_order_of_messages_and_fields():
    """Whatever the order of registration."""
    old = [order(Town, name=name) for name in ("B", "A")]
    new = [order(NO, name=name) for name in ("B", "A")]

    changes = breaking_changes(document(*old), document(*new))

    assert ["A", "A", "B", "B"] == [change.message for change in changes]


def test_change_that_is_met_twice_is_told_once():
    """Each member of a union lacks the field."""
    changes = breaking_changes(document(order(Street | Alley)), document(order(Town)))

    assert 1 == changes.count(Break("Order", "it.town", "is new and required", OLD))


# Documents from outside


GARBAGE: list[Any] = [
    None, [], "text", {}, {"oneOf": [], "$defs": []}, {"oneOf": [{}], "$defs": {}},
    {"oneOf": [{"properties": {"type": {"const": "A"}}}], "$defs": {}},
    {"oneOf": [{"properties": {"type": {"const": "A"}}}], "$defs": {"A": {"x-version": "2"}}},
    *({"oneOf": [], "$defs": {"A": node}} for node in [
        1, {"properties": []}, {"properties": {"a": 1}}, {"required": "a"}, {"required": [1]}, {"minimum": "1"},
        {"multipleOf": 0}, {"anyOf": {}}, {"anyOf": [1]}, {"type": "thing"}, {"type": [[]]}, {"enum": 1},
        {"items": [{}]}, {"$ref": "#/$defs/B"}, {"$ref": 1}, {"pattern": 1}, {"maxLength": True},
        {"discriminator": 1, "type": {}},
    ]),
]  # fmt: skip


@pytest.mark.parametrize("given", GARBAGE, ids=repr)
def test_document_that_is_none_is_refused(given):
    """In one sentence that says how to write one."""
    with pytest.raises(
        ConfigurationError, match="Cannot compare with this document: it is no document of this command"
    ):
        breaking_changes(given, document(order(int)))


def test_definition_that_is_but_itself_takes_nothing():
    """A circle of references ends."""
    old = document(order(int))
    old["$defs"]["Order"]["properties"]["it"] = {"$ref": "#/$defs/Round"}
    old["$defs"]["Round"] = {"anyOf": [{"$ref": "#/$defs/Round"}]}

    assert [NEW] == [change.breaks for change in breaking_changes(old, document(order(int)))]


def test_what_was_only_taken_to_be_so_is_forgotten():
    """First leads round in a circle to what is broken; Second enters the circle elsewhere, and is broken too."""
    documents = [document(order(int, name="First"), order(int, name="Second")) for _ in range(2)]
    for found, bad in zip(documents, ("integer", "string"), strict=True):
        refs = {"First": "Ring", "Second": "Side", "Ring": "Heart", "Heart": "Side", "Side": "Ring"}
        for name, to in refs.items():
            found["$defs"][name] = {"type": "object", "properties": {"on": {"$ref": f"#/$defs/{to}"}}}
        found["$defs"]["Heart"]["properties"]["bad"] = {"type": bad}

    changes = breaking_changes(*documents)

    assert {("First", "on.on.bad"), ("Second", "on.on.on.bad")} == {(one.message, one.field) for one in changes}


def test_comparison_of_many_models_that_share_models_ends():
    """Each pair is compared once, however many ways lead to it."""
    old, new = order(int), order(int)
    documents = [document(old), document(new)]
    for found in documents:
        defs = found["$defs"]
        defs["Order"]["properties"] |= {"a": {"$ref": "#/$defs/M0"}}
        for index in range(60):
            below = {"$ref": f"#/$defs/M{index + 1}"}
            defs[f"M{index}"] = {
                "type": "object",
                "properties": {"a": below, "b": {"anyOf": [below, {"type": "null"}]}},
            }
        defs["M60"] = {"type": "integer" if found is documents[0] else "string"}

    changes = breaking_changes(*documents)

    assert {OLD, NEW} == {change.breaks for change in changes}
