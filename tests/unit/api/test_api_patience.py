"""Connections that take their time, with limits of a fraction of a second."""

import asyncio

import pytest
import uvicorn

from ruchu.api.patience import PatientProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


class Impatient(PatientProtocol):
    headers_limit_s = 0.3
    body_limit_s = 0.3
    writing_limit_s = 0.3


async def application(scope, receive, send):
    """Answer what was sent; or, asked for a flood, more than any buffer holds."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/flood":
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)  # longer than every limit: a server may think
    await send({"type": "http.response.body", "body": body})


def over(talk):
    """Run a server, and what a client does with it."""

    async def go():
        config = uvicorn.Config(
            application, port=0, http=Impatient, ws="none", lifespan="off", log_level="critical",
            timeout_keep_alive=2, timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await asyncio.wait_for(talk(reader, writer), 60)
        finally:
            writer.close()
            await server.shutdown()

    return asyncio.run(go())


async def rest(reader):
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    "begin",
    [b"", b"P", HEAD, HEAD + b"X-A: b\r\n", HEAD + b"Content-Length: 5\r\n\r\nab",
     HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"],
)  # fmt: skip
def test_what_does_not_go_on_is_closed_without_an_answer(begin):
    async def talk(reader, writer):
        writer.write(begin)
        return await rest(reader)

    assert over(talk) == b""


@pytest.mark.parametrize("begin", [HEAD, HEAD + b"Content-Length: 10000\r\n\r\n"])
def test_what_goes_on_drop_by_drop_is_closed_all_the_same(begin):
    async def talk(reader, writer):
        async def drip():
            while True:
                writer.write(b"X")
                await asyncio.sleep(0.05)

        writer.write(begin)
        dripping = asyncio.create_task(drip())
        found = await rest(reader)
        dripping.cancel()
        return found

    assert over(talk) == b""


def test_the_second_request_of_a_connection_has_a_limit_too():
    async def talk(reader, writer):
        writer.write(HEAD + b"Content-Length: 2\r\n\r\nab")
        first = await reader.readuntil(b"ab\r\n0\r\n\r\n")
        writer.write(HEAD)
        return first, await rest(reader)

    first, then = over(talk)
    assert first.startswith(b"HTTP/1.1 200")
    assert then == b""


def test_an_answer_may_take_its_time():
    async def talk(reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return await rest(reader)

    assert over(talk).startswith(b"HTTP/1.1 200")


def test_who_asks_and_does_not_read_is_closed():
    async def talk(reader, writer):
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1.5)  # reads nothing meanwhile: its own buffer is full at once
        return len(await rest(reader))

    assert over(talk) < 1000 * 65536
