"""Kill loops: producers and workers die at any moment, and every promise is kept."""

import pytest

from tests.proof import kills

# One command, with key and effect, and its event: handled without any fault.
SMOOTH = """
T 1:00000a row 1/0 100
A 1:00000a row 1/0 100
S 1:00000a shop.place_order m-1 200
D 1:00000a shop.place_order m-1 200
S 1:00000a shop.order_placed m-2 200
D 1:00000a shop.order_placed m-2 200
T 1:00003a one 1/0 100
A 1:00003a one 1/0 100
S 1:00003a shop.place_order m-3 200
D 1:00003a shop.place_order m-3 200
S 1:00003a shop.order_placed m-4 200
D 1:00003a shop.order_placed m-4 200
"""
EFFECTS = [f"1:0000{number}a {type}" for number in (0, 3) for type in ("shop.place_order", "shop.order_placed")]
ROWS = ["1:00000a"]


def verdict(ledger=SMOOTH, effects=EFFECTS, rows=ROWS):
    """Judge a ledger, in which a second passes with each line."""
    lines = [line.split() for line in ledger.split("\n") if line]
    return kills.judge([[*line, str(second)] for second, line in enumerate(lines)], effects, rows)


def test_f32_f33_f42_killed_at_any_moment():
    """[D1] [D2] [D3] [D5] [D10] Producers and workers are killed; the survivors finish, and the ledger knows."""
    kills.prove(kills.SHORT, print)


def test_judge_finds_nothing_where_nothing_is_wrong():
    """The tests below are of the judge; this one is that it can be content."""
    assert [] == verdict()
    assert [] == verdict(SMOOTH.replace("D 1:00003a shop.place_order m-3 200\n", ""))


@pytest.mark.parametrize(
    "reason",
    [
        "X 200 killer",
        "L 1:00003a shop.place_order m-3 200",
        "P 200 1.9 killer",
        "P 999 1.9 killer\nC 999 killer",
    ],
)
def test_judge_knows_why_something_is_handled_twice(reason):
    """Who had it was killed, or was told that it is lost; or somebody stood still for longer than a lease."""
    again = "S 1:00003a shop.place_order m-3 201"
    done = "D 1:00003a shop.place_order m-3 200"

    assert 2 == len(verdict(SMOOTH.replace(done, f"{again}\n{done}")))
    assert [] == verdict(SMOOTH.replace(done, f"{reason}\n{again}\n{done}\nX 300 killer"))


@pytest.mark.parametrize(
    ("problem", "changed"),
    [
        ("lost", {"ledger": SMOOTH + "T 1:00009a one 1/0 100\nA 1:00009a one 1/0 100\n"}),
        ("ghosts", {"ledger": "\n".join(line for line in SMOOTH.split("\n") if not line.startswith("T 1:00003"))}),
        ("commands whose event is lost", {"ledger": "\n".join(SMOOTH.split("\n")[:-3])}),
        ("stored twice", {"ledger": SMOOTH + "S 1:00003a shop.order_placed m-5 200\n"}),
        ("handled twice without a reason", {"ledger": SMOOTH + "S 1:00003a shop.order_placed m-4 201\n"}),
        ("more than a batch for each kill", {"ledger": SMOOTH + "S 1:00003a shop.order_placed m-4 201\n"}),
        ("effects lost", {"effects": EFFECTS[1:]}),
        ("effects without a message", {"effects": [*EFFECTS, "1:00009a shop.place_order"]}),
        ("effects written twice", {"effects": [*EFFECTS, EFFECTS[0]]}),
        ("rows without their message", {"rows": [*ROWS, "1:00009a"]}),
        ("messages without their row", {"rows": []}),
        ("out of order", {"ledger": "T 1:00009a one 1/0 100\nS 1:00009a shop.place_order m-9 200\n" + SMOOTH}),
    ],
)
def test_judge_finds_a_promise_that_was_not_kept(problem, changed):
    """A judge that cannot condemn proves nothing."""
    found = verdict(**changed)

    assert problem in [one.partition(" ")[2].partition(":")[0] for one in found]
