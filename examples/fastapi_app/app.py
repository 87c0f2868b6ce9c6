"""The application: routes that run or store a command, a worker beside them, and a door for other services."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response

from examples.fastapi_app.shop import Confirmation, PlaceOrder, SendInvoice, registry
from messagebus import ReturnMessage, ahandle_message
from messagebus.delivery import Worker, open_store
from messagebus.http import create_app


def create(url: str | None = None) -> FastAPI:
    """Return the application, with its store at a URL; by default that of ``MESSAGEBUS_URL``."""
    store = open_store(url)
    worker = Worker(store, registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(asyncio.to_thread(worker.run))
        try:
            yield
        finally:
            worker.stop()
            await work
            store.close()

    app = FastAPI(title="Shop", lifespan=lifespan)

    @app.post("/orders", response_model=list[Confirmation])
    async def place_order(command: PlaceOrder) -> list[ReturnMessage]:
        return await ahandle_message(command, registry=registry)

    @app.post("/invoices", status_code=202)
    async def send_invoice(command: SendInvoice, response: Response) -> dict[str, str]:
        message_id = await store.asend(command)
        response.headers["Location"] = f"/bus/messages/{message_id}"
        return {"id": message_id}

    app.mount("/bus", create_app(accept=[SendInvoice], store=store))
    return app
