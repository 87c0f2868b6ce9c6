"""Kill loops: producers and workers die at any moment, and every promise is kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.delivery import killing

KILLS = 60

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


def verdict(ledger=SMOOTH, effects=EFFECTS, rows=ROWS, killed=frozenset()):
    return killing.judge([line.split() for line in ledger.split("\n") if line], effects, rows, killed)


def test_f32_f33_f42_killed_at_any_moment(url, tmp_path):
    """[D1] [D2] [D3] [D5] Producers and workers are killed; the survivors finish, and the ledger knows."""
    command = [sys.executable, "-W", "error", killing.__file__, url, str(tmp_path), str(KILLS), "32"]

    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2])

    story = json.loads(ended.stdout)
    print(story)
    assert [] == story["problems"]
    assert KILLS <= story["kills"]
    assert KILLS < story["accepted"]


def test_judge_finds_nothing_where_nothing_is_wrong():
    """The tests below are of the judge; this one is that it can be content."""
    assert [] == verdict()
    assert [] == verdict(SMOOTH.replace("D 1:00003a shop.place_order m-3 200\n", ""))
    again = SMOOTH.replace("D 1:00003a shop.place_order m-3 200", "S 1:00003a shop.place_order m-3 201")
    assert [] == verdict(again + "D 1:00003a shop.place_order m-3 201\n", killed={"200"})


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
