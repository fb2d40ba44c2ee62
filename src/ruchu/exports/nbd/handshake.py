"""The server's side of the NBD handshake as a generator, without I/O.

It yields the same steps as the client's (`blocks.nbd_protocol`): Send, Receive, StartTls. Whoever
drives it owns the socket. The protocol is doc/proto.md of github.com/NetworkBlockDevice/nbd
("Fixed newstyle negotiation").
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.blocks.nbd_protocol import BASE_ALLOCATION, Receive, Send, StartTls, Step
from ruchu.errors import NbdError
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.units import MIB

ALLOCATION_ID = 1
# A client needs about five options; a list of all exports asks for information on each of them.
OPTIONS_MAX = 4096
# What is too long is read and refused; what is longer than this is no option.
OPTION_SKIP_MAX = 1 * MIB
_SKIP_PIECE = replies.OPTION_MAX

Steps = Generator[Step, bytes, None]


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the two sides agreed on.

    Attributes:
        export: what is served.
        structured: replies are structured.
        allocation: the client may ask for the block status (`base:allocation`).
    """

    export: NbdExport
    structured: bool
    allocation: bool


class Refused(Exception):
    """An option is answered with an error, and the handshake goes on."""

    def __init__(self, kind: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class _Ended(Exception):
    """The client said goodbye."""


def negotiate(
    exports: Mapping[str, NbdExport], *, tls: bool
) -> Generator[Step, bytes, Agreed | None]:
    """Do the handshake; return what was agreed on, or None when the client said goodbye.

    Args:
        exports: what there is, by name. If it is one, it answers to the empty name as well.
        tls: the client must upgrade to TLS before anything else.

    Raises:
        NbdError: the client broke the protocol, or there is no way to refuse what it asked.
    """
    session = _Session(exports, tls_required=tls)
    try:
        yield from session.run()
    except _Ended:
        return None
    return session.agreed


class _Session:
    """State of one handshake."""

    def __init__(self, exports: Mapping[str, NbdExport], *, tls_required: bool) -> None:
        self._exports = exports
        self._tls_required = tls_required
        self._secure = False
        self._structured = False
        self._zeroes = True
        # The export that contexts were selected for; selecting is of no effect for another.
        self._contexts_of: NbdExport | None = None
        self.agreed: Agreed | None = None
        self._handlers: dict[int, Callable[[int, bytes], Steps]] = {
            replies.OPT_ABORT: self._abort,
            replies.OPT_LIST: self._list,
            messages.OPT_STARTTLS: self._start_tls,
            replies.OPT_INFO: self._info,
            messages.OPT_GO: self._info,
            messages.OPT_STRUCTURED_REPLY: self._structured_reply,
            messages.OPT_LIST_META_CONTEXT: self._list_contexts,
            messages.OPT_SET_META_CONTEXT: self._set_contexts,
        }

    def run(self) -> Steps:
        yield Send((replies.greeting(),))
        flags = replies.parse_client_flags((yield Receive(replies.CLIENT_FLAGS_SIZE)))
        self._zeroes = not flags & messages.HANDSHAKE_NO_ZEROES
        for _ in range(OPTIONS_MAX):
            yield from self._option()
            if self.agreed is not None:
                return
        raise NbdError(f"a client sent {OPTIONS_MAX} options and chose no export")

    def _option(self) -> Steps:
        number, length = replies.parse_option((yield Receive(replies.OPTION_SIZE)))
        if number == replies.OPT_EXPORT_NAME:
            yield from self._export_name(length)
            return
        try:
            if length > replies.OPTION_MAX:
                yield from _skip(length)
            else:
                data = (yield Receive(length)) if length else b""
                yield from self._handle(number, data)
        except Refused as refusal:
            yield Send((replies.option_reply(number, refusal.kind, refusal.text.encode()),))

    def _handle(self, number: int, data: bytes) -> Steps:
        handler = self._handlers.get(number)
        open_to_all = number in {messages.OPT_STARTTLS, replies.OPT_ABORT}
        if self._tls_required and not self._secure and not open_to_all:
            raise Refused(replies.REP_ERR_TLS_REQUIRED, "this server speaks TLS only")
        if handler is None:
            raise Refused(replies.REP_ERR_UNSUPPORTED, f"option {number}")
        try:
            yield from handler(number, data)
        except NbdError as error:
            # Only parsing raises it: the message was read whole, so what follows is understood.
            raise Refused(replies.REP_ERR_INVALID, error.detail) from error

    def _export_name(self, length: int) -> Steps:
        """Serve the option of old clients, which knows no refusal."""
        if length > messages.TEXT_MAX:
            raise NbdError(f"an export name of {length} bytes")
        name = replies.parse_name((yield Receive(length)) if length else b"")
        if self._tls_required and not self._secure:
            raise NbdError("a client without TLS asked for an export")
        export = self._find(name)
        if export is None:
            raise NbdError(f"a client asked for an unknown export {name[:80]!r}")
        answer = replies.export_answer(export.size, export.flags(), zeroes=self._zeroes)
        yield Send((answer,))
        self.agreed = self._agree(export)

    def _abort(self, number: int, data: bytes) -> Steps:
        del data
        yield Send((replies.option_reply(number, messages.REP_ACK),))
        raise _Ended

    def _list(self, number: int, data: bytes) -> Steps:
        if data:
            raise Refused(replies.REP_ERR_INVALID, "a list takes no data")
        for name in self._exports:
            listed = replies.server_data(name)
            yield Send((replies.option_reply(number, replies.REP_SERVER, listed),))
        yield Send((replies.option_reply(number, messages.REP_ACK),))

    def _start_tls(self, number: int, data: bytes) -> Steps:
        if data or self._secure:
            raise Refused(replies.REP_ERR_INVALID, "TLS is on already, or the option has data")
        if not self._tls_required:
            raise Refused(replies.REP_ERR_POLICY, "this server has no certificate")
        yield Send((replies.option_reply(number, messages.REP_ACK),))
        yield StartTls()
        # What was agreed on in the clear may have been agreed on with somebody in between.
        self._secure = True
        self._structured = False
        self._contexts_of = None

    def _structured_reply(self, number: int, data: bytes) -> Steps:
        if data:
            raise Refused(replies.REP_ERR_INVALID, "structured replies take no data")
        self._structured = True
        yield Send((replies.option_reply(number, messages.REP_ACK),))

    def _info(self, number: int, data: bytes) -> Steps:
        asked = replies.parse_info_request(data)
        export = self._known(asked.name)
        answers = [
            replies.info_export(export.size, export.flags(structured=self._structured)),
            replies.info_block_size(),
        ]
        if replies.INFO_NAME in asked.wanted:
            answers.append(replies.info_text(replies.INFO_NAME, export.name))
        if replies.INFO_DESCRIPTION in asked.wanted and export.description:
            answers.append(replies.info_text(replies.INFO_DESCRIPTION, export.description))
        for answer in answers:
            yield Send((replies.option_reply(number, messages.REP_INFO, answer),))
        yield Send((replies.option_reply(number, messages.REP_ACK),))
        if number == messages.OPT_GO:
            self.agreed = self._agree(export)

    def _list_contexts(self, number: int, data: bytes) -> Steps:
        asked = self._context_request(data)
        namespace = BASE_ALLOCATION.partition(":")[0] + ":"
        wanted = not asked.queries or {BASE_ALLOCATION, namespace} & set(asked.queries)
        yield from self._answer_contexts(number, 0, listed=bool(wanted))

    def _set_contexts(self, number: int, data: bytes) -> Steps:
        self._contexts_of = None
        asked = self._context_request(data)
        wanted = BASE_ALLOCATION in asked.queries
        if wanted:
            self._contexts_of = self._known(asked.name)
        yield from self._answer_contexts(number, ALLOCATION_ID, listed=wanted)

    def _context_request(self, data: bytes) -> replies.ContextRequest:
        if not self._structured:
            raise Refused(replies.REP_ERR_INVALID, "contexts need structured replies")
        asked = replies.parse_context_request(data)
        self._known(asked.name)
        return asked

    @staticmethod
    def _answer_contexts(number: int, context: int, *, listed: bool) -> Steps:
        if listed:
            answer = replies.context_reply_data(context, BASE_ALLOCATION)
            yield Send((replies.option_reply(number, messages.REP_META_CONTEXT, answer),))
        yield Send((replies.option_reply(number, messages.REP_ACK),))

    def _agree(self, export: NbdExport) -> Agreed:
        return Agreed(export, self._structured, allocation=self._contexts_of is export)

    def _find(self, name: str) -> NbdExport | None:
        if not name and len(self._exports) == 1:
            return next(iter(self._exports.values()))
        return self._exports.get(name)

    def _known(self, name: str) -> NbdExport:
        export = self._find(name)
        if export is None:
            raise Refused(replies.REP_ERR_UNKNOWN, "no such export")
        return export


def _skip(length: int) -> Steps:
    """Receive what is too long to be understood, and refuse it."""
    if length > OPTION_SKIP_MAX:
        raise NbdError(f"an option of {length} bytes")
    while length:
        count = min(length, _SKIP_PIECE)
        yield Receive(count)
        length -= count
    raise Refused(replies.REP_ERR_TOO_BIG, f"more than {replies.OPTION_MAX} bytes")
