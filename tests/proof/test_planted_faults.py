"""Each planted fault is found. (`prove(…)` of the harness runs the named checks without a fault too; here they do.)"""

import pytest

from tests.proof import planted_faults
from tests.proof.faults import CORE, DELIVERY, FAULTS


@pytest.fixture(scope="module")
def ends(request):
    """The ends of the checks of those faults that are asked for."""
    tests = [item for item in request.session.items if getattr(item, "originalname", "") == "test_fault_is_found"]
    faults = [item.callspec.params["fault"] for item in tests]
    return {end["name"]: end for end in planted_faults.plant(faults)}


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name.replace(" ", "_") for fault in FAULTS])
def test_fault_is_found(ends, fault):
    """A check that cannot fail proves nothing."""
    end = ends[fault.name]

    assert planted_faults.is_found(end), f"exit code {end['code']}\n{end['said']}"


def test_table_covers_core_and_delivery():
    """One table, in which no row stands twice."""
    assert len(CORE) >= 30
    assert len(DELIVERY) >= 38
    assert len(FAULTS) == len({fault.name for fault in FAULTS}) == len({fault[1:] for fault in FAULTS})


def test_fault_that_no_longer_fits_is_no_find():
    """Code changes; a fault that changes nothing any more must not look like one that was found."""
    outdated = FAULTS[0]._replace(right="code that was there once")

    [end] = planted_faults.plant([outdated])

    assert not planted_faults.is_found(end)
    assert "no longer fits" in end["said"]


def test_check_that_finds_nothing_is_no_find():
    """A change that breaks no promise is not found, and neither is one that keeps the check from running."""
    harmless = FAULTS[0]._replace(right="# Nothing goes through super()", wrong="# All goes by itself")
    broken = FAULTS[0]._replace(name="broken", right="# Nothing goes through super()", wrong="import nonsense")

    ends = [*planted_faults.plant([harmless, broken])]

    assert [False, False] == [planted_faults.is_found(end) for end in ends]
