"""The arithmetic of cron expressions, where clocks are put forward and back; the laws are in the conformance suite."""

import sys
import threading
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from messagebus import ConfigurationError
from messagebus.delivery import open_store
from messagebus.delivery.schedule import next_time
from messagebus.testing import Clock
from messagebus.testing.laws import take
from messagebus.testing.shop import PlaceOrder, order_ids

BERLIN = ZoneInfo("Europe/Berlin")


def times(cron, timezone, after, count):
    """Return so many times of a cron expression, as they stand on the wall there."""
    zone, found = ZoneInfo(timezone), []
    moment = round(datetime.fromisoformat(after).replace(tzinfo=zone).timestamp() * 1000)
    for _ in range(count):
        moment = next_time(cron, timezone, moment)
        found.append(datetime.fromtimestamp(moment / 1000, zone).isoformat(" ", "minutes"))
    return found


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        # Half past two is not on the 29th: it comes right after the gap.
        ("30 2 * * *", ["2026-03-28 02:30+01:00", "2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"]),
        ("0 3 * * *", ["2026-03-28 03:00+01:00", "2026-03-29 03:00+02:00", "2026-03-30 03:00+02:00"]),
    ],
)
def test_hour_that_is_missing(cron, expected):
    """[D7] A daily message is sent on the day of 23 hours too, once."""
    assert expected == times(cron, "Europe/Berlin", "2026-03-28 00:00", 3)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        # Half past two is twice on the 25th: the first counts.
        ("30 2 * * *", ["2026-10-24 02:30+02:00", "2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"]),
        ("0 3 * * *", ["2026-10-24 03:00+02:00", "2026-10-25 03:00+01:00", "2026-10-26 03:00+01:00"]),
    ],
)
def test_hour_that_comes_twice(cron, expected):
    """[D7] A daily message is sent on the day of 25 hours too, once."""
    assert expected == times(cron, "Europe/Berlin", "2026-10-24 00:00", 3)


def test_every_half_hour_is_every_half_hour():
    """[D7] Without a fixed hour the hour that comes twice has its messages twice."""
    found = times("*/30 * * * *", "Europe/Berlin", "2026-10-25 01:45", 5)

    assert [
        f"2026-10-25 {at}" for at in ("02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00", "03:00+01:00")
    ] == found


def test_next_time_is_later():
    """[D7] At its own time an expression means the next one; a worker that fires it is done with it."""
    at_three = round(datetime(2026, 1, 1, 3, tzinfo=UTC).timestamp() * 1000)

    assert at_three == next_time("0 3 * * *", "UTC", at_three - 1)
    assert at_three + 86_400_000 == next_time("0 3 * * *", "UTC", at_three)
    assert at_three + 86_400_000 == next_time("0 3 * * *", "UTC", at_three + 999)


@pytest.mark.parametrize("cron", ["", "nightly", "0 3 * *", "61 * * * *", "0 0 30 2 *", "* * * * * * *", "@daily\n"])
def test_what_is_no_expression_is_refused(cron):
    """[D7] Also the thirtieth of February, which would be waited for for ever."""
    with pytest.raises(ConfigurationError, match="no cron expression"):
        next_time(cron, "UTC", 0)


@pytest.mark.parametrize("timezone", ["", "Berlin", "../../etc/passwd", "Europe/Berlin\0"])
def test_zone_that_is_none_is_refused(timezone):
    """[D7] Also one that would lead out of the folder of zones."""
    with pytest.raises(ConfigurationError, match="no such time zone"):
        next_time("0 3 * * *", timezone, 0)


def test_missing_library_is_named_with_its_install_line(monkeypatch):
    """The extra is asked for when it is needed."""
    monkeypatch.setitem(sys.modules, "cronsim", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'pydantic-messagebus\[cron\]'"):
        next_time("0 3 * * *", "UTC", 0)


def test_one_of_many_threads_and_stores_fires(url):
    """[D7] All see that it is due at the same moment, and one sends it."""
    clock = Clock()
    stores = [open_store(url, clock=clock) for _ in range(4)]
    stores[0].every("* * * * *", PlaceOrder(order_id="o-1"), name="each minute")
    clock.advance(3_600)
    together = threading.Barrier(len(stores))
    fired = []

    def fire(store):
        together.wait()
        fired.append(store.fire())

    threads = [threading.Thread(target=fire, args=[store]) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [0, 0, 0, 1] == sorted(fired)
    assert ["o-1"] == order_ids(take(stores[0]))
    for store in stores:
        store.close()
