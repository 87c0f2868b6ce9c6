"""Makes a store's tables what those of an older version were, to see them brought up to date."""

from messagebus.delivery import Store
from messagebus.delivery.schema import VERSION

assert VERSION == 2, "there is an older version more"

_BACK_TO_1 = (
    "DROP INDEX mb_keyed",
    "ALTER TABLE mb_message DROP COLUMN turn",
    "ALTER TABLE mb_meta DROP COLUMN boot",
    "ALTER TABLE mb_meta DROP COLUMN epoch",
    "ALTER TABLE mb_schedule DROP COLUMN headers",
    "CREATE INDEX mb_keyed ON mb_message(due_at, seq) WHERE key IS NOT NULL AND lease IS NULL AND due_at > 0",
    "UPDATE mb_meta SET version = 1",
)


def make_older(store: Store, *, is_sqlite: bool) -> None:
    """Take the tables of an open store back to version 1; what is in them stays."""
    with store.transaction() as transaction:
        for statement in [*_BACK_TO_1, *["PRAGMA user_version = 1"] * is_sqlite]:
            transaction.execute(statement)
