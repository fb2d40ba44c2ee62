"""Alarms: opened once, counted, acknowledged, escalated, cleared; who is told is written with them.

Everything here runs on both databases, against real tables; the channel is a list that the test
reads. What really leaves a process is in `tests/system/test_alarm_delivery.py`.
"""

import datetime
import threading

import pytest
import sqlalchemy as sa

from ruchu.control.alarms import escalation, outbox, transactions
from ruchu.control.alarms.delivering import Deliverer
from ruchu.control.alarms.messages import title
from ruchu.control.alarms.records import (
    ChannelDefinition,
    DeliveryState,
    NewAlarm,
    QuietHours,
    Rule,
    Step,
)
from ruchu.control.alarms.rules import RuleBook
from ruchu.control.alarms.service import AlarmService
from ruchu.control.alarms.tables import ALARMS, DELIVERIES
from ruchu.control.events.stream import Events
from ruchu.errors import ChannelFailed, ChannelRefused, InvalidName, NotFound, UsageError
from ruchu.model.tasks import Severity


class Room:
    """A channel that keeps what it is told, or fails as it is told to."""

    def __init__(self, names=("group",)):
        self.names = list(names)
        self.got = []
        self.failures = {}

    def targets(self):
        return self.names

    def send(self, message, target):
        failure = self.failures.get(target)
        if failure:
            raise failure
        self.got.append((target, message))

    def titles(self):
        return [title(message, "en") for _, message in self.got]


class World:
    """A server's alarms, with rooms for channels. `restart` is what a crash leaves."""

    def __init__(self, database, clock):
        self.database, self.clock = database, clock
        self.rooms = {}
        self.troubles = []
        self.book = RuleBook(database)
        self.restart()

    def restart(self):
        self.alarms = AlarmService(self.database, self.clock, Events(self.database, self.clock))
        self.deliverer = Deliverer(
            self.database, self.clock, self.alarms, self.connect, self.troubles.append
        )

    def connect(self, definition):
        return self.rooms[definition.name]

    def channel(self, name, *targets, **options):
        self.rooms[name] = Room(targets or ("group",))
        definition = ChannelDefinition(name, "webhook", {"url": "https://localhost/"}, **options)
        self.book.save_channel(definition)
        return self.rooms[name]

    def rule(self, name="all", **options):
        self.book.save_rule(Rule(name, **options))

    def raise_it(self, subject="vm-1", severity=Severity.ERROR, code="backup-failed", **facts):
        self.alarms.raise_alarm(code, severity, subject, "disk gone", facts)

    def deliver(self):
        self.deliverer.deliver_due()

    def pass_time(self, **step):
        self.clock.move(datetime.timedelta(**step))
        self.deliver()

    def only(self):
        (alarm,) = self.alarms.open_alarms()
        return alarm

    def only_of(self, code):
        (alarm,) = [each for each in self.alarms.open_alarms() if each.code == code]
        return alarm.id

    def events_of(self, alarm):
        return [each.what for each in self.alarms.history(alarm)]


@pytest.fixture
def world(database, clock):
    return World(database, clock)


# ------------------------------------------------------------------------------------- the alarm


def test_the_same_alarm_counts_and_tells_once(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    for _ in range(5):
        world.raise_it()
        world.pass_time(seconds=10)
    alarm = world.only()
    assert (alarm.count, alarm.state) == (5, "open")
    assert alarm.first_at < alarm.last_at
    assert room.titles() == ["[Ruchu] [Error] Backup of vm-1 failed"]


def test_another_subject_or_code_is_another_alarm(world):
    world.raise_it("vm-1")
    world.raise_it("vm-2")
    world.raise_it("vm-1", code="missed-run")
    assert len(world.alarms.open_alarms()) == 3


def test_an_alarm_that_is_over_opens_anew(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    world.raise_it()
    world.deliver()
    world.alarms.clear("backup-failed", "vm-1")
    world.alarms.clear("backup-failed", "vm-1")
    world.deliver()
    world.raise_it()
    world.deliver()
    first, second = world.alarms.past()[0], world.only()
    assert first.id != second.id
    assert room.titles() == [
        "[Ruchu] [Error] Backup of vm-1 failed",
        "[Ruchu] [Error] Backup of vm-1 failed (over)",
        "[Ruchu] [Error] Backup of vm-1 failed",
    ]
    assert world.events_of(first.id) == ["opened", "sent", "cleared", "sent"]


def test_clearing_what_is_not_open_does_nothing(world):
    world.alarms.clear("backup-failed", "nobody")
    assert not world.alarms.past()


def test_what_becomes_worse_is_told_again_and_its_acknowledgement_falls(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    world.raise_it(severity=Severity.WARNING)
    world.deliver()
    world.alarms.acknowledge(world.only().id, "li", "known")
    assert world.only().acknowledged_by == "li"
    world.raise_it(severity=Severity.INFO)
    assert world.only().severity is Severity.WARNING
    world.raise_it(severity=Severity.CRITICAL)
    world.deliver()
    assert world.only().acknowledged_by is None
    assert room.titles()[-1] == "[Ruchu] [Critical] Backup of vm-1 failed (became worse)"
    assert world.events_of(world.only().id) == ["opened", "sent", "acknowledged", "worse", "sent"]


def test_what_no_database_takes_is_taken(world):
    facts = {
        "path": "a\udcff\x00b",
        "nested": [{"k\udc80": b"x", 1: float("nan")}, {2, 3}],
        "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "group": "g",
    }
    world.alarms.raise_alarm(
        "tamper-changed", Severity.CRITICAL, "s\x00\udcff" * 400, "t\x00" * 9000, facts
    )
    alarm = world.only()
    assert alarm.group == "g"
    assert "\x00" not in alarm.text + alarm.subject
    world.alarms.clear("tamper-changed", "s\x00\udcff" * 400)
    assert not world.alarms.open_alarms()
    world.alarms.raise_alarm(
        "tamper-changed", Severity.CRITICAL, "s", "t", {"x": "y" * 99_999, "group": "g"}
    )
    assert world.only().group == "g"


def test_a_code_that_nobody_knows_is_not_lost(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    world.raise_it("vm-9", code="from-the-future")
    world.deliver()
    assert room.titles() == ["[Ruchu] [Error] from-the-future: vm-9"]


def test_many_threads_open_one_alarm(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    services = [AlarmService(world.database, world.clock) for _ in range(6)]

    def shout(service):
        for _ in range(5):
            service.raise_alarm("node-lost", Severity.ERROR, "n1", "away")

    threads = [threading.Thread(target=shout, args=(each,)) for each in services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.deliver()
    assert world.only().count == 30
    assert len(room.got) == 1


def test_an_alarm_within_a_transaction_shares_its_fate(world):
    world.channel("ops")
    world.rule(channels=("ops",))
    new = NewAlarm("tamper-changed", Severity.CRITICAL, "s1", "x", {})
    with pytest.raises(ZeroDivisionError), world.database.writing() as connection:
        world.alarms.raise_within(connection, new)
        raise ZeroDivisionError
    with world.database.reading() as connection:
        for table in (ALARMS, DELIVERIES):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0


def test_an_unknown_alarm(world):
    with pytest.raises(NotFound):
        world.alarms.get("0" * 32)
    with pytest.raises(NotFound):
        world.alarms.acknowledge("0" * 32, "li")
    with pytest.raises(NotFound):
        world.alarms.test("nowhere", "li")


def test_a_test_message_reaches_its_channel_and_is_no_open_alarm(world):
    room = world.channel("ops")
    number = world.alarms.test("ops", "li")
    world.deliver()
    assert room.titles() == ["[Ruchu] [Info] This is a test of the alarm channel ops (test)"]
    assert not world.alarms.open_alarms()
    assert world.alarms.get(number).text == "(li)"


def test_events_tell_the_browser(world):
    events = Events(world.database, world.clock)
    world.raise_it()
    world.alarms.acknowledge(world.only().id, "li")
    world.alarms.clear("backup-failed", "vm-1")
    names = [each.name for each in events.after(0)]
    assert names == ["alarm.raised", "alarm.acknowledged", "alarm.cleared"]


def test_what_is_long_over_is_forgotten(world):
    world.channel("ops")
    world.rule(channels=("ops",))
    world.raise_it("old")
    world.raise_it("open")
    world.deliver()
    world.alarms.clear("backup-failed", "old")
    later = world.clock.now() + datetime.timedelta(days=escalation.KEPT_DAYS + 1)
    assert escalation.forget(world.database, later) == 1
    assert [each.subject for each in world.alarms.open_alarms()] == ["open"]
    assert not world.alarms.past()


# ------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("options", "heard"),
    [
        ({}, True),
        ({"codes": ("backup-*", "x")}, True),
        ({"codes": ("node-*",)}, False),
        ({"severity": Severity.ERROR}, True),
        ({"severity": Severity.CRITICAL}, False),
        ({"group": "finance"}, True),
        ({"group": "hr"}, False),
        ({"subject": "vm-*"}, True),
        ({"subject": "db-*"}, False),
        ({"enabled": False}, False),
    ],
)
def test_a_rule_takes_what_it_asks_for(world, options, heard):
    room = world.channel("ops")
    world.rule(channels=("ops",), **options)
    world.raise_it(group="finance")
    world.deliver()
    assert bool(room.got) is heard


def test_two_rules_to_one_channel_tell_once_and_the_quiet_one_does_not_delay(world):
    room = world.channel("ops")
    always = QuietHours("UTC", "00:00", "23:59")
    world.rule("a", channels=("ops",), quiet=always)
    world.rule("b", channels=("ops",))
    world.raise_it()
    world.deliver()
    assert len(room.got) == 1


def test_rules_come_back_as_they_were_saved(world):
    world.channel("a")
    world.channel("b")
    rule = Rule(
        "all-of-it",
        ("a",),
        ("backup-*", "tamper-changed"),
        Severity.ERROR,
        "g",
        "vm-*",
        QuietHours("Asia/Shanghai", "22:00", "07:00", (0, 4), critical_passes=False),
        (Step(5, ("b",)), Step(30, ("a", "b"), Severity.CRITICAL)),
        60,
        tells_cleared=False,
    )
    world.book.save_rule(rule)
    world.book.save_rule(rule)
    assert world.book.rules() == [rule]
    world.book.remove_rule("all-of-it")
    with pytest.raises(NotFound):
        world.book.remove_rule("all-of-it")


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Rule("r", ("nowhere",)), InvalidName),
        (Rule("a b", ("ops",)), InvalidName),
        (Rule("r", ()), UsageError),
        (Rule("r", ("ops",), codes=()), UsageError),
        (Rule("r", ("ops",), repeat_min=0), UsageError),
        (Rule("r", ("ops",), steps=(Step(9, ("ops",)), Step(5, ("ops",)))), UsageError),
        (Rule("r", ("ops",), steps=(Step(9, ("away",)),)), InvalidName),
        (Rule("r", ("ops",), quiet=QuietHours("Nowhere", "1:00", "2:00")), UsageError),
    ],
)
def test_rules_that_mean_nothing(world, rule, error):
    world.channel("ops")
    with pytest.raises(error):
        world.book.save_rule(rule)


@pytest.mark.parametrize(
    "definition",
    [
        ChannelDefinition("c", "pigeon", {}),
        ChannelDefinition("c", "webhook", {"url": "ftp://x/"}),
        ChannelDefinition("c", "webhook", {"url": "https://user:pass@x/"}),
        ChannelDefinition("c", "webhook", {"url": "https://x/", "password": "p"}),
        ChannelDefinition("c", "mail", {"host": "x"}),
        ChannelDefinition("c", "webhook", {"url": "https://x/"}, language="fr"),
        ChannelDefinition("c", "webhook", {"url": "https://x/"}, hourly_max=0),
        ChannelDefinition("c", "sms", {"phones": ["1"], "url": "https://x/", "body": "${nope}"}),
        ChannelDefinition("c/d", "webhook", {"url": "https://x/"}),
    ],
)
def test_channels_that_mean_nothing(world, definition):
    with pytest.raises(UsageError):
        world.book.save_channel(definition)


def test_a_channel_that_a_rule_names_stays(world):
    world.channel("ops")
    world.rule(channels=("ops",))
    with pytest.raises(UsageError):
        world.book.remove_channel("ops")
    world.book.remove_rule("all")
    world.book.remove_channel("ops")
    with pytest.raises(NotFound):
        world.book.remove_channel("ops")


# ------------------------------------------------------------------- quiet hours, repeats, steps


def night(**options):
    # The clock of the tests begins at 18:00 UTC on a Sunday; in Shanghai it is Monday, 02:00.
    return QuietHours("Asia/Shanghai", "22:00", "07:00", **options)


def test_quiet_hours_hold_and_end_in_one_digest(world):
    room = world.channel("ops")
    world.rule(channels=("ops",), quiet=night())
    for number in range(3):
        world.raise_it(f"vm-{number}")
    world.alarms.clear("backup-failed", "vm-1")
    world.pass_time(hours=4, minutes=59)
    assert not room.got
    world.pass_time(minutes=1)
    assert room.titles() == ["[Ruchu] [Error] 3 alarms"]
    items = room.got[0][1].items
    assert [(each.alarm.subject, each.alarm.state) for each in items] == [
        ("vm-0", "open"),
        ("vm-1", "cleared"),
        ("vm-2", "open"),
    ]
    world.raise_it("vm-9")
    world.deliver()
    assert len(room.got) == 2


def test_critical_alarms_pass_quiet_hours_unless_they_must_not(world):
    loud, still = world.channel("loud"), world.channel("still")
    world.rule("a", channels=("loud",), quiet=night())
    world.rule("b", channels=("still",), quiet=night(critical_passes=False))
    world.raise_it(severity=Severity.CRITICAL)
    world.deliver()
    assert len(loud.got) == 1
    assert not still.got
    world.pass_time(hours=5)
    assert len(still.got) == 1


def test_a_restart_within_quiet_hours_loses_nothing(world):
    room = world.channel("ops")
    world.rule(channels=("ops",), quiet=night())
    world.raise_it()
    world.deliver()
    world.restart()
    world.pass_time(hours=5)
    assert room.titles() == ["[Ruchu] [Error] Backup of vm-1 failed"]


def test_an_alarm_is_repeated_until_somebody_says_that_they_care(world):
    room = world.channel("ops")
    world.rule(channels=("ops",), repeat_min=60)
    world.raise_it()
    world.deliver()
    world.pass_time(minutes=59)
    assert len(room.got) == 1
    world.pass_time(minutes=1)
    assert room.titles()[-1].endswith("(still open)")
    world.pass_time(hours=30)  # the server was away: one repeat, not thirty
    assert len(room.got) == 3
    world.alarms.acknowledge(world.only().id, "li")
    world.pass_time(hours=2)
    assert len(room.got) == 3


def test_escalation_goes_step_by_step(world):
    ops, boss, board = (world.channel(name) for name in ("ops", "boss", "board"))
    steps = (Step(15, ("boss",)), Step(60, ("board",), Severity.CRITICAL))
    world.rule(channels=("ops",), severity=Severity.ERROR, steps=steps)
    world.rule("critical", channels=("boss",), severity=Severity.CRITICAL)
    world.raise_it()
    world.deliver()
    world.pass_time(minutes=14)
    assert (len(ops.got), len(boss.got)) == (1, 0)
    world.pass_time(minutes=1)
    assert boss.titles()[-1].endswith("(escalated: nobody has acknowledged it)")
    world.pass_time(minutes=45)
    assert board.titles()[-1].startswith("[Ruchu] [Critical]")
    assert world.only().severity is Severity.CRITICAL
    # The other rule wants it as well, now that it is critical.
    assert boss.titles()[-1].endswith("(became worse)")
    world.pass_time(hours=9)
    assert (len(ops.got), len(boss.got), len(board.got)) == (1, 2, 1)
    world.alarms.clear("backup-failed", "vm-1")
    world.deliver()
    assert all(room.titles()[-1].endswith("(over)") for room in (ops, boss, board))


def test_who_acknowledges_in_time_is_not_escalated(world):
    world.channel("ops")
    boss = world.channel("boss")
    world.rule(channels=("ops",), steps=(Step(15, ("boss",)),))
    world.raise_it()
    world.pass_time(minutes=10)
    world.alarms.acknowledge(world.only().id, "li")
    world.pass_time(minutes=10)
    assert not boss.got


def test_escalation_waits_for_those_who_were_let_sleep(world):
    world.channel("ops")
    boss = world.channel("boss")
    world.rule(channels=("ops",), quiet=night(), steps=(Step(15, ("boss",)),))
    world.raise_it()
    world.pass_time(hours=5)
    assert not boss.got
    world.pass_time(minutes=15)
    assert len(boss.got) == 1


# --------------------------------------------------------------------------- floods and failures


def test_a_flood_becomes_one_digest(world):
    room = world.channel("ops", hourly_max=3)
    world.rule(channels=("ops",))
    for number in range(20):
        world.raise_it(f"vm-{number}")
    world.deliver()
    assert len(room.got) == 3
    world.pass_time(minutes=59)
    assert len(room.got) == 3
    world.pass_time(minutes=1)
    assert len(room.got) == 4
    assert len(room.got[-1][1].items) == 17


def test_a_flood_leaves_room_for_critical_alarms(world):
    room = world.channel("ops", hourly_max=2)
    world.rule(channels=("ops",))
    for number in range(9):
        world.raise_it(f"vm-{number}")
    world.deliver()
    world.raise_it("s1", Severity.CRITICAL, "tamper-changed")
    world.deliver()
    assert room.titles()[-1].startswith("[Ruchu] [Critical]")
    assert len(room.got) == 3


def test_a_channel_that_is_down_is_tried_again_and_others_hear_of_it(world):
    ops, other = world.channel("ops"), world.channel("other")
    world.rule(channels=("ops",))
    ops.failures["group"] = ChannelFailed("(no answer)")
    world.raise_it("vm-1")
    world.raise_it("vm-2")
    for _ in range(2):
        world.deliver()
        world.pass_time(minutes=10)
    assert not ops.got
    (alarm,) = [each for each in world.alarms.open_alarms() if each.code == "channel-failed"]
    assert "(no answer)" in alarm.text
    world.deliver()
    assert other.titles() == ["[Ruchu] [Error] The alarm channel ops does not deliver"]
    del ops.failures["group"]
    world.pass_time(hours=2)
    assert sorted(ops.titles()) == [
        "[Ruchu] [Error] Backup of vm-1 failed",
        "[Ruchu] [Error] Backup of vm-2 failed",
    ]
    assert all(each.code != "channel-failed" for each in world.alarms.open_alarms())


def test_a_refusal_is_told_at_once(world):
    ops, other = world.channel("ops"), world.channel("other")
    world.rule(channels=("ops", "other"))
    ops.failures["group"] = ChannelRefused("(errcode 310000)")
    world.raise_it()
    world.deliver()
    world.deliver()
    assert "[Ruchu] [Error] The alarm channel ops does not deliver" in other.titles()
    # The failure of a channel is never told through the channel itself.
    with world.database.reading() as connection:
        query = (
            sa.select(DELIVERIES.c.channel).join(ALARMS).where(ALARMS.c.code == "channel-failed")
        )
        assert set(connection.execute(query).scalars()) == {"other"}


@pytest.mark.slow
def test_two_channels_that_are_down_do_not_raise_alarms_for_ever(world):
    rooms = [world.channel("a"), world.channel("b")]
    world.rule(channels=("a", "b"))
    for room in rooms:
        room.failures["group"] = ChannelRefused("(gone)")
    world.raise_it()
    for _ in range(12):
        world.pass_time(minutes=30)
    assert len(world.alarms.open_alarms()) == 3
    with world.database.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(DELIVERIES)).scalar() == 4


def test_one_recipient_who_is_refused_keeps_no_other_from_hearing(world):
    room = world.channel("ops", "a", "b", "c")
    world.channel("other")
    world.rule(channels=("ops",))
    room.failures["b"] = ChannelRefused("(550 no such user)")
    world.raise_it()
    world.deliver()
    assert [target for target, _ in room.got] == ["a", "c"]
    del room.failures["b"]
    world.pass_time(minutes=1)
    assert [target for target, _ in room.got] == ["a", "c", "b"]
    assert len({message.id for _, message in room.got}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_attempts_grow_apart_and_end(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    room.failures["group"] = ChannelFailed("(no answer)")
    world.raise_it()
    alarm = world.only().id
    steps = []
    for _ in range(outbox.ATTEMPTS_MAX):
        world.deliver()
        (delivery,) = world.alarms.deliveries(alarm)
        wait = datetime.datetime.fromisoformat(delivery.due) - world.clock.now()
        steps.append(wait.total_seconds())
        world.clock.move(max(wait, datetime.timedelta(0)))
    assert steps[:4] == [30, 60, 120, 240]
    assert max(steps) == outbox.BACKOFF_MAX_S
    (delivery,) = world.alarms.deliveries(alarm)
    assert (delivery.state, delivery.attempts) == (DeliveryState.FAILED, outbox.ATTEMPTS_MAX)
    assert world.events_of(alarm) == ["opened", "not-sent", "given-up"]
    world.pass_time(hours=5)
    assert not room.got


def test_a_crash_between_writing_and_sending(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    world.raise_it()
    world.restart()
    world.deliver()
    assert len(room.got) == 1


def test_a_crash_while_sending_sends_again_with_the_same_id(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    world.raise_it()
    now = world.clock.now()
    # Claimed, sent, and dead before it was noted.
    job = transactions.retried(world.database, lambda each: outbox.take(each, "ops", now))
    room.send(job.letter(now), "group")
    world.restart()
    world.deliver()
    assert len(room.got) == 1
    world.pass_time(minutes=1)
    assert len(room.got) == 2
    assert len({message.id for _, message in room.got}) == 1


def test_a_digest_that_fails_is_the_same_digest_later(world):
    room = world.channel("ops")
    world.rule(channels=("ops",), quiet=night())
    world.raise_it("vm-1")
    world.raise_it("vm-2")
    room.failures["group"] = ChannelFailed("(no answer)")
    world.pass_time(hours=5)
    del room.failures["group"]
    world.restart()
    world.pass_time(minutes=1)
    assert room.titles() == ["[Ruchu] [Error] 2 alarms"]


def test_what_a_removed_or_switched_off_channel_owes_is_dropped_and_said_so(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    world.raise_it()
    world.channel("ops", enabled=False)
    world.deliver()
    assert not room.got
    assert world.events_of(world.only().id) == ["opened", "dropped"]


def test_an_error_that_nobody_expected_stops_no_other_channel(world):
    broken, whole = world.channel("a"), world.channel("b")
    world.rule(channels=("a", "b"))
    broken.failures["group"] = ValueError("with a secret in it")
    world.raise_it()
    world.deliver()
    assert "[Ruchu] [Error] Backup of vm-1 failed" in whole.titles()
    assert [type(each) for each in world.troubles] == [ValueError]
    rows = [each for each in world.alarms.deliveries(world.only_of("backup-failed")) if each.error]
    assert [each.error for each in rows] == ["The message was refused. (ValueError)"]


def test_the_thread_delivers_and_says_whether_it_is_well(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    arrived = threading.Event()
    send = room.send
    room.send = lambda message, target: (send(message, target), arrived.set())
    with world.deliverer as deliverer:
        world.raise_it()
        assert arrived.wait(60)
        assert deliverer.healthy() == []
    assert deliverer.healthy() == ["the deliverer of alarms does not run"]


def test_an_alarm_that_waits_too_long_is_a_reason_not_to_be_well(world):
    room = world.channel("ops")
    world.rule(channels=("ops",))
    room.failures["group"] = ChannelFailed("(no answer)")
    world.raise_it()
    world.deliver()
    world.clock.move(datetime.timedelta(hours=3))
    assert any("waits to be sent" in each for each in world.deliverer.healthy())
