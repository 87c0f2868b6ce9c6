"""Async: the same messages and the same order on an event loop, with `async def` and plain handlers.

Output::

    One after another:
        book_train begins
        book_train ends
        book_hotel
        [Booked(what='train'), Booked(what='hotel')]
    At the same time, with the results still in the order of registration:
        book_train begins
        book_hotel
        book_train ends
        [Booked(what='train'), Booked(what='hotel')]
    In a thread:
        [Map(is_made_on_the_event_loop=False)]
"""

import asyncio
import threading
from collections.abc import AsyncIterator

from messagebus import AsyncMessageBus, Command, Event, ReturnMessage, ahandle_message, handles


class PlanTrip(Command):
    city: str


class TripPlanned(Event):
    city: str


class Booked(ReturnMessage):
    what: str


class MakeMap(Command):
    city: str


class Map(ReturnMessage):
    is_made_on_the_event_loop: bool


@handles(PlanTrip)
async def plan_trip(command: PlanTrip) -> AsyncIterator[TripPlanned]:
    yield TripPlanned(city=command.city)


@handles(TripPlanned)
async def book_train(event: TripPlanned) -> Booked:
    print("    book_train begins")
    await asyncio.sleep(0)  # Waits for somebody else, as every await does.
    print("    book_train ends")
    return Booked(what="train")


@handles(TripPlanned)
def book_hotel(event: TripPlanned) -> Booked:
    print("    book_hotel")
    return Booked(what="hotel")


@handles(MakeMap, blocking=True)  # Would hold up the event loop, so it runs in a thread.
def make_map(command: MakeMap) -> Map:
    return Map(is_made_on_the_event_loop=threading.current_thread() is threading.main_thread())


class ConcurrentBus(AsyncMessageBus):
    concurrent = True


async def main() -> None:
    print("One after another:")
    print("   ", await ahandle_message(PlanTrip(city="Ghent")))

    print("At the same time, with the results still in the order of registration:")
    print("   ", await ConcurrentBus(PlanTrip(city="Ghent"), log_level="disabled")())

    print("In a thread:")
    print("   ", await ahandle_message(MakeMap(city="Ghent")))


asyncio.run(main())
