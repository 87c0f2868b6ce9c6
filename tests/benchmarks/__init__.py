"""Benchmarks: what the bus costs over plain calls, and beside other buses; ``python -m tests.benchmarks --help``."""
