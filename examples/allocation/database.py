"""The tables, how the model maps to them, and sessions on an SQLite file. The model knows nothing of this."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import (
    Column,
    Date,
    ForeignKey,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    UniqueConstraint,
    create_engine,
)
from sqlalchemy.orm import Session, registry, relationship, sessionmaker

from examples.allocation.model import Batch, OrderLine, Product

__all__ = ["Sessions", "create_tables", "sessions_on"]

Sessions = Callable[[], Session]
"""Opens a session: ``with sessions() as session``."""

_metadata = MetaData()
_product = Table(
    "product",
    _metadata,
    Column("sku", String, primary_key=True),
    Column("version", Integer, nullable=False),
)
_batch = Table(
    "batch",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("reference", String, nullable=False, unique=True),
    Column("sku", ForeignKey("product.sku"), nullable=False, index=True),
    Column("quantity", Integer, nullable=False),
    Column("eta", Date),
)
_order_line = Table(
    "order_line",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("batch", ForeignKey("batch.reference"), nullable=False, index=True),
    Column("order_id", String, nullable=False),
    Column("sku", String, nullable=False),
    Column("quantity", Integer, nullable=False),
    UniqueConstraint("order_id", "sku"),
)
Table(
    "allocation_view",
    _metadata,
    Column("order_id", String, primary_key=True),
    Column("sku", String, primary_key=True),
    Column("batch", String, nullable=False),
)

_mapped = registry(metadata=_metadata)
_mapped.map_imperatively(OrderLine, _order_line, properties={"_batch": _order_line.c.batch})
_mapped.map_imperatively(
    Batch,
    _batch,
    properties={"lines": relationship(OrderLine, order_by=_order_line.c.id, cascade="all, delete-orphan")},
)
_mapped.map_imperatively(
    Product,
    _product,
    properties={"batches": relationship(Batch, order_by=_batch.c.id, cascade="all, delete-orphan")},
    version_id_col=_product.c.version,  # Of two that change one product at the same time, the later is refused.
    version_id_generator=False,
)


def sessions_on(path: Path) -> sessionmaker[Session]:
    """Return what opens sessions on the file, whose tables are made if they are not there."""
    sessions = sessionmaker(create_engine(f"sqlite:///{path}", poolclass=NullPool))  # None is left open.
    with sessions() as session:
        create_tables(session)
        session.commit()
    return sessions


def create_tables(session: Session) -> None:
    _metadata.create_all(session.connection())
