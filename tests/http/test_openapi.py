"""The OpenAPI document: what it says is what the application does, as schemathesis finds it; and nothing private."""

from typing import Annotated, Literal

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import ConfigDict, Field, PositiveFloat
from schemathesis import GenerationMode

from messagebus import Command, Event, Private, Registry, ReturnMessage
from messagebus.delivery import open_store
from messagebus.http import create_app

CANARY = "canary-2b7c"


class PlaceOrder(Command, name="shop.place_order"):
    """Asks for goods."""

    model_config = ConfigDict(strict=True)  # A text of digits is no number to a schema either.
    order_id: Annotated[str, Field(pattern="^[a-z]-[0-9]{1,5}$")]
    weight: PositiveFloat = 1.0
    size: Literal["s", "m"] | None = None


class OrderPaid(Event):
    model_config = ConfigDict(strict=True)
    order_ids: list[bool]


class CloseShop(Command):
    pass


class Confirmation(ReturnMessage):
    order_id: str


class LogIn(Command):
    model_config = ConfigDict(json_schema_extra={"examples": [{"token": CANARY}]})
    token: Annotated[str, Private, Field(examples=[CANARY])] = CANARY


@pytest.fixture
def registry():
    registry = Registry()
    registry.register(PlaceOrder, lambda command: Confirmation(order_id=command.order_id))
    registry.register(OrderPaid, lambda event: None)
    registry.register(CloseShop, lambda command: None)
    return registry


@pytest.fixture
def store():
    store = open_store("memory://")
    yield store
    store.close()


@pytest.fixture(params=["run", "stored"])
def application(request, registry, store):
    accept = [PlaceOrder, OrderPaid, CloseShop]
    quiet = {"log_level": "disabled", "error_log_level": "disabled"}
    return create_app(registry, accept=accept, store=store if request.param == "stored" else None, **quiet)


def document_of(client):
    return client.get("/openapi.json").json()


@pytest.mark.parametrize("mode", [*GenerationMode], ids=lambda mode: mode.value)
def test_application_does_what_its_document_says(serve, application, mode):
    """What the schema allows is taken, what it does not allow is refused, and every answer is one of those told of."""
    client = serve(application)
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    schema.validate()
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {"POST /messages", "GET /healthz"} <= {operation.label for operation in operations}

    for operation in operations:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck])
        def check(case):
            case.call_and_validate()

        if mode is GenerationMode.POSITIVE or operation.label == "POST /messages":
            check()


def test_document_names_what_is_accepted(serve, application):
    """[L1] And nothing else that the registry has."""
    document = document_of(serve(application))

    names = {name for name in document["components"]["schemas"] if not name.startswith("messagebus.")}

    assert "3.1.0" == document["openapi"]
    assert {"PlaceOrder", "OrderPaid", "CloseShop"} == names
    assert "Asks for goods." == document["components"]["schemas"]["PlaceOrder"]["description"]


def test_document_shows_nothing_private(serve, store):
    """[L21] No default, and no example, of a field or of the whole."""
    client = serve(create_app(accept=[LogIn], store=store))

    assert "token" in client.get("/openapi.json").text
    assert CANARY not in client.get("/openapi.json").text
