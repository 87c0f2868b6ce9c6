"""The names that spans and metrics have: those of the conventions for messaging, and a few of our own.

The conventions are still in development: what is taken from them stands here, and nowhere else.

Source: OpenTelemetry semantic conventions, "Messaging spans" and "Messaging client metrics".
"""

from typing import Final

__all__ = [
    "ATTEMPT", "CONSUMED", "CONVERSATION_ID", "COUNT", "DEAD", "DESTINATION", "DURATION", "ERROR", "FAILED",
    "HANDLERS", "MESSAGE_ID", "OLDEST", "OPERATION", "OPERATION_TYPE", "SECONDS", "STATE", "SYSTEM", "TYPES",
    "WAITING",
]  # fmt: skip

SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
COUNT: Final = "messaging.batch.message_count"
ERROR: Final = "error.type"
TYPES: Final = {"handle": "process", "send": "send", "publish": "send"}
DURATION: Final = "messaging.process.duration"
CONSUMED: Final = "messaging.client.consumed.messages"
SECONDS: Final = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]

# What they have no name for.
ATTEMPT: Final = "messagebus.attempt"
HANDLERS: Final = "messagebus.handlers"
FAILED: Final = "messagebus.failed_handlers"
STATE: Final = "messagebus.state"
WAITING: Final = "messagebus.store.waiting"
OLDEST: Final = "messagebus.store.oldest_due"
DEAD: Final = "messagebus.store.dead_letters"
