"""The thread that sends what the outbox holds, and takes the steps that time asks for."""

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from ruchu.clock import Clock, from_text
from ruchu.control.alarms import escalation, matching, outbox, transactions
from ruchu.control.alarms.channels.contract import Channel
from ruchu.control.alarms.messages import Message
from ruchu.control.alarms.outbox import Job
from ruchu.control.alarms.records import ChannelDefinition
from ruchu.control.alarms.service import AlarmService
from ruchu.control.database.database import Database
from ruchu.errors import ChannelFailed, ChannelRefused, RuchuError
from ruchu.model.tasks import Severity

# How late a step of escalation or the end of quiet hours may be noticed.
POLL_S = 5.0
# Channels that send at the same time; one that hangs until its time limit holds up no other.
WORKERS = 8
# Messages of one channel in a row, before the others have a look in.
PASS_MAX = 100
# A connection that breaks once is no news; refusals are, at once.
ALARM_AFTER = 3
# A message that waits for so long is a reason not to call the server healthy.
OVERDUE = datetime.timedelta(hours=2)
_FORGET_EVERY = datetime.timedelta(hours=6)

Connect = Callable[[ChannelDefinition], Channel]
"""Makes a channel of its definition, with the secrets that the caller keeps."""

Trouble = Callable[[BaseException], None]
"""Is told of an error that nobody expected; the deliverer goes on."""


class Deliverer:
    """Sends. A context manager: within it a thread runs. `deliver_due` does one round by hand."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        alarms: AlarmService,
        connect: Connect,
        trouble: Trouble,
    ) -> None:
        self._database = database
        self._clock = clock
        self._alarms = alarms
        self._connect = connect
        self._trouble = trouble
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        self._forgot: datetime.datetime | None = None
        self._broken = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, after the messages that are being sent."""
        self._stopping.set()
        self._alarms.changed.set()
        self._thread.join()

    def healthy(self) -> list[str]:
        """Return why alarms do not leave as they should; empty if they do."""
        reasons = []
        if not self._thread.is_alive():
            reasons.append("the deliverer of alarms does not run")
        if self._broken:
            reasons.append(f"the deliverer of alarms failed: {self._broken}")
        with self._database.reading() as connection:
            oldest = outbox.oldest_waiting(connection)
        if oldest is not None and self._clock.now() - from_text(oldest) > OVERDUE:
            reasons.append(f"an alarm waits to be sent since {oldest}")
        return reasons

    def deliver_due(self) -> None:
        """Take the steps that are due and send what is due, one channel after the other."""
        for name in self._due():
            self._serve(name)

    def _run(self) -> None:
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="alarms") as pool:
            while not self._stopping.is_set():
                self._alarms.changed.clear()
                try:
                    self._hand_out(pool)
                except Exception as error:  # noqa: BLE001 - the edge of the thread, which must live
                    self._broken = type(error).__name__
                    self._trouble(error)
                else:
                    self._broken = ""
                self._alarms.changed.wait(POLL_S)

    def _hand_out(self, pool: ThreadPoolExecutor) -> None:
        for name in self._due():
            with self._lock:
                if name in self._busy:
                    continue
                self._busy.add(name)
            pool.submit(self._serve_apart, name)

    def _serve_apart(self, name: str) -> None:
        try:
            self._serve(name)
        except Exception as error:  # noqa: BLE001 - the edge of a worker
            self._trouble(error)
        finally:
            with self._lock:
                self._busy.discard(name)

    def _due(self) -> list[str]:
        now = self._clock.now()
        escalation.advance(self._database, now)
        if self._forgot is None or now - self._forgot >= _FORGET_EVERY:
            escalation.forget(self._database, now)
            self._forgot = now
        with self._database.reading() as connection:
            return outbox.channels_due(connection, now)

    def _serve(self, name: str) -> None:
        for _ in range(PASS_MAX):
            now = self._clock.now()
            job = transactions.retried(
                self._database,
                lambda each, now=now: outbox.take(each, name, now),  # type: ignore[misc]
            )
            if job is None or self._stopping.is_set() or not self._attempt(job):
                return

    def _attempt(self, job: Job) -> bool:
        """Send a message to everybody who has not got it; tell whether all have it now."""
        reached = list(job.deliveries[0].reached)
        errors = self._send(job, reached)
        now, name = self._clock.now(), job.definition.name
        if not errors:
            transactions.retried(self._database, lambda each: outbox.settle_sent(each, job, now))
            self._failures.pop(name, None)
            self._alarms.clear(matching.CHANNEL_FAILED, name)
            return True
        text = str(errors[0])
        transactions.retried(
            self._database,
            lambda each: outbox.settle_failed(each, job, now, text, reached),
        )
        refused = any(isinstance(each, ChannelRefused) for each in errors)
        # In a row, over all its messages; after a restart the attempts of this one still count.
        self._failures[name] = max(self._failures.get(name, 0) + 1, job.attempts)
        if refused or self._failures[name] >= ALARM_AFTER:
            self._alarms.raise_alarm(matching.CHANNEL_FAILED, Severity.ERROR, name, text)
        return False

    def _send(self, job: Job, reached: list[str]) -> list[ChannelFailed]:
        """Send, adding whom it reached; return what went wrong.

        Someone whom the channel refuses keeps no other from being told; a channel that does not
        answer is not asked again for each of them.
        """
        errors: list[ChannelFailed] = []
        try:
            channel = self._connect(job.definition)
            message = job.letter(self._clock.now())
            for target in channel.targets():
                if target not in reached:
                    errors += self._send_one(channel, message, target, reached)
        except ChannelFailed as error:
            errors.append(error)
        except RuchuError as error:
            errors.append(ChannelRefused(f"({error})"))
        except Exception as error:  # noqa: BLE001 - the edge: nothing may stop the other channels
            self._trouble(error)
            # Its text may hold a secret; its kind does not.
            errors.append(ChannelRefused(f"({type(error).__name__})"))
        return errors

    @staticmethod
    def _send_one(
        channel: Channel, message: Message, target: str, reached: list[str]
    ) -> list[ChannelFailed]:
        try:
            channel.send(message, target)
        except ChannelRefused as error:
            return [error]
        reached.append(target)
        return []
