"""Users and roles: who may do what, in which groups, and who vouches for them."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import (
    acting,
    asking,
    headings,
    marks,
    providers,
    roles,
    session_list,
    tabbing,
    user_lists,
)
from ruchu.web.parts.tabbing import View
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]


@page("/users", later("Users and roles"), need=Right.ACCOUNTS)
async def users(visit: Visit) -> None:
    """Show accounts, groups and identity providers."""
    say = visit.say
    with headings.head(say("Users and roles"), say("Who may do what, and in which groups.")):
        pass
    # Accounts belong to no group: whoever administers one only is refused by the API.
    await visit.api.get("/users", limit=1)
    await tabbing.tabbed(visit, [
        View("users", say("Users"), lambda: user_lists.users(visit)),
        View("groups", say("Groups"), lambda: user_lists.groups(visit)),
        View("providers", say("Identity providers"), lambda: providers.providers(visit)),
    ])  # fmt: skip


@page("/users/{user}", later("User"), need=Right.ACCOUNTS)
async def one_user(visit: Visit, user: str) -> None:
    """Show an account, and change it."""
    say, language = visit.say, visit.language
    found = await visit.api.get(f"/users/{part(user)}")
    groups = await visit.api.get("/groups")
    with headings.head(found["display"] or found["name"], found["name"]):
        _acts(visit, found)
    with ui.element("div").classes("r-run-state"):
        marks.show(user_lists.mark(found), language).props("data-test=user-state")
    with ui.element("div").classes("r-grid"):
        with headings.card(say("Profile"), "r-6 r-whole r-gap"):
            _profile(visit, found)
        with headings.card(say("Account"), "r-6 r-whole r-gap"):
            headings.facts({
                say("Signs in with"): user_lists.ways(visit, found),
                say("Last signed in"): language.moment(found["signed_in"]),
                say("Made"): language.moment(found["created"]),
            })  # fmt: skip
        with headings.card(say("Roles"), "r-12 r-gap"):
            _roles(visit, found, groups)
    title = ui.label(say("Signed in at")).classes("r-section")
    title.props("role=heading aria-level=2")
    await session_list.sessions(visit, f"/users/{part(user)}/sessions")


def _profile(visit: Visit, user: Found) -> None:
    say = visit.say
    with ui.element("div").classes("r-form"):
        display = asking.field(say("Full name"), "display", user["display"])
        mail = asking.field(say("Mail"), "mail", user["mail"], props="type=email")
        chosen = asking.language(say("Language"), user["language"])

        async def save() -> None:
            body = {"display": display.value or "", "mail": mail.value or "",
                    "language": chosen.value}  # fmt: skip
            await acting.act(visit, visit.api.patch(f"/users/{user['id']}", body), say("Saved."))

        ui.button(say("Save"), on_click=save).props(
            "unelevated no-caps color=primary data-test=save-profile"
        )


def _roles(visit: Visit, user: Found, groups: list[Found]) -> None:
    say = visit.say
    with ui.element("div").classes("r-form"):
        matrix = roles.RoleMatrix(visit, groups, user["grants"])

        async def save() -> None:
            body = {"grants": matrix.grants()}
            await acting.act(visit, visit.api.patch(f"/users/{user['id']}", body), say("Saved."))

        ui.button(say("Save the roles"), on_click=save).props(
            "unelevated no-caps color=primary data-test=save-roles"
        )
        with ui.expansion(say("What the roles may do")).classes("r-wide").props("dense"):
            roles.legend(visit)


def _acts(visit: Visit, user: Found) -> None:
    say, path = visit.say, f"/users/{user['id']}"

    async def link() -> None:
        told = await acting.act(visit, visit.api.post(f"{path}/link"))
        if told is not None:
            user_lists.show_link(visit, user["name"], told["link"])

    async def reset() -> None:
        lines = [say("They sign in without a code until they set up another authenticator.")]
        title = say("Take the authenticator of {name} away?", name=user["name"])
        if await acting.confirmed(visit, title, lines, say("Reset the authenticator")):
            await _done(visit, visit.api.delete(f"{path}/authenticator"))

    async def switch() -> None:
        if not user["disabled"]:
            lines = [say("Their sessions end at once, and their tokens open nothing.")]
            title = say("Lock {name} out?", name=user["name"])
            if not await acting.confirmed(visit, title, lines, say("Lock out")):
                return
        await _done(visit, visit.api.patch(path, {"disabled": not user["disabled"]}))

    _button(say("Password link"), "link", "link", link)
    if user["totp"]:
        _button(say("Reset the authenticator"), "phonelink_erase", "reset", reset)
    if user["id"] != visit.principal.user:
        title = say("Let in again") if user["disabled"] else say("Lock out")
        _button(title, "lock_open" if user["disabled"] else "block", "switch", switch)
        _button(say("Remove"), "delete", "remove", lambda: _remove(visit, user))


def _button(label: str, icon: str, name: str, go: Any) -> None:
    made = ui.button(label, icon=icon, on_click=go, color=None)
    made.props(f"flat no-caps data-test={name}").classes("r-quiet")


async def _done(visit: Visit, call: Any) -> None:
    if await acting.act(visit, call) is not None:
        ui.navigate.reload()


async def _remove(visit: Visit, user: Found) -> None:
    say, name = visit.say, user["name"]
    losses = [
        say("The account {name}, with its roles: {roles}.", name=name,
            roles=roles.summary(visit.language, user["grants"])),
        say("Its sessions, API tokens and authenticator end at once."),
        say("What it did stays in the audit trail."),
    ]  # fmt: skip
    title = say("Remove the account {name}", name=name)
    if await acting.confirmed_by_name(visit, title, losses, say("Remove"), name):
        call = visit.api.delete(f"/users/{user['id']}")
        if await acting.act(visit, call, say("Removed.")) is not None:
            ui.navigate.to("/users")
