"""Compatibility: what a change of messages breaks, tried with the classes themselves."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from messagebus.documents import breaking_changes, json_schema
from tests.documents.specimens import changed, message_class_of, models, registry_of, values_of


def refused(cls: Any, values: list[Any]) -> list[Any]:
    """Return the values that a class refuses to read."""
    found = []
    for value in values:
        try:
            cls.model_validate_json(json.dumps(value))
        except ValidationError:
            found.append(value)
    return found


@st.composite
def pairs(draw: st.DrawFn) -> Any:
    old = draw(models())
    new = draw(changed(old).filter(lambda kind: kind.word == "model"))
    twice = changed(new).filter(lambda kind: kind.word == "model")
    return old, draw(twice) if draw(st.integers(0, 3)) == 0 else new


@settings(max_examples=1000, deadline=None)
@given(pairs())
def test_what_is_called_compatible_is_read(pair):
    """Where nothing breaks old messages, the new class reads each of them; and the old class the new ones."""
    old, new = pair
    before, after = message_class_of(old), message_class_of(new)

    broken = {one.breaks for one in breaking_changes(json_schema(registry_of(before)), json_schema(registry_of(after)))}

    assert [] == refused(before, values_of(old))
    assert [] == refused(after, values_of(new))
    if "old messages" not in broken:
        assert [] == refused(after, values_of(old))
    if "old readers" not in broken:
        assert [] == refused(before, values_of(new))
