"""Calls to the system that fail, one after another: what the store said stays true, and the rest it refuses clearly."""

from tests.proof import io_faults


def test_f35_f55_any_call_to_the_system_may_fail():
    """[D1] [D3] [D11] [L20] Full, broken, locked, cut short: refused clearly, nothing lost, and the worker goes on."""
    io_faults.prove(io_faults.SHORT, print)
