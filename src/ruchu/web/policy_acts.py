"""What can be done with a policy, from the list and from its page."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import acting, asking
from ruchu.web.visiting import Visit

RUN_KINDS: Mapping[str, tuple[str, str]] = {
    "incremental": (later("Incremental"), later("Saves what changed since the last point.")),
    "full": (later("Full"), later("Reads and saves everything anew.")),
    "differential": (
        later("Differential"), later("Saves what changed since the last full point."),
    ),
}  # fmt: skip


def ask_kind(visit: Visit, policy: str, name: str) -> None:
    """Ask which kind of backup shall start now, and start it."""
    say = visit.say
    with asking.dialog(say("Run {name} now", name=name)) as made:
        chosen = ui.radio({kind: say(text) for kind, (text, _) in RUN_KINDS.items()},
                          value="incremental")  # fmt: skip
        chosen.props(f'data-test=run-kind aria-label="{say("Kind")}"')
        help_text = ui.label("").classes("r-help")
        help_text.bind_text_from(chosen, "value", lambda kind: say(RUN_KINDS[kind][1]))
        ui.label(say("A machine without a point gets a full one, whatever is chosen.")).classes(
            "r-help"
        )

        async def go() -> bool:
            call = visit.api.post(f"/policies/{part(policy)}/run", {"kind": chosen.value})
            run = await acting.act(visit, call, say("Started."))
            if run is not None:
                ui.navigate.to(f"/runs/{run['id']}")
            return run is not None

        asking.actions(visit, made, say("Run now"), go)


async def enable(visit: Visit, policy: str, *, enabled: bool) -> bool:
    """Let the schedules of a policy start runs, or not; tell whether it was done."""
    try:
        answer = await visit.api.call("GET", f"/policies/{part(policy)}")
    except Answered as error:
        acting.tell_problem(visit, error)
        return False
    document = {**answer.body["policy"], "enabled": enabled}
    done = (
        visit.say("Its schedules start backups.")
        if enabled
        else visit.say("It is off: its schedules start nothing.")
    )
    call = visit.api.put(f"/policies/{part(policy)}", document, answer.tag)
    return await acting.act(visit, call, done) is not None


async def remove(visit: Visit, policy: str) -> bool:
    """Remove a policy after its name was typed; tell whether it was done."""
    say, path = visit.say, f"/policies/{part(policy)}"
    try:
        answer = await visit.api.call("GET", path)
        chosen = await visit.api.get(f"{path}/dry-run", count=1)
    except Answered as error:
        acting.tell_problem(visit, error)
        return False
    name, count = answer.body["policy"]["name"], len(chosen["machines"])
    losses = [
        say("Its schedules start no more backups. Machines that it selects now: {count}. Those "
            "that no other policy selects are unprotected from then on.", count=count),
        say("Its points stay where they are, and so do its runs. Nothing thins the points out any "
            "more until another policy saves these machines on the same storage."),
        say("The policy itself: what it selects, its schedules, its rules. Copy it as code first "
            "if you may want it back."),
    ]  # fmt: skip
    title = say("Remove the policy {name}?", name=name)
    if not await acting.confirmed_by_name(visit, title, losses, say("Remove"), name):
        return False
    done = say("{name} was removed.", name=name)
    return await acting.act(visit, visit.api.delete(path, answer.tag), done) is not None


def history(policy: Mapping[str, Any]) -> str:
    """Return the address of the runs of a policy."""
    return f"/runs?policy={part(str(policy['id']))}"
