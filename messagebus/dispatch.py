"""The order rule: what a run has in hand, what waits, what came back. It does no I/O and calls no handler."""

import inspect
from collections import Counter, deque
from collections.abc import AsyncIterable, Generator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from pydantic import BaseModel

from messagebus.envelope import CURRENT, Envelope
from messagebus.errors import AsyncHandlerError, CascadeLimitError, DispatchError, HandlerError
from messagebus.messages import Message, ReturnMessage, full_name
from messagebus.registry import Handler, Plan, Snapshot

__all__ = ["Delivery", "Run"]

# For so many messages before the limit their types are noted, to name those that repeat.
_WATCHED = 1_000
_NO_HEADERS: Mapping[str, str] = {}


class Delivery(Envelope):
    """One message in a run, and how far it has come."""

    __slots__ = ("done", "emitted", "failure", "is_settled", "plan", "started")

    def __init__(self, message: Message, plan: Plan, parent: Envelope | None = None) -> None:
        # Nothing goes through super(): there is one of these for every message.
        self.message = message
        self.plan = plan
        self.identity = self._time = self.failure = None
        if parent is None:
            self.cause = self.correlation = None
        else:
            self.cause = parent.identify()
            self.correlation = parent.correlation or self.cause
        self.headers = _NO_HEADERS if parent is None else parent.headers
        self.attempt = self.emitted = 0
        self.is_settled = False
        self.done: list[Handler] = []

    def adopt(self, envelope: Envelope) -> None:
        """Take over what is known of the message from outside."""
        self.identity, self.cause, self.correlation = envelope.identity, envelope.cause, envelope.correlation
        self.headers, self.attempt, self._time = envelope.headers, envelope.attempt - 1, envelope.time

    def left(self) -> Sequence[Handler]:
        """Return the handlers that have not succeeded yet, in the order of registration."""
        if not self.done:
            return self.plan.handlers
        return [handler for handler in self.plan.handlers if handler not in self.done]


class Run:
    """The messages of one run. The rule is first in, first out, without recursion.

    What a handler returned waits until all that was returned before it has been dispatched. Return messages do not
    wait: they come back in the order in which they were returned.
    """

    max_messages = 100_000
    """So many messages one call of the bus may lead to, return messages included."""

    return_messages: list[ReturnMessage]
    """What came back so far."""

    _is_logged = False
    _snapshot: Snapshot
    _in_hand: Delivery | None
    _waiting: deque[Delivery]
    _count: int

    @property
    def pending(self) -> list[Message]:
        """The messages that are still to be dispatched, the next first."""
        in_hand = [self._in_hand] if self._in_hand is not None and not self._in_hand.is_settled else []
        return [delivery.message for delivery in (*in_hand, *self._waiting)]

    def _turns(self) -> Generator[Delivery, None, None]:
        """Yield each delivery when its turn has come; and again, settled, if there is something to say of its end.

        The driver dispatches a delivery that is not settled, and keeps what that raised in ``failure``. A delivery
        whose dispatch was broken off stays in hand, and comes first when the run goes on.
        """
        self._count = 0
        recent: Counter[type] | None = None
        delivery = self._in_hand
        while True:
            if delivery is None or delivery.is_settled:
                if not self._waiting:
                    break
                delivery = self._in_hand = self._waiting.popleft()
            CURRENT.set(delivery)
            yield delivery
            delivery.is_settled = True
            overflow = None
            if delivery.emitted and self._count > self.max_messages - _WATCHED:
                recent = recent or Counter()
                recent[type(delivery.message)] += 1
                if self._count > self.max_messages:
                    names = tuple(f"{full_name(cls)} ({times:,} times)" for cls, times in recent.most_common(5))
                    overflow = CascadeLimitError(self.max_messages, names)
                    delivery.failure = delivery.failure or overflow
            if self._is_logged or delivery.failure is not None:
                yield delivery
            if overflow is not None:
                raise overflow
        self._in_hand = None

    def _take(self, message: Message) -> Delivery:
        """Return the delivery in hand, if it is of this message, and the message can be dispatched."""
        delivery = self._in_hand
        if delivery is None or delivery.message is not message or delivery.is_settled:
            why = f"this {full_name(type(message))} is not the message in hand"
            remedy = "Call dispatch_message in message_dispatcher, with its message; elsewhere use handle_message."
            raise DispatchError("dispatch", why, remedy)
        delivery.attempt += 1
        if delivery.plan.check is not None:
            delivery.plan.check(message)
        return delivery

    def _release(self, delivery: Delivery, handler: Handler, result: object) -> None:
        """Give the messages that a handler returned their place in the order."""
        snapshot, returned = self._snapshot, cast("list[Message]", self.return_messages)
        messages = (result,) if type(result) in snapshot else self._follow_ups(delivery, handler, result)
        for message in messages:
            plan = snapshot[type(message)]
            if plan.is_return:
                returned.append(message)
            else:
                self._waiting.append(Delivery(message, plan, delivery))
        self._count += len(messages)
        delivery.emitted += len(messages)

    def _follow_ups(self, delivery: Delivery, handler: Handler, result: object) -> Sequence[Message]:
        """Return the messages in what a handler returned; of an endless iterable, one more than there may be.

        Raises:
            HandlerError: If there is anything but messages.
            AsyncHandlerError: If it would have to be awaited.
        """
        if isinstance(result, Message):
            return (result,)
        if inspect.isawaitable(result) or isinstance(result, AsyncIterable):
            if inspect.iscoroutine(result):
                result.close()
            raise AsyncHandlerError(full_name(type(delivery.message)), str(handler))
        wrong: list[object] = [result]
        messages: list[Message] = []
        if isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping | BaseModel):
            messages = list(islice(result, self.max_messages + 1))
            wrong = [item for item in messages if not isinstance(item, Message)]
        if wrong:
            kind = wrong[0] if isinstance(wrong[0], type) else type(wrong[0])
            what = f"the class {full_name(kind)} itself" if kind is wrong[0] else f"an object of type {full_name(kind)}"
            remedy = "Return None, a message or an iterable of messages; data for the caller goes into a ReturnMessage."
            raise HandlerError(f"take what {handler} returned", f"it is {what}", remedy)
        return messages
