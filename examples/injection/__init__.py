"""What a handler needs beside its message comes from wherever the application gets it: four ways, one outcome.

The bus calls a handler with one argument, its message; anything that can be called so is a handler. `by_hand` needs
no library; `with_svcs`, `with_dishka` and `with_fast_depends` each show one, with something opened for every message
and closed after it. Run one: `python -m examples.injection.by_hand`.
"""
