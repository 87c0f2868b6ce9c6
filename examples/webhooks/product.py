"""What becomes of the code: builds, releases, audience, risks; and the commands, events and handlers for it.

A handler sees one message and nothing else, does no I/O, and says the same each time.
"""

from collections.abc import Iterator

from examples.webhooks.deliveries import (
    CheckRunCompleted,
    CodeScanningAlerted,
    DependabotAlerted,
    Forked,
    ReleasePublished,
    Repository,
    Starred,
    VulnerabilityAlerted,
    WorkflowJobCompleted,
    WorkflowRunCompleted,
)
from examples.webhooks.results import Announcement, Priority, Task
from messagebus import Command, Event, Registry

__all__ = ["registry"]

registry = Registry()

# Builds


class JudgeBuild(Command):
    where: str
    build: str
    conclusion: str | None
    is_of_default_branch: bool


class BuildBroken(Event):
    where: str
    build: str
    is_of_default_branch: bool


class BuildUndecided(Event):
    where: str
    build: str


@registry.handles(WorkflowRunCompleted)
def judge_run(delivery: WorkflowRunCompleted) -> JudgeBuild:
    run = delivery.workflow_run
    return _judge(delivery.repository, run.name or "unnamed workflow", run.conclusion, run.head_branch)


@registry.handles(WorkflowJobCompleted)
def judge_job(delivery: WorkflowJobCompleted) -> JudgeBuild:
    job = delivery.workflow_job
    return _judge(delivery.repository, job.name, job.conclusion, job.head_branch)


@registry.handles(CheckRunCompleted)
def judge_check(delivery: CheckRunCompleted) -> JudgeBuild:
    check = delivery.check_run
    return _judge(delivery.repository, check.name, check.conclusion, check.check_suite.head_branch)


def _judge(repository: Repository, build: str, conclusion: str | None, branch: str | None) -> JudgeBuild:
    is_of_default_branch = branch == repository.default_branch
    return JudgeBuild(
        where=repository.full_name, build=build, conclusion=conclusion, is_of_default_branch=is_of_default_branch
    )


@registry.handles(JudgeBuild)
def judge_build(command: JudgeBuild) -> BuildBroken | BuildUndecided | None:
    match command.conclusion:
        case "success" | "neutral" | "skipped":
            return None
        case "failure" | "timed_out" | "startup_failure":
            is_of_default_branch = command.is_of_default_branch
            return BuildBroken(where=command.where, build=command.build, is_of_default_branch=is_of_default_branch)
        case _:  # Cancelled, stale, not concluded, and what GitHub will think of next.
            return BuildUndecided(where=command.where, build=command.build)


@registry.handles(BuildBroken)
def mend(event: BuildBroken) -> Task:
    priority: Priority = "high" if event.is_of_default_branch else "normal"
    return Task(where=event.where, what=f"mend {event.build}", priority=priority)


@registry.handles(BuildBroken)
def warn(event: BuildBroken) -> Announcement | None:
    if event.is_of_default_branch:
        return Announcement(where=event.where, text=f"do not merge: {event.build} is broken")
    return None


@registry.handles(BuildUndecided)
def look_at_build(event: BuildUndecided) -> Task:
    return Task(where=event.where, what=f"see what became of {event.build}", priority="low")


# Releases and audience


class AnnounceRelease(Command):
    where: str
    title: str
    has_notes: bool


class ReleaseAnnounced(Event):
    where: str
    title: str
    has_notes: bool


class AudienceGrown(Event):
    where: str
    count: int
    what: str


class MilestoneReached(Event):
    where: str
    count: int
    what: str


@registry.handles(ReleasePublished)
def announce_stable(delivery: ReleasePublished) -> AnnounceRelease | None:
    release = delivery.release
    if release.draft or release.prerelease:
        return None
    title = release.name or release.tag_name
    return AnnounceRelease(where=delivery.repository.full_name, title=title, has_notes=bool(release.body))


@registry.handles(AnnounceRelease)
def announce_release(command: AnnounceRelease) -> Iterator[ReleaseAnnounced | Announcement]:
    yield Announcement(where=command.where, text=f"{command.title} is out")
    yield ReleaseAnnounced(where=command.where, title=command.title, has_notes=command.has_notes)


@registry.handles(ReleaseAnnounced)
def write_notes(event: ReleaseAnnounced) -> Task | None:
    if event.has_notes:
        return None
    return Task(where=event.where, what=f"write the notes of {event.title}", priority="normal")


@registry.handles(Starred)
def count_stars(delivery: Starred) -> AudienceGrown:
    return AudienceGrown(where=delivery.repository.full_name, count=delivery.repository.stargazers_count, what="stars")


@registry.handles(Forked)
def count_forks(delivery: Forked) -> AudienceGrown:
    return AudienceGrown(where=delivery.repository.full_name, count=delivery.repository.forks_count, what="forks")


@registry.handles(AudienceGrown)
def see_milestone(event: AudienceGrown) -> MilestoneReached | None:
    """Ten, a hundred, a thousand ... and the first one."""
    if str(event.count).rstrip("0") == "1":
        return MilestoneReached(where=event.where, count=event.count, what=event.what)
    return None


@registry.handles(MilestoneReached)
def celebrate(event: MilestoneReached) -> Announcement:
    return Announcement(where=event.where, text=f"{event.what}: {event.count}")


# Risks

_PRIORITIES: dict[str | None, Priority] = {
    "critical": "high", "high": "high", "error": "high",
    "moderate": "normal", "medium": "normal", "warning": "normal",
}  # fmt: skip


class AssessRisk(Command):
    where: str
    what: str
    severity: str | None


class RiskAssessed(Event):
    where: str
    what: str
    priority: Priority


@registry.handles(VulnerabilityAlerted)
def assess_vulnerability(delivery: VulnerabilityAlerted) -> AssessRisk:
    alert = delivery.alert
    what = alert.affected_package_name
    return AssessRisk(where=delivery.repository.full_name, what=what, severity=alert.severity)


@registry.handles(DependabotAlerted)
def assess_dependency(delivery: DependabotAlerted) -> AssessRisk:
    alert = delivery.alert
    what = alert.dependency.package.name
    return AssessRisk(where=delivery.repository.full_name, what=what, severity=alert.security_advisory.severity)


@registry.handles(CodeScanningAlerted)
def assess_code(delivery: CodeScanningAlerted) -> AssessRisk:
    rule = delivery.alert.rule
    return AssessRisk(where=delivery.repository.full_name, what=rule.id, severity=rule.severity)


@registry.handles(AssessRisk)
def assess(command: AssessRisk) -> RiskAssessed:
    priority = _PRIORITIES.get(command.severity, "low")
    return RiskAssessed(where=command.where, what=command.what, priority=priority)


@registry.handles(RiskAssessed)
def remove_risk(event: RiskAssessed) -> Task:
    return Task(where=event.where, what=f"remove the risk of {event.what}", priority=event.priority)
