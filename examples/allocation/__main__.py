"""A day in the warehouse: `python -m examples.allocation`.

Output::

    Ten lamps are here, and ten more will come by ship. The third order is too large.
        o-1 {'lamp': 'here'}
        o-2 {'lamp': 'here'}
        o-3 {}
        Mail: ('buyers@example.com', 'lamp is out of stock, and o-3 waits for it.')
    Two of those that are here turn out to be broken. The second order has to wait for the ship.
        o-1 {'lamp': 'here'}
        o-2 {'lamp': 'ship'}
        o-3 {}
"""

from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.allocation.bootstrap import bind
from examples.allocation.bus import AllocationBus
from examples.allocation.database import sessions_on
from examples.allocation.mail import KeptMail
from examples.allocation.messages import Allocate, ChangeBatchQuantity, CreateBatch
from examples.allocation.view import AllocationView
from messagebus import Command


def main() -> None:
    with TemporaryDirectory() as folder:
        sessions, mail = sessions_on(Path(folder, "stock.db")), KeptMail()
        registry, view = bind(sessions, mail), AllocationView(sessions)

        def run(*commands: Command) -> None:
            for command in commands:
                AllocationBus(command, registry=registry, log_level="disabled")()
            for order_id in ("o-1", "o-2", "o-3"):
                print("   ", order_id, view.of_order(order_id))

        print("Ten lamps are here, and ten more will come by ship. The third order is too large.")
        run(
            CreateBatch(reference="here", sku="lamp", quantity=10),
            CreateBatch(reference="ship", sku="lamp", quantity=10, eta=date(2027, 1, 15)),
            Allocate(order_id="o-1", sku="lamp", quantity=6),
            Allocate(order_id="o-2", sku="lamp", quantity=4),
            Allocate(order_id="o-3", sku="lamp", quantity=11),
        )
        print("    Mail:", *mail.sent)

        print("Two of those that are here turn out to be broken. The second order has to wait for the ship.")
        run(ChangeBatchQuantity(reference="here", quantity=8))


if __name__ == "__main__":
    main()
