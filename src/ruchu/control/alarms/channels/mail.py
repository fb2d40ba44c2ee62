"""Mail by SMTP."""

import datetime
import email.errors
import email.message
import email.policy
import email.utils
import hashlib
import re
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ruchu.clock import Clock
from ruchu.control.alarms import messages
from ruchu.control.alarms.channels import http
from ruchu.control.alarms.messages import Message
from ruchu.errors import ChannelFailed, ChannelRefused, UsageError

# Each answer of the server; some look up names and check for spam before they answer.
STEP_LIMIT_S = 30.0
RECIPIENTS_MAX = 100
SUBJECT_MAX = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[^\s@<>,;:\"()\\]{1,255}")
SECURITIES = ("starttls", "tls", "none")


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How mail leaves.

    Attributes:
        host: of the server.
        port: usually 587 with STARTTLS, 465 with TLS.
        sender: address.
        security: `starttls` (required, never given up), `tls`, or `none`.
        user: or empty; a password is never sent without TLS.
        password: of the user; not shown.
        ca_file: further authorities to trust, or None.
    """

    host: str
    port: int
    sender: str
    security: str = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail to one person.

    Attributes:
        to: address.
        subject: one line, any language.
        text: plain.
        html: the same for the eye.
        key: the same for every attempt; becomes the `Message-ID`.
    """

    to: str
    subject: str
    text: str
    html: str
    key: str


class Mailer:
    """Hands letters to a mail server, each over a connection of its own."""

    def __init__(self, settings: MailSettings, clock: Clock) -> None:
        """Look at the settings; nothing is connected yet.

        Raises:
            UsageError: they cannot work.
        """
        if settings.security not in SECURITIES:
            raise UsageError(f"(security {settings.security!r})", hint=", ".join(SECURITIES))
        if settings.security == "none" and settings.user:
            raise UsageError("(a password without TLS)", hint="Use starttls or tls.")
        check_address(settings.sender)
        self._settings = settings
        self._clock = clock
        self._trust = http.trust(settings.ca_file)

    def send(self, letter: Letter) -> None:
        """Hand a letter over.

        Raises:
            ChannelRefused: the server does not want it, or us.
            ChannelFailed: the server could not be talked to, or asks to come again.
        """
        whole = self._composed(letter)
        try:
            with self._connected() as server:
                server.send_message(whole, self._settings.sender, [letter.to])
        except smtplib.SMTPRecipientsRefused as error:
            raise _judged(*next(iter(error.recipients.values()))) from None
        except smtplib.SMTPResponseException as error:
            raise _judged(error.smtp_code, error.smtp_error) from None
        except smtplib.SMTPNotSupportedError as error:
            raise ChannelRefused(f"({error})") from None
        except ssl.SSLCertVerificationError as error:
            raise ChannelRefused(f"({error.verify_message})") from None
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelFailed(f"({type(error).__name__}: {error})") from None

    def _connected(self) -> smtplib.SMTP:
        settings = self._settings
        place = (settings.host, settings.port)
        if settings.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                *place, timeout=STEP_LIMIT_S, context=self._trust
            )
        else:
            server = smtplib.SMTP(*place, timeout=STEP_LIMIT_S)
        try:
            if settings.security == "starttls":
                server.starttls(context=self._trust)
            if settings.user:
                server.login(settings.user, settings.password)
        except BaseException:
            server.close()
            raise
        return server

    def _composed(self, letter: Letter) -> email.message.EmailMessage:
        whole = email.message.EmailMessage(policy=email.policy.SMTP)
        domain = self._settings.sender.rpartition("@")[2]
        key = hashlib.sha256(f"{letter.key} {letter.to}".encode()).hexdigest()[:32]
        try:
            whole["From"] = self._settings.sender
            whole["To"] = letter.to
            whole["Subject"] = _CONTROL.sub(" ", letter.subject)[:SUBJECT_MAX]
        except (ValueError, email.errors.MessageError) as error:
            raise ChannelRefused(f"(a header: {error})") from None
        whole["Date"] = email.utils.format_datetime(self._clock.now().astimezone(datetime.UTC))
        whole["Message-ID"] = f"<{key}@{domain}>"
        # So that no vacation notice answers.
        whole["Auto-Submitted"] = "auto-generated"
        whole.set_content(letter.text, cte="base64")
        whole.add_alternative(letter.html, subtype="html", cte="base64")
        return whole


class MailChannel:
    """A `Channel` by mail; every recipient gets a mail of their own, in their language."""

    def __init__(self, mailer: Mailer, recipients: Mapping[str, str]) -> None:
        """Take recipients: addresses, each with a language or an empty text.

        Raises:
            UsageError: an address is none, or there are too many.
        """
        if not 1 <= len(recipients) <= RECIPIENTS_MAX:
            raise UsageError(f"({len(recipients)} recipients)", hint=f"1 to {RECIPIENTS_MAX}.")
        for address in recipients:
            check_address(address)
        self._mailer = mailer
        self._recipients = recipients

    def targets(self) -> Sequence[str]:
        """Return the addresses."""
        return list(self._recipients)

    def send(self, message: Message, target: str) -> None:
        """Send a mail to one of them.

        Raises:
            ChannelRefused: the server does not want it, or us.
            ChannelFailed: the server could not be talked to, or asks to come again.
        """
        language = self._recipients.get(target) or message.language
        letter = Letter(
            target,
            messages.title(message, language),
            messages.text(message, language),
            messages.html(message, language),
            message.id,
        )
        self._mailer.send(letter)


def check_address(address: str) -> None:
    """Look whether a text is an address.

    Raises:
        UsageError: it is not.
    """
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"(the address {address!r})")


def _judged(code: int, answer: bytes | str) -> ChannelFailed:
    raw = answer if isinstance(answer, bytes) else answer.encode()
    detail = f"({code} {http.excerpt(raw)})"
    return ChannelRefused(detail) if 500 <= code < 600 else ChannelFailed(detail)
