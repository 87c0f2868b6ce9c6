"""Two services, orders and billing, and a shop that only sends; between them NATS. `python -m examples.distributed`."""
