"""Alarms: what is wrong, what was, what is frozen, and who is told of what."""

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import alarm_lists, alarm_rules, channels, freezes, headings, tabbing
from ruchu.web.parts.alarm_view import AlarmView
from ruchu.web.parts.tabbing import View
from ruchu.web.visiting import Visit, page


@page("/alarms", later("Alarms"))
async def alarms(visit: Visit) -> None:
    """Show alarms, and how they are told."""
    say = visit.say
    with headings.head(say("Alarms"), say("What is wrong, what to do, and who is told.")):
        pass
    views = [
        View("open", say("Open"), lambda: alarm_lists.open_alarms(visit)),
        View("past", say("Past"), lambda: alarm_lists.past_alarms(visit)),
    ]
    # Machines of every group are among them.
    if visit.may_everywhere(Right.VIEW):
        views.append(View("freezes", say("Frozen"), lambda: freezes.freezes(visit)))
        views.append(View("rules", say("Rules"), lambda: alarm_rules.rules(visit)))
    if visit.may_everywhere(Right.CONFIGURE):
        views.append(View("channels", say("Channels"), lambda: channels.channels(visit)))
    await tabbing.tabbed(visit, views)


@page("/alarms/{alarm}", later("Alarm"))
async def one_alarm(visit: Visit, alarm: str) -> None:
    """Show an alarm."""
    view = AlarmView(visit, await visit.api.get(f"/alarms/{part(alarm)}"))
    await view.refresh()
    visit.live(view.refresh, "alarm")
