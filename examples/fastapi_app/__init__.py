"""Messages behind FastAPI: a command is a pydantic model, so it is a body like any other, with no adapter.

Run it, in a clone, with ``pip install -e ".[http]" fastapi uvicorn``::

    MESSAGEBUS_URL=sqlite:///shop.db uvicorn --factory examples.fastapi_app.app:create

Place an order: it is run at once, and the answer is what its handlers returned::

    $ curl localhost:8000/orders --json '{"order_id": "o-1", "quantity": 2}'
    [{"order_id":"o-1","total":18}]

What does not fit is refused in FastAPI's own form, 422, and ``/docs`` shows it all.

Ask for an invoice: it is stored, and 202 says where to look; a worker that starts and stops with the application
handles it. On a busier day let ``messagebus work examples.fastapi_app.shop:registry`` do that in processes of its own::

    $ curl -i localhost:8000/invoices --json '{"order_id": "o-1"}'
    location: /bus/messages/01a2...
    {"id":"01a2..."}
    $ curl localhost:8000/bus/messages/01a2...
    {"id":"01a2...","status":"done","result":[{"type":"Invoice","data":{"number":"INV-o-1"}}]}

Other services send messages and CloudEvents to ``/bus/messages``, which `messagebus.http` serves: what is delivered
again is stored once::

    $ curl localhost:8000/bus/messages -H 'ce-specversion: 1.0' -H 'ce-id: 41' -H 'ce-source: /till' \\
           -H 'ce-type: SendInvoice' --json '{"order_id": "o-2"}'
    {"id":"/till#41"}
"""
