"""What the types of a message tell: what is private, what its JSON can hold, what of a payload may be repeated."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import PurePath
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, SecretBytes, SecretStr
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema, from_json, to_json

from messagebus.errors import MessageClassError, full_name

__all__ = ["HIDDEN", "MASK", "STANDARD", "VERSION", "Private", "Shape", "bound", "find_unfit", "private_values",
           "shape_of"]  # fmt: skip

MASK: Final = "**********"
VERSION: Final = "dataversion"
"""What says on the wire which version of its class wrote the data, if it is not the first."""
HIDDEN: Final = object()  # The serialisation context under which private fields are masked.
STANDARD: Final = ConfigDict(
    frozen=True,
    extra="forbid",
    allow_inf_nan=False,
    validate_default=True,
    ser_json_bytes="base64",
    val_json_bytes="base64",
    hide_input_in_errors=True,
)
"""The configuration of every message, unless its class changes it."""

_INT64 = 2**63


class Private:
    """Marks text that never shows in a log, an error, a note or a ``repr``: ``token: Annotated[str, Private]``.

    Unlike ``SecretStr`` it is a plain ``str`` to the handler, and survives JSON.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        write = core_schema.wrap_serializer_function_ser_schema(_write_private, info_arg=True, schema=schema)
        private: Any = {**schema, "serialization": write}
        return cast("CoreSchema", private)


def _write_private(value: Any, write: Callable[[Any], Any], info: Any) -> Any:
    if isinstance(info.context, _Found):
        info.context.append(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
    return MASK if info.context is HIDDEN else write(value)


class _Found(list[str]):
    """A serialisation context that takes down what is private."""


# Schemas

_MODELS = frozenset({"model", "dataclass", "typed-dict", "definitions", "definition-ref"})
_SKIPPED = frozenset({"serialization", "metadata", "default", "config", "expected", "members"})
_NAMED = frozenset({"fields", "choices"})
Part = tuple[str, Any, bool]
_JSON_FORM = {"json-or-python": "json_schema", "lax-or-strict": "lax_schema"}


def schemas_in(node: Any, field: str = "", *, own: bool = False, written: bool = False) -> Iterator[Part]:
    """Yield each schema within a schema, with its field, and whether a serialiser takes care of its JSON.

    ``own`` leaves out models within the model: pydantic validates them by schemas of their own.
    """
    if isinstance(node, list | tuple):
        for part in node:
            yield from schemas_in(part, field, own=own, written=written)
    elif isinstance(node, dict) and not (own and field and node.get("type") in _MODELS):
        written = written or "serialization" in node
        yield field, node, written
        yield from ((field, node[key], written) for key in ("serialization",) if key in node)
        form = _JSON_FORM.get(node.get("type", ""))
        for key, part in node.items():
            named = part.items() if _is_named(node, key) else [("", part)]
            for name, inner in named if key not in _SKIPPED and form in {None, key} else ():
                yield from schemas_in(inner, field or str(name), own=own, written=written)


def _is_named(node: dict[str, Any], key: str) -> bool:
    return key in _NAMED and isinstance(node.get(key), dict)


def bound(node: dict[str, Any]) -> None:
    """Limit what a field takes: integers of 64 bits, and one error for a container instead of one per item.

    Chosen integers beyond 64 bits make a set or a dict quadratic, and 300,000 bad items make 130 MB of errors.
    """
    if node.get("type") == "int":
        node.setdefault("lt" if "lt" in node else "le", _INT64 - 1)
        node.setdefault("gt" if "gt" in node else "ge", -_INT64)
    elif node.get("type") in {"list", "tuple", "set", "frozenset", "dict"}:
        node["fail_fast"] = True
    elif node.get("type") == "default" and isinstance(node.get("default"), SecretStr | SecretBytes | PurePath):
        # As if it came from JSON, pydantic would refuse the very type of the field.
        node["validate_default"] = False


# What a payload may cost

_HASHED_PARTS = {"dict": "keys_schema", "set": "items_schema", "frozenset": "items_schema"}
_SAFE_TO_HASH = frozenset({"any", "str", "bytes", "bool", "float", "none", "literal", "enum", "date"})
_MANY_PARTS = 1_000
_MAX_COLLIDING = 32
COLLIDING: Final = "More than 32 different items or keys of it have the same hash"


def bounded(node: Any) -> Any:
    """Return a copy of a schema by which what was chosen to be slow costs no more than anything else.

    A container ends with its first error, and is not filled with many items or keys of one hash: of some types whoever
    sends them chooses the hash, and a mebibyte of such takes seconds.
    """
    if isinstance(node, list | tuple):
        return type(node)(map(bounded, node))
    if not isinstance(node, dict):
        return node
    copy = {key: part if key in _SKIPPED else bounded(part) for key, part in node.items()}
    copy |= {key: {name: bounded(inner) for name, inner in node[key].items()} for key in _NAMED if _is_named(node, key)}
    if node.get("type") in {"list", "tuple", "set", "frozenset", "dict"}:
        copy["fail_fast"] = True
    part = _HASHED_PARTS.get(node.get("type", ""))
    return copy if part is None or part not in node or _is_safe_to_hash(node[part]) else _guarded(copy, part)


def _is_safe_to_hash(node: dict[str, Any]) -> bool:
    """Say whether few values of one hash are to be had: of text it is not known, of short integers there are none."""
    limits = [node[key] for key in ("le", "lt", "ge", "gt") if key in node]
    is_short = node.keys() & {"le", "lt"} and node.keys() & {"ge", "gt"} and max(map(abs, limits)) <= _INT64
    return node["type"] in _SAFE_TO_HASH or (node["type"] == "int" and bool(is_short))


class _Part:
    """An item or a key that is not hashed yet."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _guarded(node: dict[str, Any], part: str) -> CoreSchema:
    """Return a schema that looks at the hashes of all parts before a set or dict is made of them."""
    kind, ref = node["type"], node.pop("ref", None)
    # Of a set they limit what is left when equal items are one.
    limits = {key: node.pop(key) for key in ("min_length", "max_length") if key in node and kind != "dict"}
    node[part] = core_schema.no_info_after_validator_function(_Part, node[part])
    steps: list[Any] = [node, core_schema.no_info_plain_validator_function(_unpacked)]
    if limits:
        steps.append({"type": kind, **limits})
    return core_schema.chain_schema(steps, ref=ref)


def _unpacked(parts: Any) -> Any:
    values = [part.value for part in parts]
    try:
        if len(values) > _MANY_PARTS:
            _refuse_collisions(values)
        if isinstance(parts, dict):
            return dict(zip(values, parts.values(), strict=True))
        return set(values) if isinstance(parts, set) else frozenset(values)
    except TypeError:
        raise PydanticKnownError("set_item_not_hashable") from None


def _refuse_collisions(values: list[Any]) -> None:
    often = {one for one, times in Counter(map(hash, values)).items() if times > _MAX_COLLIDING}
    # Equal values are one, however often they come.
    different: defaultdict[int, set[str]] = defaultdict(set)
    for value in values if often else ():
        if hash(value) in often:
            different[hash(value)].add(repr(value))
            if len(different[hash(value)]) > _MAX_COLLIDING:
                raise PydanticCustomError("colliding", COLLIDING)


# What the types of a message class tell


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a message class by the types of its fields alone."""

    opening: bytes  # What stands before its data on the wire.
    words: frozenset[str]  # Names of fields and aliases: what an error about a payload may repeat of it.
    is_exact: bool  # Every value reads back equal from its JSON, so that nothing is tried when it is written.
    keyed_fields: frozenset[str]  # Within these a number in a path may be a key of the payload.
    private_fields: frozenset[str]  # Private ones, and those of a secret type.
    secret_fields: frozenset[str]  # Of a type that masks itself in JSON, such as SecretStr.
    importing_fields: frozenset[str]  # Of a type that imports what its value names.
    unwritable_fields: frozenset[str]  # Of a type that has no JSON at all.


# Values of these always read back equal.
_CONTAINERS = {"list", "tuple", "set", "frozenset"}
_EXACT = {"model", "model-fields", "model-field", "default", "nullable", "literal", "dict", *_CONTAINERS} | {
    "str", "int", "float", "bool", "none", "bytes", "uuid", "date"
}  # fmt: skip
_HARMLESS_CONFIG = {
    "frozen",
    "title",
    "hide_input_in_errors",
    "revalidate_instances",
    "str_max_length",
    "str_min_length",
}
_NOT_EXACT = frozenset({"serialization", "serialization_exclude", "serialization_exclude_if", "post_init", "to_upper",
                        "to_lower", "strip_whitespace", "extras_schema", "extras_keys_schema"})  # fmt: skip
_PRIVATE = (_write_private, SecretStr, SecretBytes)
_UNWRITABLE = frozenset({"is-instance", "is-subclass", "callable", "generator"})


def shape_of(cls: type[Any]) -> Shape:
    """Return what the types of the class tell, worked out once.

    Raises:
        MessageClassError: If an annotation of the class cannot be resolved.
    """
    shape: Shape | None = cls.__shape__
    if shape is None:
        try:
            cls.model_rebuild()
        except PydanticUndefinedAnnotation as error:
            why, remedy = (
                f"its annotation {error.name!r} is not defined",
                "Define or import that name beside the class.",
            )
            raise MessageClassError(f"use {full_name(cls)}", why, remedy) from None
        found = list(schemas_in(cls.__pydantic_core_schema__))
        _refuse_uncovered(cls, found)
        shape = cls.__shape__ = Shape(
            opening=to_json({"type": cls.__wire_name__, **_version(cls)})[:-1] + b',"data":',
            words=frozenset(word for _, node, _ in found for word in _words(node)),
            is_exact=_has_exact_config(cls) and all(_is_exact(cls, node) for _, node, _ in found),
            keyed_fields=frozenset(field for field, node, _ in found if _keys(node) not in {"str", None}),
            private_fields=frozenset(f for f, node, _ in found if _is_private(node) or _refers_to_private(cls, node)),
            secret_fields=frozenset(f for f, node, _ in found if node.get("function") in (SecretStr, SecretBytes)),
            importing_fields=frozenset(f for f, node, _ in found if _imports(node)),
            unwritable_fields=frozenset(f for f, node, writ in found if not writ and node.get("type") in _UNWRITABLE),
        )
    return shape


def _version(cls: type[Any]) -> dict[str, int]:
    return {} if cls.__version__ == 1 else {VERSION: cls.__version__}


def _refuse_uncovered(cls: type[Any], found: list[Part]) -> None:
    """Refuse a class whose own serializer would show what a field marks private."""
    writers = {field for field, node, _ in found if node.get("function") is _write_private}
    marked = {
        name
        for name, field in cls.model_fields.items()
        if any(one is Private or isinstance(one, Private) for one in field.metadata)
    }
    if marked - writers or (writers and _is_uncovered(cls.__pydantic_core_schema__)):
        why = "a serializer would show a field that is private"
        raise MessageClassError(f"use {full_name(cls)}", why, "Leave the serializer out.")


def _is_uncovered(node: Any) -> bool:
    """Say whether a serializer of the user's stands in for that of a private schema within it."""
    if isinstance(node, list | tuple):
        return any(map(_is_uncovered, node))
    if not isinstance(node, dict):
        return False
    parts = {key: part for key, part in node.items() if key not in _SKIPPED}
    if node.get("serialization", {}).get("type") == "function-plain":
        # What a reference refers to may be private.
        is_private = any(inner.get("function") is _write_private for _, inner, _ in schemas_in(parts))
        return node["type"] == "definition-ref" or is_private or any(map(_is_uncovered, parts.values()))
    return any(map(_is_uncovered, parts.values()))


def _is_private(node: dict[str, Any]) -> bool:
    return node.get("function") in _PRIVATE


def _refers_to_private(cls: type[Any], node: dict[str, Any]) -> bool:
    """Say whether a field is of a model that stands apart, as recursive ones do, and such a one has private fields."""
    apart = cls.__pydantic_core_schema__.get("definitions", ()) if node.get("type") == "definition-ref" else ()
    return any(_is_private(inner) for _, inner, _ in schemas_in(apart))


def _imports(node: dict[str, Any]) -> bool:
    return getattr(node.get("function"), "__name__", "") == "import_string"


def _words(node: dict[str, Any]) -> Iterator[str]:
    if isinstance(node.get("validation_alias"), str):
        yield node["validation_alias"]
    for key in _NAMED:
        yield from map(str, node[key] if _is_named(node, key) else ())


def _keys(node: dict[str, Any]) -> str | None:
    return node["keys_schema"].get("type", "any") if "keys_schema" in node else None


def _is_exact(cls: type[Any], node: dict[str, Any]) -> bool:
    """Say whether values of this one schema, leaving aside those within it, read back equal."""
    return (
        node.get("type") in _EXACT
        and not node.keys() & _NOT_EXACT
        and not any(node.get(key) for key in ("custom_init", "allow_inf_nan", "computed_fields"))
        and node.get("serialization_alias") == node.get("validation_alias")
        and node.get("cls", cls) is cls
        and (node.get("type") != "dict" or _keys(node) == "str")
        and all(type(value) in {str, int, bool} for value in node.get("expected", ()))
    )


def _has_exact_config(cls: type[Any]) -> bool:
    own, standard = cls.model_config, STANDARD
    changed = {key for key, value in own.items() if standard.get(key, _HARMLESS_CONFIG) != value}
    is_closed = own.get("extra") in {"forbid", "ignore"}
    is_plain = not cls.__private_attributes__ and "__eq__" not in {
        name for base in cls.__mro__[: cls.__mro__.index(BaseModel)] for name in vars(base)
    }
    return changed <= _HARMLESS_CONFIG and is_closed and is_plain


def private_values(message: BaseModel) -> list[str]:
    """Return the private texts in a message, the longest first, so that other texts can be cleared of them."""
    found = _Found()
    todo: list[Any] = []
    for name in type(message).model_fields:
        with suppress(Exception):  # A serialiser of the user's; the other fields are looked at all the same.
            todo.append(message.model_dump(include={name}, context=found, warnings=False))
    while todo:
        value = todo.pop()
        if isinstance(value, SecretStr | SecretBytes):
            secret = value.get_secret_value()
            found.append(secret if isinstance(secret, str) else secret.decode(errors="replace"))
        elif isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, Collection) and not isinstance(value, str | bytes):
            todo += value
    return sorted({text for text in found if text}, key=len, reverse=True)


# Values that no message may hold

# The shortest integer beyond 64 bits has nineteen digits; a float that overflows has an exponent of three.
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG = b"0" * 19
_MAX_DEPTH = 190
_NESTING = (dict, list, tuple, set, frozenset)


def is_suspect(payload: bytes) -> bool:
    """Say whether some JSON may hold what no message may, by a look at its bytes that costs next to nothing."""
    # What would read best, `in`, takes bytes for a number first, which costs more than the search.
    shapes = payload.translate(_DIGITS)
    is_large = shapes.find(_LONG) >= 0 or shapes.find(b"e000") >= 0 or shapes.find(b"e+000") >= 0
    is_odd = is_large or payload.find(b"NaN") >= 0 or payload.find(b"Infinity") >= 0
    return is_odd or payload.count(b"[") + payload.count(b"{") >= _MAX_DEPTH


def find_unfit(written: bytes) -> str | None:
    """Return what no message may hold in JSON that was written here; None if there is nothing."""
    if not is_suspect(written):
        return None
    try:
        return find_unfit_value(from_json(written))
    except ValueError:
        return f"is nested deeper than {_MAX_DEPTH} levels"


def find_unfit_value(value: object) -> str | None:
    """Do as `find_unfit` with Python values."""
    todo: list[tuple[Collection[Any], int]] = [((value,), 1)]
    while todo:
        parts, depth = todo.pop()
        # What is looked at one by one is only what may be unfit, or hold it: mostly all parts are text.
        kinds = {*map(type, parts)}
        if any(issubclass(kind, _NESTING) for kind in kinds):
            if depth > _MAX_DEPTH:
                return f"is nested deeper than {_MAX_DEPTH} levels"
            inner = [part for part in parts if isinstance(part, _NESTING) and part]
            todo += [(part.values() if isinstance(part, dict) else part, depth + 1) for part in inner]
        if any(issubclass(kind, int) for kind in kinds) and any(
            not -_INT64 <= part < _INT64 for part in parts if isinstance(part, int)
        ):
            return "has an integer beyond 64 bits"
        if any(issubclass(kind, float) for kind in kinds) and not all(
            isfinite(part) for part in parts if isinstance(part, float)
        ):
            return "has a number that is not finite"
    return None
