"""Whatever comes, in JSON, in Python and in a file: it is refused in clear bounded words, or it comes back equal."""

import enum
import json
import math
import random
import tempfile
import traceback
from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    JsonValue,
    SecretStr,
    field_validator,
)
from pydantic_core import PydanticCustomError

from messagebus import (
    Command,
    Event,
    InvalidMessageError,
    MessageBusError,
    Private,
    Registry,
    UnknownMessageError,
    UnwritableMessageError,
    to_json,
)
from messagebus.delivery import StoreFileError, StoreUnavailableError, open_store
from messagebus.delivery.entries import Failure, Outcome, Settlement

COUNTS, SHORT, LONG = "values", 20_000, 250_000
SECRET = "Zq8kWv3nYt6mPx1s"  # Nothing of a payload is repeated, so that no seven letters in a row of this are.
PIECES = [SECRET[start : start + 7] for start in range(len(SECRET) - 6)]
MAX_BYTES_OF_AN_ERROR = 4_096
FLIPS = 200  # One damaged file for so many values.
BATCH = 100


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Plain(BaseModel):
    count: int = 0
    ratio: float = 0.0
    raw: bytes = b""
    anything: Any = None


class Tree(BaseModel):
    name: str = ""
    branches: "list[Tree]" = []


class ByCard(BaseModel):
    kind: Literal["card"]
    token: Annotated[str, Private]


class ByCash(BaseModel):
    kind: Literal["cash"]
    amount: Decimal = Decimal(0)


def quote(value: Any) -> Any:
    if value == 13 or SECRET in str(value):
        raise ValueError(f"{value} is wrong")
    return value


def quote_by_template(value: Any) -> Any:
    if SECRET in str(value):
        raise PydanticCustomError("wrong", "{value} is wrong", {"value": str(value)})
    return value


def stumble(value: Any) -> Any:
    return {"a": 1}.get(value, value) if isinstance(value, str) else value + 1


class PlaceOrder(Command):
    """Fields whose types set the limits themselves."""

    order_id: str
    quantity: Annotated[int, Field(gt=0, le=1_000)] = 1
    lines: list[dict[str, int]] = []
    express: bool = False
    price: float = 0.0
    raw: bytes = b""
    day: date | None = None
    key: UUID | None = None
    unique: frozenset[int] = frozenset()
    pair: tuple[int, str] | None = None


class Everything(Event, name="shop.everything/v1"):
    """Fields of every other kind."""

    moment: datetime | None = None
    span: timedelta | None = None
    amount: Decimal | None = None
    colour: Colour = Colour.RED
    word: Literal["a", 3] = "a"
    token: Annotated[str, Private] = ""
    secret: SecretStr | None = None
    anything: Any = None
    value: JsonValue = None
    either: int | str | list[int] | None = None
    counts: dict[int, int] = {}
    days: dict[date, list[str]] = {}
    plain: Plain | None = None
    tree: Tree | None = None
    by: Annotated[ByCard | ByCash, Field(discriminator="kind")] | None = None
    embedded: Json[Any] | None = None
    alias: int = Field(default=0, alias="aliasName")


class Touchy(Command):
    """Validators of the application's own, which quote what they see or are not prepared for it."""

    quoted: Annotated[Any, AfterValidator(quote)] = None
    before: Annotated[Any, BeforeValidator(quote_by_template)] = None
    stumbles: Annotated[Any, BeforeValidator(stumble)] = 0
    field: str = ""

    @field_validator("field")
    @classmethod
    def check(cls, value: str) -> str:
        return quote(value)


class Tolerant(Event, extra="ignore"):
    known: int = 0


class Loose(Event, extra="allow"):
    known: int = 0


CLASSES = [PlaceOrder, Everything, Touchy, Tolerant, Loose]
NAMES = sorted({name for cls in (*CLASSES, Plain, Tree, ByCard) for name in cls.model_fields} | {"aliasName", "kind"})
TYPES = [*(cls.__wire_name__ for cls in CLASSES), "PlaceOrdr", "os:system", "__main__.X", "", SECRET, "x" * 300, 5]
ATTRIBUTES = ["id", "source", "time", "datacontenttype", "correlationid", "causationid", "subject", "traceparent"]

TEXTS = [
    "", "a", "red", "card", "cash", "1", "-0", "true", "null", "NaN", "2026-11-24", "2026-11-24T12:00:00Z", "PT1H",
    "00000000-0000-0000-0000-000000000001", "\x00", "\ud800", "\U0001f600", "\u2028", "ß", '"', "\\", "[1]", "YQ==",
    "application/json", "x" * 1_025, "1.0", SECRET, f"a {SECRET} b", f"{SECRET}\n\ud800",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 13, 1_001, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**19, 10**400,
    0.0, -0.0, 0.1, 5e-324, 1e16, 1e308, 2.0**63, math.nan, math.inf, -math.inf,
]  # fmt: skip
OBJECTS = [
    b"", b"\xff", SECRET.encode(), Decimal("1E+999999"), Decimal("-0"), Decimal("NaN"), datetime.min, datetime.max,
    datetime(2026, 11, 24, tzinfo=UTC), date.min, timedelta.max, UUID(int=1), Colour.PAIR, SecretStr(SECRET), object(),
    {1, 2}, frozenset([SECRET]), (1, SECRET), Plain(anything=SECRET), Tree(), complex(1, 2), range(3), Colour,
]  # fmt: skip
BYTES = [
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"1e999", b"NaN", b"-", b"null", b"9" * 20, b"9" * 5_000, b"\xff",
    b"\x00", b"\\ud800", b'"type"', b'"data"', b'"specversion"', b"[" * 250, b"]" * 250, b"\xef\xbb\xbf", b"",
    SECRET.encode(), b'"' + SECRET.encode() + b'":', b"1E400", b"{}" * 10,
]  # fmt: skip


class Values:
    """Makes values: mostly such as could be meant, and some as nobody means them."""

    def __init__(self, seed):
        self.choose = random.Random(seed)

    def one(self, depth=0, *, of_python=False):
        kind = self.choose.randrange(12)
        if kind < 4:
            return self.choose.choice(TEXTS)
        if kind < 7:
            return self.choose.choice(NUMBERS)
        if kind == 7:
            return self.choose.choice([None, True, False])
        if kind == 8 and of_python:
            return self.choose.choice(OBJECTS)
        if depth > 3:
            return []
        if kind == 9 and self.choose.random() < 0.1:
            return self.deep(self.choose.choice([100, 188, 189, 190, 191, 260]))
        parts = [self.one(depth + 1, of_python=of_python) for _ in range(self.choose.randrange(4))]
        if kind < 10:
            return tuple(parts) if of_python and self.choose.random() < 0.2 else parts
        keys = [*NAMES, *TEXTS, *([5, None, (1,), b"a", 2.5] if of_python else [])]
        return {self.choose.choice(keys): part for part in parts}

    def deep(self, depth):
        value = self.choose.choice([SECRET, 1, None])
        for _ in range(depth):
            value = [value] if self.choose.random() < 0.7 else {"branches": [value]}
        return value

    def data(self, cls, *, of_python=False):
        """Return the fields of a class: right ones, wrong ones, and some that it does not have."""
        names = [field.alias or name for name, field in cls.model_fields.items()]
        chosen = self.choose.sample(names, self.choose.randrange(min(len(names), 4) + 1))
        data = {"order_id": "o-1"} if cls is PlaceOrder and self.choose.random() < 0.9 else {}
        data |= {name: self.meant(cls, name, of_python=of_python) for name in chosen}
        if self.choose.random() < 0.1:
            data[self.choose.choice([*NAMES, *TEXTS])] = self.one(of_python=of_python)
        return data

    def meant(self, cls, name, *, of_python):
        right = RIGHT.get(name)
        if right is None or self.choose.random() < 0.4:
            return self.one(of_python=of_python)
        value = self.choose.choice(right)
        return value if of_python or not isinstance(value, tuple) else [*value]

    def wire(self, *, of_python=False):
        """Return something like the wire form, or like a CloudEvent."""
        cls = self.choose.choice(CLASSES)
        wire = {"type": cls.__wire_name__, "data": self.data(cls, of_python=of_python)}
        if self.choose.random() < 0.3:
            wire |= {"specversion": "1.0", "id": "1", "source": "/shop"}
            for name in self.choose.sample(ATTRIBUTES, self.choose.randrange(4)):
                wire[name] = self.one(3) if self.choose.random() < 0.4 else self.choose.choice(TEXTS)
        if self.choose.random() < 0.1:
            wire[self.choose.choice([*wire, *ATTRIBUTES, SECRET])] = self.one(of_python=of_python)
        if self.choose.random() < 0.1:
            wire["type"] = self.choose.choice(TYPES)
        return wire

    def payload(self):
        """Return JSON in bytes; every third is damaged."""
        wire = self.wire() if self.choose.random() < 0.95 else self.one()
        payload = json.dumps(wire, ensure_ascii=self.choose.random() < 0.5).encode(errors="surrogatepass")
        for _ in range(self.choose.choice([0, 0, 0, 0, 1, 3])):
            start = self.choose.randrange(len(payload) + 1)
            end = start + self.choose.choice([0, 0, 1, 8])
            payload = payload[:start] + self.choose.choice(BYTES) + payload[end:]
        return payload


RIGHT = {
    "order_id": ["o-1", "ß"], "quantity": [1, "7"], "lines": [[], [{"a": 1}]], "express": [True, "yes"],
    "price": [1.5, 3, -0.0, 5e-324], "raw": ["YQ=="], "day": ["2026-11-24"], "key": [str(UUID(int=1))],
    "unique": [[1, 2, 2]], "pair": [(1, "a")], "moment": ["2026-11-24T12:00:00.000001+05:30"], "span": ["P1DT1S", 1.5],
    "amount": ["1.10", "1E+999999"], "colour": ["red"], "word": ["a", 3], "token": [SECRET], "secret": [SECRET],
    "anything": [{"a": [1, None]}, "a"], "value": [{"a": 0.1}], "either": ["1", 1, [1]], "counts": [{"1": 2}],
    "days": [{"2026-11-24": ["a"]}], "plain": [{"count": 1}, {"raw": "a"}], "embedded": ["[1]", '{"a": 1}'],
    "tree": [{"branches": [{"name": "a"}]}], "by": [{"kind": "card", "token": SECRET}, {"kind": "cash"}],
    "aliasName": [5], "quoted": [12, 13], "before": ["a"], "stumbles": [1, "b"], "field": ["a"], "known": [1],
}  # fmt: skip


def check_refusal(error, kind, value):
    """Check that an error is ours, short, and repeats nothing."""
    assert isinstance(error, kind), f"{error!r} for {value!r}"
    shown = "".join(traceback.format_exception(error))
    said = [str(error), repr(error), repr(error.args), repr(vars(error)), shown]
    assert len(str(error).encode()) <= MAX_BYTES_OF_AN_ERROR, f"{len(str(error))} characters for {value!r:.200}"
    if isinstance(error, UnknownMessageError) and error.message_type:
        said = [text.replace(error.message_type, "") for text in said]  # It could be a wire name, and is shown.
    found = {piece for piece in PIECES for text in said if piece in text}
    assert not found, f"{found} in {said[0]} for {value!r}"


def settle(store, claim):
    """Have done with all that was claimed."""
    assert not store.settle(claim.token, [Settlement(one.seq, (Outcome("h", "done", 1),)) for one in claim.messages])


class Doors:
    """Where values come in, and what became of them."""

    def __init__(self, folder):
        self.registry = Registry()
        for cls in CLASSES:
            self.registry.register(cls)
        self.stores = [open_store("memory://"), open_store(f"sqlite:///{folder}/bus.db")]
        self.outcomes = {name: Counter() for name in ("validate_json", "validate", "send")}
        self.sent = []

    def come(self, name, read, value):
        """Take a value in at a door; return the message, if it is one."""
        try:
            message, envelope = read(value)
        except Exception as error:
            check_refusal(error, InvalidMessageError, value)
            self.outcomes[name]["refused"] += 1
            return
        self.outcomes[name]["read"] += 1
        self.goes_out(message, envelope)

    def goes_out(self, message, envelope):
        """Check that a message that came in is written and read back equal, or refused where it is written."""
        try:
            written = to_json(message)
        except Exception as error:
            check_refusal(error, UnwritableMessageError, message)
            return
        assert self.registry.validate_json(written) == message, f"{message!r} came back changed"
        if envelope is not None:
            self.goes_out_as_cloudevent(envelope)
        self.sent.append(message)
        if len(self.sent) >= BATCH:
            self.store_all()

    def goes_out_as_cloudevent(self, envelope):
        try:
            sent = envelope.to_cloudevent("/here")
        except Exception as error:
            check_refusal(error, UnwritableMessageError, envelope)
            return
        message, back = self.registry.read_json(sent)
        assert message == envelope.message
        assert (envelope.id, envelope.correlation_id, envelope.causation_id) == (
            back.id, back.correlation_id, back.causation_id,
        )  # fmt: skip
        assert envelope.time == back.time
        assert {**envelope.headers, "source": "/here"} == back.headers

    def store_all(self):
        """Store what came in; each store takes it, and gives it back equal."""
        for store in self.stores:
            store.send_many(self.sent)
            claim = store.claim(2 * BATCH, 30)
            back = [self.registry.validate_json(one.body) for one in claim.messages]
            assert back == self.sent, f"{type(store).__name__} gave back something else"
            settle(store, claim)
        self.outcomes["send"]["read"] += len(self.sent)
        self.sent = []

    def send(self, message):
        """Send what may have escaped validation: it is refused, or it can be read."""
        for store in self.stores:
            try:
                with store.transaction() as transaction:
                    transaction.send(message)
            except Exception as error:
                check_refusal(error, MessageBusError, message)
                self.outcomes["send"]["refused"] += 1
                continue
            claim = store.claim(2, 30)
            [stored] = claim.messages
            assert self.registry.validate_json(stored.body) == message
            self.outcomes["send"]["read"] += 1
            settle(store, claim)

    def close(self):
        for store in self.stores:
            store.close()


def make(values):
    """Return a message as Python makes them: validated, or one that escaped that."""
    cls = values.choose.choice(CLASSES)
    data = values.data(cls, of_python=True)
    if values.choose.random() < 0.4:
        fields = {name: values.one(of_python=True) for name in cls.model_fields if values.choose.random() < 0.3}
        return cls.model_construct(**{"order_id": "o-1"} | fields if cls is PlaceOrder else fields)
    with suppress(ValueError, LookupError, TypeError):  # pydantic's own, and what validators raise.
        return cls(**data)
    return cls.model_construct(**data)


def damage(folder, seed, files):
    """Flip bits in copies of a store's file; each opens and works, or is refused and left as it is."""
    whole, choose, outcomes = played(folder / "whole.db"), random.Random(seed), Counter()
    for number in range(files):
        path = folder / f"{number}.db"
        spoilt = bytearray(whole)
        for _ in range(choose.choice([1, 1, 8, 64])):
            # Half of them where the database says what it is, and where its tables begin.
            spoilt[choose.randrange(choose.choice([200, len(whole)]))] ^= 1 << choose.randrange(8)
        path.write_bytes(spoilt)
        try:
            store = open_store(f"sqlite:///{path}")
        except StoreFileError as error:
            check_refusal(error, StoreFileError, path)
            assert spoilt == path.read_bytes(), "a file that was refused was written to"
            outcomes["refused"] += 1
        else:
            outcomes[use(store)] += 1
        path.unlink()
    return outcomes


def use(store):
    """Call every verb of a store whose file may be damaged; return whether it worked."""
    verbs = [store.waiting, store.dead, store.stats, store.schedules, lambda: store.claim(99, 1)]
    try:
        for verb in [*verbs, lambda: store.send(PlaceOrder(order_id="o-1"))]:
            verb()
    except (StoreFileError, StoreUnavailableError) as error:  # The latter: the header says that nobody may write.
        check_refusal(error, MessageBusError, store)
        return "found while it was used"
    finally:
        store.close()
    return "works"


def played(path):
    """Make a file with some of everything in it, and return its bytes."""
    store = open_store(f"sqlite:///{path}")
    store.send_many([PlaceOrder(order_id=str(number)) for number in range(30)], key="customer-7")
    claim = store.claim(1, 30)
    failure = Failure("shop.OutOfStock", "there is none left")
    store.settle(claim.token, [Settlement(claim.messages[0].seq, (Outcome("h", "dead", 5, failure=failure),))])
    store.send(PlaceOrder(order_id="x" * 10_000))
    store.close()
    return path.read_bytes()


def prove(size, report):
    seed = 0 if size <= SHORT else random.randrange(2**32)
    report(f"seed {seed}")
    values = Values(seed)
    with tempfile.TemporaryDirectory() as folder:
        doors = Doors(folder)
        try:
            for number in range(size):
                if number % 10 < 6:
                    doors.come("validate_json", doors.registry.read_json, values.payload())
                elif number % 10 < 9:
                    doors.come("validate", doors.registry.snapshot.door.read, values.wire(of_python=True))
                else:
                    doors.send(make(values))
        finally:
            doors.close()
        files = damage(Path(folder), seed, size // FLIPS)
    for name, outcomes in doors.outcomes.items():
        assert min(outcomes["read"], outcomes["refused"]) > size // 50, f"{name} is not tried: {dict(outcomes)}"
    came = ", ".join(f"{name} {dict(outcomes)}" for name, outcomes in doors.outcomes.items())
    return f"{came}; damaged files {dict(files)}"
