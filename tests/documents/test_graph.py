"""Graph: who sends what to whom, by annotations and by what was recorded."""

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from messagebus import Command, ConfigurationError, Event, Message, Registry, ReturnMessage
from messagebus.delivery import Worker, open_store
from messagebus.documents import message_graph


class PlaceOrder(Command): ...


class OrderPlaced(Event): ...


class Counted(Event): ...


class Late(Event): ...


class Confirmation(ReturnMessage): ...


def place(command: PlaceOrder) -> Iterator[OrderPlaced | Confirmation]:
    yield OrderPlaced()
    yield Confirmation()


def count(event: OrderPlaced) -> Counted:
    return Counted()


def tell(event: OrderPlaced) -> Iterator[Message]:
    yield Late()


def drop(event: Counted) -> None: ...


def regret(event: Late) -> None: ...


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register(PlaceOrder, place)
    registry.register(OrderPlaced, count)
    registry.register(OrderPlaced, tell)
    registry.register(Counted, drop)
    registry.register(Late, regret)
    return registry


@pytest.fixture
def store():
    store = open_store("memory://")
    yield store
    store.close()


def edges(text: str) -> set[tuple[str, str, str]]:
    """Return source, arrow and target of each edge of a Mermaid graph, by the texts of the nodes."""
    names = {"": ""}
    found = set()
    for line in text.splitlines()[1:]:
        node = re.fullmatch(r'    (n\d+)[^"]*"(.*)"[^"]*', line)
        if node:
            names[node[1]] = node[2].replace(f"{__name__}.", "")
        else:
            source, arrow, target = line.split()
            found.add((names[source], arrow, names[target]))
    return found


STATED = {
    ("PlaceOrder", "-->", "place"),
    ("place", "-->", "OrderPlaced"),
    ("place", "-->", "Confirmation"),
    ("OrderPlaced", "-->", "count"),
    ("OrderPlaced", "-->", "tell"),
    ("count", "-->", "Counted"),
    ("tell", "-.->", "?"),
    ("Counted", "-->", "drop"),
    ("Late", "-->", "regret"),
}


def test_annotations_tell_who_sends_what(registry):
    """Messages that are only emitted are there too; what is not known is a question mark."""
    assert STATED == edges(message_graph(registry))


def test_mermaid_has_a_shape_for_each_kind(registry):
    """Commands, events, return messages, handlers, and what is unknown."""
    text = message_graph(registry)

    assert text.startswith("flowchart LR\n")
    shapes = dict(re.findall(r'n\d+([^\w\s"]+)"([^"]*)"', text))
    assert {"[": "PlaceOrder", "([": "OrderPlaced", "[/": "Confirmation", "((": "?"}.items() <= shapes.items()
    assert shapes["{{"].startswith(f"{__name__}.")


def test_dot_says_the_same(registry):
    """As many nodes and edges; dashed is what is not known."""
    text = message_graph(registry, "dot")

    assert text.startswith("digraph messages {\n") and text.endswith("}")
    assert len(STATED) == text.count(" -> ")
    assert ["style=dashed"] == re.findall(r" -> n\d+ \[(.*)\];", text)
    assert '[label="PlaceOrder", shape=box];' in text


def test_history_adds_what_was_seen_and_how_often(registry, store):
    """To the handler, where there is but one or one that says so; else to the message itself."""
    store.send_many([PlaceOrder(), PlaceOrder()])
    Worker(store, registry, log_level="disabled").run(until_idle=True)

    found = edges(message_graph(registry, history=store))

    seen = {
        ("place", "-->|2|", "OrderPlaced"),
        ("place", "-->|2|", "Confirmation"),
        ("count", "-->|2|", "Counted"),
        ("OrderPlaced", "-.->|2|", "Late"),
    }
    assert seen == {edge for edge in found if "|" in edge[1]}
    assert {(source, target) for source, _, target in STATED} < {(source, target) for source, _, target in found}


def test_message_that_is_no_longer_registered_is_shown_as_such(registry, store):
    """The history knows it by its name."""

    class Gone(Event): ...

    other = Registry()
    other.register(PlaceOrder, lambda command: Gone())
    other.register(Gone, lambda event: Counted())
    other.register(Counted, drop)
    store.send(PlaceOrder())
    Worker(store, other, log_level="disabled").run(until_idle=True)

    text = message_graph(registry, history=store)

    assert '[["Gone"]]' in text
    assert {("place", "-.->|1|", "Gone"), ("Gone", "-.->|1|", "Counted")} < edges(text)


def test_history_of_nothing_adds_nothing(registry, store):
    """An empty store is no error."""
    assert message_graph(registry) == message_graph(registry, history=store)


def test_no_name_breaks_out_of_its_label():
    """Names of functions hold brackets, and those of callables whatever a program sets."""
    registry = Registry()

    def handler(command: Any) -> None: ...

    handler.__qualname__ = 'a"]; x -> y [<b>\\\n'
    registry.register(PlaceOrder, handler)

    mermaid, dot = message_graph(registry), message_graph(registry, "dot")

    assert r'.a\"]; x -> y [<b>\\?"' in dot
    assert ".a#34;#93;#59; x -#62; y #91;#60;b#62;#92;#10;" in mermaid
    assert (4, 6) == (len(mermaid.splitlines()), len(dot.splitlines()))


def test_svg_is_drawn_by_graphviz(registry):
    """Where it is installed."""
    if shutil.which("dot") is None:
        pytest.skip("Graphviz's program dot is not installed here")

    text = message_graph(registry, "svg")

    assert "<svg" in text and "PlaceOrder" in text


def program(folder, monkeypatch, script):
    """Put a program named dot, a shell script, where programs are looked for."""
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")


def test_program_gets_the_graph_and_what_it_writes_is_returned(registry, tmp_path, monkeypatch):
    """Whether Graphviz is installed or not."""
    program(tmp_path, monkeypatch, 'echo "$1"; cat')

    assert f"-Tsvg\n{message_graph(registry, 'dot')}" == message_graph(registry, "svg")


def test_program_that_fails_is_an_error(registry, tmp_path, monkeypatch):
    """In one sentence."""
    program(tmp_path, monkeypatch, "cat >/dev/null; echo bad >&2; exit 1")

    with pytest.raises(ConfigurationError, match=r"Cannot draw the graph as SVG: dot failed \(CalledProcessError\)"):
        message_graph(registry, "svg")


def test_svg_without_graphviz_is_an_error_that_says_what_to_install(registry, tmp_path, monkeypatch):
    """The other forms need nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigurationError, match=r"dot is not installed\. Install Graphviz"):
        message_graph(registry, "svg")
