"""JSON out: return messages as JSON, and CloudEvents, which carry ids beside the message.

Output::

    {"type":"Stock","data":{"sku":"lamp","quantity":7,"counted_for":"ourselves"}}
    True
    [{"type":"Stock","data":{"sku":"chair","quantity":7,"counted_for":"ourselves"}}]
    {
      "specversion": "1.0",
      "id": "m-1",
      "source": "/shop",
      "time": "2026-01-02T12:00:00Z",
      "datacontenttype": "application/json",
      "correlationid": "order-42",
      "type": "CountStock",
      "data": {
        "sku": "table"
      }
    }
    [{"type":"Stock","data":{"sku":"table","quantity":7,"counted_for":"/shop"}}]
"""

import json
from datetime import UTC, datetime

from messagebus import Command, Envelope, Registry, ReturnMessage, current_envelope, handle_json, to_json

registry = Registry()


class CountStock(Command):
    sku: str


class Stock(ReturnMessage):
    sku: str
    quantity: int
    counted_for: str


@registry.handles(CountStock)
def count_stock(command: CountStock) -> Stock:
    envelope = current_envelope()
    return Stock(sku=command.sku, quantity=7, counted_for=envelope.headers.get("source", "ourselves"))


registry.register(Stock)  # It has no handler; once it is known, its JSON can be read back.

# A message as JSON, and back.
stock = Stock(sku="lamp", quantity=7, counted_for="ourselves")
print(to_json(stock).decode())
print(registry.validate_json(to_json(stock)) == stock)

# JSON in, JSON out: an array of the return messages.
print(handle_json(to_json(CountStock(sku="chair")), registry=registry).decode())

# The same as a CloudEvent. Ids and time make themselves; here they are given, to be the same in every run.
noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
event = Envelope(CountStock(sku="table"), id="m-1", correlation_id="order-42", time=noon).to_cloudevent("/shop")
print(json.dumps(json.loads(event), indent=2))
print(handle_json(event, registry=registry).decode())
