"""Delivery: messages that outlive the call, on one machine or on a PostgreSQL that many share."""
