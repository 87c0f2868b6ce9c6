"""Every law of brokers, on each engine."""

import secrets
from importlib import import_module

import pytest

from messagebus.brokers import ConfigurationError, connect
from messagebus.testing import BrokerConformance


class Engines(BrokerConformance):
    """The server that the tests share."""

    name = ""

    @pytest.fixture(autouse=True)
    def place(self, engines):
        self.url, self.namespace = engines(self.name).url, f"mb{secrets.token_hex(4)}"

    @property
    def capabilities(self):
        try:
            module = import_module(f"messagebus.brokers.{self.name}")
        except ConfigurationError as error:
            pytest.skip(str(error))
        return getattr(module, type(self).__name__[4:]).capabilities

    def connect(self, group, **more):
        return connect(self.url, group=group, **{"namespace": self.namespace, "partitions": 2, **more})


class TestNats(Engines):
    name = "nats"


class TestRedis(Engines):
    name = "redis"


class TestRabbitMQ(Engines):
    name = "rabbitmq"


class TestKafka(Engines):
    name = "kafka"
