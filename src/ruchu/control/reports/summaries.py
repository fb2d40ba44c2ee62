"""Reports on their way: written once for each period and recipient, then sent until they arrive.

The text is kept with the row, so that a mail that is sent again after a crash is the same mail, with
the same `Message-ID`. A crash between the mail server's "accepted" and our note of it sends it
twice; nothing can exclude that, and the mail server or program of the reader sees that it is one.
"""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.alarms import codes, outbox, records, transactions
from ruchu.control.alarms.channels.mail import Letter, Mailer
from ruchu.control.alarms.contract import Alarms
from ruchu.control.database.database import Database
from ruchu.control.reports import wording
from ruchu.control.reports.facts import SummaryFacts
from ruchu.control.reports.periods import Period
from ruchu.control.reports.tables import SUMMARY_MAILS
from ruchu.errors import ChannelFailed

CODE = "summary"
# With the pauses of the alarms this is a day; then the next report says more than this one.
ATTEMPTS_MAX = 30
ALARM_AFTER = 3
# Long enough to see in a yearly review that reports were sent.
KEPT_DAYS = 400
RECIPIENTS_MAX = 200

Recipients = Mapping[str, str]
"""Addresses with their language."""


class Summaries:
    """The reports of a server. Safe in several threads; one of them sends."""

    def __init__(
        self, database: Database, clock: Clock, alarms: Alarms, mailer: Callable[[], Mailer]
    ) -> None:
        """Take what makes a mailer: settings and secrets may change between reports."""
        self._database = database
        self._clock = clock
        self._alarms = alarms
        self._mailer = mailer

    def missing(self, period: Period, recipients: Recipients) -> Recipients:
        """Return the recipients for whom no report of a period was written yet."""
        query = sa.select(SUMMARY_MAILS.c.recipient).where(*_same(period))
        with self._database.reading() as connection:
            known = set(connection.execute(query).scalars())
        return {each: language for each, language in recipients.items() if each not in known}

    def prepare(self, period: Period, facts: SummaryFacts, recipients: Recipients) -> int:
        """Write the reports that do not exist yet; return how many."""
        now = self._clock.now()
        languages = {
            language: wording.report(facts, period, language) for language in codes.LANGUAGES
        }

        def write(connection: sa.Connection) -> int:
            known = set(
                connection.execute(
                    sa.select(SUMMARY_MAILS.c.recipient).where(*_same(period))
                ).scalars()
            )
            fresh = [each for each in list(recipients)[:RECIPIENTS_MAX] if each not in known]
            for each in fresh:
                report = languages.get(recipients[each], languages["en"])
                row = _row(period, each, report, to_text(now))
                connection.execute(SUMMARY_MAILS.insert().values(row))
            before = to_text(now - datetime.timedelta(days=KEPT_DAYS))
            connection.execute(SUMMARY_MAILS.delete().where(SUMMARY_MAILS.c.created_at < before))
            return len(fresh)

        return transactions.retried(self._database, write)

    def deliver_due(self) -> int:
        """Send the reports that are due; return how many left."""
        sent = 0
        for row in self._due():
            sent += self._deliver(row)
        return sent

    def _due(self) -> list[sa.Row[Any]]:
        due = (
            SUMMARY_MAILS.c.state == records.DeliveryState.WAITING,
            SUMMARY_MAILS.c.due <= to_text(self._clock.now()),
        )
        query = sa.select(SUMMARY_MAILS).where(*due).order_by(SUMMARY_MAILS.c.created_at)
        with self._database.reading() as connection:
            return list(connection.execute(query.limit(RECIPIENTS_MAX)).all())

    def _deliver(self, row: sa.Row[Any]) -> bool:
        attempts = row.attempts + 1
        due = self._clock.now() + outbox.backoff(attempts)
        # Claimed before it is sent, so that a mail that ends this process does not do so at once.
        self._change(row, {"attempts": attempts, "due": to_text(due)})
        key = f"{row.kind} {row.period}"
        letter = Letter(row.recipient, row.subject, row.text, row.html, key)
        try:
            self._mailer().send(letter)
        except ChannelFailed as error:
            self._failed(row, attempts, str(error))
            return False
        sent = {"state": records.DeliveryState.SENT, "error": None}
        self._change(row, {**sent, "sent_at": to_text(self._clock.now())})
        self._alarms.clear(CODE, row.recipient)
        return True

    def _failed(self, row: sa.Row[Any], attempts: int, error: str) -> None:
        values: dict[str, Any] = {"error": records.clean_text(error, outbox.ERROR_MAX)}
        if attempts >= ATTEMPTS_MAX:
            values["state"] = records.DeliveryState.FAILED
        self._change(row, values)
        if attempts >= ALARM_AFTER:
            self._alarms.raise_alarm(CODE, codes.severity_of(CODE), row.recipient, error)

    def _change(self, row: sa.Row[Any], values: Mapping[str, Any]) -> None:
        same = (
            SUMMARY_MAILS.c.kind == row.kind,
            SUMMARY_MAILS.c.period == row.period,
            SUMMARY_MAILS.c.recipient == row.recipient,
        )
        change = SUMMARY_MAILS.update().where(*same).values(**values)
        transactions.retried(self._database, lambda each: each.execute(change))


def _same(period: Period) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return (SUMMARY_MAILS.c.kind == period.kind, SUMMARY_MAILS.c.period == period.name)


def _row(period: Period, recipient: str, report: wording.Report, at: str) -> dict[str, Any]:
    return {
        "kind": period.kind,
        "period": period.name,
        "recipient": recipient,
        "subject": report.subject,
        "text": report.text,
        "html": report.html,
        "state": records.DeliveryState.WAITING,
        "created_at": at,
        "due": at,
        "attempts": 0,
    }
