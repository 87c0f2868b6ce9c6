"""What people bring: issues, comments, commits, pull requests; and the commands, events and handlers for it.

A handler sees one message and nothing else, does no I/O, and says the same each time.
"""

from collections.abc import Iterator

from examples.webhooks.deliveries import (
    CodePushed,
    IssueCommented,
    IssueDelivery,
    IssueLabeled,
    IssueOpened,
    PullRequestClosed,
    PullRequestDelivery,
    PullRequestMadeReady,
    PullRequestOpened,
)
from examples.webhooks.results import Credit, Priority, Task
from messagebus import Command, Event, Registry

__all__ = ["registry"]

registry = Registry()

# Issues

_WORDS = {
    "bug": ("crash", "error in the log", "regression", "traceback"),
    "documentation": ("docs", "readme", "spelling", "typo"),
    "security": ("injection", "leak", "vulnerab"),
}


class TriageIssue(Command):
    where: str
    text: str
    labels: tuple[str, ...]
    is_assigned: bool


class IssueTriaged(Event):
    where: str
    missing_labels: tuple[str, ...]
    priority: Priority
    is_assigned: bool


class LabelSuggested(Event):
    where: str
    label: str


def ask_for_triage(delivery: IssueDelivery) -> TriageIssue:
    issue = delivery.issue
    return TriageIssue(
        where=f"{delivery.repository.full_name}#{issue.number}",
        text=f"{issue.title}\n{issue.body or ''}",
        labels=tuple(label.name for label in issue.labels),
        is_assigned=bool(issue.assignees),
    )


registry.register(IssueOpened, ask_for_triage)
registry.register(IssueLabeled, ask_for_triage)


@registry.handles(TriageIssue)
def triage(command: TriageIssue) -> IssueTriaged:
    text = command.text.casefold()
    fitting = {label for label, words in _WORDS.items() if any(word in text for word in words)}
    labels = fitting | set(command.labels)
    return IssueTriaged(
        where=command.where,
        missing_labels=tuple(sorted(fitting - set(command.labels))),
        priority="high" if "security" in labels else "normal" if "bug" in labels else "low",
        is_assigned=command.is_assigned,
    )


@registry.handles(IssueTriaged)
def suggest_labels(event: IssueTriaged) -> Iterator[LabelSuggested]:
    for label in event.missing_labels:
        yield LabelSuggested(where=event.where, label=label)


@registry.handles(IssueTriaged)
def find_an_owner(event: IssueTriaged) -> Task | None:
    if event.is_assigned:
        return None
    return Task(where=event.where, what="find somebody to do it", priority=event.priority)


@registry.handles(LabelSuggested)
def label_it(event: LabelSuggested) -> Task:
    return Task(where=event.where, what=f"label it {event.label}", priority="low")


class ReplyAwaited(Event):
    where: str
    login: str


@registry.handles(IssueCommented)
def see_who_waits(delivery: IssueCommented) -> ReplyAwaited | None:
    if delivery.comment.author_association in {"OWNER", "MEMBER", "COLLABORATOR"}:
        return None
    login = delivery.comment.user.login if delivery.comment.user else "ghost"
    return ReplyAwaited(where=f"{delivery.repository.full_name}#{delivery.issue.number}", login=login)


@registry.handles(ReplyAwaited)
def answer(event: ReplyAwaited) -> Task:
    return Task(where=event.where, what=f"answer {event.login}", priority="normal")


# Contributions

_COMMENT, _COMMIT, _MERGE = 1, 2, 5  # Points.


class CreditContributor(Command):
    where: str
    login: str
    points: int


class ContributorCredited(Event):
    where: str
    login: str
    points: int


@registry.handles(CreditContributor)
def credit(command: CreditContributor) -> ContributorCredited | None:
    if command.login.endswith("[bot]"):
        return None
    return ContributorCredited(where=command.where, login=command.login, points=command.points)


@registry.handles(ContributorCredited)
def tell_credit(event: ContributorCredited) -> Credit:
    return Credit(where=event.where, login=event.login, points=event.points)


@registry.handles(IssueCommented)
def credit_commenter(delivery: IssueCommented) -> CreditContributor | None:
    if delivery.comment.user is None:
        return None
    return CreditContributor(where=delivery.repository.full_name, login=delivery.comment.user.login, points=_COMMENT)


class CommitPushed(Event):
    where: str
    sha: str
    author: str
    files: tuple[str, ...]


class DocumentationChanged(Event):
    where: str
    sha: str


@registry.handles(CodePushed)
def split_into_commits(delivery: CodePushed) -> Iterator[CommitPushed]:
    """Commits that came with an earlier push are not distinct; a tag or the end of a branch brings none."""
    for commit in delivery.commits:
        if commit.distinct:
            yield CommitPushed(
                where=delivery.repository.full_name,
                sha=commit.id,
                author=commit.author.username or commit.author.name,
                files=commit.added + commit.modified,
            )


@registry.handles(CommitPushed)
def credit_author(event: CommitPushed) -> CreditContributor:
    return CreditContributor(where=event.where, login=event.author, points=_COMMIT)


@registry.handles(CommitPushed)
def look_at_files(event: CommitPushed) -> DocumentationChanged | None:
    if any(file.startswith("docs/") or file.endswith(".md") for file in event.files):
        return DocumentationChanged(where=event.where, sha=event.sha)
    return None


@registry.handles(DocumentationChanged)
def publish_documentation(event: DocumentationChanged) -> Task:
    return Task(where=event.where, what=f"publish the documentation of {event.sha[:7]}", priority="low")


# Pull requests

_LARGE = 400  # Lines.


class RequestReview(Command):
    where: str
    lines: int


class ReviewRequested(Event):
    where: str
    reviewers: int


class PullRequestMerged(Event):
    where: str
    login: str


class PullRequestDeclined(Event):
    where: str
    login: str


def ask_for_review(delivery: PullRequestDelivery) -> RequestReview | None:
    pull = delivery.pull_request
    if pull.draft:
        return None
    where = f"{delivery.repository.full_name}#{pull.number}"
    return RequestReview(where=where, lines=pull.additions + pull.deletions)


registry.register(PullRequestOpened, ask_for_review)
registry.register(PullRequestMadeReady, ask_for_review)


@registry.handles(RequestReview)
def request_review(command: RequestReview) -> ReviewRequested:
    return ReviewRequested(where=command.where, reviewers=2 if command.lines > _LARGE else 1)


@registry.handles(ReviewRequested)
def find_reviewers(event: ReviewRequested) -> Task:
    return Task(where=event.where, what=f"find {event.reviewers} to review it", priority="normal")


@registry.handles(PullRequestClosed)
def tell_how_it_ended(delivery: PullRequestClosed) -> PullRequestMerged | PullRequestDeclined:
    pull = delivery.pull_request
    login = pull.user.login if pull.user else "ghost"
    if pull.merged:
        return PullRequestMerged(where=delivery.repository.full_name, login=login)
    return PullRequestDeclined(where=f"{delivery.repository.full_name}#{pull.number}", login=login)


@registry.handles(PullRequestMerged)
def credit_merge(event: PullRequestMerged) -> CreditContributor:
    return CreditContributor(where=event.where, login=event.login, points=_MERGE)


@registry.handles(PullRequestDeclined)
def explain(event: PullRequestDeclined) -> Task:
    return Task(where=event.where, what=f"tell {event.login} why", priority="low")
