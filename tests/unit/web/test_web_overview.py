"""What dashboard, wall and reports say, draw, and follow."""

import asyncio
import datetime
import re
from types import SimpleNamespace

import pytest

from ruchu.web.language import Language
from ruchu.web.parts import drawing, overview_words, wall_tiles
from ruchu.web.parts.dashboard_cards import machine_address, report_file
from ruchu.web.parts.following import Following

EN, ZH = Language("en", "Asia/Shanghai"), Language("zh", "Asia/Shanghai")
STORAGE = {
    "problem": "", "size": 1 << 40, "used": 1 << 39, "free": 1 << 39, "warn_percent": 80,
    "stop_percent": 95, "forecast_days": 30, "forecast_enough": True, "growth": float(1 << 30),
    "full_on": "2028-04-01", "earliest": "2028-03-01", "latest": "2028-05-01",
}  # fmt: skip
NOW = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)


def test_a_forecast_is_said_in_words():
    def said(language=EN, **more):
        return overview_words.outlook(language, STORAGE | more)

    assert said() == (
        "Grows 1.0 GiB a day. Full about 1 Apr 2028 (between 1 Mar 2028 and 1 May 2028)."
    )
    assert said(ZH) == "每天增长 1.0 GiB。预计 2028-04-01 写满（2028-03-01 至 2028-05-01 之间）。"
    same = dict.fromkeys(("full_on", "earliest", "latest"), "2027-01-25")
    assert said(**same) == "Grows 1.0 GiB a day. Full about 25 Jan 2027."
    assert said(latest=None).endswith("Full about 1 Apr 2028, 1 Mar 2028 at the earliest.")
    assert said(full_on=None, latest=None).endswith("but 1 Mar 2028 cannot be ruled out.")
    never = dict.fromkeys(same)
    assert said(**never, growth=-2048.0) == "Shrinks 2.0 KiB a day. Not full within ten years."
    assert said(size=None) == "Grows 1.0 GiB a day."
    assert said(forecast_enough=False, forecast_days=3).startswith("Too few days")


def test_tones_say_what_wants_to_be_looked_at():
    tone = overview_words.storage_tone
    assert tone(STORAGE) == ""
    assert tone(STORAGE | {"used": (1 << 40) * 85 // 100}) == "warn"
    assert tone(STORAGE | {"used": 1 << 40}) == "bad"
    assert tone(STORAGE | {"problem": "gone"}) == "bad"
    late = overview_words.outlook_tone
    assert [late(STORAGE | {"full_on": day}, NOW) for day in
            ("2026-12-20", "2027-02-01", "2028-01-01", None)] == ["bad", "warn", "", ""]  # fmt: skip
    assert [overview_words.rate_tone(share) for share in (None, 1.0, 0.95, 0.5)] == [
        "", "good", "warn", "bad",
    ]  # fmt: skip


def test_a_rate_of_success_is_never_rounded_to_all_or_made_up():
    shown = [overview_words.rate(EN, share) for share in (None, 1.0, 0.99999, 0.5, 0.0)]
    assert shown == ["–", "100%", "99.9%", "50.0%", "0%"]


def test_targets_are_said_as_they_were_chosen():
    said = [overview_words.target(EN, minutes) for minutes in (1440, 2880, 60, 90)]
    assert said == ["1 d", "2 d", "1 h", "1 h 30 min"]


def test_how_runs_ended_leaves_out_what_did_not_happen():
    none = {"succeeded": 3, "partly": 0, "failed": 0}
    assert overview_words.outcomes(EN, none) == "3 succeeded"
    assert overview_words.outcomes(EN, none | {"failed": 2}) == "3 succeeded · 2 failed"


@pytest.mark.parametrize("values", [[], [5], [0, 0], [1, 2, 1000.5, -3]])
def test_a_line_stays_in_its_place(values):
    drawn = drawing.line(values)
    points = re.findall(r'polyline points="([^"]+)"', drawn)[0].split()
    places = [tuple(map(float, each.split(","))) for each in points]
    assert places[0][0] == 0
    assert places[-1][0] == 300
    assert all(0 <= y <= 100 for _, y in places)


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_sites_have_places_of_their_own_within_the_map(count):
    places = drawing.spokes(count)
    assert len(set(places)) == count
    assert all(0 < each < 100 for place in places for each in place)


def test_nodes_that_are_away_come_first_then_the_busiest():
    def node(name, state, cpu):
        return {"name": name, "state": state, "samples": [{"figures": {"cpu": cpu}}]}

    nodes = [node("a", "online", 0.1), node("b", "online", 0.9),
             {"name": "c", "state": "lost", "samples": []},
             {"name": "d", "state": "expected", "samples": []}]  # fmt: skip
    assert [each["name"] for each in wall_tiles.worst_first(nodes)] == ["c", "b", "a"]


def test_a_site_is_marked_by_what_it_tells():
    mark = wall_tiles.site_mark
    assert mark({"problem": "away", "summary": {}}) == "bad"
    assert mark({"problem": "", "summary": {"alarms": {"error": 1}}}) == "warn"
    assert mark({"problem": "", "summary": {"alarms": {"info": 3}}}) == "good"
    assert mark({"problem": "", "summary": None}) == "good"


def test_addresses_hold_any_name():
    assert machine_address({"platform": "a/b", "id": "ü?"}) == "/machines/a%2Fb/%C3%BC%3F"
    address = report_file("protection", "csv", "zh", text="a&b=c", platform="")
    assert address == "/api/v1/reports/protection?format=csv&language=zh&text=a%26b%3Dc"


def test_only_what_changed_is_shown_anew():
    answers = [{"a": 1, "b": 1}, {"a": 1, "b": 2}]
    shown = []

    async def fetch():
        return answers.pop(0)

    visit = SimpleNamespace(house=SimpleNamespace(feed=SimpleNamespace(mark=lambda kinds: {})))
    following = Following(visit, fetch)
    following.on(("a",), lambda found: shown.append(("a", found["a"])))
    following.on(("b",), lambda found: shown.append(("b", found["b"])))
    asyncio.run(following.refresh())
    asyncio.run(following.refresh())
    assert shown == [("a", 1), ("b", 1), ("b", 2)]
