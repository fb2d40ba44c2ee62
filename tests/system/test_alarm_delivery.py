"""Alarms that really leave: to an SMTP server, a webhook receiver and a robot, over real sockets.

The SMTP server is aiosmtpd with STARTTLS and authentication, the receivers are HTTP servers of the
standard library, one of them with TLS by an authority of the test's own.
"""

import contextlib
import dataclasses
import datetime
import email
import email.policy
import hashlib
import hmac
import http.server
import ipaddress
import json
import logging
import ssl
import tempfile
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ruchu.clock import SYSTEM
from ruchu.control.alarms.channels import building, ready, signing
from ruchu.control.alarms.channels.http import Http, Request
from ruchu.control.alarms.channels.mail import Mailer
from ruchu.control.alarms.delivering import Deliverer
from ruchu.control.alarms.heartbeat import Heartbeat
from ruchu.control.alarms.messages import Item, Message
from ruchu.control.alarms.records import Alarm, ChannelDefinition, Reason, Rule
from ruchu.control.alarms.rules import RuleBook
from ruchu.control.alarms.service import AlarmService
from ruchu.control.reports import periods
from ruchu.control.reports.facts import SummaryFacts
from ruchu.control.reports.summaries import Summaries
from ruchu.errors import ChannelFailed, ChannelRefused, UsageError
from ruchu.model.tasks import Severity
from ruchu.testing import databases
from ruchu.testing.clocks import ManualClock

PASSWORD, TOKEN, KEY = "geheim-passwort", "robot-token-4711", "signing-key-0815"


# ----------------------------------------------------------------------------------- the other side


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Return the files of a certificate for this host, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def server_context(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


class Mailbox:
    """Takes mail, as an `aiosmtpd` handler; refuses whom it is told to."""

    def __init__(self):
        self.mails = []
        self.refused = set()
        self.busy = False
        self.arrived = threading.Event()

    async def handle_RCPT(  # noqa: N802 - a name of aiosmtpd
        self, server, session, envelope, address, options
    ):
        if address in self.refused:
            return "550 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server, session, envelope
    ):
        if self.busy:
            return "451 come again"
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append((envelope.rcpt_tos, parsed, session.ssl is not None))
        self.arrived.set()
        return "250 accepted"


class FreePort(Controller):
    """A controller on a port that the system chooses."""

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


def authenticate(server, session, envelope, method, data):
    assert method in {"LOGIN", "PLAIN"}
    right = (data.login, data.password) == (b"ruchu", PASSWORD.encode())
    return AuthResult(success=right, handled=right)


@contextlib.contextmanager
def smtp_server(mailbox, **options):
    controller = FreePort(mailbox, hostname="127.0.0.1", port=0, **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@pytest.fixture
def mailbox():
    return Mailbox()


@pytest.fixture
def smtp_port(mailbox, certificate):
    options = {
        "tls_context": server_context(certificate),
        "require_starttls": True,
        "auth_required": True,
        "authenticator": authenticate,
    }
    with smtp_server(mailbox, **options) as port:
        yield port


class Receiver:
    """An HTTP server that keeps what it gets and answers as it is told to."""

    def __init__(self, context=None):
        self.requests = []
        self.answers = []
        self.answer = (200, {"Content-Type": "application/json"}, b'{"errcode":0,"code":0}')
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                outer.requests.append((self.path, dict(self.headers), self.rfile.read(length)))
                status, headers, body = outer.answers.pop(0) if outer.answers else outer.answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    with Receiver() as running:
        yield running


# --------------------------------------------------------------------------------------- this side


@pytest.fixture(scope="session")
def alarm_postgresql():
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        with databases.postgresql_server(Path(directory) / "pg") as server:
            yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.system)])
def database(request, tmp_path):
    if request.param == "sqlite":
        with databases.sqlite(tmp_path / "ruchu.db") as database:
            yield database
        return
    with databases.postgresql(request.getfixturevalue("alarm_postgresql")) as database:
        yield database


class Server:
    """What a server has of alarms, with real channels; `restart` is what `kill -9` leaves."""

    def __init__(self, database):
        self.database = database
        self.clock = ManualClock()
        self.book = RuleBook(database)
        self.secrets = {}
        self.troubles = []
        self.restart()

    def restart(self):
        self.alarms = AlarmService(self.database, self.clock)
        self.deliverer = Deliverer(
            self.database, self.clock, self.alarms, self.connect, self.troubles.append
        )

    def connect(self, definition):
        return building.build(definition, self.secrets.get(definition.name, {}), self.clock)

    def channel(self, name, kind, settings, secrets, **options):
        self.secrets[name] = secrets
        self.book.save_channel(ChannelDefinition(name, kind, settings, **options))
        others = [each.name for each in self.book.channels()]
        self.book.save_rule(Rule("all", tuple(others)))

    def deliver(self, **later):
        self.clock.move(datetime.timedelta(**later))
        self.deliverer.deliver_due()

    def deliveries(self, code):
        alarms = [each for each in self.alarms.open_alarms() if each.code == code]
        return [each for alarm in alarms for each in self.alarms.deliveries(alarm.id)]


@pytest.fixture
def server(database):
    return Server(database)


def mail_channel(port, certificate, *recipients, **more):
    return {
        "host": "127.0.0.1",
        "port": port,
        "sender": "ruchu@example.com",
        "recipients": list(recipients) or ["ops@example.com"],
        "ca_file": str(certificate[0]),
        **more,
    }


MAIL_SECRETS = {"user": "ruchu", "password": PASSWORD}


# --------------------------------------------------------------------------------------------- mail


def test_an_alarm_arrives_by_mail_after_a_crash_in_the_language_of_each(
    server, mailbox, smtp_port, certificate
):
    chinese = {"address": "li@example.com", "language": "zh"}
    settings = mail_channel(smtp_port, certificate, "ops@example.com", chinese)
    server.channel("mail", "mail", settings, MAIL_SECRETS)
    server.alarms.raise_alarm(
        "tamper-changed", Severity.CRITICAL, "仓库-1\r\nBcc: x@y", "程序 <evil> 改了文件", {}
    )
    server.restart()
    server.deliver()
    by_reader = {recipients[0]: mail for recipients, mail, _ in mailbox.mails}
    assert all(encrypted for _, _, encrypted in mailbox.mails)
    assert by_reader["ops@example.com"]["Subject"] == (
        "[Ruchu] [Critical] Files of storage 仓库-1 Bcc: x@y were changed while nobody watched"
    )
    mail = by_reader["li@example.com"]
    assert mail["Subject"] == "[Ruchu] [严重] 存储 仓库-1 Bcc: x@y 的文件在无人防护时被改动"
    assert mail["Bcc"] is None
    assert mail["Auto-Submitted"] == "auto-generated"
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert "程序 <evil> 改了文件" in plain.get_content()
    assert "程序 &lt;evil&gt; 改了文件" in html.get_content()
    assert server.deliveries("tamper-changed")[0].state == "sent"


def test_a_mail_that_is_sent_again_has_the_same_id(server, mailbox, smtp_port, certificate):
    server.channel("mail", "mail", mail_channel(smtp_port, certificate), MAIL_SECRETS)
    server.alarms.raise_alarm("node-lost", Severity.ERROR, "n1", "", {})
    mailbox.busy = True
    server.deliver()
    assert "451" in server.deliveries("node-lost")[0].error
    mailbox.busy = False
    server.deliver(minutes=1)
    server.alarms.raise_alarm("node-lost", Severity.ERROR, "n2", "", {})
    server.deliver()
    keys = [mail["Message-ID"] for _, mail, _ in mailbox.mails]
    assert len(keys) == len(set(keys)) == 2


def test_one_address_that_is_refused_keeps_no_other_from_its_mail(
    server, mailbox, smtp_port, certificate
):
    mailbox.refused.add("gone@example.com")
    settings = mail_channel(smtp_port, certificate, "gone@example.com", "ops@example.com")
    server.channel("mail", "mail", settings, MAIL_SECRETS)
    server.alarms.raise_alarm("node-lost", Severity.ERROR, "n1", "", {})
    server.deliver()
    server.deliver(minutes=2)
    assert [recipients for recipients, _, _ in mailbox.mails] == [["ops@example.com"]]
    assert "550 no such user" in server.deliveries("node-lost")[0].error
    assert any(each.code == "channel-failed" for each in server.alarms.open_alarms())


@pytest.mark.parametrize(
    ("settings", "secrets", "error"),
    [
        ({}, {"user": "ruchu", "password": "wrong-wrong"}, "535"),
        ({"ca_file": None}, MAIL_SECRETS, "certificate"),
        ({"security": "none"}, {}, "530"),
    ],
)
def test_mail_that_cannot_leave_safely_does_not(
    mailbox, smtp_port, certificate, settings, secrets, error
):
    whole = mail_channel(smtp_port, certificate, **settings)
    channel = building.build(ChannelDefinition("m", "mail", whole), secrets, SYSTEM)
    with pytest.raises(ChannelRefused) as caught:
        channel.send(a_message(), "ops@example.com")
    assert error in str(caught.value)
    assert "wrong-wrong" not in str(caught.value)
    assert not mailbox.mails


def test_a_server_without_starttls_gets_no_password(mailbox, certificate):
    with smtp_server(mailbox, authenticator=authenticate, auth_require_tls=False) as port:
        settings = mail_channel(port, certificate)
        channel = building.build(ChannelDefinition("m", "mail", settings), MAIL_SECRETS, SYSTEM)
        with pytest.raises(ChannelRefused):
            channel.send(a_message(), "ops@example.com")
    assert not mailbox.mails


def test_a_password_without_tls_is_refused_before_anything_is_sent():
    settings = {"host": "h", "sender": "a@b.c", "recipients": ["a@b.c"], "security": "none"}
    with pytest.raises(UsageError):
        building.build(ChannelDefinition("m", "mail", settings), MAIL_SECRETS, SYSTEM)


def test_a_mail_server_that_is_away_is_no_refusal(certificate):
    settings = mail_channel(1, certificate)
    channel = building.build(ChannelDefinition("m", "mail", settings), MAIL_SECRETS, SYSTEM)
    with pytest.raises(ChannelFailed) as caught:
        channel.send(a_message(), "ops@example.com")
    assert not isinstance(caught.value, ChannelRefused)


# ------------------------------------------------------------------------------------------ webhook


def a_message(subject="vm-1"):
    at = "2026-11-26T10:00:00.000000Z"
    values = ["1" * 32, "backup-failed", subject, Severity.ERROR, "open", at, at, 1, "磁盘", {}]
    now = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
    return Message("m1", now, (Item(Alarm(*values, None, None, None), Reason.RAISED),))


def channel(kind, settings, secrets):
    return building.build(ChannelDefinition("c", kind, settings), secrets, ManualClock())


def test_a_webhook_is_signed_and_has_one_key_for_all_attempts(server, receiver):
    server.channel("hook", "webhook", {"url": f"{receiver.url}/in"}, {"key": KEY})
    server.alarms.raise_alarm("backup-failed", Severity.ERROR, "vm-1", "磁盘", {"n": 1})
    receiver.answers.append((503, {}, b"busy"))
    server.deliver()
    server.deliver(minutes=1)
    (path, first, _), (_, second, body) = receiver.requests
    assert path == "/in"
    assert first["Idempotency-Key"] == second["Idempotency-Key"]
    signed = f"{second['X-Ruchu-Timestamp']}.".encode() + body
    digest = hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest()
    assert second["X-Ruchu-Signature"] == f"v1={digest}"
    document = json.loads(body)
    assert document["title"]["zh"] == "[Ruchu] [错误] vm-1 备份失败"
    assert document["alarms"][0]["facts"] == {"n": 1}
    assert "磁盘" in body.decode()


def test_the_thread_of_the_server_sends_by_itself(server, receiver):
    server.channel("hook", "webhook", {"url": receiver.url}, {})
    arrived = threading.Event()
    keep = receiver.requests.append
    receiver.requests = type("Kept", (list,), {})()
    receiver.requests.append = lambda each: (keep(each), arrived.set())
    with server.deliverer:
        server.alarms.raise_alarm("backup-failed", Severity.ERROR, "vm-1", "", {})
        assert arrived.wait(60)


def test_tls_is_checked_and_a_private_authority_is_possible(certificate):
    with Receiver(server_context(certificate)) as receiver:
        settings = {"url": receiver.url}
        with pytest.raises(ChannelFailed) as caught:
            channel("webhook", settings, {}).send(a_message(), "")
        assert "certificate" in str(caught.value)
        channel("webhook", {**settings, "ca_file": str(certificate[0])}, {}).send(a_message(), "")
        assert len(receiver.requests) == 1


def test_redirects_are_not_followed(receiver):
    with Receiver() as other:
        receiver.answers.append((307, {"Location": other.url}, b""))
        with pytest.raises(ChannelRefused):
            channel("webhook", {"url": receiver.url}, {"key": KEY}).send(a_message(), "")
        assert not other.requests


@pytest.mark.parametrize(
    ("status", "kind"), [(400, ChannelRefused), (404, ChannelRefused), (429, ChannelFailed)]
)
def test_what_an_answer_means(receiver, status, kind):
    receiver.answers.append((status, {}, b"no " + KEY.encode()))
    with pytest.raises(ChannelFailed) as caught:
        channel("webhook", {"url": receiver.url}, {"key": KEY}).send(a_message(), "")
    assert type(caught.value) is kind
    assert KEY not in str(caught.value)


def test_an_answer_that_is_too_long(receiver):
    receiver.answers.append((200, {}, b"x" * 100_000))
    with pytest.raises(ChannelFailed):
        channel("webhook", {"url": receiver.url}, {}).send(a_message(), "")


def test_an_answer_that_drips_ends(receiver):
    class Hasty(ManualClock):
        def monotonic(self):
            self.move(datetime.timedelta(seconds=30))
            return super().monotonic()

    receiver.answers.append((200, {}, b"x" * 1000))
    with pytest.raises(ChannelFailed):
        Http(Hasty()).send(Request("GET", receiver.url))


def test_a_request_that_is_too_long(receiver):
    with pytest.raises(ChannelRefused):
        Http(SYSTEM).send(Request("POST", receiver.url, {}, b"x" * 300_000))


def test_nobody_there():
    with pytest.raises(ChannelFailed):
        channel("webhook", {"url": "http://127.0.0.1:1/"}, {}).send(a_message(), "")


# ------------------------------------------------------------------------------------------- robots


def test_dingtalk_is_signed_and_speaks_chinese(receiver):
    definition = ChannelDefinition("d", "dingtalk", {"host": receiver.url}, language="zh")
    secrets = {"token": TOKEN, "secret": "SEC123"}
    made = building.build(definition, secrets, ManualClock())
    made.send(dataclasses.replace(a_message(), language="zh"), "group")
    path, _, body = receiver.requests[0]
    query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
    assert urlsplit(path).path == "/robot/send"
    assert query["access_token"] == TOKEN
    assert query["sign"] == signing.dingtalk("SEC123", int(query["timestamp"]))
    document = json.loads(body)
    assert document["msgtype"] == "text"
    assert "vm-1 备份失败" in document["text"]["content"]


def test_wecom_keeps_to_its_limit(receiver):
    wecom = channel("wecom", {"host": receiver.url}, {"key": TOKEN})
    wecom.send(a_message("虚拟机" * 100), "group")
    path, _, body = receiver.requests[0]
    assert path == f"/cgi-bin/webhook/send?key={TOKEN}"
    assert len(json.loads(body)["text"]["content"].encode()) <= 2048


def test_feishu_is_signed(receiver):
    feishu = channel("feishu", {"host": receiver.url}, {"token": TOKEN, "secret": "s3cr"})
    feishu.send(a_message(), "group")
    path, _, body = receiver.requests[0]
    document = json.loads(body)
    assert path == f"/open-apis/bot/v2/hook/{TOKEN}"
    assert document["sign"] == signing.feishu("s3cr", int(document["timestamp"]))
    assert document["msg_type"] == "text"


ROBOTS = [
    (
        "dingtalk",
        {"token": TOKEN},
        b'{"errcode":310000,"errmsg":"sign not match robot-token-4711"}',
    ),
    ("wecom", {"key": TOKEN}, b'{"errcode":93000,"errmsg":"invalid webhook url robot-token-4711"}'),
    ("feishu", {"token": TOKEN}, b'{"code":19021,"msg":"sign match fail robot-token-4711"}'),
]


@pytest.mark.parametrize(("kind", "secrets", "answer"), ROBOTS)
def test_an_error_with_status_200_is_a_failure(receiver, kind, secrets, answer):
    robot = channel(kind, {"host": receiver.url}, secrets)
    for body in (answer, b"{}", b"[]", b"<html>", b'{"errcode":"0","code":false}'):
        receiver.answers.append((200, {}, body))
        with pytest.raises(ChannelRefused) as caught:
            robot.send(a_message(), "group")
        assert TOKEN not in str(caught.value)


def test_a_robot_that_is_busy_is_no_refusal(receiver):
    receiver.answers.append((200, {}, b'{"errcode":130101,"errmsg":"too fast"}'))
    with pytest.raises(ChannelFailed) as caught:
        channel("dingtalk", {"host": receiver.url}, {"token": TOKEN}).send(a_message(), "group")
    assert type(caught.value) is ChannelFailed


def test_a_robot_without_its_token(receiver):
    for kind in ("dingtalk", "wecom", "feishu"):
        with pytest.raises(UsageError):
            channel(kind, {"host": receiver.url}, {})


def test_no_secret_is_logged_or_written(server, receiver, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    receiver.answer = (200, {}, b'{"errcode":310000,"errmsg":"robot-token-4711"}')
    server.channel("ding", "dingtalk", {"host": receiver.url}, {"token": TOKEN})
    server.alarms.raise_alarm("node-lost", Severity.ERROR, "n1", "", {})
    server.deliver()
    (delivery,) = server.deliveries("node-lost")
    assert "310000" in delivery.error
    assert TOKEN not in delivery.error + caplog.text
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("ruchu.db*"))
    assert TOKEN.encode() not in stored


# ----------------------------------------------------------------------------------- to the phones


def test_aliyun_gets_what_its_documentation_asks_for(receiver):
    settings = ready.aliyun(["13800000000", "13900000000"], "公司$", "SMS_1", receiver.url)
    receiver.answer = (200, {}, b'{"Code":"OK","Message":"OK","BizId":"1"}')
    phones = channel("sms", settings, {"key_id": "id", "key": KEY})
    for phone in phones.targets():
        phones.send(a_message('数据库"主"' * 9), phone)
    path, _, _ = receiver.requests[1]
    query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
    assert query["PhoneNumbers"] == "13900000000"
    assert query["SignName"] == "公司$"
    parameters = json.loads(query["TemplateParam"])
    assert parameters["severity"] == "Error"
    assert len(parameters["name"]) == 35
    signature = query.pop("Signature")
    assert signature == signing.aliyun_rpc("POST", query, KEY)


def test_tencent_gets_what_its_documentation_asks_for(receiver):
    settings = ready.tencent(["+8613800000000"], "1400006666", "公司", "1110", receiver.url)
    receiver.answer = (200, {}, b'{"Response":{"SendStatusSet":[{"Code":"Ok"}],"RequestId":"1"}}')
    channel("sms", settings, {"key_id": "id", "key": KEY}).send(a_message('"库"'), "+8613800000000")
    _, headers, body = receiver.requests[0]
    document = json.loads(body)
    assert document["PhoneNumberSet"] == ["+8613800000000"]
    assert document["TemplateParamSet"][1] == '"库"'
    assert headers["X-TC-Action"] == "SendSms"
    signed = Request("POST", receiver.url, headers, body)
    moment = datetime.datetime.fromtimestamp(int(headers["X-TC-Timestamp"]), datetime.UTC)
    assert headers["Authorization"] == signing.tencent_tc3(signed, "sms", ("id", KEY), moment)


REFUSALS = [
    (ready.aliyun(["13800000000"], "s", "t", "http://h"), b'{"Code":"isv.BUSINESS_LIMIT_CONTROL"}'),
    (
        ready.tencent(["13800000000"], "a", "s", "t", "http://h"),
        b'{"Response":{"Error":{"Code":"AuthFailure"}}}',
    ),
    (
        ready.tencent(["13800000000"], "a", "s", "t", "http://h"),
        b'{"Response":{"SendStatusSet":[{"Code":"FailedOperation"}]}}',
    ),
]


@pytest.mark.parametrize(("settings", "answer"), REFUSALS)
def test_a_message_that_is_refused_with_status_200(receiver, settings, answer):
    receiver.answer = (200, {}, answer)
    whole = {**settings, "url": f"{receiver.url}/"}
    with pytest.raises(ChannelRefused):
        channel("sms", whole, {"key_id": "id", "key": KEY}).send(a_message(), "13800000000")


def test_a_gateway_of_one_s_own(receiver):
    phones = channel("sms", ready.generic(["+491701234567"], receiver.url), {"token": TOKEN})
    phones.send(a_message(), "+491701234567")
    _, headers, body = receiver.requests[0]
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert json.loads(body)["text"] == "[Ruchu] [Error] Backup of vm-1 failed"


def test_a_gateway_that_takes_a_form(receiver):
    settings = {
        "phones": ["+491701234567"],
        "url": f"{receiver.url}/send/${{code}}",
        "query": {"k": "${secrets.token}"},
        "form": {"to": "${phone}", "text": "${subject} & ${severity}"},
    }
    channel("sms", settings, {"token": TOKEN}).send(a_message("a=b&c"), "+491701234567")
    path, headers, body = receiver.requests[0]
    assert path == f"/send/backup-failed?k={TOKEN}"
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(body.decode()) == {"to": ["+491701234567"], "text": ["a=b&c & Error"]}


# --------------------------------------------------------------------------- heartbeat and reports


def test_the_heart_beats_only_while_the_server_is_well(server, receiver):
    reasons = []
    heart = Heartbeat(f"{receiver.url}/{TOKEN}", 60, lambda: reasons, server.alarms, Http(SYSTEM))
    assert heart.beat()
    reasons.append("the scheduler does not run")
    assert not heart.beat()
    assert heart.reasons == ["the scheduler does not run"]
    assert [path for path, _, _ in receiver.requests] == [f"/{TOKEN}"]
    reasons.clear()
    receiver.answer = (500, {}, b"")
    for _ in range(3):
        assert not heart.beat()
    (alarm,) = server.alarms.open_alarms()
    assert (alarm.code, alarm.subject) == ("heartbeat-failed", "127.0.0.1")
    assert TOKEN not in alarm.text
    receiver.answer = (200, {}, b"")
    assert heart.beat()
    assert not server.alarms.open_alarms()


def test_a_question_that_fails_is_not_well(server, receiver):
    heart = Heartbeat(receiver.url, 60, lambda: 1 // 0, server.alarms, Http(SYSTEM))
    assert not heart.beat()
    assert not receiver.requests


def test_the_thread_of_the_heart(server, receiver):
    beaten = threading.Event()
    with Heartbeat(receiver.url, 60, lambda: beaten.set() or [], server.alarms, Http(SYSTEM)):
        assert beaten.wait(60)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(("url", "every"), [("ftp://h/", 60), ("nonsense", 60), ("http://h/", 1)])
def test_a_heartbeat_that_means_nothing(server, url, every):
    with pytest.raises(UsageError):
        Heartbeat(url, every, list, server.alarms, Http(SYSTEM))


FACTS = SummaryFacts("srv", {"succeeded": 3}, [], [], [], 2, [], [])


def test_a_report_leaves_once_for_each_reader_after_any_crash(
    server, mailbox, smtp_port, certificate
):
    settings = building.mail_settings(mail_channel(smtp_port, certificate), MAIL_SECRETS)
    readers = {"ops@example.com": "en", "li@example.com": "zh"}
    period = periods.last(periods.ReportKind.DAILY, server.clock.now(), "Asia/Shanghai")

    def fresh():
        return Summaries(
            server.database, server.clock, server.alarms, lambda: Mailer(settings, server.clock)
        )

    assert fresh().missing(period, readers) == readers
    assert fresh().prepare(period, FACTS, readers) == 2
    assert fresh().prepare(period, FACTS, readers) == 0
    mailbox.busy = True
    assert fresh().deliver_due() == 0
    mailbox.busy = False
    assert fresh().deliver_due() == 0
    server.clock.move(datetime.timedelta(minutes=1))
    assert fresh().deliver_due() == 2
    server.clock.move(datetime.timedelta(days=3))
    assert fresh().deliver_due() == 0
    subjects = {recipients[0]: mail["Subject"] for recipients, mail, _ in mailbox.mails}
    assert subjects == {
        "ops@example.com": "[Ruchu] srv: Daily report 2026-11-22, all well",
        "li@example.com": "[Ruchu] srv: 日报 2026-11-22, 一切正常",
    }
    assert not fresh().missing(period, readers)


@pytest.mark.slow
def test_a_report_that_does_not_arrive_raises_an_alarm_and_ends(server, certificate):
    settings = building.mail_settings(mail_channel(1, certificate), MAIL_SECRETS)
    summaries = Summaries(
        server.database, server.clock, server.alarms, lambda: Mailer(settings, server.clock)
    )
    period = periods.last(periods.ReportKind.WEEKLY, server.clock.now(), "UTC")
    summaries.prepare(period, FACTS, {"ops@example.com": "en"})
    for _ in range(40):
        summaries.deliver_due()
        server.clock.move(datetime.timedelta(hours=1))
    (alarm,) = server.alarms.open_alarms()
    assert (alarm.code, alarm.subject, alarm.count) == ("summary", "ops@example.com", 28)
