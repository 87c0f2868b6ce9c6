"""What comes out: the return messages of all runs."""

from typing import Literal

from messagebus import ReturnMessage

__all__ = ["Announcement", "Credit", "Priority", "Task", "Unread"]

Priority = Literal["low", "normal", "high"]


class Task(ReturnMessage):
    """Something for a maintainer to do."""

    where: str
    what: str
    priority: Priority


class Credit(ReturnMessage):
    """Somebody contributed."""

    where: str
    login: str
    points: int


class Announcement(ReturnMessage):
    """Something to tell the world."""

    where: str
    text: str


class Unread(ReturnMessage):
    """A delivery came that nobody here reads."""

    original_type: str
