"""Brokers: messages between services, over an engine that exists: NATS JetStream, RabbitMQ, Kafka, Redis."""

import re
from collections.abc import Collection
from typing import Final, get_args
from urllib.parse import urlsplit

from messagebus.brokers.broker import Broker
from messagebus.brokers.engine import Capability, Engine, Settings
from messagebus.brokers.relay import Relay
from messagebus.errors import BrokerError, BrokerUnavailableError, ConfigurationError, ReplyTimeoutError

__all__ = ["Broker", "BrokerError", "BrokerUnavailableError", "Capability", "Relay", "ReplyTimeoutError", "connect"]

_NAME: Final = re.compile("[A-Za-z0-9_-]{1,100}")
_WEEK: Final = 7 * 86_400.0
_INSTEAD: Final = {
    "order": "For order by key use NATS, RabbitMQ or Kafka, or leave ordered=True out and run one worker per group.",
    "replies": "For replies use NATS, RabbitMQ, Kafka or Redis.",
    "history": "For events of before use NATS, Kafka or Redis, or let each group subscribe before they are published.",
    "delay": "For delays send through a store, which a Relay, or a Worker with this broker, empties into the engine.",
}


def connect(
    url: str,
    *,
    group: str,
    namespace: str = "mb",
    source: str | None = None,
    ordered: bool = False,
    retention: float = _WEEK,
    partitions: int = 8,
    needs: Collection[Capability] = (),
) -> Broker:
    """Connect to an engine; what it needs of streams, queues or topics is created there if it is missing.

    Args:
        url: ``nats://host:4222``, ``amqp://user:password@host:5672/vhost``, ``kafka://host:9092``, ``redis://host:6379``.
        group: the name of this service: of each event, every group that has subscribed gets one copy.
        namespace: the first word of all names on the engine; services see each other within one.
        source: a URI that names this service in what it publishes; by default ``urn:messagebus:`` and the group.
        ordered: messages of one type and key are to be handled in the order they were published, however many workers
            there are. Without it that holds for one worker, and on Kafka.
        retention: seconds for which the engine keeps events, where it does not keep them for each group.
        partitions: of topics that are created on Kafka: so many workers of a group can share one.
        needs: what the application cannot do without; an engine that lacks it is refused here, and not when it is
            missed. See `Capability`; ``ordered`` needs ``order`` by itself.

    Raises:
        ConfigurationError: If the URL is of no engine, the extra for it is not installed, or the engine cannot do what
            is asked of it.
        BrokerUnavailableError: If it cannot be reached within five seconds.
    """
    for what, name in (("group", group), ("namespace", namespace)):
        if _NAME.fullmatch(name) is None:
            remedy = "Use at most 100 letters, digits, underscores and dashes."
            raise ConfigurationError(f"connect with this {what}", "it is nothing that every engine takes", remedy)
    engine = _engine_for(url)
    check_capabilities(engine, {*needs, "order"} if ordered else needs)
    settings = Settings(url, group, namespace, ordered, retention, partitions)
    return Broker(engine(settings), source or f"urn:messagebus:{group}")


def check_capabilities(engine: type[Engine], needs: Collection[str]) -> None:
    """Refuse an engine that cannot do what an application needs.

    Raises:
        ConfigurationError: If it lacks something; names all of it, and what does it instead.
    """
    unknown = sorted(set(needs) - set(get_args(Capability)))
    if unknown:
        why, remedy = f"no capability is called {unknown[0]!r}", f"Take of {', '.join(get_args(Capability))}."
        raise ConfigurationError(f"connect to {engine.name}", why, remedy)
    lacking = sorted(set(needs) - engine.capabilities)
    if lacking:
        why = f"it lacks {' and '.join(lacking)}, which the application needs"
        raise ConfigurationError(f"connect to {engine.name}", why, " ".join(_INSTEAD[need] for need in lacking))


def _engine_for(url: str) -> type[Engine]:
    match urlsplit(url).scheme:
        case "nats" | "tls":
            from messagebus.brokers.nats import Nats  # noqa: PLC0415 - each engine only where it is used

            return Nats
        case "amqp" | "amqps":
            from messagebus.brokers.rabbitmq import RabbitMQ  # noqa: PLC0415 - as above

            return RabbitMQ
        case "kafka":
            from messagebus.brokers.kafka import Kafka  # noqa: PLC0415 - as above

            return Kafka
        case "redis" | "rediss" | "valkey" | "valkeys":
            from messagebus.brokers.redis import Redis  # noqa: PLC0415 - as above

            return Redis
        case scheme:
            why = f"{scheme or 'that'}:// is no URL of one"
            remedy = "Use nats://, amqp://, kafka:// or redis://, with host and port."
            raise ConfigurationError("connect to an engine", why, remedy)
