"""A message bus for Python applications: pydantic messages, handlers in a registry, structured JSON logs."""

from messagebus.ask import aask, ask
from messagebus.bus import AsyncMessageBus, MessageBus, ahandle_json, ahandle_message, handle_json, handle_message
from messagebus.envelope import Envelope, current_envelope
from messagebus.errors import (
    AnswerError,
    AsyncHandlerError,
    CascadeLimitError,
    ConfigurationError,
    DispatchError,
    DuplicateHandlerError,
    DuplicateNameError,
    HandlerError,
    InvalidMessageError,
    MessageBusError,
    MessageClassError,
    MessageTooLargeError,
    NewerVersionError,
    NoHandlerError,
    NotAMessageError,
    UnknownMessageError,
    UnwritableMessageError,
    UpcasterError,
    UsageError,
)
from messagebus.messages import Command, Event, Message, ReturnMessage, to_json, wire_name
from messagebus.registry import Registry, handles, upcasts
from messagebus.shapes import Private

__all__ = [
    "AnswerError", "AsyncHandlerError", "AsyncMessageBus", "CascadeLimitError", "Command", "ConfigurationError",
    "DispatchError", "DuplicateHandlerError", "DuplicateNameError", "Envelope", "Event", "HandlerError",
    "InvalidMessageError", "Message", "MessageBus", "MessageBusError", "MessageClassError", "MessageTooLargeError",
    "NewerVersionError", "NoHandlerError", "NotAMessageError", "Private", "Registry", "ReturnMessage",
    "UnknownMessageError", "UnwritableMessageError", "UpcasterError", "UsageError", "aask", "ahandle_json",
    "ahandle_message", "ask", "current_envelope", "handle_json", "handle_message", "handles", "to_json", "upcasts",
    "wire_name",
]  # fmt: skip
