"""A power cut at any write: nothing that was accepted is lost, and nothing is there by half."""

import random

from tests.proof import power


def test_f34_power_cut_at_any_write():
    """[D1] [D3] [F34] Cut anywhere, with nothing, all, the beginning or any sectors of what was not synced."""
    power.prove(power.SHORT, print)


def test_store_that_does_not_sync_is_found_out(tmp_path):
    """With `synchronous=NORMAL` what was accepted is lost: a harness that does not see that proves nothing."""
    events = power.record(tmp_path / "played", "careless")

    found = (wrong for _, problems in power.replay(events, tmp_path, random.Random(34)) for wrong in problems)

    assert any("accepted and lost" in wrong for wrong in found)


def test_life_has_some_of_everything(tmp_path):
    """Else there would be little to lose."""
    events = power.record(tmp_path / "played")

    kinds = [event[0] for event in events]
    assert 48 == kinds.count("a")
    assert 12 == kinds.count("f")
    assert 100 < sum(kind in "wstuc" for kind in kinds)
