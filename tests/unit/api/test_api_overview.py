"""The overview, the load of hosts, and the reports, as different people may see them."""

import csv
import io

import pytest
from api_world import OTHER, TEAM

from ruchu.control.jobs.runs import NewRun


@pytest.fixture
def busy(world):
    """Return a world with machines of another group, and runs of both."""
    services = world.services
    services.inventory.add("other", "qemu:///system", resource_group=OTHER)
    machines = [{"id": f"{n}", "name": f"=db-{n}", "state": "running"} for n in range(2)]
    services.inventory.saw("other", machines)
    for number, (group, state) in enumerate(
        ((TEAM, "succeeded"), (TEAM, "failed"), (OTHER, "succeeded"))
    ):
        run = services.runs.create(NewRun("backup", f"policy {number}", {}, group=group))
        summary = {"bytes_read": 4000, "bytes_full": 1000, "bytes_stored": 1000}
        services.runs.move(run.id, state, summary=summary)
    services.alarms.raise_alarm("rpo-missed", "error", "db-1", "", {"group": OTHER})
    return world


def test_the_overview_shows_what_is_of_ones_groups(busy):
    everything = busy.client().get("/overview").json()
    mine = busy.client("team-operator").get("/overview").json()
    assert everything["machines"]["total"] == 5
    assert mine["machines"]["total"] == 3
    assert (everything["day"]["succeeded"], everything["day"]["failed"]) == (2, 1)
    assert (mine["day"]["succeeded"], mine["day"]["rate"]) == (1, 0.5)
    assert everything["alarms"]["error"] == 2
    assert [each["subject"] for each in mine["alarms"]["first"]] == ["web-1"]
    assert mine["days"][-1] == everything["days"][-1] | {
        "full": 2000, "incremental": 6000, "stored": 2000, "succeeded": 1,
    }  # fmt: skip
    assert everything["reduction"] == {"read": 12000, "stored": 3000, "ratio": 4.0}
    assert [each["name"] for each in mine["storages"]] == ["main"]
    nothing = busy.client("elsewhere").get("/overview").json()
    assert (nothing["machines"]["total"], nothing["storages"], nothing["next_starts"]) == (
        2,
        [],
        [],
    )


def test_everybody_who_looks_in_the_same_moment_gets_the_same_bytes(busy):
    one, other = busy.client("administrator"), busy.client("auditor")
    before = one.get("/overview")
    busy.clock.sleep(1)
    busy.services.inventory.saw("other", [])
    assert other.get("/overview").content == before.content
    busy.clock.sleep(60)
    assert other.get("/overview").json()["machines"]["total"] == 3


def test_the_load_of_hosts_is_that_of_their_last_heartbeats(busy):
    services = busy.services
    node = next(row for row in services.nodes.all() if row.name == "node-2")
    services.hub.loads.heard(node.id, {"cpu": 0.5, "memory": 8, "tasks": 3, "text": "no figure"})
    services.hub.loads.saw_server({"cpu": 0.25, "rate": 1000.0})
    found = busy.client().get("/load").json()
    assert found["server"]["samples"][-1]["figures"] == {"cpu": 0.25, "rate": 1000.0}
    assert found["nodes"][0]["name"] == "node-2"
    assert found["nodes"][0]["samples"][-1]["figures"] == {"cpu": 0.5, "memory": 8.0}
    assert busy.client("team-operator").get("/load").status_code == 403


def test_the_protection_report_has_filters_and_pages(busy):
    client = busy.client()
    rows = client.get("/reports/protection").json()["items"]
    assert [row["name"] for row in rows] == ["=db-0", "=db-1", "web-0", "web-1", "web-2"]
    assert rows[2]["policies"] == ["nightly"]
    assert (rows[2]["points"], rows[2]["stored"]) == (1, 3 << 30)
    assert rows[0] | {"newest": None, "met": None, "protected": False, "policies": []} == rows[0]
    for params, names in (
        ({"standing": "unprotected"}, ["=db-0", "=db-1"]),
        ({"policy": "nightly", "text": "WEB-1"}, ["web-1"]),
        ({"platform": "other"}, ["=db-0", "=db-1"]),
    ):
        found = client.get("/reports/protection", params=params).json()["items"]
        assert [row["name"] for row in found] == names
    first = client.get("/reports/protection", params={"limit": 2}).json()
    second = client.get("/reports/protection", params={"limit": 2, "after": first["next"]}).json()
    assert [row["name"] for row in second["items"]] == ["web-0", "web-1"]
    mine = busy.client("team-operator").get("/reports/protection").json()["items"]
    assert [row["name"] for row in mine] == ["web-0", "web-1", "web-2"]
    assert busy.client("elsewhere").get("/reports/capacity").json()["items"] == []
    assert client.get("/reports/protection", params={"standing": "odd"}).status_code == 422


def test_no_cell_of_a_csv_file_is_a_formula(busy):
    answer = busy.client().get("/reports/protection", params={"format": "csv", "language": "zh"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="ruchu-protect')
    assert answer.content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [row["机器"] for row in rows][:3] == ["'=db-0", "'=db-1", "web-0"]
    assert rows[2]["备份策略"] == "nightly"


def test_the_success_of_runs_is_counted_by_policy(busy):
    services = busy.services
    kept = services.policies.all()[0]
    run = services.runs.create(NewRun("backup", "old name", {}, kept.id, group=TEAM))
    services.runs.move(run.id, "partly", "one machine failed", summary={"bytes_read": 1 << 40})
    rows = busy.client().get("/reports/success", params={"days": 7}).json()["items"]
    assert rows[0]["name"] == "nightly"
    assert (rows[0]["runs"], rows[0]["partly"], rows[0]["rate"]) == (1, 1, 0.0)
    assert rows[0]["read"] == 1 << 40
    assert rows[0]["last_failure"] == services.runs.get(run.id).ended
    by_hand = rows[1]
    assert (by_hand["policy"], by_hand["kind"], by_hand["runs"]) == (None, "backup", 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["protection", "capacity", "success"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_reports_are_set_as_pdf(busy, kind, language):
    services = busy.services
    services.inventory.saw("other", [
        {"id": "1", "name": '#panic() $x$ *b* "q" \\ <a> 数据库\u202e', "state": "running"},
    ])  # fmt: skip
    busy.clock.sleep(0.123456)
    answer = busy.client().get(f"/reports/{kind}", params={"format": "pdf", "language": language})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content.startswith(b"%PDF-")
    assert answer.content.rstrip().endswith(b"%%EOF")
