"""What may come in is refused or comes back, in short form."""

import pytest

from messagebus import InvalidMessageError
from tests.proof import fuzz


def test_what_comes_is_refused_in_clear_words_or_comes_back():
    """[L1] [L2] [D1] [D11] JSON, mappings and messages, into the doors and stores; and damaged files."""
    assert "damaged files" in fuzz.prove(fuzz.SHORT, print)


@pytest.mark.parametrize("text", [f"it was {fuzz.SECRET}", f"it was …{fuzz.SECRET[4:12]}…", "long " * 1_000])
def test_harness_sees_an_error_that_tells_too_much(text):
    """Also where the secret was shortened."""
    with pytest.raises(AssertionError):
        fuzz.check_refusal(InvalidMessageError("shop.PlaceOrder", (("", text),)), InvalidMessageError, {})
        if text.startswith("long"):
            fuzz.check_refusal(ValueError(text), ValueError, {})


def test_harness_sees_an_error_of_another_kind():
    """What Python raises of itself says nothing to whoever sent a message."""
    with pytest.raises(AssertionError):
        fuzz.check_refusal(RecursionError("too deep"), InvalidMessageError, {})
