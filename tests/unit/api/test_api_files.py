"""Files of points over HTTP: pages, searches, streams that break off honestly, names, limits."""

import asyncio
import base64
import contextlib
from urllib.parse import unquote

import pytest
from api_world import POINTS, TEAM
from starlette.responses import Response

from ruchu.api import transfers
from ruchu.api.transfers import PART_BYTES, TRANSFERS_EACH_MAX, Content, Transfer
from ruchu.control.questions import point_asker
from ruchu.errors import NodeAway, NodeFailed, NotFound, TooMany, UsageError
from ruchu.model import guest_paths
from ruchu.testing.clocks import ManualClock

AT = f"/points/{POINTS[0]}"
KEY = guest_paths.key_of(b"/vda1/etc/\xff odd")
ENTRY = {
    "name": "\\xff odd", "path": "/vda1/etc/\\xff odd", "key": KEY, "kind": "file", "size": 7,
    "modified": "2026-11-22T18:00:00.000000001Z", "mode": "0644", "owner": 0, "group": 0,
    "target": None, "problem": "", "allocated": 4096,
}  # fmt: skip


@pytest.fixture
def node(world):
    """Return what the node that holds the point open is asked and answers."""
    world.node()
    content = bytes(range(256)) * 8192 + bytes(PART_BYTES) + b"end"
    world.answers |= {
        "files-volumes": {"volumes": [{
            "name": "vda1", "path": "/vda1", "key": "L3ZkYTE", "kind": "ext4", "size": 1 << 30,
            "label": "root", "uuid": "", "role": "", "readable": True, "reason": "", "notes": [],
        }]},
        "files-list": {"path": "/vda1/etc", "key": "L3ZkYTEvZXRj", "entries": [ENTRY],
                       "total": 300, "next": 101, "cut": False, "problem": ""},
        "files-find": {"entries": [ENTRY], "complete": False, "stopped": "limit", "failed": 0,
                       "problems": []},
        "files-fetch": {"handle": "h", "name": "a.conf", "size": len(content)},
        "files-close": {},
    }  # fmt: skip
    world.content = content
    world.breaks_at = None
    asked = world.services.hub.ask

    def ask(to, what, arguments, limit_s):
        if what != "files-read":
            return asked(to, what, arguments, limit_s)
        offset, length = (arguments["body"][key] for key in ("offset", "length"))
        if world.breaks_at is not None and offset >= world.breaks_at:
            raise NodeFailed("(the process that has the point open died, or is stuck)")
        part = content[offset : offset + length]
        end = offset + len(part) == len(content)
        if part == bytes(len(part)):
            return {"zeros": len(part), "end": end}
        return {"content": base64.b64encode(part).decode(), "end": end}

    world.services.hub.ask = ask
    return world


def test_volumes_and_directories_are_shown_page_by_page(node, admin):
    found = admin.get(f"{AT}/files").json()
    assert [each["name"] for each in found["volumes"]] == ["vda1"]
    params = {"path": "/vda1/etc", "sort": "size", "descending": True, "after": "1", "limit": 100}
    page = admin.get(f"{AT}/files", params=params).json()
    assert (page["next"], page["total"], page["items"][0]["key"]) == ("101", 300, KEY)
    what, arguments = node.asked[-1]
    assert what == "files-list"
    wanted = {"start": 1, "limit": 100, "sort": "size", "descending": True}
    assert wanted.items() <= arguments["body"].items()
    assert guest_paths.path_of(arguments["body"]["key"]) == b"/vda1/etc"
    assert arguments["secrets"] == {"storage:main": "sieben Berge 7"}
    for bad in ({"after": "x", "key": KEY}, {"sort": "owner"}, {"key": "not a key"}):
        assert admin.get(f"{AT}/files", params=bad).status_code == 422
    assert admin.get(f"{AT}/files", params={"storage": "none"}).status_code == 404


def test_a_search_says_whether_it_saw_everything(node, admin):
    found = admin.get(f"{AT}/files/search", params={"pattern": "*odd"}).json()
    assert (found["complete"], found["stopped"]) == (False, "limit")
    assert found["items"][0]["name"] == "\\xff odd"
    (record,) = admin.get("/audit", params={"action": "point.search"}).json()["items"]
    assert record["facts"]["pattern"] == "*odd"


def test_a_file_streams_and_stands_in_the_audit_trail(node, admin):
    answer = admin.get(f"{AT}/files/content", params={"key": KEY})
    assert answer.content == node.content
    assert answer.headers["content-length"] == str(len(node.content))
    assert answer.headers["content-disposition"].startswith('attachment; filename="a.conf"')
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
    records = admin.get("/audit", params={"text": ""}).json()["items"]
    told = {each["action"]: each for each in records if each["action"].startswith("point.")}
    assert told["point.download"]["facts"]["paths"] == ["/vda1/etc/\\xff odd"]
    assert told["point.download-ended"]["facts"]["bytes"] == len(node.content)
    assert node.asked[-1][0] == "files-close"


@pytest.mark.parametrize("size", [True, None])
def test_what_breaks_off_is_never_ended(node, size):
    node.breaks_at = PART_BYTES
    if size is None:
        node.answers["files-fetch"]["size"] = None
    sent = streamed(node, f"/api/v1{AT}/files/content", f"key={KEY}")
    assert sent[0]["status"] == 200
    assert sum(len(each["body"]) for each in sent[1:]) == PART_BYTES
    assert all(each["more_body"] for each in sent[1:])
    (told,) = node.told
    assert "broke off" in told
    node.told.clear()
    records = node.client().get("/audit", params={"action": "point.download-ended"}).json()
    assert records["items"][0]["outcome"] == "failed"


def streamed(world, path, query, version="1.1"):
    """Return the messages that the application sends for a request."""
    sent = []
    headers = [(b"authorization", f"Bearer {world.word('administrator')}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": version, "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": query.encode(), "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("ruchu.test", 80),
    }  # fmt: skip

    async def go():
        waiting = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop()

        async def send(message):
            sent.append(message)

        await world.app(scope, receive, send)

    asyncio.run(go())
    return sent


def test_who_cannot_see_the_end_of_an_archive_gets_none(node):
    node.answers["files-fetch"]["size"] = None
    sent = streamed(node, f"/api/v1{AT}/files/content", f"key={KEY}", version="1.0")
    assert sent[0]["status"] == 426
    assert node.asked[-1][0] == "files-close"
    node.told.clear()


def test_nobody_fetches_more_than_a_few_at_once(node, admin):
    counters = node.app.state.transfers
    who = "administrator"
    with contextlib.ExitStack() as stack:
        for _ in range(TRANSFERS_EACH_MAX):
            counters.begin(who)
            stack.callback(counters.end, who)
        answer = admin.get(f"{AT}/files/content", params={"key": KEY})
        assert (answer.status_code, answer.json()["code"]) == (429, "too-many")
    assert admin.get(f"{AT}/files/content", params={"key": KEY}).status_code == 200
    # What is refused before it streams counts no longer.
    node.answers["files-fetch"] = None
    many = [{"key": [KEY] * 101}, {"key": []}, {"key": KEY, "format": "rar"}]
    for params in many:
        assert admin.get(f"{AT}/files/content", params=params).status_code == 422
    assert counters._by.total() == 0


def test_an_image_bears_the_name_of_its_machine(node, admin):
    node.answers["files-fetch"]["name"] = "vda.qcow2"
    answer = admin.get(f"{AT}/disks/vda/image", params={"format": "qcow2"})
    assert 'filename="web-0-2026-11-10-vda.qcow2"' in answer.headers["content-disposition"]
    arguments = next(told for what, told in node.asked if what == "files-fetch")
    assert (arguments["body"]["disk"], arguments["body"]["format"]) == ("vda", "qcow2")
    assert admin.get(f"{AT}/disks/vda/image", params={"format": "exe"}).status_code == 422


def test_files_are_sent_back_by_a_run(node, admin):
    body = {"keys": [KEY], "machine": "web-0", "directory": "/root/back", "overwrite": True}
    run = admin.post(f"{AT}/files/return", json=body).json()
    assert (run["kind"], run["resource_group"]) == ("files-return", TEAM)
    assert run["body"]["platform"] == "kvm"
    (record,) = admin.get("/audit", params={"action": "run.files-return"}).json()["items"]
    assert record["facts"]["paths"] == ["/vda1/etc/\\xff odd"]
    assert record["facts"]["overwrite"] is True
    operator = node.client("operator")
    assert operator.post(f"{AT}/files/return", json=body).status_code == 403


def test_what_a_node_answers_is_the_same_error_here():
    for kind in (NotFound, UsageError, TooMany):
        said = NodeFailed(f"({kind('(x)')})", hint="do it", remote_code=kind.code)
        with pytest.raises(kind) as found:
            point_asker._raise(said)
        assert str(found.value) == str(kind("(x)"))
        assert found.value.advice == "do it"
    with pytest.raises(NodeFailed):
        point_asker._raise(NodeFailed("(x)", remote_code="guest-damaged"))


def test_a_line_that_was_cut_is_waited_for():
    clock, tries = ManualClock(), []

    def read(offset, length):
        tries.append(offset)
        if len(tries) < 4:
            raise NodeAway
        return {"zeros": length, "end": True}

    assert transfers.patient(read, clock)(7, 9) == {"zeros": 9, "end": True}
    assert tries == [7] * 4
    tries.clear()

    def never(offset, length):
        raise NodeAway

    with pytest.raises(NodeAway):
        transfers.patient(never, clock)(0, 1)


@pytest.mark.parametrize("part", [
    {"zeros": PART_BYTES + 1, "end": True}, {"zeros": -1, "end": True}, {"content": "*"},
    {"content": "", "end": False}, {"end": 1}, {"content": "AAAA", "end": True},
])  # fmt: skip
def test_a_part_that_is_none_breaks_off(part):
    ended = []
    content = Content("x", 9, lambda *_: part, lambda: None, lambda *told: ended.append(told))
    sent = []

    async def go():
        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        with transfers.ThreadPoolExecutor(1) as pool:
            scope = {"type": "http", "http_version": "1.1"}
            await Transfer(content, pool)(scope, receive, send)

    asyncio.run(go())
    assert all(each.get("more_body", True) for each in sent)
    assert isinstance(ended[0][1], NodeFailed)


@pytest.mark.parametrize(("name", "plain"), [
    ("a b.txt", "a b.txt"), ('q"u\\o/te', "q_u_o_te"), ("new\nline\r", "new_line_"),
    ("卷.txt", "_.txt"), ("50%", "50_"), ("", "_"), ("\u202etxt.exe", "_txt.exe"),
    ("x" * 300 + ".tar", "x" * 176 + ".tar"), ("ü;=.zip", "_;=.zip"),
])  # fmt: skip
def test_names_in_headers(name, plain):
    header = transfers.disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.startswith(f'attachment; filename="{plain}"; ')
    Response(headers={"content-disposition": header})
    said = unquote(header.partition("filename*=UTF-8''")[2])
    assert said.isprintable()
    assert "/" not in said
    assert said == name or len(said) <= transfers.NAME_LENGTH_MAX
