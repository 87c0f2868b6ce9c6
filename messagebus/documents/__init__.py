"""Documents from a registry: the JSON Schema of its messages, its AsyncAPI, its graph, and what a change breaks."""

from messagebus.documents.asyncapi import asyncapi_document
from messagebus.documents.compatibility import Break, breaking_changes
from messagebus.documents.graph import message_graph
from messagebus.documents.schema import json_schema

__all__ = ["Break", "asyncapi_document", "breaking_changes", "json_schema", "message_graph"]
