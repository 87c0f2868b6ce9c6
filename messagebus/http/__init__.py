"""HTTP: one small ASGI application that takes messages, mountable anywhere (extra ``http``: Starlette).

::

    app = create_app(registry, accept=[PlaceOrder])  # runs each message, and answers with what came back
    app = create_app(accept=[PlaceOrder], store=store)  # stores it, and answers 202 and its id
    app.mount("/bus", create_app(...))  # within FastAPI; within Starlette it is Mount("/bus", create_app(...))
"""

try:
    import starlette as starlette
except ImportError:
    from messagebus.errors import ConfigurationError

    remedy = "Install it: pip install 'pydantic-messagebus[http]'."
    raise ConfigurationError("take messages over HTTP", "Starlette is not installed", remedy) from None

from messagebus.http.app import create_app

__all__ = ["create_app"]
