"""The suite can fail: each of these faults, planted into a copy of the package, is found by the test that is named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import messagebus

ROOT = Path(messagebus.__file__).parents[1]
SUITE = "test_conformance.py::TestSQLite::test_"


class Fault(NamedTuple):
    """A change to one file of the delivery, and the test that finds it."""

    name: str
    file: str
    right: str
    wrong: str
    test: str


FAULTS = [
    # Sending
    Fault(
        "a message is not read back before it is accepted",
        "sending.py",
        "return prove(message)",
        "return __import__('messagebus').to_json(message)",
        SUITE + "message_that_escaped_validation_is_refused",
    ),
    Fault(
        "another body under one dedup key is dropped in silence",
        "sending.py",
        "return id if bytes(stored) == body else",
        "return id if stored else",
        SUITE + "dedup_key_with_another_body_is_an_error",
    ),
    Fault(
        "a refused message takes its group down with it",
        "sql.py",
        "answers = add(connection",
        "answers = add_all(connection",
        SUITE + "refusal_concerns_one_task",
    ),
    Fault(
        "what is sent does not continue the message in hand",
        "sending.py",
        "(current.correlation_id, current.id)",
        "(current.correlation_id, None)",
        SUITE + "message_in_hand_is_the_cause",
    ),
    Fault(
        "commits are not synced",
        "sqlite.py",
        '"PRAGMA synchronous = FULL"',
        '"PRAGMA synchronous = NORMAL"',
        "test_power.py",
    ),
    # Transactions
    Fault(
        "a handler's message is sent before the handler has finished",
        "sql.py",
        "work = WORK.get()",
        "work = None",
        SUITE + "sent_in_a_handler_goes_with_its_acknowledgement",
    ),
    Fault(
        "a savepoint rolls nothing back",
        "transaction.py",
        'connection.change(f"ROLLBACK TO SAVEPOINT {name}", {})',
        "pass",
        SUITE + "savepoint_rolls_back_what_is_in_it",
    ),
    Fault(
        "a failed transaction is committed",
        "sqlite.py",
        'self.raw.execute("ROLLBACK")',
        'self.raw.execute("COMMIT")',
        SUITE + "rows_and_messages_are_rolled_back_together",
    ),
    Fault(
        "acknowledged first, and sent later",
        "claims.py",
        "    sends = [",
        "    connection.commit()\n    connection.begin()\n    sends = [",
        "test_power.py",
    ),
    # Claims and leases
    Fault(
        "what was sent last comes first",
        "claims.py",
        "sorted(found)[:limit]",
        "sorted(found, reverse=True)[:limit]",
        SUITE + "claims_in_the_order_of_sending",
    ),
    Fault(
        "a lease ends early",
        "claims.py",
        "until = now + round(lease * 1000)",
        "until = now + round(lease * 999)",
        SUITE + "message_comes_back_after_the_lease",
    ),
    Fault(
        "a crash is no attempt",
        "claims.py",
        "attempt = attempt + 1",
        "attempt = 1",
        SUITE + "crashes_are_counted",
    ),
    Fault(
        "attempts are counted on after they were settled",
        "schema.py",
        "attempt = 0, lease = NULL",
        "attempt = attempt, lease = NULL",
        SUITE + "settling_begins_a_new_count",
    ),
    Fault(
        "giving back is an attempt",
        "claims.py",
        "attempt = attempt - 1, lease = NULL",
        "attempt = attempt, lease = NULL",
        SUITE + "released_message_is_due_at_once",
    ),
    Fault(
        "suspects take their neighbours down",
        "claims.py",
        "        return [suspect[0][1]]",
        "        return [suspect[0][1], *range(suspect[0][1] + 1, suspect[0][1] + limit)]",
        SUITE + "suspects_are_claimed_alone",
    ),
    Fault(
        "a lost lease can settle",
        "claims.py",
        'seq IN [seqs] AND lease = :token /* lock */"',
        "seq IN [seqs] AND :token <> '' /* lock */\"",
        SUITE + "lost_message_cannot_be_settled",
    ),
    Fault(
        "a lost lease can give back",
        "claims.py",
        "lease = NULL WHERE seq IN [seqs] AND lease = :token",
        "lease = NULL WHERE seq IN [seqs] AND :token <> ''",
        SUITE + "lost_message_cannot_be_released",
    ),
    Fault(
        "a lost lease can be extended",
        "claims.py",
        "lease IS NOT NULL AND lease IN [names]",
        "lease IS NOT NULL AND '' NOT IN [names]",
        SUITE + "lost_lease_cannot_be_extended",
    ),
    Fault(
        "whoever asks owns",
        "claims.py",
        "seq = :seq AND lease = :token /* lock */",
        "seq = :seq AND :token <> '' /* lock */",
        SUITE + "owner_knows_that_it_owns",
    ),
    Fault(
        "a lost lease sends",
        "claims.py",
        "for one in ours for sending in one.sends",
        "for one in settlements for sending in one.sends",
        SUITE + "nothing_is_sent_by_a_worker_that_lost_its_lease",
    ),
    # Handlers
    Fault(
        "outcomes replace one another",
        "claims.py",
        "merged = unpack(before)",
        "merged = {}",
        SUITE + "handler_that_succeeded_stays_done",
    ),
    Fault(
        "the last of several tries counts",
        "outcomes.py",
        "return min(now",
        "return max(now",
        SUITE + "earliest_of_several_tries_counts",
    ),
    Fault(
        "a retry runs every handler again",
        "letters.py",
        "case.outcomes.pop(case.handler, None)",
        "case.outcomes.clear()",
        SUITE + "retry_runs_that_handler_only",
    ),
    Fault(
        "a retry takes the lease of the sibling in hand",
        "letters.py",
        "if case.lease is None:  #",
        "if True:  #",
        SUITE + "decision_waits_for_the_worker_in_between",
    ),
    Fault(
        "a decision can be taken twice",
        "letters.py",
        'connection.change(_BURY, {"id": dead_letter_id})',
        "pass",
        SUITE + "unknown_dead_letter_is_false",
    ),
    # Keys
    Fault(
        "what is later overtakes",
        "claims.py",
        "p.finished_at IS NULL ORDER BY p.key, p.seq",
        "p.finished_at IS NULL ORDER BY p.key, p.seq DESC",
        SUITE + "next_of_a_key_comes_when_the_one_before_is_finished",
    ),
    Fault(
        "two of one key at a time",
        "claims.py",
        "p.lease IS NOT NULL), 0) <= :now",
        "p.lease IS NOT NULL), 0) >= 0",
        SUITE + "replay_waits_for_the_one_in_flight",
    ),
    Fault(
        "a dead letter does not park",
        "outcomes.py",
        'if "dead" in states and any(outcome.parks',
        'if "dead" in states and any(not outcome.parks',
        SUITE + "dead_letter_parks_its_key",
    ),
    Fault(
        "a dead letter always parks",
        "outcomes.py",
        'if "dead" in states and any(outcome.parks',
        'if "dead" in states and any(True',
        SUITE + "dead_letter_need_not_park",
    ),
    Fault(
        "a turn is not passed on",
        "claims.py",
        "        if keyed:\n",
        "        if False:\n",
        SUITE + "turn_comes_however_many_wait_for_it",
    ),
    Fault(
        "who cancels passes nothing on",
        "letters.py",
        "        pass_on(connection, [seq])\n",
        "",
        SUITE + "turn_comes_however_many_wait_for_it",
    ),
    # Waiting, results, schedules, keeping
    Fault(
        "what is in flight can be cancelled",
        "letters.py",
        '_WAITS: Final = "lease IS NULL AND ',
        '_WAITS: Final = "',
        SUITE + "only_what_waits_can_be_changed",
    ),
    Fault(
        "a failure is no reason to stop waiting for a result",
        "history.py",
        "    if dead:",
        "    if dead and not rows:",
        SUITE + "failure_further_down_is_an_error",
    ),
    Fault(
        "missed times are made up for each",
        "schedule.py",
        '"next_at": next_time(cron, timezone, now)',
        '"next_at": now',
        SUITE + "missed_times_are_made_up_for_once",
    ),
    Fault(
        "a restart forgets what is due",
        "schedule.py",
        "next_at = known",
        "pass",
        SUITE + "schedule_said_again_keeps_what_is_due",
    ),
    Fault(
        "dead letters are forgotten",
        "history.py",
        "AND NOT EXISTS (SELECT 1 FROM mb_dead d WHERE d.seq = m.seq)",
        "",
        SUITE + "dead_letters_are_never_forgotten",
    ),
    Fault(
        "old is what was sent long ago",
        "history.py",
        "WHERE finished_at <= :before",
        "WHERE sent_at <= :before",
        SUITE + "age_is_counted_from_the_end",
    ),
    Fault(
        "nobody minds that the clock was set",
        "timekeeping.py",
        "if abs(step) >= _STEP:",
        "if False:",
        "test_faults.py::test_f49_clock_is_set",
    ),
    Fault(
        "a handler is tried however long it fails",
        "pauses.py",
        "if len(failed) == _IN_A_ROW:",
        "if False:",
        "test_worker_faults.py::test_f48_others_go_on_meanwhile",
    ),
    # Processes
    Fault(
        "a child uses its parent's connection",
        "connection.py",
        'if hasattr(os, "register_at_fork"):',
        "if False:",
        "test_faults.py::test_f52_process_forks_after_opening",
    ),
    Fault(
        "a lock of others is an error of the driver",
        "sqlite.py",
        "(StoreBusyError, _BUSY)",
        "(StoreBusyError, {})",
        "test_faults.py::test_f36_store_is_locked_for_long",
    ),
    Fault(
        "the damage of a file is not looked for",
        "sqlite.py",
        '"PRAGMA quick_check(1)"',
        "\"SELECT 'ok'\"",
        "test_faults.py::test_f37_file_is_foreign_or_damaged",
    ),
]


def suite(folder, *tests):
    """Run tests of the delivery in a copy of the project, on SQLite, and return what pytest said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:cov"]
    command += ["-p", "no:hypothesispytest", "-k", "not postgres", *(f"tests/delivery/{test}" for test in tests)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what the tests of the delivery need."""
    folder = tmp_path_factory.mktemp("copy")
    names = ["messagebus", "pyproject.toml", "tests/conftest.py", "tests/servers.py", "tests/delivery"]
    for name in names:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def test_copy_without_a_fault_passes(copy):
    """Otherwise the tests below would find anything; those that are not of the suite run beside this one."""
    ended = suite(copy, *sorted({fault.test for fault in FAULTS if fault.test.startswith(SUITE)}))

    assert (0, "") == (ended.returncode, ended.stderr), ended.stdout[-2_000:]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name.replace(" ", "_") for fault in FAULTS])
def test_planted_fault_is_found(copy, fault):
    """[D13] A suite that cannot fail proves nothing."""
    path = copy / "messagebus" / "delivery" / fault.file
    sound = path.read_text(encoding="utf-8")
    assert fault.right in sound, "the fault no longer fits the code: plant it anew"
    path.write_text(sound.replace(fault.right, fault.wrong), encoding="utf-8")

    try:
        ended = suite(copy, fault.test)
    finally:
        path.write_text(sound, encoding="utf-8")

    assert ended.returncode == 1, ended.stdout[-2_000:] + ended.stderr
    assert " failed" in ended.stdout
