"""Durable load with faults for a while: what must not happen in months does not even begin."""

import pytest

from tests.proof import durable_soak


def test_f54_load_with_faults():
    """[D1] [D2] [D3] Nothing lost, memory flat, the file no larger than twice what it holds."""
    durable_soak.prove(durable_soak.SHORT, print)


@pytest.mark.parametrize(
    ("handled", "total", "is_wrong"),
    [
        (40, 820, False),
        (60, 1_830, False),
        (39, 780, True),
        (40, 819, True),
        (41, 821, True),
        (0, 0, True),
    ],
)
def test_what_is_missing_is_found(handled, total, is_wrong):
    """Forty were accepted, and twenty more perhaps: all of them or none."""
    said = [line.split() for line in ["T 1 20 1 0", "A 1 20 1 0", "T 1 40 1 0", "A 1 40 1 0", "T 1 60 1 0"]]

    assert is_wrong == bool([*durable_soak.missing(said, {"1": (handled, total)})])
