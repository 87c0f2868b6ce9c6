"""A power cut at any write: nothing that was accepted is lost, and nothing is there by half."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.delivery import powerloss


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The recorder of writes; it is C, so that it sees what SQLite writes."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here, with which to see what SQLite writes")
    path = tmp_path_factory.mktemp("powerloss") / "powerloss.so"
    source = Path(powerloss.__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path


def test_f34_power_cut_at_any_write(tmp_path, library):
    """[D1] [D3] [F34] Cut after each of some hundred writes, with none, all or any of what was not synced."""
    (tmp_path / "played").mkdir()
    events = powerloss.record(tmp_path / "played", library)

    problems = [*powerloss.replay(events, tmp_path, seed=34)]

    assert [] == problems
    assert 48 == sum(event[0] == "a" for event in events)
    assert 100 < sum(event[0] in "wstu" for event in events)
