"""Certificates of the server, shown so that they can be compared."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from nicegui import ui

from ruchu.web.language import later
from ruchu.web.parts import copying, headings, marks
from ruchu.web.parts.marks import BAD, GOOD, WARN, Mark
from ruchu.web.visiting import Visit

# Long enough to have new ones made and handed around.
_SOON_DAYS = 90
VALID = Mark(later("Valid"), GOOD, "verified")
ENDING = Mark(later("Ends soon"), WARN, "schedule")
ENDED = Mark(later("Ended"), BAD, "error")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a person wants to know of a certificate."""

    subject: str
    begins: datetime
    ends: datetime

    def mark(self, now: datetime) -> Mark:
        """Return how it stands."""
        left = (self.ends - now).days
        return ENDED if left < 0 else ENDING if left < _SOON_DAYS else VALID


def read(pem: str) -> Certificate:
    """Return what a certificate says."""
    found = x509.load_pem_x509_certificate(pem.encode())
    return Certificate(
        found.subject.rfc4514_string(), found.not_valid_before_utc, found.not_valid_after_utc
    )


def grouped(fingerprint: str) -> str:
    """Return a fingerprint in groups of four, as people compare it."""
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


async def certificates(visit: Visit) -> None:
    """Show the authority of the server."""
    say, language = visit.say, visit.language
    about = await visit.api.get("/about")
    pem = await visit.api.get("/authority")
    found = read(pem)
    with headings.card(say("Authority of this server"), "r-gap"):
        ui.label(say("It vouches for the nodes, and for the console where no other certificate is "
                     "given. Compare the fingerprint when a node is enrolled or a site "
                     "attached.")).classes("r-help")  # fmt: skip
        copying.copied(visit, grouped(about["fingerprint"]), "fingerprint", say("Fingerprint"))
        headings.facts({
            say("Issued to"): found.subject,
            say("Valid from"): language.day(found.begins),
            say("Valid until"): language.day(found.ends),
            say("State"): lambda: marks.show(found.mark(visit.now), language),
        })  # fmt: skip

        def fetch() -> None:
            ui.download.content(pem.encode(), "ruchu-authority.pem", "application/x-pem-file")

        ui.button(say("Download the certificate"), icon="download", on_click=fetch).props(
            "flat no-caps"
        )
