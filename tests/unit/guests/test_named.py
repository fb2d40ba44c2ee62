"""What a directory names and is not there is damage, whatever it is asked for."""

import pytest

from ruchu.errors import GuestDamaged, NotFound, UsageError
from ruchu.guests.named import NamedFiles


class Nothing:
    """A FileSystem in which only the root is there."""

    facts = "facts"
    root = 1

    def missing(self, node, *_):
        if node == self.root:
            return {"here": node}
        raise NotFound(f"(inode {node})")

    stat = placed = link_target = xattrs = streams = read_into = missing

    def entries(self, node, *_):
        yield from self.missing(node)

    extents = entries


USES = {
    "stat": lambda system, node: system.stat(node),
    "placed": lambda system, node: system.placed(node),
    "link_target": lambda system, node: system.link_target(node),
    "xattrs": lambda system, node: system.xattrs(node),
    "streams": lambda system, node: system.streams(node),
    "read_into": lambda system, node: system.read_into(node, 0, memoryview(bytearray(1))),
    "entries": lambda system, node: list(system.entries(node)),
    "extents": lambda system, node: list(system.extents(node)),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_not_there_is_damage(use):
    system = NamedFiles(Nothing())
    assert (system.facts, system.root) == ("facts", 1)
    USES[use](system, 1)
    with pytest.raises(GuestDamaged, match=r"not there \(inode 5\)") as caught:
        USES[use](system, 5)
    assert not isinstance(caught.value, UsageError)


def test_other_errors_are_what_they_were():
    system = Nothing()
    system.stat = lambda _: 1 // 0
    with pytest.raises(ZeroDivisionError):
        NamedFiles(system).stat(5)
