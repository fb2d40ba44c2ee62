"""What the console follows: lists of runs without their bodies, how far they are, who is where."""

import api_world
from api_world import OTHER, TEAM

from ruchu.control.nodes.tasks import Planned
from ruchu.model.ids import new_id
from ruchu.model.tasks import Ending, Outcome, TaskEvent


def task(services, run, number):
    """Plan a task of a run, and let a node have it; return its id."""
    planned = Planned(new_id(), run.id, "backup", f"web-{number}", {})
    services.tasks.plan([planned])
    services.tasks.send(planned.id, "node-1")
    return planned.id


def told(services, identity, **body):
    services.tasks.tell("node-1", [
        TaskEvent(identity, 1, 1, "2026-11-26T10:00:00.000000Z", "phase", {"name": "copy"}),
        TaskEvent(identity, 1, 2, "2026-11-26T10:00:01.000000Z", "progress", body),
    ])  # fmt: skip


def test_a_list_of_runs_leaves_out_what_each_is_to_do(world, admin):
    run = api_world.a_run(world.services, policy={"name": "nightly"})
    (shown,) = admin.get("/runs").json()["items"]
    whole = admin.get(f"/runs/{run.id}").json()
    assert whole.pop("body") == {"policy": {"name": "nightly"}}
    assert shown == whole


def test_runs_of_a_period_are_those_that_were_made_in_it(world, admin):
    made = []
    for _ in range(3):
        made.append(api_world.a_run(world.services))
        world.clock.sleep(60)
    period = {"since": made[1].created, "until": made[2].created}
    found = admin.get("/runs", params=period).json()["items"]
    assert [each["id"] for each in found] == [made[1].id]
    assert admin.get("/runs", params={"since": "yesterday"}).status_code == 422


def test_runs_that_are_over_are_found_by_their_state(world, admin):
    made = [api_world.a_run(world.services) for _ in range(3)]
    world.services.runs.move(made[0].id, "failed", "full")
    world.services.runs.move(made[1].id, "succeeded")
    for states, expected in (
        (["failed"], {made[0].id}),
        (["failed", "succeeded"], {made[0].id, made[1].id}),
        (["queued"], {made[2].id}),
        (["queued", "failed"], {made[0].id, made[2].id}),
    ):
        found = admin.get("/runs", params={"state": states}).json()["items"]
        assert {each["id"] for each in found} == expected


def test_progress_is_that_of_all_tasks_together(world, admin):
    services = world.services
    run = api_world.a_run(services)
    services.runs.move(run.id, "running")
    first, second, third = (task(services, run, number) for number in range(3))
    told(services, first, done=10, total=40, rate=8.0)
    told(services, second, done=30, total=60, rate=4.0)
    at = "2026-11-26T10:00:02.000000Z"
    services.tasks.end("node-1", Ending(third, 1, at, Outcome.SUCCEEDED, {}))
    (found,) = admin.get("/progress").json()
    assert found == {
        "run": run.id, "tasks": 3, "ended": 1, "running": 2, "phase": "copy", "done": 40,
        "total": 100, "rate": 12.0, "share": 0.5833,
    }  # fmt: skip
    assert world.client("elsewhere").get("/progress").json() == []
    services.runs.move(run.id, "failed")
    assert admin.get("/progress").json() == []


def test_a_run_whose_tasks_are_not_planned_yet_is_at_its_beginning(world, admin):
    run = api_world.a_run(world.services)
    world.services.runs.move(run.id, "running")
    (found,) = admin.get("/progress").json()
    assert (found["run"], found["tasks"], found["share"]) == (run.id, 0, 0)


def test_administrators_see_and_end_the_sessions_of_others(world, admin):
    user = world.services.accounts.users.find("operator").id
    theirs = world.client("operator")
    assert theirs.get("/about").status_code == 200
    found = admin.get(f"/users/{user}/sessions").json()
    assert {each["user"] for each in found} == {user}
    for each in found:
        assert admin.delete(f"/sessions/{each['id']}").status_code == 204
    assert theirs.get("/about").status_code == 401


def test_the_usage_of_a_group_is_what_its_quota_counts(world, admin):
    # The storage of the points is the team's, and each of the three holds 3 GiB.
    api_world.a_run(world.services)
    assert admin.get(f"/groups/{TEAM}/usage").json() == {
        "bytes": 3 * (3 << 30), "machines": 3, "runs": 1,
    }  # fmt: skip
    nothing = {"bytes": 0, "machines": 0, "runs": 0}
    assert world.client("elsewhere").get(f"/groups/{OTHER}/usage").json() == nothing
    assert world.client("elsewhere").get(f"/groups/{TEAM}/usage").status_code == 404


def test_the_audit_trail_is_searched_by_text_time_and_outcome(world, admin):
    record = world.services.trail.record
    record("li.na", "policy.run", "Nightly")
    world.clock.sleep(60)
    record("li.na", "policy.change", "weekly", "refused")

    def found(**query):
        items = admin.get("/audit", params=query).json()["items"]
        return [each["subject"] for each in items if each["actor"] == "li.na"]

    assert found() == ["weekly", "Nightly"]
    assert found(text="night") == ["Nightly"]
    assert found(text="LI.NA") == ["weekly", "Nightly"]
    assert found(text="100%") == []
    assert found(outcome="refused") == ["weekly"]
    (newest,) = admin.get("/audit", params={"actor": "li.na", "limit": 1}).json()["items"]
    assert found(until=newest["at"]) == ["Nightly"]
    assert found(since=newest["at"]) == ["weekly"]
