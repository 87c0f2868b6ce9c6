"""What GitHub delivers, as far as it is read here: an event class for each type of delivery, and one for all others.

GitHub states what happened, so each delivery is an `Event`. Its wire name, which `take_in` in app.py finds in the
payload, is pinned: the class may be renamed, the name on the wire may not.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, JsonValue, StringConstraints

from messagebus import Event

__all__ = [
    "CheckRunCompleted", "CodePushed", "CodeScanningAlerted", "Delivery", "DependabotAlerted", "Forked", "HookPinged",
    "IssueCommented", "IssueDelivery", "IssueLabeled", "IssueOpened", "OtherDelivery", "PullRequestClosed",
    "PullRequestDelivery", "PullRequestMadeReady", "PullRequestOpened", "ReleasePublished", "Starred",
    "VulnerabilityAlerted", "WorkflowJobCompleted", "WorkflowRunCompleted",
]  # fmt: skip


class Delivery(Event):
    """What all deliveries share: GitHub sends a few hundred fields, and adds more; those not declared are not read.

    Source: Robert Daigneau, *Service Design Patterns*, "Tolerant Reader".
    """

    model_config = ConfigDict(extra="ignore")


# Parts of deliveries. A plain pydantic model ignores unknown fields by itself. Optional is what GitHub sends as null or
# leaves out: `user` where the account was deleted, `body` and `name` where nothing was written.


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class User(Part):
    login: str


class Repository(Part):
    full_name: str
    default_branch: str
    stargazers_count: int
    forks_count: int


class Label(Part):
    name: str


class Issue(Part):
    number: int
    title: str
    body: str | None
    user: User | None
    labels: tuple[Label, ...] = ()
    assignees: tuple[User, ...] = ()


class Comment(Part):
    user: User | None
    author_association: str


class Author(Part):
    name: str
    username: str | None = None


class Commit(Part):
    id: str
    distinct: bool
    author: Author
    added: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()


class PullRequest(Part):
    number: int
    user: User | None
    draft: bool
    merged: bool
    additions: int
    deletions: int


class Release(Part):
    tag_name: str
    name: str | None
    body: str | None
    draft: bool
    prerelease: bool


class WorkflowRun(Part):
    name: str | None
    head_branch: str | None
    conclusion: str | None


class WorkflowJob(Part):
    name: str
    head_branch: str | None = None
    conclusion: str | None


class CheckSuite(Part):
    head_branch: str | None


class CheckRun(Part):
    name: str
    conclusion: str | None
    check_suite: CheckSuite


class VulnerabilityAlert(Part):
    affected_package_name: str
    severity: str


class Advisory(Part):
    severity: str


class Package(Part):
    name: str


class Dependency(Part):
    package: Package


class DependabotAlert(Part):
    dependency: Dependency
    security_advisory: Advisory


class Rule(Part):
    id: str
    severity: str | None


class CodeScanningAlert(Part):
    rule: Rule


class Hook(Part):
    events: tuple[str, ...]


# Deliveries


class IssueDelivery(Delivery):
    """What the deliveries about an issue share; it is never registered itself."""

    issue: Issue
    repository: Repository


class IssueOpened(IssueDelivery, name="github.issues.opened"):
    pass


class IssueLabeled(IssueDelivery, name="github.issues.labeled"):
    pass


class IssueCommented(IssueDelivery, name="github.issue_comment.created"):
    comment: Comment


class CodePushed(Delivery, name="github.push"):
    ref: str
    commits: tuple[Commit, ...]
    repository: Repository


class PullRequestDelivery(Delivery):
    """What the deliveries about a pull request share; it is never registered itself."""

    pull_request: PullRequest
    repository: Repository


class PullRequestOpened(PullRequestDelivery, name="github.pull_request.opened"):
    pass


class PullRequestMadeReady(PullRequestDelivery, name="github.pull_request.ready_for_review"):
    pass


class PullRequestClosed(PullRequestDelivery, name="github.pull_request.closed"):
    pass


class ReleasePublished(Delivery, name="github.release.published"):
    release: Release
    repository: Repository


class Starred(Delivery, name="github.star.created"):
    repository: Repository


class Forked(Delivery, name="github.fork"):
    repository: Repository


class WorkflowRunCompleted(Delivery, name="github.workflow_run.completed"):
    workflow_run: WorkflowRun
    repository: Repository


class WorkflowJobCompleted(Delivery, name="github.workflow_job.completed"):
    workflow_job: WorkflowJob
    repository: Repository


class CheckRunCompleted(Delivery, name="github.check_run.completed"):
    check_run: CheckRun
    repository: Repository


class VulnerabilityAlerted(Delivery, name="github.repository_vulnerability_alert.create"):
    alert: VulnerabilityAlert
    repository: Repository


class DependabotAlerted(Delivery, name="github.dependabot_alert.created"):
    alert: DependabotAlert
    repository: Repository


class CodeScanningAlerted(Delivery, name="github.code_scanning_alert.created"):
    alert: CodeScanningAlert
    repository: Repository


class HookPinged(Delivery, name="github.ping"):
    """The hook of an organization names no repository, and that of a repository no organization."""

    hook: Hook
    repository: Repository | None = None
    organization: User | None = None


class OtherDelivery(Delivery, name="github.other"):
    """A delivery of a type that this application does not know, whole: it can be taken in again when it does."""

    model_config = ConfigDict(extra="forbid")

    original_type: Annotated[str, StringConstraints(max_length=200)]
    data: dict[str, JsonValue]
