"""The FastAPI example: served by a process of its own, asked by a real client, and stopped by a signal."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from examples.fastapi_app.shop import registry
from messagebus.delivery import open_store

ROOT = Path(__file__).parents[2]


@contextmanager
def served(url):
    """Run the application in a process of its own, which listens already; and stop it as a host would."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        command = [sys.executable, "-W", "error", "-m", "uvicorn", "--factory", "examples.fastapi_app.app:create"]
        process = subprocess.Popen(
            [*command, "--fd", str(listening.fileno()), "--ws", "none", "--no-access-log"],
            pass_fds=[listening.fileno()],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MESSAGEBUS_URL": url},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            yield client, process
    finally:
        process.kill()
        process.communicate()


def test_application_is_complete():
    """Every command and event has a handler."""
    assert registry.check() == []


def test_a_day_in_the_shop(tmp_path):
    """A command is a body; what is stored is handled by a worker that lives as long as the application."""
    url = f"sqlite:///{tmp_path}/shop.db"
    with served(url) as (client, process):
        order = client.post("/orders", json={"order_id": "o-1", "quantity": 2})
        refused = client.post("/orders", json={"order_id": "o-1", "quantity": 0, "colour": "red"})
        invoice = client.post("/invoices", json={"order_id": "o-1"})
        event = {
            "specversion": "1.0",
            "id": "41",
            "source": "/till",
            "type": "SendInvoice",
            "data": {"order_id": "o-2"},
        }
        brought = [client.post("/bus/messages", json=event) for _ in range(2)]
        with closing(open_store(url)) as store:
            result = store.result(invoice.json()["id"], timeout=30)
            store.result("/till#41", timeout=30)
            stats = store.stats()
        outcome = client.get(invoice.headers["location"])
        paths = client.get("/openapi.json").json()["paths"]
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]

    assert (200, [{"order_id": "o-1", "total": 18}]) == (order.status_code, order.json())
    assert 422 == refused.status_code
    assert [["body", "quantity"], ["body", "colour"]] == [error["loc"] for error in refused.json()["detail"]]
    assert [202, 202, 202] == [answer.status_code for answer in (invoice, *brought)]
    assert b'[{"type":"Invoice","data":{"number":"INV-o-1"}}]' == result
    assert {"id": invoice.json()["id"], "status": "done", "result": json.loads(result)} == outcome.json()
    assert 4 == stats.finished
    assert {"/orders", "/invoices"} == paths.keys()
    place = paths["/orders"]["post"]
    assert "#/components/schemas/PlaceOrder" == place["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    answers = place["responses"]["200"]["content"]["application/json"]["schema"]
    assert ("array", {"$ref": "#/components/schemas/Confirmation"}) == (answers["type"], answers["items"])
    assert {"worker.started", "worker.stopped"} <= {record.get("event") for record in records_in(said)}
    assert -signal.SIGTERM == process.returncode


def records_in(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
