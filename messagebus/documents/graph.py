"""Who sends what to whom: the messages of an application, their handlers, and what these emit, as a picture."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from messagebus.documents.emissions import emission_of, messages_of
from messagebus.documents.schema import kind_of
from messagebus.errors import ConfigurationError
from messagebus.messages import Message, wire_name
from messagebus.registry import Handler, Registry

if TYPE_CHECKING:
    from messagebus.delivery import Flow, Store

__all__ = ["Form", "message_graph"]

Form = Literal["mermaid", "dot", "svg"]


def message_graph(registry: Registry, form: Form = "mermaid", *, history: "Store | None" = None) -> str:
    """Draw which messages lead to which handlers, and these to which messages.

    What a handler emits is what its return annotation names; where it says less than that, as ``Iterator[Message]``
    does, a question mark stands for what is not known. The history of a store adds what was seen, and how often: to the
    handler where a message has but one, else to the message itself.

    Args:
        registry: of the application.
        form: ``mermaid`` for Markdown, ``dot`` for Graphviz, ``svg`` drawn by Graphviz.
        history: a store in which runs were recorded.

    Raises:
        ConfigurationError: If no message is registered; if the form is ``svg``, and Graphviz is not installed.

    >>> from messagebus import Command, Event, Registry
    >>> class PlaceOrder(Command): ...
    >>> class OrderPlaced(Event): ...
    >>> def place_order(command) -> OrderPlaced: ...
    >>> registry = Registry()
    >>> registry.register(PlaceOrder, place_order)
    >>> print(message_graph(registry))
    flowchart LR
        n0(["OrderPlaced"])
        n1["PlaceOrder"]
        n2{{"messagebus.documents.graph.place_order"}}
        n1 --> n2
        n2 --> n0
    """
    graph = _graph(registry, [] if history is None else history.flows())
    if form == "mermaid":
        return "\n".join(_mermaid(graph))
    text = "\n".join(_dot(graph))
    return text if form == "dot" else _drawn(text)


NodeKind = Literal["command", "event", "return", "unregistered", "handler", "unknown"]


@dataclass
class _Graph:
    """Nodes by key, in the order in which they are drawn, and the edges between their keys."""

    nodes: dict[tuple[str, str], tuple[NodeKind, str]] = field(default_factory=dict)
    edges: dict[tuple[tuple[str, str], tuple[str, str]], "_Edge"] = field(default_factory=dict)


@dataclass
class _Edge:
    is_certain: bool = True
    """It is stated; else nothing tells but the history, or nothing at all."""
    count: int = 0
    """How often it was seen."""


def _graph(registry: Registry, flows: "list[Flow]") -> _Graph:
    graph = _Graph()
    snapshot = registry.snapshot
    messages = messages_of(registry)
    handlers: dict[str, tuple[Handler, ...]] = {}
    for name, cls in messages.items():
        graph.nodes["message", name] = _kind(kind_of(cls)), name
        handlers[name] = snapshot[cls].handlers
    for name, several in handlers.items():
        for handler in several:
            _add_handler(graph, name, handler, messages[name])
    for flow in flows:
        _add_flow(graph, flow, handlers.get(flow.cause, ()))
    return graph


def _kind(word: str) -> NodeKind:
    return "command" if word == "command" else "event" if word == "event" else "return"


def _add_handler(graph: _Graph, name: str, handler: Handler, cls: type[Message]) -> None:
    key = "handler", handler.name
    graph.nodes[key] = "handler", handler.name
    graph.edges[("message", name), key] = _Edge()
    emission = emission_of(handler, cls)
    for one in emission.classes:
        graph.edges[key, ("message", wire_name(one))] = _Edge()
    if emission.is_unknown:
        unknown = "unknown", handler.name
        graph.nodes[unknown] = "unknown", "?"
        graph.edges[key, unknown] = _Edge(is_certain=False)


def _add_flow(graph: _Graph, flow: "Flow", handlers: tuple[Handler, ...]) -> None:
    for name in (flow.cause, flow.type):
        graph.nodes.setdefault(("message", name), ("unregistered", name))
    target = "message", flow.type
    stated = [("handler", one.name) for one in handlers if (("handler", one.name), target) in graph.edges]
    if len(handlers) == 1:
        sources = [("handler", handlers[0].name)]
    else:
        sources = stated if len(stated) == 1 else [("message", flow.cause)]
    edge = graph.edges.setdefault((sources[0], target), _Edge(is_certain=False))
    edge.count += flow.count


# Texts

_MERMAID: Final[Mapping[NodeKind, tuple[str, str]]] = {
    "command": ("[", "]"),
    "event": ("([", "])"),
    "return": ("[/", "/]"),
    "unregistered": ("[[", "]]"),
    "handler": ("{{", "}}"),
    "unknown": ("((", "))"),
}
_DOT: Final[Mapping[NodeKind, str]] = {
    "command": "box",
    "event": "ellipse",
    "return": "parallelogram",
    "unregistered": "box, style=dotted",
    "handler": "hexagon",
    "unknown": "circle",
}


def _mermaid(graph: _Graph) -> Iterator[str]:
    ids = {key: f"n{index}" for index, key in enumerate(graph.nodes)}
    yield "flowchart LR"
    for key, (kind, text) in graph.nodes.items():
        before, after = _MERMAID[kind]
        yield f'    {ids[key]}{before}"{_entities(text)}"{after}'
    for (source, target), edge in graph.edges.items():
        arrow = "-->" if edge.is_certain else "-.->"
        label = f"|{edge.count}|" if edge.count else ""
        yield f"    {ids[source]} {arrow}{label} {ids[target]}"


def _entities(text: str) -> str:
    """Return a text as Mermaid has it: what is no letter, digit or plain punctuation is an entity."""
    return "".join(char if char.isalnum() or char in " ._-/:?" else f"#{ord(char)};" for char in text)


def _dot(graph: _Graph) -> Iterator[str]:
    ids = {key: f"n{index}" for index, key in enumerate(graph.nodes)}
    yield "digraph messages {"
    yield "    rankdir=LR;"
    for key, (kind, text) in graph.nodes.items():
        yield f"    {ids[key]} [label={_quoted(text)}, shape={_DOT[kind]}];"
    for (source, target), edge in graph.edges.items():
        options = [f'label="{edge.count}"'] * bool(edge.count) + ["style=dashed"] * (not edge.is_certain)
        listed = f" [{', '.join(options)}]" if options else ""
        yield f"    {ids[source]} -> {ids[target]}{listed};"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(char if char.isprintable() else "?" for char in escaped)}"'


# Drawing

_PATIENCE: Final = 60.0


def _drawn(dot: str) -> str:
    program = shutil.which("dot")
    what = "draw the graph as SVG"
    if program is None:
        remedy = "Install Graphviz (apt install graphviz), or take the form dot or mermaid."
        raise ConfigurationError(what, "Graphviz's program dot is not installed", remedy)
    try:
        done = subprocess.run(  # noqa: S603 - a program that was looked up, and a text that was made here
            [program, "-Tsvg"], input=dot.encode(), capture_output=True, check=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError) as error:
        remedy = "Take the form dot, and see what Graphviz says of it."
        raise ConfigurationError(what, f"{os.path.basename(program)} failed ({type(error).__name__})", remedy) from None
    return done.stdout.decode()
