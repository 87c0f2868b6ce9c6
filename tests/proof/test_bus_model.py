"""The bus beside its reference, in short form."""

from pathlib import Path

from tests.proof import bus_model, reference_bus


def test_bus_does_what_the_reference_says():
    """[L5-L17, L20, L22-L24] Order, results, exceptions, `pending` and records of random applications, on every bus."""
    assert f"{bus_model.SHORT} graphs" in bus_model.prove(bus_model.SHORT, print)


def test_reference_is_short_enough_to_be_believed():
    """What is as long as the bus would have the same mistakes."""
    lines = Path(reference_bus.__file__).read_text(encoding="utf-8").splitlines()

    assert sum(1 for line in lines if line.strip()) <= 80
