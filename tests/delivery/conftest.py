"""What the tests of delivery share: a place for a store on each engine, and a recorder of what is written."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.delivery import powerloss


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """An empty place for a store, on each of the engines that outlive a process."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bus.db"
    return request.getfixturevalue("postgres").fresh()


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """What is loaded before SQLite to see what it writes, and to let that fail; it is C, and compiled here."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here, with which to see what SQLite writes")
    path = tmp_path_factory.mktemp("powerloss") / "powerloss.so"
    source = Path(powerloss.__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path
