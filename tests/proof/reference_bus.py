"""What the laws say that a run does, in as few lines as that takes; the bus has to do the same."""

from tests.proof.graphs import Named, called


class Letter:
    """A message with its ids, and the handlers that have not succeeded with it yet."""

    def __init__(self, message, cause, id):
        self.message, self.cause, self.id, self.attempt, self.left = message, cause, id, 0, None
        self.correlation = cause.correlation if cause else id  # L22
        self.ids = {"message_id": id, "correlation_id": self.correlation, "causation_id": cause and cause.id}


class ReferenceRun:
    """One run; the world knows what is registered, plays the handlers, and decides what overrides decide."""

    def __init__(self, world, message, is_async, cause=None):
        self.world, self.is_async, self.registered = world, is_async, [*world.registered]  # L9
        self.trace, self.records, self.back, self.queue, self.count = [], [], [], [], 0
        self.release(message, cause)

    def release(self, message, cause):
        self.count += 1
        is_return = message.kind.startswith("R")
        self.back += [message] if is_return else []  # L11
        self.queue += [] if is_return else [Letter(message, cause, self.world.new_id())]  # L10

    def __call__(self):
        self.count = 0
        while self.queue:
            letter = self.queue.pop(0)
            try:
                self.turn(letter)
            except BaseException as end:
                self.queue[:0] = [] if isinstance(end, Exception) else [letter]  # L17
                raise

    def turn(self, letter):
        kind, before, bases = letter.message.kind, self.count, self.world.bases(letter.message.kind)
        plan = [one for to, one in self.registered if to == kind or (one.takes_subclasses and to in bases)]  # L8
        letter.left = plan if letter.left is None else letter.left
        try:
            failure = self.world.dispatch(lambda: self.dispatch(letter, plan))
        except Exception as error:
            failure = error
        overflow = Named("CascadeLimitError") if self.count > self.world.max_messages else None  # L12
        failure = failure or overflow
        shown = [one.name for one in plan if (one in letter.left) == bool(failure)]
        end = {"message_type": kind, **letter.ids, "handlers": shown, "emitted": self.count - before}  # L20
        if failure:
            self.world.decide(self, letter.message, failure, {"event": "message.failed", **end})  # L15
        else:
            name = "command.handled" if kind.startswith("C") else "event.handled" if plan else "event.unhandled"
            name = "message.skipped" if letter.left or (name == "command.handled" and not plan) else name
            self.records.append({"event": name, **end, "data": {"n": letter.message.n}})
        if overflow:
            raise overflow

    def dispatch(self, letter, plan):
        kind, todo, failures, interruptions = letter.message.kind, [*letter.left], [], []
        if not plan and (kind.startswith("C") or self.world.strict):
            raise Named("NoHandlerError")  # L6, L7
        if not self.is_async and any(one.kind == "async" for one in plan):
            raise Named("AsyncHandlerError")  # L24
        letter.attempt += 1
        ends = ((one, self.world.act(self, one, letter)) for one in todo)
        is_together = self.is_async and self.world.concurrent and len(todo) > 1
        for handler, end in [*ends] if is_together else ends:  # L13
            end, record = self.world.cut(self, end), {"handler": handler.name, "attempt": letter.attempt, **letter.ids}
            if isinstance(end, Exception):
                cause = f", caused by {letter.cause.message.kind} {letter.cause.id}" if letter.cause else ""
                end.add_note(f"while handling {kind} {letter.id} in {handler.name}{cause}")  # L14
                self.records.append({"event": "handler.failed", **record, "error": called(end)})
                failures.append(end)
            elif isinstance(end, BaseException):
                interruptions.append(end)
                if not is_together:
                    break
            else:
                letter.left = [one for one in letter.left if one is not handler]  # L16
                self.records.append({"event": "handler.finished", **record})
                for message in end:
                    self.release(message, letter)
        if interruptions or len(failures) == 1:
            raise (interruptions or failures)[0]
        if failures:
            raise ExceptionGroup(f"{len(failures)} handlers of {kind} failed", failures)
