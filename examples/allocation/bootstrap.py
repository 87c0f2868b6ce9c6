"""Where everything is put together: the only place that knows which handler gets what."""

from functools import partial
from pathlib import Path

from examples.allocation import handlers
from examples.allocation.database import Sessions, sessions_on
from examples.allocation.mail import Mail
from examples.allocation.messages import (
    Allocate,
    Allocated,
    ChangeBatchQuantity,
    CreateBatch,
    Deallocated,
    OutOfStock,
)
from examples.allocation.products import StockUnitOfWork
from examples.allocation.view import AllocationView
from messagebus import Registry

__all__ = ["bind", "bootstrap"]


def bootstrap(path: Path, mail: Mail) -> Registry:
    """Return the application's registry, its handlers bound to the SQLite file and the way to send email."""
    return bind(sessions_on(path), mail)


def bind(sessions: Sessions, mail: Mail) -> Registry:
    """Return a registry of the handlers, each with what it needs."""
    uow, view = partial(StockUnitOfWork, sessions), AllocationView(sessions)
    registry = Registry(strict=True)
    registry.register(CreateBatch, partial(handlers.create_batch, uow))
    registry.register(ChangeBatchQuantity, partial(handlers.change_batch_quantity, uow))
    registry.register(Allocate, partial(handlers.allocate, uow))
    registry.register(Allocated, view.add)
    registry.register(Deallocated, view.remove)
    registry.register(Deallocated, handlers.reallocate)
    registry.register(OutOfStock, partial(handlers.report_shortage, mail))
    return registry
