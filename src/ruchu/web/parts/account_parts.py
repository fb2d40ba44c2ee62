"""The profile, the password and the authenticator of one's own account."""

from collections.abc import Mapping
from typing import Any

import segno
from nicegui import ui

from ruchu.web import dressing
from ruchu.web.parts import acting, asking, copying, headings, roles
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]


def profile(visit: Visit, user: Found) -> None:
    """Show who the visitor is, and let them change it."""
    say = visit.say
    with ui.element("div").classes("r-grid"):
        with (
            headings.card(say("Profile"), "r-6 r-whole r-gap"),
            ui.element("div").classes("r-form"),
        ):
            display = asking.field(say("Full name"), "display", user["display"])
            mail = asking.field(say("Mail"), "mail", user["mail"], props="type=email")
            spoken = asking.language(say("Language"), visit.language.code)

            async def save() -> None:
                body = {"display": display.value or "", "mail": mail.value or "",
                        "language": spoken.value}  # fmt: skip
                call = visit.api.patch(f"/users/{user['id']}", body)
                if await acting.act(visit, call, say("Saved.")) is None:
                    return
                if spoken.value != visit.language.code:
                    dressing.choose(dressing.LANGUAGE_COOKIE, spoken.value)

            ui.button(say("Save"), on_click=save).props(
                "unelevated no-caps color=primary data-test=save-profile"
            )
        with headings.card(say("Roles"), "r-6 r-whole r-gap"):
            ui.label(roles.summary(visit.language, user["grants"]))
            roles.legend(visit)


def security(visit: Visit, user: Found) -> None:
    """Show how the visitor signs in."""
    with ui.element("div").classes("r-grid"):
        if user["has_password"]:
            with headings.card(visit.say("Password"), "r-6 r-whole r-gap"):
                _password(visit)
        with headings.card(visit.say("Authenticator"), "r-6 r-whole r-gap"):
            if user["totp"]:
                _authenticator_on(visit)
            else:
                _authenticator_off(visit)


def _password(visit: Visit) -> None:
    say = visit.say
    with ui.element("div").classes("r-form"):
        current = asking.secret(say("Current password"), "current")
        new = asking.secret(say("New password"), "new",
                            help_text=say("Length counts: a few words are good."))  # fmt: skip
        again = asking.secret(say("New password again"), "again")
        ui.label(say("Every other session of yours ends.")).classes("r-help")

        async def change() -> None:
            if new.value != again.value:
                ui.notify(say("The two passwords differ."), type="warning", position="top")
                return
            body = {"current": current.value or "", "new": new.value or ""}
            call = visit.api.put("/password", body)
            if await acting.act(visit, call, say("The password is changed.")) is not None:
                for field in (current, new, again):
                    field.set_value("")

        ui.button(say("Change the password"), on_click=change).props(
            "unelevated no-caps color=primary data-test=change-password"
        )


def _authenticator_on(visit: Visit) -> None:
    say = visit.say
    ui.label(say("It is on: signing in takes a code of it.")).classes("r-note")
    with ui.element("div").classes("r-form r-later"):
        code = asking.field(say("Code, or a recovery code"), "code", props="inputmode=numeric")

        async def off() -> None:
            call = visit.api.post("/authenticator/off", {"code": (code.value or "").strip()})
            if await acting.act(visit, call) is not None:
                ui.navigate.reload()

        ui.button(say("Turn it off"), on_click=off, color=None).props(
            "flat no-caps data-test=authenticator-off"
        ).classes("r-quiet")


def _authenticator_off(visit: Visit) -> None:
    say = visit.say
    ui.label(say("An app on your phone shows a code that signing in takes. Whoever learns your "
                 "password gets no further without it.")).classes("r-help")  # fmt: skip
    ui.button(say("Set it up"), icon="phonelink_lock", on_click=lambda: _enrol(visit)).props(
        "unelevated no-caps color=primary data-test=enrol"
    )


def grouped(secret: str) -> str:
    """Return a secret in groups of four, to be typed. Pure."""
    return " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))


def qr_code(text: str) -> str:
    """Return a text as a QR code (ISO/IEC 18004), as SVG: black on white in every theme. Pure."""
    made = segno.make(text, micro=False)
    return str(made.svg_inline(scale=4, border=4, dark="#000", light="#fff", omitsize=True))


async def _enrol(visit: Visit) -> None:
    say = visit.say
    made_secret = await acting.act(visit, visit.api.post("/authenticator"))
    if made_secret is None:
        return
    lead = say("Let the app read the picture, open the link on your phone, or type the secret into "
               "the app. Then enter the code that it shows.")  # fmt: skip
    with asking.dialog(say("Set up the authenticator"), lead=lead) as made:
        picture = ui.html(qr_code(made_secret["uri"]), sanitize=False).classes("r-qr")
        picture.props(f'role=img aria-label="{say("Picture for the app")}" data-test=otp-picture')
        ui.link(say("Open in the authenticator"), made_secret["uri"]).classes("r-way").props(
            "data-test=otp-link"
        )
        copying.copied(visit, grouped(made_secret["secret"]), "otp-secret", say("Secret"))
        code = asking.field(say("Code of the authenticator"), "code",
                            props="inputmode=numeric autocomplete=one-time-code")  # fmt: skip

        async def go() -> bool:
            body = {"code": (code.value or "").strip()}
            told = await acting.act(visit, visit.api.post("/authenticator/confirm", body))
            if told is None:
                return False
            _recovery(visit, told["recovery_codes"])
            return True

        asking.actions(visit, made, say("Turn it on"), go)


def _recovery(visit: Visit, codes: list[str]) -> None:
    say = visit.say
    lead = say("Each opens the account once without the phone. Keep them in a safe place; they "
               "are not shown again.")  # fmt: skip
    with asking.dialog(say("Recovery codes"), lead=lead) as made:
        made.props("persistent")
        copying.copied(visit, "\n".join(codes), "recovery-codes", say("Recovery codes"))
        with ui.element("div").classes("r-dialog-actions"):
            ui.button(say("Kept them"), on_click=ui.navigate.reload).props(
                "unelevated no-caps color=primary data-test=kept"
            )
