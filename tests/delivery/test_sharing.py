"""Several workers on one store, as processes: each message once, and each key in order (laws D2, D5)."""

from collections import defaultdict

from messagebus.delivery import open_store
from messagebus.testing.shop import PlaceOrder

MESSAGES = 10_000
KEYS = 500

WORKER = """
    ledger = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)

    @registry.handles(PlaceOrder)
    def place(command):
        os.write(ledger, f"{command.order_id} {os.getpid()}\\n".encode())

    store = open_store(url)
    say("ready")
    sys.stdin.readline()
    Worker(store, registry, **quiet).run(until_idle=True)
"""


def test_workers_share_a_store(url, start, tmp_path):
    """[D2] [D5] Without faults nothing is handled twice, and what has one key comes in the order it was sent."""
    ledger = tmp_path / "ledger"
    ledger.touch()
    store = open_store(url)
    orders = (PlaceOrder(order_id=f"{number % KEYS}-{number}") for number in range(MESSAGES))
    store.send_many(orders, key=lambda order: order.order_id.partition("-")[0])
    workers = [start(WORKER, url, str(ledger)) for _ in range(2 if url.startswith("sqlite") else 4)]

    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    codes = [worker.wait() for worker in workers]

    seen = [line.split() for line in ledger.read_text().splitlines()]
    by_key = defaultdict(list)
    for order_id, _ in seen:
        key, number = order_id.split("-")
        by_key[key].append(int(number))
    assert {0} == {*codes}
    assert MESSAGES == len(seen) == len({order_id for order_id, _ in seen}) == store.stats().finished
    assert KEYS == len(by_key)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert {str(worker.pid) for worker in workers} == {pid for _, pid in seen}
    store.close()
