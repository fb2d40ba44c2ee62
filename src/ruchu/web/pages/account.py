"""One's own account: profile, password, authenticator, API tokens, sessions."""

from ruchu.web.language import later
from ruchu.web.parts import account_parts, headings, session_list, tabbing, token_list
from ruchu.web.parts.tabbing import View
from ruchu.web.visiting import Visit, page


@page("/account", later("My account"), need=None)
async def account(visit: Visit) -> None:
    """Show the account of the visitor."""
    say = visit.say
    user = await visit.api.get("/sessions/current")
    with headings.head(say("My account"), user["name"]):
        pass

    async def profile() -> None:
        account_parts.profile(visit, user)

    async def security() -> None:
        account_parts.security(visit, user)

    await tabbing.tabbed(visit, [
        View("profile", say("Profile"), profile),
        View("security", say("Access and security"), security),
        View("sessions", say("Sessions"), lambda: session_list.sessions(visit, "/sessions")),
        View("tokens", say("API tokens"), lambda: token_list.tokens(visit)),
    ])  # fmt: skip
