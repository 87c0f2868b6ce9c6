"""A power cut at any write: nothing that was accepted is lost, and nothing is there by half."""

from itertools import islice

from tests.delivery import powerloss


def test_f34_power_cut_at_any_write(tmp_path, library):
    """[D1] [D3] [F34] Cut after any of some hundred writes, with none, all or any of what was not synced."""
    (tmp_path / "played").mkdir()
    events = powerloss.record(tmp_path / "played", library)

    problems = [*islice(powerloss.replay(events, tmp_path, seed=34), 5)]

    assert [] == problems
    assert 48 == sum(event[0] == "a" for event in events)
    assert 100 < sum(event[0] in "wstu" for event in events)
