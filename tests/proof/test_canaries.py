"""A secret is found nowhere; and the harness would find it, wherever something is shown."""

from tests.proof import canaries

SHOWN = {
    "JSON Schema", "dead letters", "history", "messagebus failed list --json", "messagebus failed retry --dry-run",
    "messagebus failed show", "messagebus failed show --target", "messagebus handle", "messagebus tree --json",
    "messagebus work", "records of a worker",
}  # fmt: skip


def test_secret_is_found_nowhere():
    """[L21] [D4] In every position, told in every way, by the store, its workers and the command line."""
    assert "found nowhere" in canaries.prove(canaries.SHORT, print)


def test_text_that_nobody_marked_is_found():
    """The same ways, outlets and places: a harness that cannot see a leak proves nothing."""
    assert SHOWN <= canaries.control()
