"""`python -m benchmarks.streams`: bulk between two nodes, beside a plain TLS socket copy.

Two processes on this machine, mutual TLS 1.3 over loopback in both cases, the same certificates, the
same file in the page cache at the sending end, nothing kept at the receiving end. The peer is a
program that does nothing but read, send and receive 1 MiB at a time. Ours also checks every piece
with BLAKE3 at both ends. Rounds alternate, so that what else the machine does meets both.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import socket
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path

from ruchu.clock import SYSTEM
from ruchu.units import MIB, parse_size
from ruchu.wire import authority, contexts
from ruchu.wire.authority import Authority, Issued
from ruchu.wire.calling import Address
from ruchu.wire.identity import Identity
from ruchu.wire.stream_client import StreamClient, Target
from ruchu.wire.stream_serving import StreamServer
from ruchu.wire.streams import FileSource, Ticket

OWED = 0.7
STATUS_NOT_MET = 3
PLAIN, PUT, GET = "plain TLS sockets", "ruchu, sent (PUT)", "ruchu, fetched (GET)"
LIMIT_S = 600
ANYWHERE = Address("127.0.0.1", 0)


class Nowhere:
    """A `Sink` that keeps nothing."""

    def __init__(self):
        self.written = 0

    def write(self, offset, piece):
        self.written = offset + len(piece)

    def durable(self):
        return self.written

    def reread(self, length):
        assert not length
        return iter(())

    def restart(self):
        self.written = 0

    def finish(self, digest):
        pass


def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def node(signer, ids):
    key = authority.new_key()
    found = signer.sign_node(authority.request_for(key), ids)
    own = authority.key_to_pem(key)
    return Identity(ANYWHERE, found.node, own, found.client, found.streams, found.authority)


# Each of these runs in a process of its own; what it puts last into the pipe is its cost.


def plain_receiver(pipe, receiver, size):
    context = contexts.for_server(Issued(receiver.streams, receiver.key), receiver.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pipe.send(listening.getsockname()[1])
        connected, _ = listening.accept()
    with context.wrap_socket(connected, server_side=True) as tls:
        view = memoryview(bytearray(MIB))
        before, left = cpu_s(), size
        while left:
            count = tls.recv_into(view)
            assert count
            left -= count
        tls.sendall(b"d")
        pipe.send(cpu_s() - before)


def plain_sender(pipe, target, path, size):
    plain = socket.create_connection(("127.0.0.1", target.address.port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with target.context.wrap_socket(plain, server_hostname=target.name) as tls:
        view = memoryview(bytearray(MIB))
        before, began, left = cpu_s(), time.monotonic(), size
        with path.open("rb", buffering=0) as file:
            while left:
                count = file.readinto(view)
                tls.sendall(view[:count])
                left -= count
        assert tls.recv(1) == b"d"
        pipe.send((cpu_s() - before, time.monotonic() - began))


def receiving_node(pipe, receiver, ticket):
    def alarm(*what):
        raise AssertionError(what)

    with StreamServer(ANYWHERE, receiver, SYSTEM, alarm) as server:
        incoming = server.desk.expect(ticket, Nowhere())
        before = cpu_s()
        pipe.send(server.address.port)
        incoming.wait(LIMIT_S)
        pipe.send(cpu_s() - before)
        pipe.recv()


def sending_node(pipe, target, path, ticket):
    with FileSource(path) as source:
        before, began = cpu_s(), time.monotonic()
        StreamClient(target, ticket, SYSTEM, random.Random(1)).send(source)
        pipe.send((cpu_s() - before, time.monotonic() - began))


def offering_node(pipe, receiver, path, ticket):
    def alarm(*what):
        raise AssertionError(what)

    with StreamServer(ANYWHERE, receiver, SYSTEM, alarm) as server, FileSource(path) as source:
        outgoing = server.desk.offer(ticket, source)
        before = cpu_s()
        pipe.send(server.address.port)
        outgoing.wait(LIMIT_S)
        pipe.send(cpu_s() - before)
        pipe.recv()


def fetching_node(pipe, target, ticket):
    before, began = cpu_s(), time.monotonic()
    StreamClient(target, ticket, SYSTEM, random.Random(1)).fetch(Nowhere())
    pipe.send((cpu_s() - before, time.monotonic() - began))


def measure(kind, nodes, path, size):
    """Return MiB per CPU second, MiB/s, CPU seconds of the listening and of the dialling end."""
    dialling, listening = nodes
    fork = multiprocessing.get_context("fork")
    near, far = fork.Pipe()
    ticket = Ticket.new()
    ends = {
        PLAIN: (plain_receiver, (listening, size)),
        PUT: (receiving_node, (listening, ticket)),
        GET: (offering_node, (listening, path, ticket)),
    }
    work, arguments = ends[kind]
    server = fork.Process(target=work, args=(far, *arguments))
    server.start()
    target = Target(
        Address("127.0.0.1", near.recv()),
        authority.streams_name(listening.node),
        contexts.for_streams(dialling.authority, Issued(dialling.client, dialling.key)),
    )
    here, there = fork.Pipe()
    dials = {
        PLAIN: (plain_sender, (target, path, size)),
        PUT: (sending_node, (target, path, ticket)),
        GET: (fetching_node, (target, ticket)),
    }
    work, arguments = dials[kind]
    client = fork.Process(target=work, args=(there, *arguments))
    client.start()
    dial_cpu_s, wall_s = here.recv()
    listen_cpu_s = near.recv()
    near.send("end")
    for process in (client, server):
        process.join(LIMIT_S)
        assert process.exitcode == 0, (kind, process.exitcode)
    mib = size / MIB
    return mib / (dial_cpu_s + listen_cpu_s), mib / wall_s, listen_cpu_s, dial_cpu_s


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=1 << 30, help="default: 1G")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--json", action="store_true", help="print one document")
    options = parser.parse_args()
    signer = Authority.create(SYSTEM)
    nodes = node(signer, "0" * 32), node(signer, "1" * 32)
    kinds = (PLAIN, PUT, GET)
    found = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="ruchu-streams-") as directory:
        path = Path(directory) / "content"
        generator = random.Random(1)
        with path.open("wb") as file:
            for _ in range(options.size // MIB):
                file.write(generator.randbytes(MIB))
        size = path.stat().st_size
        for _ in range(options.rounds):
            for kind in kinds:
                found[kind].append(measure(kind, nodes, path, size))
    return tell(found, size, as_document=options.json)


def tell(found, size, *, as_document):
    medians = {
        kind: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for kind, rounds in found.items()
    }
    # Each round against the plain copy that ran just before it.
    ratios = {
        kind: [
            statistics.median(
                ours[column] / plain[column]
                for ours, plain in zip(rounds, found[PLAIN], strict=True)
            )
            for column in (0, 1)
        ]
        for kind, rounds in found.items()
    }
    met = all(ratio >= OWED for ratio in ratios[PUT])
    if as_document:
        print(json.dumps({"medians": medians, "ratios": ratios, "owed": OWED, "met": met}))
        return 0 if met else STATUS_NOT_MET
    print(f"{size / MIB:.0f} MiB, {len(found[PLAIN])} rounds, {os.cpu_count()} CPUs, medians")
    print(f"{'':24}{'MiB/CPU s':>10}{'of plain':>9}{'MiB/s':>8}{'of plain':>9}   CPU s listen+dial")
    for kind, (per_cpu, per_s, listen_s, dial_s) in medians.items():
        cpu_ratio, wall_ratio = ratios[kind]
        print(
            f"{kind:24}{per_cpu:10.0f}{cpu_ratio:9.2f}{per_s:8.0f}{wall_ratio:9.2f}"
            f"   {listen_s:.2f}+{dial_s:.2f}"
        )
    print(f"owed: {PUT} at least {OWED} of plain in both: {'met' if met else 'NOT MET'}")
    return 0 if met else STATUS_NOT_MET


if __name__ == "__main__":
    sys.exit(main())
