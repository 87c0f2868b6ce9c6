"""What is answered instead of a result: problem details (RFC 9457), which repeat no value of a payload."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic_core import to_json as dump_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from messagebus.errors import ConflictError, InvalidMessageError, StoreError, UnknownMessageError

__all__ = ["KINDS", "PROBLEM_JSON", "Problem", "answer_to", "refused"]

PROBLEM_JSON: Final = "application/problem+json"
KINDS: Final = {
    "malformed": "The body is not what its media type says",
    "unknown-type": "No message of this type is accepted here",
    "invalid-message": "The message does not fit its type",
    "conflict": "Another message has this id",
    "handler-failed": "A handler failed",
    "unknown-message": "No message with this id is known here",
}
"""The last word of each type of problem that has one of its own, with its title."""


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """What a request is answered with instead.

    Args:
        status: of the response.
        kind: one of `KINDS`; without one the status says it all.
        detail: a sentence on this very request.
        headers: of the response.
        members: what else programs can read in it.
    """

    def __init__(
        self,
        status: int,
        kind: str = "",
        detail: str = "",
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, kind)
        self.status, self.kind, self.detail, self.headers, self.members = status, kind, detail, headers, members

    def response(self) -> Response:
        """Return it as it is sent."""
        told = {
            "type": f"urn:messagebus:problem:{self.kind}" if self.kind else "about:blank",
            "title": KINDS[self.kind] if self.kind else HTTPStatus(self.status).phrase,
            "status": self.status,
            **({"detail": self.detail} if self.detail else {}),
            **self.members,
        }
        return Response(dump_json(told), self.status, self.headers, PROBLEM_JSON)


def refused(error: InvalidMessageError, index: int | None = None) -> Problem:
    """Return the problem with a message; ``index`` is its place in a batch.

    The error's own sentence is for whoever runs this service: it names modules.
    """
    place: dict[str, Any] = {} if index is None else {"index": index}
    if isinstance(error, ConflictError):
        return Problem(409, "conflict", f"Give each message an {error.given} of its own.", **place)
    if isinstance(error, UnknownMessageError):
        near = f"Did you mean {' or '.join(error.near)}?" if error.near else ""
        return Problem(422, "unknown-type", near, **place)
    errors = [{"path": path, "detail": why} for path, why in error.problems]
    return Problem(422, "invalid-message", errors=errors, count=error.count, **place)


def answer_to(_request: Request, error: Exception) -> Response:
    """Return the response for whatever ended a request, without a word of what the application says in it."""
    match error:
        case Problem():
            return error.response()
        case HTTPException():
            detail = "" if error.detail == HTTPStatus(error.status_code).phrase else str(error.detail)
            headers = dict(error.headers or {})
            if error.status_code == HTTPStatus.UNAUTHORIZED:
                headers = {"WWW-Authenticate": "Bearer", **headers}
            return Problem(error.status_code, detail=detail, headers=headers).response()
        case StoreError():
            detail = "The store cannot be reached now; nothing was changed."
            return Problem(503, detail=detail, headers={"Retry-After": "1"}).response()
        case ClientDisconnect():
            return Problem(400).response()
        case _:
            return Problem(500).response()
