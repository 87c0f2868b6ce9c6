"""A store and a reference of it, through any sequence of verbs, with a death at any statement."""

from tests.proof import store_model
from tests.proof.reference_store import Book, Row


def test_f38_f42_store_is_as_its_reference_says():
    """[D1] to [D8] [D13] On memory, SQLite and PostgreSQL, whatever is done, and wherever a process dies."""
    store_model.prove(store_model.SHORT, print)


def test_reference_is_as_the_laws_say():
    """[D5] [D6] What all stores are measured by is measured itself: order, keys, leases, parking."""
    book = Book([Row("a", key="k"), Row("b", key="k"), Row("c", due=-1), Row("d", due=9)])

    assert ["c", "a"] == book.claim(0, 5, 10, "first")
    assert [] == book.claim(5, 5, 10, "second")
    assert ["d"] == book.claim(9, 5, 10, "second")
    assert ["a"] == book.claim(10, 5, 10, "third")
    assert not book.settle(10, "first", "a", {}, parks=True)
    assert book.settle(10, "third", "a", {"h": ("dead", 5, None)}, parks=True)
    assert ["c"] == book.claim(10, 5, 10, "fourth")
    assert [] == book.claim(10, 5, 10, "fifth")
    book.drop(10, "a", "h")
    assert ["b"] == book.claim(10, 5, 10, "sixth")
