"""The webhook desk: every delivery is taken in and handled, with exactly the messages that plain JSON code counts.

The real deliveries are no part of the project. Their tests look for them where MESSAGEBUS_WEBHOOKS says, or else beside
the project, and are skipped where there are none.
"""

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from messagebus import (
    InvalidMessageError,
    Message,
    MessageBus,
    MessageTooLargeError,
    ahandle_message,
    current_envelope,
    handle_json,
    handle_message,
    to_json,
    wire_name,
)

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("MESSAGEBUS_WEBHOOKS") or ROOT.parent / "shared" / "data" / "github-webhooks.jsonl")
SAMPLE = ROOT / "examples" / "webhooks" / "deliveries.jsonl"

needs_real = pytest.mark.skipif(
    not REAL.is_file(), reason=f"no real deliveries at {REAL}; MESSAGEBUS_WEBHOOKS may say where they are"
)
each_file = pytest.mark.parametrize(
    "path", [pytest.param(SAMPLE, id="sample"), pytest.param(REAL, id="real", marks=needs_real)]
)


@pytest.fixture(scope="module")
def app():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield importlib.import_module("examples.webhooks.app")


# What is to be expected, in numbers, and worked out from the raw file with nothing of the application or the bus

REAL_TAKEN_IN = {
    "github.check_run.completed": 3,
    "github.code_scanning_alert.created": 1,
    "github.dependabot_alert.created": 1,
    "github.fork": 3,
    "github.issue_comment.created": 5,
    "github.issues.labeled": 2,
    "github.issues.opened": 4,
    "github.other": 277,
    "github.ping": 4,
    "github.pull_request.closed": 2,
    "github.pull_request.opened": 4,
    "github.pull_request.ready_for_review": 3,
    "github.push": 7,
    "github.release.published": 3,
    "github.repository_vulnerability_alert.create": 3,
    "github.star.created": 2,
    "github.workflow_job.completed": 2,
    "github.workflow_run.completed": 3,
}
REAL_CASCADED = {
    "AnnounceRelease": 3,
    "AssessRisk": 5,
    "AudienceGrown": 5,
    "BuildBroken": 2,
    "BuildUndecided": 1,
    "CommitPushed": 2,
    "ContributorCredited": 7,
    "CreditContributor": 7,
    "DocumentationChanged": 2,
    "IssueTriaged": 6,
    "JudgeBuild": 8,
    "LabelSuggested": 6,
    "MilestoneReached": 5,
    "PullRequestDeclined": 2,
    "ReleaseAnnounced": 3,
    "RequestReview": 7,
    "ReviewRequested": 7,
    "RiskAssessed": 5,
    "TriageIssue": 6,
}
REAL_RETURNED = {"Announcement": 8, "Credit": 7, "Task": 31, "Unread": 277}

KNOWN = set(REAL_TAKEN_IN) - {"github.other"}
WORDS = {
    "bug": "crash|error in the log|regression|traceback",
    "documentation": "docs|readme|spelling|typo",
    "security": "injection|leak|vulnerab",
}


def raw_deliveries(path):
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    return [(line["type"], line["data"]) for line in lines]


def count(path):
    """Return how many messages of which name are taken in, follow inside, and come back."""
    taken_in, cascaded, returned = Counter(), Counter(), Counter()
    for kind, data in raw_deliveries(path):
        taken_in[kind if kind in KNOWN else "github.other"] += 1
        inside, out = count_one(kind, data)
        cascaded.update(inside)
        returned.update(out)
    return +taken_in, +cascaded, +returned


def count_one(kind, data):
    match kind.split(".")[1:]:
        case ["issues", "opened" | "labeled"]:
            issue = data["issue"]
            text = f"{issue['title']} {issue['body']}".lower()
            labels = {label["name"] for label in issue["labels"]}
            missing = sum(label not in labels and bool(re.search(words, text)) for label, words in WORDS.items())
            inside = {"TriageIssue": 1, "IssueTriaged": 1, "LabelSuggested": missing}
            return inside, {"Task": missing + (not issue["assignees"])}
        case ["issue_comment", "created"]:
            stranger = data["comment"]["author_association"] not in ("OWNER", "MEMBER", "COLLABORATOR")
            credited = data["comment"]["user"] is not None
            inside = {"ReplyAwaited": stranger, "CreditContributor": credited, "ContributorCredited": credited}
            return inside, {"Task": stranger, "Credit": credited}
        case ["push"]:
            commits = [commit for commit in data["commits"] if commit["distinct"]]
            people = sum(
                not commit["author"].get("username", commit["author"]["name"]).endswith("[bot]") for commit in commits
            )
            docs = sum(any(re.search(r"^docs/|\.md$", file) for file in c["added"] + c["modified"]) for c in commits)
            inside = {
                "CommitPushed": len(commits),
                "CreditContributor": len(commits),
                "ContributorCredited": people,
                "DocumentationChanged": docs,
            }
            return inside, {"Credit": people, "Task": docs}
        case ["pull_request", "opened" | "ready_for_review"]:
            ready = not data["pull_request"]["draft"]
            return {"RequestReview": ready, "ReviewRequested": ready}, {"Task": ready}
        case ["pull_request", "closed"]:
            if data["pull_request"]["merged"]:
                return {"PullRequestMerged": 1, "CreditContributor": 1, "ContributorCredited": 1}, {"Credit": 1}
            return {"PullRequestDeclined": 1}, {"Task": 1}
        case ["workflow_run" | "workflow_job" | "check_run" as build, "completed"]:
            build = data[build]
            branch = build["check_suite"]["head_branch"] if "check_suite" in build else build["head_branch"]
            broken = build["conclusion"] in ("failure", "timed_out", "startup_failure")
            undecided = not broken and build["conclusion"] not in ("success", "neutral", "skipped")
            inside = {"JudgeBuild": 1, "BuildBroken": broken, "BuildUndecided": undecided}
            loud = broken and branch == data["repository"]["default_branch"]
            return inside, {"Task": broken + undecided, "Announcement": loud}
        case ["release", "published"]:
            stable = not data["release"]["draft"] and not data["release"]["prerelease"]
            bare = stable and not data["release"]["body"]
            return {"AnnounceRelease": stable, "ReleaseAnnounced": stable}, {"Announcement": stable, "Task": bare}
        case ["star", "created"] | ["fork"] as which:
            number = data["repository"]["stargazers_count" if which[0] == "star" else "forks_count"]
            round_number = number in [10**power for power in range(9)]
            return {"AudienceGrown": 1, "MilestoneReached": round_number}, {"Announcement": round_number}
        case ["repository_vulnerability_alert", "create"] | ["dependabot_alert" | "code_scanning_alert", "created"]:
            return {"AssessRisk": 1, "RiskAssessed": 1}, {"Task": 1}
        case ["ping"]:
            return {}, {"Task": "*" in data["hook"]["events"]}
    return {}, {"Unread": 1}


# The same through the application


class RecordingBus(MessageBus):
    """Keeps every message that is dispatched, with what led to it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dispatched: list[Message] = []
        self.ways: dict[str, tuple[str, ...]] = {}

    def message_dispatcher(self, message):
        envelope = current_envelope()
        self.dispatched.append(message)
        self.ways[envelope.id] = (*self.ways.get(envelope.causation_id, ()), envelope.type)
        super().message_dispatcher(message)


def taken_in(app, path):
    return [app.take_in(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def recorded(app, path):
    buses = [
        RecordingBus(delivery, registry=app.registry, log_level="disabled", error_log_level="disabled")
        for delivery in taken_in(app, path)
    ]
    for bus in buses:
        bus()
    return buses


def names(messages):
    return Counter(wire_name(type(message)) for message in messages)


@needs_real
def test_the_numbers_are_those_of_the_real_file():
    """The literal numbers and the plain count are two witnesses; the bus is held to both."""
    expected = (REAL_TAKEN_IN, REAL_CASCADED, REAL_RETURNED)

    counted = count(REAL)

    assert expected == counted
    assert [numbers.total() for numbers in counted] == [329, 89, 323]


@each_file
def test_takes_in_every_delivery(app, path):
    """Nothing is lost: a delivery becomes a message of its own class, or of the one for all others."""
    expected, _, _ = count(path)

    deliveries = taken_in(app, path)

    assert expected == names(deliveries)
    assert len(raw_deliveries(path)) == len(deliveries)


@each_file
def test_keeps_deliveries_of_unknown_types_whole(app, path):
    """What is not known today can be taken in again tomorrow."""
    expected = [[kind, data] for kind, data in raw_deliveries(path) if kind not in KNOWN]

    others = [delivery for delivery in taken_in(app, path) if isinstance(delivery, app.OtherDelivery)]

    # As text: to Python 1, 1.0 and True are equal.
    assert json.dumps(expected) == json.dumps([[other.original_type, other.data] for other in others])


@each_file
def test_returns_and_cascades_exactly_what_plain_json_code_counts(app, path):
    """L10, L11: every message is dispatched once, and every return message comes back."""
    _, cascaded, returned = count(path)

    results = [handle_message(delivery, registry=app.registry) for delivery in taken_in(app, path)]
    buses = recorded(app, path)

    assert returned == names(result for run in results for result in run)
    assert cascaded == names(message for bus in buses for message in bus.dispatched[1:])
    assert results == [bus.return_messages for bus in buses]
    assert not any(bus.pending for bus in buses)


@each_file
def test_the_async_bus_returns_the_same(app, path):
    """L23: one order rule, two drivers."""
    deliveries = taken_in(app, path)
    expected = [handle_message(delivery, registry=app.registry) for delivery in deliveries]

    async def run():
        return [await ahandle_message(delivery, registry=app.registry) for delivery in deliveries]

    assert expected == asyncio.run(run())


@each_file
def test_every_message_reads_back_equal(app, path):
    """D1: whatever is dispatched or returned could be stored or sent as well."""
    buses = recorded(app, path)
    messages = [message for bus in buses for message in (*bus.dispatched, *bus.return_messages)]

    back = [app.registry.validate_json(to_json(message)) for message in messages]

    assert messages == back
    assert [type(message) for message in messages] == [type(message) for message in back]


@each_file
def test_json_in_json_out_returns_the_same(app, path):
    """The one call from payload to payload does what its three parts do."""
    deliveries = taken_in(app, path)
    expected = [to_json(handle_message(delivery, registry=app.registry)) for delivery in deliveries]

    assert expected == [handle_json(to_json(delivery), registry=app.registry) for delivery in deliveries]


@each_file
def test_the_longest_ways_are_those_of_the_docstring(app, path):
    """L22: causation leads from each message back to the delivery."""
    told = re.findall(r"^    (\w+(?: → \w+)+)$", app.__doc__, re.MULTILINE)
    classes = {wire_name(cls): cls.__name__ for cls in map(type, taken_in(app, path))}

    ways = {way for bus in recorded(app, path) for way in bus.ways.values()}

    longest = {" → ".join(classes.get(name, name) for name in way) for way in ways}
    assert len(told) == 3
    assert all(way.rpartition(" → ")[0] in longest for way in told)
    assert max(way.count(" → ") for way in told) == 1 + max(way.count(" → ") for way in longest)


# The door


def delivery(kind, **data):
    return json.dumps({"type": kind, "data": data}).encode()


def test_an_unknown_type_is_wrapped(app):
    """An application accepts types that it does not know by saying so, in one place."""
    expected = '{"original_type":"github.moon.landed","data":{"crew":["joe"],"height":null}}'

    got = app.take_in(delivery("github.moon.landed", crew=["joe"], height=None))

    assert app.OtherDelivery is type(got)
    assert expected == got.model_dump_json()


def test_a_known_type_that_does_not_fit_is_an_error(app):
    """Only what is unknown is put aside: a missing field of a known type must not hide among the others."""
    expected = "Cannot read examples.webhooks.deliveries.Starred: repository: Field required."

    with pytest.raises(InvalidMessageError) as caught:
        app.take_in(delivery("github.star.created", action="created"))

    assert InvalidMessageError is type(caught.value)
    assert expected == str(caught.value)


@pytest.mark.parametrize("kind", ["github.fork", "github.moon.landed"])
def test_a_delivery_that_is_too_large_is_refused(app, kind):
    """L4: the limit holds for known types and for unknown ones."""
    with pytest.raises(MessageTooLargeError):
        app.take_in(delivery(kind, text="x" * app.MAX_BYTES))


def test_the_largest_unknown_delivery_still_reads_back_when_wrapped(app):
    """A wrapped delivery is a little larger, and goes through the same door again."""
    room = app.MAX_BYTES - len(delivery("x" * 200, text=""))

    got = app.take_in(delivery("x" * 200, text="x" * room))

    assert got == app.registry.validate_json(to_json(got))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"data":{}}',
        b'{"type":"github.moon.landed","data":[]}',
        b'{"type":"github.moon.landed","data":{"height":NaN}}',
        b'{"type":"github.moon.landed","data":{},"odd":1}',
        delivery("x" * 201),
        delivery("CreditContributor", where="acme/rocket", login="joe", points=1_000),
        delivery("Announcement", where="acme/rocket", text="free beer"),
    ],
)
def test_what_is_no_delivery_is_refused(app, line):
    """The registry knows the application's own commands; from outside they are no deliveries."""
    with pytest.raises(InvalidMessageError):
        app.take_in(line)


# The program


def run(*arguments, stdin=None):
    command = [sys.executable, "-W", "error", "-m", "examples.webhooks.app", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, encoding="utf-8", timeout=60)


def stated(app):
    """Return the outputs that the docstring states."""
    blocks = re.findall(r"(?:Output|summary)::\n\n((?:    .*\n)+)", app.__doc__)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks]


def test_prints_what_its_docstring_states(app):
    """The sample is made up and small, so that the example runs for everybody."""
    ran = run(str(SAMPLE))

    assert (0, *stated(app)) == (ran.returncode, ran.stdout, ran.stderr)


def test_reads_standard_input_and_goes_on_after_a_bad_line(app):
    """A line that is no delivery is told with its number, never with its values, and spoils no other."""
    sample = SAMPLE.read_text(encoding="utf-8")

    ran = run(stdin='{"type":"github.fork","data":{"repository":"hunter2"}}\n' + sample)

    printed, summary = stated(app)
    first, rest = ran.stderr.split("\n", 1)
    assert (1, printed, summary) == (ran.returncode, ran.stdout, rest)
    assert first.startswith("<stdin>:1: Cannot read examples.webhooks.deliveries.Forked: repository: ")
    assert "hunter2" not in ran.stderr


def test_the_registry_has_no_loose_ends(app):
    """Each command and each event of the application is handled."""
    assert not app.registry.check()
