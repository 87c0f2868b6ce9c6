"""The faults that are planted: a change to one file of the package, and the check that finds it."""

from typing import NamedTuple

SUITE = "tests/delivery/test_conformance.py::TestSQLite::test_"
MODEL = "tests/proof/test_bus_model.py::test_bus_does_what_the_reference_says"


class Fault(NamedTuple):
    """A change to one file of the package, and the test that finds it."""

    name: str
    file: str
    right: str
    wrong: str
    test: str


CORE = (
    # The order rule
    Fault(
        "what a failed handler yielded is released",
        "dispatch.py",
        "            messages = list(islice(result, max(self.max_messages + 1 - self._count, 1)))\n",
        "            messages = []\n            for one in result:\n"
        "                self._release(delivery, handler, one)\n",
        "tests/test_bus.py::test_generator_that_raises_releases_nothing",
    ),
    Fault(
        "what is returned is dispatched at once",
        "dispatch.py",
        "            self._waiting.append(Delivery(result, plan, delivery))\n",
        "            type(self)(result, registry=self.registry)()\n",
        "tests/test_dispatch.py::test_follow_ups_wait_for_everything_returned_before",
    ),
    Fault(
        "last in, first out",
        "dispatch.py",
        "self._waiting.popleft()\n                    CURRENT",
        "self._waiting.pop()\n                    CURRENT",
        "tests/test_dispatch.py::test_follow_ups_wait_for_everything_returned_before",
    ),
    Fault(
        "equal return messages are dropped",
        "dispatch.py",
        "            self.return_messages.append(result)\n",
        "            self.return_messages += [result] if result not in self.return_messages else []\n",
        "tests/test_dispatch.py::test_equal_return_messages_are_all_returned",
    ),
    Fault(
        "the limit is off by one",
        "dispatch.py",
        "if self._count <= self.max_messages:",
        "if self._count < self.max_messages:",
        "tests/test_dispatch.py::test_run_may_lead_to_as_many_messages_as_the_limit",
    ),
    Fault(
        "return messages do not count",
        "dispatch.py",
        "            self.return_messages.append(result)\n",
        "            self.return_messages.append(result)\n            return\n",
        "tests/test_dispatch.py::test_return_messages_count_towards_the_limit",
    ),
    Fault(
        "a list with something wrong in it is released up to that",
        "dispatch.py",
        "        if wrong:\n",
        "        if wrong and wrong[0] is not result:\n"
        "            return [one for one in messages if one not in wrong]\n"
        "        if wrong:\n",
        MODEL,
    ),
    # Failure
    Fault(
        "a KeyboardInterrupt is a failure like any other",
        "bus.py",
        "except Exception as exc:  # noqa: BLE001 - its siblings",
        "except BaseException as exc:  # noqa: BLE001 - its siblings",
        "tests/test_bus.py::test_interruption_passes_and_the_message_is_pending_again",
    ),
    Fault(
        "a retry runs those that succeeded too",
        "bus.py",
        "            delivery.left = [*failures]\n",
        "            delivery.left = handlers = delivery.plan.handlers\n",
        "tests/test_bus.py::test_retries_of_two_failing_handlers_are_counted_apart",
    ),
    Fault(
        "the first failure ends the siblings",
        "bus.py",
        "                    failures[handler] = self._failure(delivery, handler, exc)\n",
        "                    failures[handler] = self._failure(delivery, handler, exc)\n                    break\n",
        "tests/test_bus.py::test_siblings_of_a_failing_handler_run",
    ),
    Fault(
        "one failure comes in a group",
        "bus.py",
        "if len(failures) == 1:",
        "if len(failures) == 0:",
        "tests/test_bus.py::test_exception_comes_out_as_it_is",
    ),
    Fault(
        "an interrupted message is forgotten",
        "dispatch.py",
        "                delivery.stage = _BROKEN_OFF\n",
        "                delivery.stage = _SETTLED\n",
        "tests/test_bus.py::test_interruption_passes_and_the_message_is_pending_again",
    ),
    Fault(
        "an interruption while a failure is decided loses the message",
        "dispatch.py",
        "delivery.stage, delivery.failure = _BROKEN_OFF, None",
        "delivery.failure = None",
        "tests/test_bus.py::test_interruption_while_deciding_keeps_the_message",
    ),
    Fault(
        "what finished beside an interrupted handler runs again",
        "bus.py",
        "                delivery.left = [other for other in delivery.left if other is not handler]\n",
        "",
        MODEL,
    ),
    Fault(
        "the note has no cause",
        "dispatch.py",
        "        if delivery.cause is not None:\n            cls",
        "        if delivery.cause is None:\n            cls",
        "tests/test_bus.py::test_note_names_type_id_handler_and_cause",
    ),
    # Context
    Fault(
        "a run within a handler is on its own",
        "dispatch.py",
        "            delivery.join(outer)\n",
        "            pass\n",
        "tests/test_envelope.py::test_run_started_in_a_plain_handler_joins",
    ),
    Fault(
        "the envelope outlives the run",
        "dispatch.py",
        "                CURRENT.reset(token)\n",
        "",
        "tests/test_envelope.py::test_context_is_restored_after_a_run",
    ),
    Fault(
        "forked processes make the same ids",
        "envelope.py",
        'if hasattr(os, "register_at_fork"):',
        "if False:",
        "tests/test_envelope.py::test_ids_of_a_forked_child_are_its_own",
    ),
    # Registry
    Fault(
        "a command takes a second handler",
        "registry.py",
        "if issubclass(cls, Command) or one.function == handler.function:",
        "if one.function == handler.function:",
        "tests/test_registry.py::test_second_handler_of_a_command_is_refused_and_both_are_named",
    ),
    Fault(
        "handlers take subclasses unasked",
        "registry.py",
        "if one.takes_subclasses]",
        "if True]",
        "tests/test_registry.py::test_handlers_of_an_event_do_not_take_its_subclasses",
    ),
    Fault(
        "handlers of bases come last",
        "registry.py",
        "handlers=tuple(sorted(found, key=lambda handler: handler.order)),",
        "handlers=tuple(found),",
        "tests/test_registry.py::test_handlers_that_opt_in_take_subclasses",
    ),
    Fault(
        "two classes share a wire name",
        "registry.py",
        "            if holder is not cls:\n",
        "            if False:\n",
        "tests/test_registry.py::test_second_class_of_one_wire_name_is_refused",
    ),
    Fault(
        "a run sees what is registered meanwhile",
        "registry.py",
        '        self.__dict__.pop("snapshot", None)\n',
        "        self.snapshot.handlers, self.snapshot.names = self._handlers, self._names\n"
        "        self.snapshot.clear()\n",
        "tests/test_dispatch.py::test_run_sees_the_registry_as_it_was",
    ),
    Fault(
        "a command that nobody handles is let pass",
        "registry.py",
        "            check = self._refuse\n",
        "            check = _pass\n",
        "tests/test_registry.py::test_command_without_handler_is_refused_at_dispatch",
    ),
    # The door
    Fault(
        "the size is looked at after parsing",
        "door.py",
        "        if size > max_bytes:\n",
        "        self._validator.validate_json(payload)\n        if size > max_bytes:\n",
        "tests/test_door.py::test_what_is_too_large_is_not_parsed",
    ),
    Fault(
        "characters are taken for bytes",
        "door.py",
        "            size = len(payload)\n",
        "",
        "tests/test_door.py::test_limit_counts_bytes_not_characters",
    ),
    Fault(
        "a refusal repeats the payload",
        "door.py",
        'text.partition(",")[0] if "error" in context else text',
        "text",
        "tests/test_door.py::test_error_repeats_nothing_of_the_payload",
    ),
    Fault(
        "a refusal keeps pydantic's error, and that the payload",
        "door.py",
        "            refusal = self._refusal(error)\n        except InvalidMessageError:",
        "            raise self._refusal(error)\n        except InvalidMessageError:",
        "tests/test_privacy.py::test_secret_is_in_no_text_of_an_error_at_the_door",
    ),
    Fault(
        "a type is shown, whatever stands there",
        "door.py",
        'shown = name if _SAFE_TYPE.fullmatch(name) else ""',
        "shown = name",
        "tests/test_privacy.py::test_secret_is_in_no_text_of_an_error_about_the_envelope",
    ),
    Fault(
        "NaN comes in and goes out as null",
        "shapes.py",
        "    allow_inf_nan=False,\n",
        "    allow_inf_nan=True,\n",
        "tests/test_messages.py::test_numbers_that_json_does_not_have_are_refused",
    ),
    Fault(
        "integers have no bounds",
        "shapes.py",
        '    if node.get("type") == "int":\n',
        "    if False:\n",
        "tests/test_messages.py::test_integers_beyond_64_bits_are_refused",
    ),
    Fault(
        "what is written is not compared with what was meant",
        "messages.py",
        ".validate_json(data) == message:",
        ".validate_json(data):",
        "tests/test_errors.py::test_value_that_cannot_come_back_from_json",
    ),
    Fault(
        "what cannot be read back is believed by its type",
        "shapes.py",
        '        node.get("type") in _EXACT\n        and ',
        "        ",
        "tests/test_errors.py::test_value_that_cannot_come_back_from_json",
    ),
    # Logs
    Fault(
        "a ValidationError is written with its input",
        "tracebacks.py",
        "    if isinstance(error, ValidationError):\n",
        "    if False:\n",
        "tests/test_privacy.py::test_secret_that_a_handler_raises_is_in_no_record",
    ),
    Fault(
        "records are cleared of the last message's secrets only",
        "dispatch.py",
        "        mark(error, delivery.message)\n",
        "",
        "tests/test_privacy.py::test_secret_of_a_run_within_a_handler_is_in_no_record",
    ),
    Fault(
        "a message is written as it is",
        "logs.py",
        'mode="json", context=HIDDEN,',
        'mode="json",',
        "tests/test_privacy.py::test_secret_is_in_no_record",
    ),
    Fault(
        "a sink that fails fails the handler",
        "dispatch.py",
        "logs.report_broken(error)",
        "raise",
        "tests/test_logs.py::test_sink_that_fails_changes_no_outcome",
    ),
    Fault(
        "activity and failures have one level",
        "logs.py",
        "None if error_log_level == DISABLED else getattr(logger, error_log_level)",
        "None if log_level == DISABLED else getattr(logger, log_level)",
        "tests/test_logs.py::test_failures_are_written_at_their_own_level",
    ),
    Fault(
        "what a handler binds shows in the next message's records",
        "logs.py",
        "        self.close()\n        self._tokens",
        "        self.hide()\n        self._tokens",
        "tests/test_logs.py::test_context_of_a_message_ends_with_it",
    ),
    Fault(
        "the reference and the bus disagree about the attempt",
        "bus.py",
        "        delivery.attempt += 1\n",
        "        delivery.attempt = 1\n",
        MODEL,
    ),
)

DELIVERY = (
    # Sending
    Fault(
        "a message is not read back before it is accepted",
        "delivery/sending.py",
        "return prove(message)",
        "return __import__('messagebus').to_json(message)",
        SUITE + "message_that_escaped_validation_is_refused",
    ),
    Fault(
        "another body under one dedup key is dropped in silence",
        "delivery/sending.py",
        "return id if bytes(stored) == body else",
        "return id if stored else",
        SUITE + "dedup_key_with_another_body_is_an_error",
    ),
    Fault(
        "a refused message takes its group down with it",
        "delivery/sql.py",
        "answers = add(connection",
        "answers = add_all(connection",
        SUITE + "refusal_concerns_one_task",
    ),
    Fault(
        "what is sent does not continue the message in hand",
        "delivery/sending.py",
        "(current.correlation_id, current.id)",
        "(current.correlation_id, None)",
        SUITE + "message_in_hand_is_the_cause",
    ),
    Fault(
        "commits are not synced",
        "delivery/sqlite.py",
        '"PRAGMA synchronous = FULL"',
        '"PRAGMA synchronous = NORMAL"',
        "tests/proof/test_power.py::test_f34_power_cut_at_any_write",
    ),
    # Transactions
    Fault(
        "a handler's message is sent before the handler has finished",
        "delivery/sql.py",
        "work = WORK.get()",
        "work = None",
        SUITE + "sent_in_a_handler_goes_with_its_acknowledgement",
    ),
    Fault(
        "a savepoint rolls nothing back",
        "delivery/transaction.py",
        'connection.change(f"ROLLBACK TO SAVEPOINT {name}", {})',
        "pass",
        SUITE + "savepoint_rolls_back_what_is_in_it",
    ),
    Fault(
        "a failed transaction is committed",
        "delivery/sqlite.py",
        'self.raw.execute("ROLLBACK")',
        'self.raw.execute("COMMIT")',
        SUITE + "rows_and_messages_are_rolled_back_together",
    ),
    Fault(
        "acknowledged first, and sent later",
        "delivery/claims.py",
        "    sends = [",
        "    connection.commit()\n    connection.begin()\n    sends = [",
        "tests/proof/test_power.py::test_f34_power_cut_at_any_write",
    ),
    # Claims and leases
    Fault(
        "what was sent last comes first",
        "delivery/claims.py",
        "sorted(found)[:limit]",
        "sorted(found, reverse=True)[:limit]",
        SUITE + "claims_in_the_order_of_sending",
    ),
    Fault(
        "a lease ends early",
        "delivery/claims.py",
        "until = now + round(lease * 1000)",
        "until = now + round(lease * 999)",
        SUITE + "message_comes_back_after_the_lease",
    ),
    Fault(
        "a crash is no attempt",
        "delivery/claims.py",
        "attempt = attempt + 1",
        "attempt = 1",
        SUITE + "crashes_are_counted",
    ),
    Fault(
        "attempts are counted on after they were settled",
        "delivery/schema.py",
        "attempt = 0, lease = NULL",
        "attempt = attempt, lease = NULL",
        SUITE + "settling_begins_a_new_count",
    ),
    Fault(
        "giving back is an attempt",
        "delivery/claims.py",
        "attempt = attempt - 1, lease = NULL",
        "attempt = attempt, lease = NULL",
        SUITE + "released_message_is_due_at_once",
    ),
    Fault(
        "suspects take their neighbours down",
        "delivery/claims.py",
        "        return [suspect[0][1]]",
        "        return [suspect[0][1], *range(suspect[0][1] + 1, suspect[0][1] + limit)]",
        SUITE + "suspects_are_claimed_alone",
    ),
    Fault(
        "a lost lease can settle",
        "delivery/claims.py",
        'seq IN [seqs] AND lease = :token /* lock */"',
        "seq IN [seqs] AND :token <> '' /* lock */\"",
        SUITE + "lost_message_cannot_be_settled",
    ),
    Fault(
        "a lost lease can give back",
        "delivery/claims.py",
        "lease = NULL WHERE seq IN [seqs] AND lease = :token",
        "lease = NULL WHERE seq IN [seqs] AND :token <> ''",
        SUITE + "lost_message_cannot_be_released",
    ),
    Fault(
        "a lost lease can be extended",
        "delivery/claims.py",
        "lease IS NOT NULL AND lease IN [names]",
        "lease IS NOT NULL AND '' NOT IN [names]",
        SUITE + "lost_lease_cannot_be_extended",
    ),
    Fault(
        "whoever asks owns",
        "delivery/claims.py",
        "seq = :seq AND lease = :token /* lock */",
        "seq = :seq AND :token <> '' /* lock */",
        SUITE + "owner_knows_that_it_owns",
    ),
    Fault(
        "a lost lease sends",
        "delivery/claims.py",
        "for one in ours for sending in one.sends",
        "for one in settlements for sending in one.sends",
        SUITE + "nothing_is_sent_by_a_worker_that_lost_its_lease",
    ),
    # Handlers
    Fault(
        "outcomes replace one another",
        "delivery/claims.py",
        "merged = unpack(before)",
        "merged = {}",
        SUITE + "handler_that_succeeded_stays_done",
    ),
    Fault(
        "the last of several tries counts",
        "delivery/outcomes.py",
        "return min(now",
        "return max(now",
        SUITE + "earliest_of_several_tries_counts",
    ),
    Fault(
        "a retry runs every handler again",
        "delivery/letters.py",
        "case.outcomes.pop(case.handler, None)",
        "case.outcomes.clear()",
        SUITE + "retry_runs_that_handler_only",
    ),
    Fault(
        "a retry takes the lease of the sibling in hand",
        "delivery/letters.py",
        "if case.lease is None:  #",
        "if True:  #",
        SUITE + "decision_waits_for_the_worker_in_between",
    ),
    Fault(
        "a decision can be taken twice",
        "delivery/letters.py",
        'connection.change(_BURY, {"id": dead_letter_id})',
        "pass",
        SUITE + "unknown_dead_letter_is_false",
    ),
    # Keys
    Fault(
        "what is later overtakes",
        "delivery/claims.py",
        "p.finished_at IS NULL ORDER BY p.key, p.seq",
        "p.finished_at IS NULL ORDER BY p.key, p.seq DESC",
        SUITE + "next_of_a_key_comes_when_the_one_before_is_finished",
    ),
    Fault(
        "two of one key at a time",
        "delivery/claims.py",
        "p.lease IS NOT NULL), 0) <= :now",
        "p.lease IS NOT NULL), 0) >= 0",
        SUITE + "replay_waits_for_the_one_in_flight",
    ),
    Fault(
        "a dead letter does not park",
        "delivery/outcomes.py",
        'if "dead" in states and any(outcome.parks',
        'if "dead" in states and any(not outcome.parks',
        SUITE + "dead_letter_parks_its_key",
    ),
    Fault(
        "a dead letter always parks",
        "delivery/outcomes.py",
        'if "dead" in states and any(outcome.parks',
        'if "dead" in states and any(True',
        SUITE + "dead_letter_need_not_park",
    ),
    Fault(
        "a turn is not passed on",
        "delivery/claims.py",
        "        if keyed:\n",
        "        if False:\n",
        SUITE + "turn_comes_however_many_wait_for_it",
    ),
    Fault(
        "who cancels passes nothing on",
        "delivery/letters.py",
        "        pass_on(connection, [seq])\n",
        "",
        SUITE + "turn_comes_however_many_wait_for_it",
    ),
    Fault(
        "nobody minds that the clock was set",
        "delivery/timekeeping.py",
        "if abs(step) >= _STEP:",
        "if False:",
        "tests/delivery/test_faults.py::test_f49_clock_is_set",
    ),
    Fault(
        "a handler is tried however long it fails",
        "delivery/pauses.py",
        "if len(failed) == _IN_A_ROW:",
        "if False:",
        "tests/delivery/test_worker_faults.py::test_f48_others_go_on_meanwhile",
    ),
    # Waiting, results, schedules, keeping
    Fault(
        "what is in flight can be cancelled",
        "delivery/letters.py",
        '_WAITS: Final = "lease IS NULL AND ',
        '_WAITS: Final = "',
        SUITE + "only_what_waits_can_be_changed",
    ),
    Fault(
        "a failure is no reason to stop waiting for a result",
        "delivery/history.py",
        "    if dead:",
        "    if dead and not rows:",
        SUITE + "failure_further_down_is_an_error",
    ),
    Fault(
        "missed times are made up for each",
        "delivery/schedule.py",
        '"next_at": next_time(cron, timezone, now)',
        '"next_at": now',
        SUITE + "missed_times_are_made_up_for_once",
    ),
    Fault(
        "a restart forgets what is due",
        "delivery/schedule.py",
        "next_at = known",
        "pass",
        SUITE + "schedule_said_again_keeps_what_is_due",
    ),
    Fault(
        "dead letters are forgotten",
        "delivery/history.py",
        "AND NOT EXISTS (SELECT 1 FROM mb_dead d WHERE d.seq = m.seq)",
        "",
        SUITE + "dead_letters_are_never_forgotten",
    ),
    Fault(
        "old is what was sent long ago",
        "delivery/history.py",
        "WHERE finished_at <= :before",
        "WHERE sent_at <= :before",
        SUITE + "age_is_counted_from_the_end",
    ),
    # Processes
    Fault(
        "a child uses its parent's connection",
        "delivery/connection.py",
        'if hasattr(os, "register_at_fork"):',
        "if False:",
        "tests/delivery/test_faults.py::test_f52_process_forks_after_opening",
    ),
    Fault(
        "a lock of others is an error of the driver",
        "delivery/sqlite_errors.py",
        "(StoreBusyError, _BUSY)",
        "(StoreBusyError, {})",
        "tests/delivery/test_faults.py::test_f36_store_is_locked_for_long",
    ),
    Fault(
        "the damage of a file is not looked for",
        "delivery/sqlite.py",
        '"PRAGMA quick_check(1)"',
        "\"SELECT 'ok'\"",
        "tests/delivery/test_faults.py::test_f37_file_is_foreign_or_damaged",
    ),
)

FAULTS = (*CORE, *DELIVERY)
