"""What goes wrong with an SQLite file, as the caller is told of it."""

from typing import Final

from messagebus.delivery.sqlite_driver import driver
from messagebus.errors import StoreBusyError, StoreFileError, StoreUnavailableError

__all__ = ["DAMAGED", "FAILED", "UNAVAILABLE", "meaning", "unfit"]

FAILED: Final = 10
_BUSY: Final = {5: "the database is locked by others", 6: "a table is locked by others"}
UNAVAILABLE: Final = {
    3: "access is denied",
    7: "memory is exhausted",
    8: "the file or its folder is read-only",
    FAILED: "the disk failed",
    13: "the disk is full",
    14: "the file cannot be opened",
    15: "the file's locks do not work",
}
DAMAGED: Final = "it is damaged"
_CORRUPT: Final = 11
_UNREADABLE: Final = ("decode", "unsupported file format")
_UNFIT: Final = {_CORRUPT: DAMAGED, 26: "it is no SQLite database"}


def meaning(error: Exception, what: str, path: str) -> Exception | None:
    """Return what an error of SQLite, or of the lock file, is to the caller; None if it is the caller's own."""
    if isinstance(error, OSError) and error.filename in (path, f"{path}-lock"):
        return StoreUnavailableError(what, f"{error.strerror} ({error.filename})")
    if not isinstance(error, driver.Error):
        return None
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    for cls, reasons in ((StoreBusyError, _BUSY), (StoreUnavailableError, UNAVAILABLE)):
        if code in reasons:
            return cls(what, f"{reasons[code]} ({path})")
    # Damage that SQLite, or its driver, takes for a mistake of the caller's.
    is_unreadable = isinstance(error, driver.OperationalError) and any(words in str(error) for words in _UNREADABLE)
    why = _UNFIT.get(_CORRUPT if is_unreadable else code)
    return None if why is None else unfit(path, why, "Restore a backup, or name another file.")


def unfit(path: str, why: str, remedy: str) -> StoreFileError:
    return StoreFileError(f"open {path} as a store", why, remedy)
