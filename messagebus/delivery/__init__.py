"""Delivery: messages that outlive the call, on one machine or on a PostgreSQL that many share."""

import os
import time
from collections.abc import Callable
from urllib.parse import unquote

from messagebus.delivery.carrier import Carrier
from messagebus.delivery.entries import (
    Arrival,
    Claim,
    DeadLetter,
    Failure,
    Flow,
    Outcome,
    Schedule,
    Sending,
    Settlement,
    Stats,
    Step,
    Stored,
    Waiting,
)
from messagebus.delivery.rehearsal import rehearse
from messagebus.delivery.retry import Retry
from messagebus.delivery.sql import RETENTION
from messagebus.delivery.store import Store, Transaction, acurrent_transaction, current_transaction
from messagebus.delivery.worker import Worker
from messagebus.errors import (
    ConfigurationError,
    ConflictError,
    DeliveryFailedError,
    ResultTimeoutError,
    StoreBusyError,
    StoreError,
    StoreFileError,
    StoreUnavailableError,
)

__all__ = [
    "Arrival", "Carrier", "Claim", "ConflictError", "DeadLetter", "DeliveryFailedError", "Failure", "Flow", "Outcome",
    "ResultTimeoutError", "Retry", "Schedule", "Sending", "Settlement", "Stats", "Step", "Store", "StoreBusyError",
    "StoreError", "StoreFileError", "StoreUnavailableError", "Stored", "Transaction", "Waiting", "Worker",
    "acurrent_transaction", "current_transaction", "open_store", "rehearse",
]  # fmt: skip


def open_store(
    url: str | None = None,
    *,
    clock: Callable[[], float] = time.time,
    retention: float = RETENTION,
    timeout: float = 30.0,
) -> Store:
    """Open a store; what it needs is created there if it is missing.

    Args:
        url: ``sqlite:///bus.db`` (from the current folder), ``sqlite:////var/lib/shop/bus.db``, ``memory://`` (for
            tests), ``postgresql+psycopg://user@host/database``. By default the value of ``MESSAGEBUS_URL``.
        clock: seconds since the epoch; for tests.
        retention: seconds for which workers keep the history, and the results, of finished messages.
        timeout: seconds to wait for others who keep the store locked.

    Raises:
        ConfigurationError: If the URL names no store, or an extra that it needs is not installed.
        StoreFileError: If what is there is foreign, newer than this version, or damaged; it is left as it is.
        StoreError: If it cannot be opened now.
    """
    given = os.environ.get("MESSAGEBUS_URL", "") if url is None else url
    scheme, mark, rest = given.partition("://")
    if scheme == "memory" and not rest:
        from messagebus.delivery.sqlite import MemoryStore  # noqa: PLC0415 - each engine only where it is used

        return MemoryStore(clock=clock, retention=retention, timeout=timeout)
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from messagebus.delivery.sqlite import SqliteStore  # noqa: PLC0415 - as above

        return SqliteStore(unquote(rest[1:]), clock=clock, retention=retention, timeout=timeout)
    if scheme in {"postgresql", "postgresql+psycopg"}:
        from messagebus.delivery.postgres import PostgresStore  # noqa: PLC0415 - as above

        return PostgresStore(rest, clock=clock, retention=retention, timeout=timeout)
    why = "no URL is given, and MESSAGEBUS_URL is not set" if not given else f"{scheme}:// is no URL of one"
    if given and not mark:
        why = "what is given is no URL"  # It may be a password.
    remedy = "Use sqlite:///bus.db, sqlite:////absolute/bus.db, postgresql+psycopg://user@host/name or memory://."
    raise ConfigurationError("open a store", why, remedy)
