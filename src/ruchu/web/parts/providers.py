"""Identity providers: who else vouches for people, and which roles their groups give."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.api.routes_identities import CALLBACK
from ruchu.model.principals import ALL_GROUPS, Role
from ruchu.web.calling import part
from ruchu.web.parts import acting, asking, copying, empty, listing, roles, tabbing
from ruchu.web.parts.alarm_rules import OFF, ON
from ruchu.web.parts.listing import Act, Column
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]


async def providers(visit: Visit) -> None:
    """List the identity providers."""
    say = visit.say
    lead = say("People sign in with the account of your organisation (OpenID Connect).")
    with tabbing.head(say("Identity providers"), lead):
        new = ui.button(say("New provider"), icon="add")
        new.props("unelevated no-caps color=primary data-test=new-provider")
        new.on_click(lambda: _ask(visit, None, found.refresh))
    with ui.element("section").classes("r-card"):
        ui.label(say("Enter this at the provider as the address to return to:")).classes("r-help")
        copying.copied(
            visit, f"{copying.origin()}{CALLBACK}", "callback", say("Address to return to")
        )

    def row(provider: Found) -> dict[str, Any]:
        acts = [Act("edit", say("Change"), "edit"), Act("remove", say("Remove"), "delete")]
        return {
            "id": provider["name"],
            "name": {"text": provider["title"] or provider["name"], "sub": provider["name"]},
            "issuer": provider["issuer"],
            "rules": visit.language.number(len(provider["rules"])),
            "state": (ON if provider["enabled"] else OFF).cell(visit.language),
            "acts": [each.cell() for each in acts],
        }

    async def on_act(name: str, identity: str) -> None:
        path = f"/identity-providers/{part(identity)}"
        if name == "edit":
            await _ask(visit, await visit.api.get(path), found.refresh)
            return
        losses = [
            say("Nobody signs in through {name} any more.", name=identity),
            say("The roles that its groups gave are taken away; the accounts stay."),
        ]
        title = say("Remove the provider {name}", name=identity)
        if await acting.confirmed_by_name(visit, title, losses, say("Remove"), identity):
            await acting.act(visit, visit.api.delete(path), say("Removed."))
            await found.refresh()

    def nothing() -> None:
        empty.empty("badge", say("There is no identity provider."),
                    say("People sign in with a name and a password of this server."))  # fmt: skip

    columns = [Column("name", say("Provider")), Column("issuer", say("Issuer")),
               Column("rules", say("Rules for roles"), "right"),
               Column("state", say("State"))]  # fmt: skip
    fetch = listing.of_list(visit, "/identity-providers", row)
    found: listing.Listing = listing.Listing(visit, columns, fetch, on_act=on_act, nothing=nothing,
                            label=say("Identity providers"))  # fmt: skip
    await found.refresh()


async def _ask(visit: Visit, provider: Found | None, done: Callable[[], Awaitable[None]]) -> None:
    groups = {
        each["name"]: each["title"] or each["name"] for each in await visit.api.get("/groups")
    }
    ProviderForm(visit, provider, groups).open(done)


class ProviderForm:
    """The form of an identity provider."""

    def __init__(self, visit: Visit, provider: Found | None, groups: Mapping[str, str]) -> None:
        self._visit = visit
        self._provider = provider
        self._groups = {ALL_GROUPS: visit.say("All groups"), **groups}
        self._fields: dict[str, Any] = {}
        self._rules: list[dict[str, Any]] = []

    def open(self, done: Callable[[], Awaitable[None]]) -> None:
        """Show it."""
        say, provider, fields = self._visit.say, self._provider, self._fields
        name = provider["name"] if provider else ""
        title = say("Change {name}", name=name) if provider else say("New provider")
        with asking.dialog(title) as made:
            if provider is None:
                fields["name"] = asking.field(say("Name"), "name", help_text=say("Such as: corp"))
            self._text("title", say("Title on the button"))
            self._text("issuer", say("Issuer"), "https://id.example.com/realms/corp")
            self._text("client", say("Client ID"))
            fields["secret"] = asking.secret(
                say("Client secret"), "secret",
                help_text=say("Never shown. Left empty, it stays as it is.") if provider else "",
            )  # fmt: skip
            self._text("groups_claim", say("Claim that holds the groups"), otherwise="groups")
            self._lines("scopes", say("Scopes"), ["openid", "profile", "email"])
            self._lines("domains", say("Mail domains that are let in"), [],
                        say("Empty: all that the provider lets in"))  # fmt: skip
            self._rules_form()
            known = provider or {"create": True, "enabled": True}
            fields["create"] = asking.switch(say("Somebody new gets an account"), "create",
                                             value=known["create"])  # fmt: skip
            fields["enabled"] = asking.switch(say("In force"), "enabled", value=known["enabled"])
            asking.actions(self._visit, made, say("Save"), lambda: self._save(done))

    def _text(self, name: str, label: str, help_text: str = "", otherwise: str = "") -> None:
        value = str(self._provider[name]) if self._provider else otherwise
        self._fields[name] = asking.field(label, name, value, help_text=help_text)

    def _lines(self, name: str, label: str, otherwise: list[str], help_text: str = "") -> None:
        value = self._provider[name] if self._provider else otherwise
        self._fields[name] = asking.field(label, name, ", ".join(value), help_text=help_text)

    def _rules_form(self) -> None:
        say = self._visit.say
        ui.label(say("Roles by the groups of the provider")).classes("r-trouble")
        self._place = ui.element("div").classes("r-form")
        for each in self._provider["rules"] if self._provider else ():
            self._add_rule(each)
        add = ui.button(say("Add a rule"), icon="add", on_click=lambda: self._add_rule(None))
        add.props("flat no-caps data-test=add-rule")

    def _add_rule(self, rule: Found | None) -> None:
        say = self._visit.say
        known = {role.value: say(roles.NAMES[role]) for role in Role}
        group = rule["group"] if rule else ALL_GROUPS
        with self._place, ui.element("div").classes("r-step") as element:
            fields = {
                "value": asking.field(say("Group there"), "value", rule["value"] if rule else ""),
                "group": asking.choice(say("Group here"), "group",
                                       {**self._groups, group: self._groups.get(group, group)},
                                       group),
                "role": asking.choice(say("Role"), "role", known,
                                      rule["role"] if rule else Role.READ_ONLY.value),
            }  # fmt: skip
            drop = ui.button(icon="close", color=None)
            drop.props(f'flat round dense aria-label="{say("Remove the rule")}"')

        def remove() -> None:
            self._rules.remove(fields)
            self._place.remove(element)

        drop.on_click(remove)
        self._rules.append(fields)

    async def _save(self, done: Callable[[], Awaitable[None]]) -> bool:
        visit = self._visit
        value = {name: field.value for name, field in self._fields.items()}
        name = str(self._provider["name"]) if self._provider else (value["name"] or "").strip()
        found = [{key: field.value or "" for key, field in each.items()} for each in self._rules]
        body = {
            "issuer": value["issuer"] or "", "client": value["client"] or "",
            "title": value["title"] or "", "scopes": asking.lines(value["scopes"]),
            "groups_claim": value["groups_claim"] or "", "rules": found,
            "domains": asking.lines(value["domains"]), "create": value["create"],
            "enabled": value["enabled"], "secret": value["secret"] or None,
        }  # fmt: skip
        call = visit.api.put(f"/identity-providers/{part(name or '-')}", body)
        if await acting.act(visit, call, visit.say("Saved.")) is None:
            return False
        await done()
        return True
