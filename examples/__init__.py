"""Examples: a ladder from 01_hello.py to 08_testing_your_application.py, and larger ones beside it.

Each rung states its output, runs alone (`python examples/01_hello.py`), and is there to be copied.
"""
