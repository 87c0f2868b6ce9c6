"""The command that runs the harnesses: each is named, each has its short form in the default run, each can fail."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import tests.proof
from tests.proof.__main__ import load, main

HERE = Path(tests.proof.__file__).parent


@pytest.mark.parametrize("name", tests.proof.HARNESSES)
def test_harness_has_what_every_harness_has(name):
    """One command runs them all, so that they are called in one way; and none is run by hand only."""
    harness = load(name)

    assert 0 < harness.SHORT <= harness.LONG
    assert harness.COUNTS
    assert callable(harness.prove)
    assert "prove(" in (HERE / f"test_{name}.py").read_text(encoding="utf-8")


def test_table_tells_what_held_and_what_failed(monkeypatch, capsys):
    """A harness that fails is seen in the table, and in the exit code."""

    def fail(size, report):
        report("half way")
        raise AssertionError(f"lost 1 of {size}\nand more")

    sound = SimpleNamespace(COUNTS="tries", SHORT=10, LONG=2_000, prove=lambda size, report: f"0 lost of {size}")
    monkeypatch.setattr("tests.proof.__main__.HARNESSES", ("sound", "broken"))
    monkeypatch.setitem(sys.modules, "tests.proof.sound", sound)
    monkeypatch.setitem(sys.modules, "tests.proof.broken", SimpleNamespace(**{**vars(sound), "prove": fail}))

    codes = [main(["--long", "sound"]), main([])]

    out, err = capsys.readouterr()
    assert [0, 1] == codes
    assert "| sound | 2,000 tries | 0 lost of 2000 | 0.0 |" in out
    assert "| broken | 10 tries | FAILED: lost 1 of 10 | 0.0 |" in out
    assert "half way" in err


def test_unknown_harness_is_refused(capsys):
    """A name that is mistyped would else prove nothing."""
    with pytest.raises(SystemExit) as ended:
        main(["bus_modell"])

    assert 2 == ended.value.code
    assert "there is no harness 'bus_modell'" in capsys.readouterr().err
