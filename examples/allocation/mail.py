"""The port for email, with an adapter for a mail server and one that keeps what it is given."""

import smtplib
from email.message import EmailMessage
from typing import Protocol

__all__ = ["KeptMail", "Mail", "SmtpMail"]


class Mail(Protocol):
    """Sends an email."""

    def send(self, to: str, text: str) -> None: ...


class SmtpMail:
    """Sends by a mail server."""

    def __init__(self, host: str, port: int = smtplib.SMTP_PORT, sender: str = "stock@example.com") -> None:
        self._host, self._port, self._sender = host, port, sender

    def send(self, to: str, text: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, "Stock"
        message.set_content(text)
        with smtplib.SMTP(self._host, self._port) as server:
            server.send_message(message)


class KeptMail:
    """Keeps what it is given, for tests and demonstrations."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def send(self, to: str, text: str) -> None:
        self.sent.append((to, text))
