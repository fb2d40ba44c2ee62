"""Settings: the server itself, security, sites, definitions, and what this server is."""

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.language import NOTHING, later
from ruchu.web.parts import certificates, exchange, headings, setting_forms, site_list, tabbing
from ruchu.web.parts.tabbing import View
from ruchu.web.visiting import Visit, page


@page("/settings", later("Settings"), need=Right.CONFIGURE)
async def settings(visit: Visit) -> None:
    """Show the settings of the server."""
    say = visit.say
    # The server belongs to no group: whoever configures one only is refused by the API.
    await visit.api.get("/settings")
    with headings.head(say("Settings"), say("This server, and what it shares with others.")):
        pass
    views = [
        View("general", say("General"), lambda: setting_forms.general(visit)),
        View("security", say("Access and security"), lambda: _security(visit)),
        View("sites", say("Sites"), lambda: site_list.sites(visit)),
    ]
    rights = (Right.OPERATE, Right.ACCOUNTS)
    if all(visit.may_everywhere(right) for right in rights):
        views.append(View("definitions", say("Definitions"), lambda: exchange.definitions(visit)))
    views.append(View("about", say("About"), lambda: _about(visit)))
    await tabbing.tabbed(visit, views)


async def _security(visit: Visit) -> None:
    with ui.element("div").classes("r-stack r-wide"):
        await setting_forms.four_eyes(visit)
        await certificates.certificates(visit)


async def _about(visit: Visit) -> None:
    say = visit.say
    about = await visit.api.get("/about")
    with headings.card(say("This server"), "r-gap"):
        headings.facts({
            say("Version"): f"Ruchu {about['version']}",
            say("Clock"): visit.language.moment(about["at"]),
            say("Address for nodes"): about["nodes_at"] or NOTHING,
            say("Fingerprint of its authority"): certificates.grouped(about["fingerprint"]),
            say("Licence"): "AGPL-3.0",
            say("Description of the API"): lambda: ui.link(
                "/api/v1/openapi.json", "/api/v1/openapi.json"
            ),
        })  # fmt: skip
