"""Accounts and groups as lists, and how they are made."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web.calling import part
from ruchu.web.language import NOTHING, later
from ruchu.web.parts import acting, asking, copying, listing, roles, tabbing
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.marks import BAD, GOOD, QUIET, WARN, Mark
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
ACTIVE = Mark(later("Active"), GOOD, "check_circle")
DISABLED = Mark(later("Locked out"), BAD, "block")
NEW = Mark(later("No password yet"), WARN, "hourglass_empty")
# A link is good for so long (`control.accounts.links`).
LINK_HOURS = 72
_GIB = 1 << 30


def mark(user: Found) -> Mark:
    """Return how an account stands."""
    if user["disabled"]:
        return DISABLED
    return ACTIVE if user["has_password"] or user["elsewhere"] else NEW


def ways(visit: Visit, user: Found) -> str:
    """Return how somebody signs in."""
    say = visit.say
    found = [say("password")] if user["has_password"] else []
    found += [say("authenticator")] if user["totp"] else []
    found += [say("identity provider")] if user["elsewhere"] else []
    return ", ".join(found) or NOTHING


async def users(visit: Visit) -> None:
    """List the accounts."""
    say, language = visit.say, visit.language
    with tabbing.head(say("Users"), say("Who may sign in, and what they may do where.")):
        new = ui.button(say("Add a user"), icon="person_add")
        new.props("unelevated no-caps color=primary data-test=new-user")
        new.on_click(lambda: ask_new(visit, found.refresh))

    def row(user: Found) -> dict[str, Any]:
        return {
            "id": user["id"],
            "name": {"text": user["name"], "link": f"/users/{user['id']}", "sub": user["display"]},
            "roles": roles.summary(language, user["grants"]),
            "state": mark(user).cell(language),
            "ways": ways(visit, user),
            "signed_in": language.moment(user["signed_in"]),
        }  # fmt: skip

    columns = [
        Column("name", say("User")), Column("roles", say("Roles")), Column("state", say("State")),
        Column("ways", say("Signs in with")), Column("signed_in", say("Last signed in")),
    ]  # fmt: skip
    fetch = listing.of_page(visit, "/users", row)
    found: listing.Listing = listing.Listing(visit, columns, fetch, label=say("Users"))
    await found.refresh()
    with ui.element("section").classes("r-card r-later"):
        title = ui.label(say("What the roles may do"))
        title.classes("r-card-title").props("role=heading aria-level=2")
        roles.legend(visit)
        with ui.expansion(say("Every right")).classes("r-wide").props("dense"):
            roles.table(visit)


async def ask_new(visit: Visit, done: Callable[[], Awaitable[None]]) -> None:
    """Ask for a new account; then show the link with which its owner chooses a password."""
    say = visit.say
    groups = await visit.api.get("/groups")
    lead = say("They choose a password themselves, with a link that you hand over.")
    with asking.dialog(say("Add a user"), lead=lead) as made:
        name = asking.field(say("Name for signing in"), "name",
                            help_text=say("Small letters, digits, dots: li.na"))  # fmt: skip
        with ui.element("div").classes("r-two"):
            display = asking.field(say("Full name"), "display")
            mail = asking.field(say("Mail"), "mail", props="type=email")
        spoken = asking.language(say("Language"), visit.language.code)
        ui.label(say("Roles")).classes("r-trouble")
        matrix = roles.RoleMatrix(visit, groups, {})

        async def go() -> bool:
            body = {
                "name": (name.value or "").strip(), "display": display.value or None,
                "mail": mail.value or None, "language": spoken.value, "grants": matrix.grants(),
            }  # fmt: skip
            told = await acting.act(visit, visit.api.post("/users", body))
            if told is None:
                return False
            await done()
            show_link(visit, told["user"]["name"], told["link"])
            return True

        asking.actions(visit, made, say("Add"), go)


def show_link(visit: Visit, name: str, word: str) -> None:
    """Show a one-time link, once."""
    say = visit.say
    lead = say("Hand it over on a safe way. It works once, within {hours} hours, and is not shown "
               "again.", hours=LINK_HOURS)  # fmt: skip
    with asking.dialog(say("Link for {name}", name=name), lead=lead) as made:
        copying.copied(visit, f"{copying.origin()}/password#{word}", "link", say("One-time link"))
        with ui.element("div").classes("r-dialog-actions"):
            ui.button(say("Done"), on_click=made.close).props(
                "unelevated no-caps color=primary data-test=link-done"
            )


# -------------------------------------------------------------------------------------- groups


async def groups(visit: Visit) -> None:
    """List the resource groups, with what they use of their quotas."""
    say = visit.say
    lead = say("Things belong to groups; roles and quotas hold in them.")
    with tabbing.head(say("Groups"), lead):
        new = ui.button(say("New group"), icon="add")
        new.props("unelevated no-caps color=primary data-test=new-group")
        new.on_click(lambda: _ask_group(visit, None, found.refresh))

    async def fetch(after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        every, begin = await visit.api.get("/groups"), int(after or 0)
        rows = [await _group_row(visit, each) for each in every[begin : begin + limit]]
        return rows, str(begin + limit) if len(every) > begin + limit else None

    async def on_act(name: str, identity: str) -> None:
        rows = await visit.api.get("/groups")
        group = next(each for each in rows if each["name"] == identity)
        if name == "edit":
            _ask_group(visit, group, found.refresh)
            return
        losses = [say("The group {name}, with the roles that people have in it.", name=identity)]
        title = say("Remove the group {name}", name=identity)
        if await acting.confirmed_by_name(visit, title, losses, say("Remove"), identity):
            call = visit.api.delete(f"/groups/{part(identity)}")
            await acting.act(visit, call, say("Removed."))
            await found.refresh()

    columns = [Column("name", say("Group")), Column("bytes", say("Stored")),
               Column("machines", say("Machines")),
               Column("runs", say("Backups today"))]  # fmt: skip
    found: listing.Listing = listing.Listing(
        visit, columns, fetch, on_act=on_act, label=say("Groups")
    )
    await found.refresh()


async def _group_row(visit: Visit, group: Found) -> dict[str, Any]:
    say, quota, number = visit.say, group["quota"], visit.language.number
    usage = {"bytes": 0, "machines": 0, "runs": 0}
    if any(quota.values()):
        try:
            usage = await visit.api.get(f"/groups/{part(group['name'])}/usage")
        except Answered:
            # It was removed a moment ago; the next look leaves the row out.
            usage = {"bytes": 0, "machines": 0, "runs": 0}
    acts = [Act("edit", say("Change"), "edit").cell()]
    if group["name"] != "default":
        acts.append(Act("remove", say("Remove"), "delete").cell())
    return {
        "id": group["name"],
        "name": {"text": group["title"] or group["name"], "sub": group["name"]},
        "bytes": used(visit, usage["bytes"], quota["bytes"], visit.language.size),
        "machines": used(visit, usage["machines"], quota["machines"], number),
        "runs": used(visit, usage["runs"], quota["runs"], number),
        "acts": acts,
    }


def used(visit: Visit, value: int, most: int, shown: Callable[[int], str]) -> Any:
    """Return the cell of a quota: how much of it is used."""
    if not most:
        return {"text": visit.say("no limit"), "tone": QUIET}
    share = min(1.0, value / most)
    tone = BAD if share >= 1 else WARN if share >= 0.85 else ""
    text = visit.say("{used} of {most}", used=shown(value), most=shown(most))
    return {"text": text, "bar": share, "tone": tone}


def _ask_group(visit: Visit, group: Found | None, done: Callable[[], Awaitable[None]]) -> None:
    say = visit.say
    quota = group["quota"] if group else {"bytes": 0, "machines": 0, "runs": 0}
    title = say("Change {name}", name=group["name"]) if group else say("New group")
    with asking.dialog(title, lead=say("A quota of 0 is no limit.")) as made:
        name = None
        if group is None:
            name = asking.field(say("Name"), "name",
                                help_text=say("Small letters, digits, dashes: team-a"))  # fmt: skip
        shown = asking.field(say("Title"), "title", group["title"] if group else "")
        stored = asking.number(say("Stored at most, in GiB"), "bytes", quota["bytes"] / _GIB)
        machines = asking.number(say("Machines at most"), "machines", quota["machines"])
        runs = asking.number(say("Backups a day at most"), "runs", quota["runs"])

        async def go() -> bool:
            called = group["name"] if group else (name.value or "").strip() if name else ""
            body = {
                "title": shown.value or "", "bytes": int((stored.value or 0) * _GIB),
                "machines": int(machines.value or 0), "runs": int(runs.value or 0),
            }  # fmt: skip
            call = visit.api.put(f"/groups/{part(called or '-')}", body)
            told = await acting.act(visit, call, say("Saved."))
            await done()
            return told is not None

        asking.actions(visit, made, say("Save"), go)
