"""When a handler that failed is tried again (law D4)."""

import pytest

from messagebus.delivery import Retry


def test_waits_grow_by_their_factor_up_to_the_longest():
    """Exponential backoff: a dependency that is down is left alone for longer and longer."""
    retry = Retry(first=2, factor=3, longest=40)

    ceilings = [retry.ceiling(attempt) for attempt in range(1, 6)]

    assert [2, 6, 18, 40, 40] == ceilings


def test_wait_is_anything_up_to_its_ceiling():
    """Full jitter: what failed together does not come back together."""
    waits = [Retry(first=10).wait(1) for _ in range(2_000)]

    assert 0 <= min(waits) < 1
    assert 9 < max(waits) <= 10
    assert len(set(waits)) > 1_900


def test_default_bridges_an_outage_of_a_minute():
    """Five attempts end after the dependency had some time to come back."""
    retry = Retry()

    assert 60 < sum(retry.ceiling(attempt) for attempt in range(1, retry.attempts)) < 600


def test_endless_attempts_do_not_overflow():
    """The ten thousandth attempt waits as long as the hundredth."""
    assert Retry().longest == Retry(attempts=10**6).ceiling(10_000)


@pytest.mark.parametrize(
    ("attempt", "error", "is_final"),
    [(2, ValueError(), False), (3, ValueError(), True), (1, KeyError(), True), (1, LookupError(), False)],
)
def test_last_attempt_and_permanent_errors_are_final(attempt, error, is_final):
    """A permanent error is a dead letter at once, its subclasses too."""
    assert is_final == Retry(attempts=3, permanent=(KeyError,)).is_final(attempt, error)
