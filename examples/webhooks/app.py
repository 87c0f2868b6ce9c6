"""The application: deliveries in, one JSON line each; return messages out, one JSON line each; then a summary.

The longest ways through it, from a delivery to a return message::

    IssueOpened → TriageIssue → IssueTriaged → LabelSuggested → Task
    CodePushed → CommitPushed → CreditContributor → ContributorCredited → Credit
    Starred → AudienceGrown → MilestoneReached → Announcement

Run it from the root of the repository, with names of files or on standard input::

    python -m examples.webhooks.app examples/webhooks/deliveries.jsonl

Output::

    {"type":"Task","data":{"where":"acme/rocket#41","what":"find somebody to do it","priority":"normal"}}
    {"type":"Task","data":{"where":"acme/rocket#41","what":"label it bug","priority":"low"}}
    {"type":"Task","data":{"where":"acme/rocket#40","what":"answer mara","priority":"normal"}}
    {"type":"Credit","data":{"where":"acme/rocket","login":"mara","points":1}}
    {"type":"Task","data":{"where":"acme/rocket","what":"publish the documentation of 5f0c1e2","priority":"low"}}
    {"type":"Credit","data":{"where":"acme/rocket","login":"mara","points":2}}
    {"type":"Task","data":{"where":"acme/rocket#42","what":"find 2 to review it","priority":"normal"}}
    {"type":"Credit","data":{"where":"acme/rocket","login":"joe","points":5}}
    {"type":"Task","data":{"where":"acme/rocket","what":"mend tests","priority":"high"}}
    {"type":"Announcement","data":{"where":"acme/rocket","text":"do not merge: tests is broken"}}
    {"type":"Task","data":{"where":"acme/rocket","what":"see what became of lint","priority":"low"}}
    {"type":"Announcement","data":{"where":"acme/rocket","text":"v2.0 is out"}}
    {"type":"Announcement","data":{"where":"acme/rocket","text":"stars: 100"}}
    {"type":"Task","data":{"where":"acme/rocket","what":"remove the risk of leftpump","priority":"high"}}
    {"type":"Task","data":{"where":"acme","what":"let the hook send only what is read here","priority":"low"}}
    {"type":"Unread","data":{"original_type":"github.discussion.created"}}

And on standard error, out of the way of the data, the summary::

      14 deliveries
           1 github.check_run.completed
           1 github.issue_comment.created
           1 github.issues.labeled
           1 github.issues.opened
           1 github.other
           1 github.ping
           1 github.pull_request.closed
           1 github.pull_request.opened
           1 github.pull_request.ready_for_review
           1 github.push
           1 github.release.published
           1 github.repository_vulnerability_alert.create
           1 github.star.created
           1 github.workflow_run.completed
      16 return messages
           3 Announcement
           3 Credit
           9 Task
           1 Unread
"""

import fileinput
import json
import sys
from collections import Counter
from collections.abc import Sequence

from examples.webhooks import community, product
from examples.webhooks.deliveries import Delivery, HookPinged, OtherDelivery
from examples.webhooks.results import Announcement, Credit, Task, Unread
from messagebus import InvalidMessageError, Registry, UnknownMessageError, handle_message, to_json, wire_name

__all__ = ["main", "registry", "take_in"]

registry = Registry()
registry.include(community.registry)
registry.include(product.registry)

# Known too, so that what goes out as JSON can be read back.
for return_class in (Announcement, Credit, Task, Unread):
    registry.register(return_class)


@registry.handles(HookPinged)
def narrow_hook(delivery: HookPinged) -> Task | None:
    if "*" not in delivery.hook.events:
        return None
    owner = delivery.organization.login if delivery.organization else "unknown"
    where = delivery.repository.full_name if delivery.repository else owner
    return Task(where=where, what="let the hook send only what is read here", priority="low")


@registry.handles(OtherDelivery)
def set_aside(delivery: OtherDelivery) -> Unread:
    return Unread(original_type=delivery.original_type)


# A little less than the registry takes by itself: a delivery that is wrapped as OtherDelivery must fit in too.
MAX_BYTES = 1_000_000


def take_in(line: bytes) -> Delivery:
    """Make a message of a delivery, ``{"type": ..., "data": ...}``; if its type is not known, an `OtherDelivery`.

    Only an unknown type is wrapped like that. A delivery of a known type that does not fit its class is an error: one
    of the two is wrong, and somebody has to know.

    Raises:
        MessageTooLargeError: If the line has more than a million bytes.
        InvalidMessageError: If it is no delivery.
    """
    try:
        message = registry.validate_json(line, max_bytes=MAX_BYTES)
    except UnknownMessageError:
        wire = json.loads(line)
        data = {"original_type": wire["type"], "data": wire.get("data", {})}
        message = registry.validate({**wire, "type": wire_name(OtherDelivery), "data": data})
    # The registry knows commands too, and whoever can send deliveries must not give those.
    if not isinstance(message, Delivery):
        raise InvalidMessageError(wire_name(type(message)), (("", "it is no delivery"),))
    return message


def main(files: Sequence[str]) -> int:
    """Handle what is in the files, or in standard input if none is named; return 1 if a line was no delivery."""
    deliveries: Counter[str] = Counter()
    results: Counter[str] = Counter()
    status = 0
    with fileinput.input(files, mode="rb") as lines:
        for line in filter(bytes.strip, lines):
            try:
                delivery = take_in(line)
            except InvalidMessageError as error:
                print(f"{lines.filename()}:{lines.filelineno()}: {error}", file=sys.stderr)
                status = 1
                continue
            deliveries[wire_name(type(delivery))] += 1
            for result in handle_message(delivery, registry=registry):
                results[wire_name(type(result))] += 1
                print(to_json(result).decode())
    _print_summary("deliveries", deliveries)
    _print_summary("return messages", results)
    return status


def _print_summary(title: str, counts: Counter[str]) -> None:
    print(f"{counts.total():>4} {title}", file=sys.stderr)
    for name, count in sorted(counts.items()):
        print(f"{count:>8} {name}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
