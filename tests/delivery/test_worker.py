"""The worker: what runs, what is stored with it, and what becomes of what fails (laws D2 to D7, D9)."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
import structlog
from structlog.testing import LogCapture
from tenacity import Retrying, stop_after_attempt

from messagebus import (
    AsyncHandlerError,
    AsyncMessageBus,
    Command,
    ConfigurationError,
    Event,
    HandlerError,
    Message,
    MessageBus,
    Private,
    Registry,
    ReturnMessage,
    current_envelope,
)
from messagebus.delivery import (
    Outcome,
    Retry,
    Settlement,
    Store,
    Worker,
    acurrent_transaction,
    current_transaction,
    open_store,
)
from messagebus.testing import Clock

QUIET: dict[str, Any] = {"log_level": "disabled", "error_log_level": "disabled"}


class Place(Command):
    order_id: str


class Placed(Event):
    order_id: str


class Confirmed(ReturnMessage):
    order_id: str


class Pay(Command):
    token: Annotated[str, Private]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/bus.db"


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    store = open_store(url, clock=clock)
    yield store
    store.close()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def records() -> tuple[Any, list[Any]]:
    capture = LogCapture()
    return structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug")), capture.entries


@pytest.fixture(params=[MessageBus, AsyncMessageBus])
def bus(request: pytest.FixtureRequest) -> Any:
    return request.param


def work(store: Store, registry: Registry, **options: Any) -> int:
    return Worker(store, registry, **{**QUIET, **options}).run(until_idle=True)


def rows(store: Store, statement: str) -> list[Any]:
    with store.transaction() as transaction:
        return transaction.execute(statement)


def make_table(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE orders(id text)")


# What runs


def test_runs_what_is_stored_and_what_that_leads_to(store, registry, bus):
    """[D3] What a handler returns is stored, and handled in its turn."""
    seen = []
    registry.register(Place, lambda command: Placed(order_id=command.order_id))
    registry.register(Placed, seen.append)
    store.send(Place(order_id="o-1"))

    settled = work(store, registry, bus=bus)

    assert 2 == settled
    assert [Placed(order_id="o-1")] == seen
    assert 2 == store.stats().finished


def test_message_has_the_ids_it_was_sent_with(store, registry):
    """[L22] The envelope travels: ids, the cause and the attempt."""
    seen = []

    @registry.handles(Place)
    def place(command: Place) -> Placed:
        return Placed(order_id=command.order_id)

    @registry.handles(Placed)
    def note(event: Placed) -> None:
        envelope = current_envelope()
        seen.append((envelope.correlation_id, envelope.causation_id, envelope.attempt))

    message_id = store.send(Place(order_id="o-1"))

    work(store, registry)

    assert [(message_id, message_id, 1)] == seen


def test_return_messages_of_the_whole_are_the_result(store, registry, bus):
    """[D12] Those of the command and of what it led to, as in process."""

    @registry.handles(Place)
    def place(command: Place) -> Iterator[Message]:
        yield Placed(order_id=command.order_id)
        yield Confirmed(order_id="of the command")

    registry.register(Placed, lambda event: Confirmed(order_id="of the event"))
    message_id = store.send(Place(order_id="o-1"))

    work(store, registry, bus=bus)

    expected = (
        b'[{"type":"Confirmed","data":{"order_id":"of the command"}},'
        b'{"type":"Confirmed","data":{"order_id":"of the event"}}]'
    )
    assert expected == store.result(message_id)


def test_async_bus_takes_handlers_of_every_kind(store, registry):
    """[L24] Coroutines, async generators, plain functions and blocking ones."""
    seen = []

    @registry.handles(Place)
    async def place(command: Place) -> AsyncIterator[Message]:
        await asyncio.sleep(0)
        yield Placed(order_id=command.order_id)

    @registry.handles(Placed)
    async def later(event: Placed) -> None:
        await asyncio.sleep(0)
        seen.append("coroutine")

    registry.register(Placed, lambda event: seen.append("plain"))
    registry.handles(Placed, blocking=True)(lambda_named_blocking(seen))
    store.send(Place(order_id="o-1"))

    work(store, registry)

    assert ["coroutine", "plain", "blocking"] == seen


def lambda_named_blocking(seen: list[str]) -> Any:
    def blocking(event: Placed) -> None:
        seen.append("blocking")

    return blocking


def test_bus_is_async_if_a_handler_is(store, registry):
    """[L24] Nobody has to say so."""

    @registry.handles(Place)
    async def place(command: Place) -> None: ...

    worker = Worker(store, registry, **QUIET)

    assert worker.is_async


def test_sync_bus_refuses_async_handlers_at_the_start(store, registry):
    """[L24] Not when the first message comes."""

    @registry.handles(Place)
    async def place(command: Place) -> None: ...

    with pytest.raises(AsyncHandlerError, match=r"test_worker\.py"):
        Worker(store, registry, bus=MessageBus)


def test_handlers_of_one_name_are_refused_at_the_start(store, registry):
    """[D4] What became of each is stored by its name."""
    for _ in range(2):
        registry.register(Placed, lambda_named_blocking([]))

    with pytest.raises(HandlerError, match="has the same name"):
        Worker(store, registry)


@pytest.mark.parametrize("options", [{"batch": 0}, {"concurrency": 0}, {"lease": 0}])
def test_number_out_of_range_is_refused(store, registry, options):
    """An error at the start, not a worker that does nothing."""
    with pytest.raises(ConfigurationError, match="Cannot start a worker with"):
        Worker(store, registry, **options)


def test_event_without_handler_is_finished(store, registry):
    """[L7] Nobody handles it, and nobody has to."""
    store.send(Placed(order_id="o-1"))
    registry.register(Placed)

    work(store, registry)

    assert 1 == store.stats().finished


def test_event_that_the_registry_does_not_know_is_as_legal_as_in_process(store, registry, records):
    """[L7] A handler may return an event that nobody handles: it is recorded, and is no dead letter."""
    logger, entries = records
    registry.register(Place, lambda command: Placed(order_id=command.order_id))
    message_id = store.send(Place(order_id="o-1"))

    Worker(store, registry, logger=logger).run(until_idle=True)

    assert b"[]" == store.result(message_id)
    unhandled = [entry for entry in entries if entry["event"] == "event.unhandled"]
    assert [("Placed", message_id)] == [(entry["message_type"], entry["causation_id"]) for entry in unhandled]


def test_event_that_a_strict_registry_does_not_know_is_a_dead_letter(store):
    """[L7] `Registry(strict=True)` refuses what nobody handles, here as in process."""
    registry = Registry(strict=True)
    registry.register(Place, lambda command: Placed(order_id=command.order_id))
    store.send(Place(order_id="o-1"))

    work(store, registry)

    assert ["Placed"] == [letter.type for letter in store.dead()]


def test_limit_ends_the_run(store, registry):
    """`work --limit`: what is left stays where it is."""
    registry.register(Place, lambda command: None)
    store.send_many(Place(order_id=str(number)) for number in range(50))

    settled = Worker(store, registry, batch=1, **QUIET).run(limit=10)

    assert 10 == settled
    assert 40 == store.stats().due


def test_time_limit_ends_the_run(store, registry):
    """`work --time-limit`: also when there is nothing to do."""
    registry.register(Place, lambda command: None)

    settled = Worker(store, registry, **QUIET).run(time_limit=0.01)

    assert 0 == settled


def test_stop_ends_the_run_after_the_message_in_hand(store, registry):
    """[D10] What was claimed and not begun is given back, and is due at once."""
    seen = []

    @registry.handles(Place)
    def place(command: Place) -> None:
        seen.append(command.order_id)
        if len(seen) == 3:
            worker.stop()

    store.send_many(Place(order_id=str(number)) for number in range(10))
    worker = Worker(store, registry, **QUIET)

    worker.run()

    assert ["0", "1", "2"] == seen
    assert (7, 0) == (store.stats().due, store.stats().in_flight)


def test_worker_runs_again_after_it_was_stopped(store, registry):
    """A worker may be run any number of times."""
    registry.register(Place, lambda command: worker.stop())
    worker = Worker(store, registry, batch=1, **QUIET)
    store.send_many([Place(order_id="1"), Place(order_id="2")])

    first = worker.run()
    second = worker.run()

    assert (1, 1) == (first, second)


# Concurrency


@pytest.mark.parametrize("number", [2, 8])
def test_threads_handle_each_message_once(store, registry, number):
    """[D2] Without faults nothing runs twice, however many work."""
    seen: list[str] = []
    registry.register(Place, lambda command: Placed(order_id=command.order_id))
    registry.register(Placed, lambda event: seen.append(event.order_id))
    store.send_many(Place(order_id=str(each)) for each in range(300))

    work(store, registry, concurrency=number, batch=10)

    assert sorted(map(str, range(300))) == sorted(seen)
    assert 600 == store.stats().finished


def test_async_lanes_handle_messages_at_the_same_time(store, registry):
    """`concurrency` on the async bus: while one waits the others go on, on one event loop."""
    together = asyncio.Barrier(4)

    @registry.handles(Place)
    async def place(command: Place) -> None:
        await together.wait()

    store.send_many(Place(order_id=str(each)) for each in range(4))

    settled = work(store, registry, concurrency=4, batch=1)

    assert 4 == settled


def test_async_handlers_take_turns_in_the_transaction(store, registry):
    """On SQLite one can write: the others wait for it without keeping the event loop from it."""
    make_table(store)

    @registry.handles(Place)
    async def place(command: Place) -> None:
        transaction = await acurrent_transaction()
        await asyncio.sleep(0)
        transaction.execute("INSERT INTO orders VALUES (:id)", {"id": command.order_id})
        await asyncio.sleep(0)

    store.send_many(Place(order_id=str(each)) for each in range(40))

    work(store, registry, concurrency=4, batch=3)

    assert 40 == rows(store, "SELECT count(*) FROM orders")[0][0]
    assert 40 == store.stats().finished


def test_plain_call_for_the_transaction_does_not_wait_for_its_own_thread(store, registry):
    """It would wait for ever; the error says what to call instead, and the handler is tried again."""
    both = asyncio.Barrier(2)

    @registry.handles(Place)
    async def place(command: Place) -> None:
        await both.wait()
        current_transaction()
        await asyncio.sleep(0)

    store.send_many(Place(order_id=str(each)) for each in range(2))

    work(store, registry, concurrency=2, batch=1, retry=Retry(attempts=1))

    (letter,) = store.dead()
    assert "Call `await acurrent_transaction()`." in letter.failure.text
    assert 1 == store.stats().finished


def test_messages_of_one_key_are_handled_in_order_by_many(store, registry):
    """[D5] One at a time, whoever handles them."""
    seen: dict[str, list[int]] = {}

    @registry.handles(Place)
    def place(command: Place) -> None:
        key, number = command.order_id.split("-")
        seen.setdefault(key, []).append(int(number))

    store.send_many(
        (Place(order_id=f"{each % 7}-{each}") for each in range(210)), key=lambda message: message.order_id[0]
    )

    work(store, registry, concurrency=4, batch=10)

    assert 210 == sum(map(len, seen.values()))
    assert all(numbers == sorted(numbers) for numbers in seen.values())


# What is stored together


def test_rows_of_a_handler_are_committed_with_its_acknowledgement(store, registry, bus):
    """[D3] Effects once: through the transaction in which the message is settled."""
    make_table(store)

    @registry.handles(Place)
    def place(command: Place) -> None:
        current_transaction().execute("INSERT INTO orders VALUES (:id)", {"id": command.order_id})

    store.send(Place(order_id="o-1"))

    work(store, registry, bus=bus)

    assert [("o-1",)] == rows(store, "SELECT id FROM orders")


def test_failed_handler_leaves_nothing_behind(store, registry, bus):
    """[D3] Neither rows, nor what it sent, nor what it had yielded; its siblings keep theirs."""
    make_table(store)
    sent = []

    @registry.handles(Placed)
    def fail(event: Placed) -> Iterator[Message]:
        current_transaction().execute("INSERT INTO orders VALUES ('ghost')")
        current_transaction().send(Place(order_id="ghost"))
        store.send(Place(order_id="ghost"))
        yield Place(order_id="ghost")
        raise ValueError

    @registry.handles(Placed)
    def succeed(event: Placed) -> Place:
        current_transaction().execute("INSERT INTO orders VALUES ('kept')")
        current_transaction().send(Place(order_id="sent in the transaction"))
        store.send(Place(order_id="sent"))
        return Place(order_id="returned")

    registry.register(Place, lambda command: sent.append(command.order_id))
    store.send(Placed(order_id="o-1"))

    work(store, registry, bus=bus)

    assert [("kept",)] == rows(store, "SELECT id FROM orders")
    assert ["returned", "sent", "sent in the transaction"] == sorted(sent)


def test_transaction_of_the_store_is_that_of_the_handler(store, registry):
    """[D3] The same code sends in a handler and outside of one."""
    make_table(store)

    @registry.handles(Place)
    def place(command: Place) -> None:
        with suppress(ValueError), store.transaction() as transaction:
            transaction.execute("INSERT INTO orders VALUES ('rolled back')")
            raise ValueError
        with store.transaction() as transaction:
            transaction.execute("INSERT INTO orders VALUES ('kept')")

    store.send(Place(order_id="o-1"))

    work(store, registry)

    assert [("kept",)] == rows(store, "SELECT id FROM orders")


def test_delayed_follow_up_waits(store, registry, clock):
    """[D7] A handler sends for later with `store.send`."""
    seen = []
    registry.register(Place, lambda command: store.send(Placed(order_id="later"), delay=60) and None)
    registry.register(Placed, lambda event: seen.append(event.order_id))
    store.send(Place(order_id="o-1"))
    work(store, registry)
    before = [*seen]
    clock.advance(61)

    work(store, registry)

    assert ([], ["later"]) == (before, seen)


def test_worker_that_lost_its_lease_stores_nothing(store, registry, clock, url):
    """[D6] Another has handled the message meanwhile: rows, sends and outcome of the late one are dropped."""
    if url == "memory://":
        pytest.skip("two workers need a store that two can open")
    make_table(store)
    runs = []
    other = open_store(url, clock=clock)

    @registry.handles(Place)
    def place(command: Place) -> Placed:
        runs.append(command.order_id)
        if len(runs) == 1:
            clock.advance(31)
            work(other, registry, lease=30)
        current_transaction().execute("INSERT INTO orders VALUES (:id)", {"id": f"run {len(runs)}"})
        return Placed(order_id="o-1")

    registry.register(Placed)
    store.send(Place(order_id="o-1"))

    work(store, registry, lease=30)
    other.close()

    assert [("run 2",)] == rows(store, "SELECT id FROM orders")
    assert 2 == store.stats().finished


def test_lease_is_extended_while_a_handler_runs(tmp_path, registry):
    """[D6] A slow handler keeps its message: nobody else may claim it."""
    url = f"sqlite:///{tmp_path}/bus.db"
    store, other = open_store(url), open_store(url)
    claims = []

    @registry.handles(Place)
    def place(command: Place) -> None:
        end = store.clock() + 1.5
        while store.clock() < end:
            claims.append(len(other.claim(1, 30).messages))
            threading.Event().wait(0.05)

    store.send(Place(order_id="o-1"))

    settled = work(store, registry, lease=0.6)
    store.close()
    other.close()

    assert (1, {0}) == (settled, {*claims})


# What fails


def test_handler_that_succeeded_is_not_run_again_in_any_process(store, registry, clock, url):
    """[D4] Of three handlers one fails: only that one is tried again, by whoever comes next."""
    seen = []
    registry.register(Placed, lambda_of(seen, "first"))

    @registry.handles(Placed)
    def fail(event: Placed) -> None:
        seen.append("fail")
        raise ValueError

    @registry.handles(Placed)
    def last(event: Placed) -> None:
        seen.append("last")

    store.send(Placed(order_id="o-1"))
    work(store, registry)
    clock.advance(10)
    another = store if url == "memory://" else open_store(url, clock=clock)

    work(another, registry)

    assert ["first", "fail", "last", "fail"] == seen
    if another is not store:
        another.close()


def lambda_of(seen: list[str], word: str) -> Any:
    def note(event: Any) -> None:
        seen.append(word)

    return note


def test_poison_among_a_thousand_is_tried_five_times_and_kept(store, registry, clock):
    """[D4] The others are done at once; it comes back after growing waits, then is a dead letter with its error."""
    handled = []
    tries = []

    @registry.handles(Place)
    def place(command: Place) -> None:
        if command.order_id == "poison":
            tries.append(clock())
            raise ValueError("no such order")
        handled.append(command.order_id)

    store.send_many(Place(order_id="poison" if number == 500 else str(number)) for number in range(1_000))
    work(store, registry)
    handled_at_first = len(handled)
    ceilings = []
    while not store.dead():
        ceilings.append(Retry().ceiling(len(tries)))
        clock.advance(ceilings[-1])
        work(store, registry)

    (letter,) = store.dead()
    assert 999 == handled_at_first == len(handled)
    assert 5 == len(tries) == letter.attempts
    assert [1.0, 4.0, 16.0, 64.0] == ceilings
    assert ("ValueError", "no such order") == (letter.failure.error, letter.failure.text)
    assert "test_worker.py:" in letter.failure.place
    assert f"{__name__}.{place.__qualname__}" == letter.handler


def test_wait_before_a_retry_is_within_its_ceiling(store, registry, clock):
    """[D4] Full jitter: any time up to the ceiling."""
    registry.register(Place, raise_value_error)
    store.send(Place(order_id="o-1"))

    work(store, registry, retry=Retry(first=10))

    (waiting,) = store.waiting()
    assert 0 <= waiting.due.timestamp() - clock() <= 10
    assert {f"{__name__}.raise_value_error": 1} == waiting.retries


def raise_value_error(message: Any) -> None:
    raise ValueError("no")


def test_retry_without_a_wait_is_due_at_once(store, registry, clock):
    """[D4] Times are kept in milliseconds, and none that is now is rounded to one that is later."""
    clock.advance(0.0006)
    tries = []

    @registry.handles(Placed)
    def fails(_event):
        tries.append(current_envelope().attempt)
        raise LookupError

    store.send(Placed(order_id="o-1"))

    work(store, registry, retry=Retry(attempts=3, first=0))

    assert [1, 2, 3] == tries


def test_permanent_error_is_a_dead_letter_at_once(store, registry):
    """[D4] Another try would be useless."""
    registry.register(Place, raise_value_error)
    store.send(Place(order_id="o-1"))

    work(store, registry, retry=Retry(permanent=(ValueError,)))

    assert [1] == [letter.attempts for letter in store.dead()]


def test_replayed_dead_letter_runs_its_handler_alone(store, registry, clock):
    """[D4] `retry` gives that one handler all its attempts again."""
    seen = []
    is_broken = [True]
    registry.register(Placed, lambda_of(seen, "good"))

    @registry.handles(Placed)
    def fragile(event: Placed) -> None:
        seen.append("fragile")
        if is_broken[0]:
            raise ValueError

    store.send(Placed(order_id="o-1"))
    work(store, registry, retry=Retry(attempts=1))
    is_broken[0] = False

    store.retry(store.dead()[0].id)
    work(store, registry, retry=Retry(attempts=1))

    assert ["good", "fragile", "fragile"] == seen
    assert (0, 1) == (store.stats().dead, store.stats().finished)


def test_replaced_message_is_what_the_handler_gets(store, registry):
    """[D4] An edited payload, validated by its class."""
    seen = []

    @registry.handles(Place)
    def place(command: Place) -> None:
        seen.append(command.order_id)
        if command.order_id == "wrong":
            raise ValueError

    store.send(Place(order_id="wrong"))
    work(store, registry, retry=Retry(attempts=1))

    store.retry(store.dead()[0].id, message=Place(order_id="right"))
    work(store, registry)

    assert ["wrong", "right"] == seen


def test_handler_sees_the_number_of_its_own_attempt(store, registry, clock):
    """[D4] What its siblings needed, whether they are done or dead, is not counted; a replay counts from one again."""
    seen = []

    @registry.handles(Placed)
    def fails_twice(_event):
        if current_envelope().attempt < 3:
            raise LookupError

    @registry.handles(Placed)
    def fails_once(_event):
        seen.append(current_envelope().attempt)
        if len(seen) == 1:
            raise ValueError

    store.send(Placed(order_id="o-1"))
    for _ in range(3):
        work(store, registry, retry=Retry(attempts=3, permanent=(ValueError,)))
        clock.advance(3_600)
    assert ["done", "dead"] == [outcome.state for outcome in store.tree(store.dead()[0].message_id)[0].outcomes]

    store.retry(store.dead()[0].id)
    work(store, registry)

    assert [1, 1] == seen


def test_message_that_its_worker_does_not_survive_is_a_dead_letter(store, registry, clock):
    """[D4] A crash counts as an attempt: what kills its worker does so a bounded number of times."""
    runs = []
    registry.register(Place, lambda command: runs.append(command))
    store.send(Place(order_id="killer"))
    for _ in range(3):
        store.claim(1, 30)
        clock.advance(31)

    work(store, registry, retry=Retry(attempts=3))

    (letter,) = store.dead()
    assert [] == runs
    assert (3, "messagebus.delivery.WorkerLost") == (letter.attempts, letter.failure.error)


@pytest.mark.parametrize("is_async", [False, True])
def test_handler_that_exits_is_tried_as_often_as_one_that_fails(store, registry, clock, is_async):
    """[D4] `sys.exit()` ends the worker, and counts as an attempt: a supervisor would start it again for ever."""
    runs = []

    def stop(message: Any) -> None:
        runs.append(message)
        raise SystemExit(3)

    async def stop_later(message: Any) -> None:
        stop(message)

    registry.register(Place, stop_later if is_async else stop)
    store.send(Place(order_id="o-1"))
    for _ in range(3):
        with pytest.raises(SystemExit):
            work(store, registry, retry=Retry(attempts=3))
        clock.advance(31)

    work(store, registry, retry=Retry(attempts=3))

    assert (3, [3]) == (len(runs), [letter.attempts for letter in store.dead()])


def test_attempts_before_and_after_a_crash_add_up(store, registry, clock):
    """[D4] One failure, one crash, one more failure: that makes three."""
    registry.register(Place, raise_value_error)
    store.send(Place(order_id="o-1"))
    work(store, registry, retry=Retry(attempts=3))
    clock.advance(10)
    store.claim(1, 30)
    clock.advance(31)

    work(store, registry, retry=Retry(attempts=3))

    assert [3] == [letter.attempts for letter in store.dead()]


def test_command_without_handler_is_a_dead_letter(store, registry):
    """[D9] The worker goes on; once there is a handler the letter can be tried again."""
    registry.register(Place)
    store.send(Place(order_id="o-1"))
    work(store, registry)
    (letter,) = store.dead()
    seen = []
    registry.register(Place, lambda_of(seen, "handled"))

    store.retry(letter.id)
    work(store, registry)

    assert ("", "messagebus.errors.NoHandlerError") == (letter.handler, letter.failure.error)
    assert ["handled"] == seen


def test_unknown_type_is_a_dead_letter(store, registry):
    """[D9] Its raw bytes are kept."""
    registry.register(Placed, lambda event: None)
    store.send_many([Place(order_id="unknown here"), Placed(order_id="o-1")])

    work(store, registry)

    (letter,) = store.dead()
    assert b'{"type":"Place","data":{"order_id":"unknown here"}}' == letter.body
    assert "messagebus.errors.UnknownMessageError" == letter.failure.error
    assert 1 == store.stats().finished


def test_message_that_no_longer_fits_its_class_is_a_dead_letter(store, registry):
    """[D9] The class has changed since it was sent."""
    registry.register(Place, lambda command: None)
    store.send(Place(order_id="o-1"))
    changed = Registry()

    class Place2(Command, name="Place"):
        order_id: int

    changed.register(Place2, lambda command: None)

    work(store, changed)

    assert ["messagebus.errors.InvalidMessageError"] == [letter.failure.error for letter in store.dead()]


def test_handler_that_is_gone_is_a_dead_letter(store, registry, clock):
    """[D9] It was to be tried again, and nothing has its name any more."""
    registry.register(Placed, raise_value_error)
    store.send(Placed(order_id="o-1"))
    work(store, registry)
    clock.advance(10)
    renamed = Registry()
    renamed.register(Placed)

    work(store, renamed)

    assert [f"{__name__}.raise_value_error"] == [letter.handler for letter in store.dead()]


@pytest.mark.parametrize("result", ["text", {"order_id": "o-1"}, [Place(order_id="o-1"), 7]])
def test_handler_that_returns_no_message_has_failed(store, registry, result):
    """[L13] Nothing of it is stored, what it returned beside that included."""
    registry.register(Placed, lambda event: result)
    registry.register(Place)
    store.send(Placed(order_id="o-1"))

    work(store, registry, retry=Retry(attempts=1))

    assert ["messagebus.errors.HandlerError"] == [letter.failure.error for letter in store.dead()]
    assert 0 == store.stats().due


def test_override_that_swallows_a_failure_has_decided(store, registry, bus):
    """[L15] `handle_exception` that returns lets the run go on, here as in process: no retry, no dead letter."""
    swallowed = []

    class Forgiving(bus):
        def handle_exception(self, exc: Exception, message: Message) -> Any:
            swallowed.append(type(exc))
            return asyncio.sleep(0) if issubclass(bus, AsyncMessageBus) else None

    registry.register(Place, raise_value_error)
    message_id = store.send(Place(order_id="o-1"))

    work(store, registry, bus=Forgiving)

    assert [ValueError] == swallowed
    assert (1, 0) == (store.stats().finished, store.stats().dead)
    assert ["dropped"] == [outcome.state for outcome in store.tree(message_id)[0].outcomes]


def test_retries_of_the_bus_are_one_attempt_of_the_worker(store, registry):
    """[L16] tenacity in `message_dispatcher` works as in process; what helped is not tried again."""
    tries = []

    class Retried(MessageBus):
        def message_dispatcher(self, message: Message) -> None:
            Retrying(stop=stop_after_attempt(3), reraise=True)(self.dispatch_message, message)

    @registry.handles(Place)
    def place(command: Place) -> Placed:
        tries.append(command)
        store.send(Placed(order_id=f"try {len(tries)}"))
        if len(tries) < 3:
            raise ValueError
        return Placed(order_id="returned")

    seen = []
    registry.register(Placed, lambda event: seen.append(event.order_id))
    message_id = store.send(Place(order_id="o-1"))

    work(store, registry, bus=Retried)

    assert ["try 3", "returned"] == seen
    assert [("done", 1)] == [(outcome.state, outcome.attempts) for outcome in store.tree(message_id)[0].outcomes]


def test_dispatcher_that_does_not_dispatch_is_a_failure_of_all(store, registry, clock):
    """An override may hold a message off, as a circuit breaker does: it comes back."""
    is_open = [True]
    seen = []

    class Breaker(MessageBus):
        def message_dispatcher(self, message: Message) -> None:
            if is_open[0]:
                raise ConnectionError
            self.dispatch_message(message)

    registry.register(Place, lambda_of(seen, "handled"))
    store.send(Place(order_id="o-1"))
    work(store, registry, bus=Breaker)
    is_open[0] = False
    clock.advance(10)

    work(store, registry, bus=Breaker)

    assert ["handled"] == seen


def test_dead_letter_parks_its_key_until_somebody_decides(store, registry):
    """[D5] What comes after it in its key would come out of order."""
    seen = []

    @registry.handles(Place)
    def place(command: Place) -> None:
        if command.order_id == "bad":
            raise ValueError
        seen.append(command.order_id)

    store.send_many([Place(order_id="bad"), Place(order_id="next")], key="customer-7")
    work(store, registry, retry=Retry(attempts=1))
    before = [*seen]

    store.drop(store.dead()[0].id)
    work(store, registry)

    assert ([], ["next"]) == (before, seen)


def test_key_is_not_parked_on_request(store, registry):
    """[D5] `Retry(parks=False)` opts out."""
    seen = []

    @registry.handles(Place)
    def place(command: Place) -> None:
        if command.order_id == "bad":
            raise ValueError
        seen.append(command.order_id)

    store.send_many([Place(order_id="bad"), Place(order_id="next")], key="customer-7")

    work(store, registry, retry=Retry(attempts=1, parks=False))

    assert ["next"] == seen
    assert 1 == len(store.dead())


# Records and secrets


def test_records_tell_what_became_of_a_handler(store, registry, records):
    """A failure is one record of the bus; the worker adds whether it is tried again."""
    logger, entries = records
    registry.register(Place, raise_value_error)
    message_id = store.send(Place(order_id="o-1"))

    Worker(store, registry, logger=logger, retry=Retry(attempts=1)).run(until_idle=True)

    assert ["worker.started", "message.failed", "dead_letter.kept", "worker.stopped"] == [e["event"] for e in entries]
    kept = entries[2]
    assert (message_id, f"{__name__}.raise_value_error", 1, "ValueError", "no") == (
        kept["message_id"],
        kept["handler"],
        kept["attempts"],
        kept["error"],
        kept["reason"],
    )


def test_no_secret_shows_in_a_dead_letter_or_a_record(store, registry, records):
    """[L21] What is private in the message is cleared from the error's text."""
    logger, entries = records

    @registry.handles(Pay)
    def pay(command: Pay) -> None:
        raise ValueError(f"declined: {command.token}")

    store.send(Pay(token="canary-4242"))

    Worker(store, registry, logger=logger, retry=Retry(attempts=2)).run(until_idle=True)

    shown = [repr(store.waiting()), repr(store.dead()), repr(entries), str(store.tree(entries[1]["message_id"]))]
    assert ["canary" in text for text in shown] == [False] * len(shown)
    assert "declined: **********" in repr(entries)


def test_broken_sink_does_not_stop_the_work(store, registry):
    """[L20] A record that cannot be written never changes what becomes of a message."""

    def burst(logger: Any, name: str, record: Any) -> Any:
        raise OSError("disk full")

    logger = structlog.wrap_logger(None, [burst], structlog.make_filtering_bound_logger("debug"))
    registry.register(Place, raise_value_error)
    store.send(Place(order_id="o-1"))

    with pytest.warns(RuntimeWarning, match="could not be written"):
        Worker(store, registry, logger=logger, retry=Retry(attempts=1)).run(until_idle=True)

    assert 1 == store.stats().dead


# The store out of order


def test_work_goes_on_when_the_store_is_busy_for_a_while(tmp_path, registry):
    """What was handled is settled as soon as the store can be written again, and not handled twice."""
    url = f"sqlite:///{tmp_path}/bus.db"
    store, other = open_store(url, timeout=0.05), open_store(url)
    seen = []
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with other.transaction():
            is_held.set()
            may_end.wait()

    holder = threading.Thread(target=hold)

    @registry.handles(Place)
    def place(command: Place) -> None:
        seen.append(command.order_id)
        holder.start()
        is_held.wait()
        threading.Timer(0.5, may_end.set).start()

    store.send(Place(order_id="o-1"))

    settled = work(store, registry)
    holder.join()
    other.close()

    assert (["o-1"], 1, 1) == (seen, settled, store.stats().finished)
    store.close()


# Beside the lanes


def test_worker_sends_what_is_scheduled(store, registry, clock):
    """[D7] Times that passed while none ran are made up for once."""
    seen = []
    registry.register(Place, lambda command: seen.append(command.order_id))
    store.every("0 3 * * *", Place(order_id="nightly"), name="nightly")
    clock.advance(3 * 86_400)

    work(store, registry)

    assert ["nightly"] == seen


def test_worker_forgets_old_history(url, clock, registry):
    """History is kept for the retention time, and pruned."""
    store = open_store(url, clock=clock, retention=100)
    registry.register(Place, lambda command: None)
    store.send(Place(order_id="o-1"))
    work(store, registry)
    clock.advance(101)

    work(store, registry)

    assert 0 == store.stats().finished
    store.close()


def test_settling_by_hand_and_by_worker_go_together(store, registry):
    """[D4] What a store says of a handler is what counts, whoever said it."""
    seen = []
    registry.register(Placed, lambda_of(seen, "one"))
    store.send(Placed(order_id="o-1"))
    claim = store.claim(1, 30)
    done = Outcome(f"{__name__}.lambda_of.<locals>.note", "done", 1)
    waits = Outcome("another", "retry", 1, due=store.clock())
    store.settle(claim.token, [Settlement(claim.messages[0].seq, [done, waits])])

    work(store, registry)

    assert [] == seen
