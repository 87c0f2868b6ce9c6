"""One real server on a free loopback port, which serves the application that a test gives it; and a client."""

import socket
import threading

import httpx
import pytest
import uvicorn


class Served:
    """An ASGI application that passes on to whichever a test serves."""

    app = None

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def server():
    """A running server: what it serves, and where."""
    served = Served()
    config = uvicorn.Config(served, lifespan="off", ws="none", log_config=None, access_log=False)
    # With the protocol named asyncio sends at once; without it each answer waits 40 ms for an acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield served, listening.getsockname()
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="session")
def client(server):
    _, (host, port) = server
    # A connection for each request: the server closes one on which an application has failed, and a client that keeps
    # it may find out only when it sends the next.
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=f"http://{host}:{port}", limits=limits, trust_env=False) as client:
        yield client


@pytest.fixture
def serve(server, client):
    """A function that serves an application and returns a client of it."""
    served, _ = server

    def begin(app):
        served.app = app
        return client

    yield begin
    served.app = None
