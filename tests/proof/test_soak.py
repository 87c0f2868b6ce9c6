"""Memory over many runs, in short form."""

import pytest

from tests.proof import soak


def test_memory_stays_as_it_was():
    """[L10] A process that runs for a year must not grow by what it has handled."""
    assert "objects" in soak.prove(soak.SHORT, print)


def test_harness_sees_what_is_kept(monkeypatch):
    """A list that grows by one small object a run is seen."""
    kept, fails = [], soak.fails
    monkeypatch.setattr(soak, "fails", lambda attempt: kept.append([]) or fails(attempt))

    with pytest.raises(AssertionError, match="more than before"):
        soak.prove(soak.WARM_UP, print)
