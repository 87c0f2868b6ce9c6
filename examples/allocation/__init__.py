"""Stock is allocated to order lines: an application with a model, a database, a read model and email.

Read it in this order: messages, model, handlers, bootstrap; then products, database (SQLAlchemy) and view, mail, bus.
`durable` runs the same handlers by a worker, whose messages survive a crash.

Source: the domain of *Architecture Patterns with Python*, ch. 1-10.
"""
