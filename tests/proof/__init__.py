"""The harnesses that try to break the promises: ``python -m tests.proof [--long] [NAME…]``.

A harness is a module of this package with

- ``COUNTS: str``, what its size counts, such as ``"examples"``;
- ``SHORT: int`` and ``LONG: int``, its size in the default test run (by ``test_NAME.py`` beside it) and on request;
- ``prove(size, report) -> str``, which raises AssertionError if a promise is broken, and returns its figures in one
  line; ``report`` takes a line that says how far it has come.
"""

HARNESSES = (
    "bus_model", "store_model", "kills", "power", "io_faults", "fuzz", "canaries", "planted_faults", "soak",
    "durable_soak",
)  # fmt: skip
