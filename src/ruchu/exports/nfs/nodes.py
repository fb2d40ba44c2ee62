"""The files and directories of an export, as clients see them."""

from collections.abc import Callable

from ruchu.exports.nfs import messages
from ruchu.exports.nfs.file_io import FileIo
from ruchu.exports.nfs.messages import Attributes
from ruchu.exports.nfs.xdr import TRUE

# Shown, not enforced: hypervisors open files as users of their own. See `NfsExport`.
FILE_MODE = 0o666
READ_ONLY_MODE = 0o444
DIRECTORY_MODE = 0o777
_MODE_BITS = 0o7777

Now = Callable[[], int]


class Node:
    """A file or a directory.

    Attributes:
        handle: what clients name it by.
        cookie: its place in a listing; it never changes and is never used again.
        attributes: what clients are told about it.
        post_op: the same as bytes, a post_op_attr; current at any time.
        scratch_id: its number in the scratch directory, or None if it is no client's.
    """

    def __init__(self, handle: bytes, cookie: int, attributes: Attributes) -> None:
        self.handle = handle
        self.cookie = cookie
        self.attributes = attributes
        self.scratch_id: int | None = None
        self.post_op = TRUE + attributes.pack()

    def touch(self, moment: int) -> None:
        """Note that the content changed; the times always go on, so that no change is missed."""
        attributes = self.attributes
        attributes.modified = attributes.changed = max(moment, attributes.changed + 1)
        self.repack()

    def set_times_and_mode(self, wanted: messages.NewAttributes, moment: int) -> None:
        """Set what is shown and means nothing to us."""
        attributes = self.attributes
        if wanted.mode is not None:
            attributes.mode = wanted.mode & _MODE_BITS
        if wanted.accessed is not None:
            attributes.accessed = moment if wanted.accessed < 0 else wanted.accessed
        if wanted.modified is not None:
            attributes.modified = moment if wanted.modified < 0 else wanted.modified
        attributes.changed = max(moment, attributes.changed + 1)
        self.repack()

    def repack(self) -> None:
        """Bring `post_op` up to date."""
        self.post_op = TRUE + self.attributes.pack()


class File(Node):
    """A file: a disk, bytes, or a scratch file.

    Attributes:
        io: its content.
        writable: clients may write.
        growing: clients may write behind its end, and cut it.
    """

    def __init__(
        self,
        handle: bytes,
        cookie: int,
        attributes: Attributes,
        io: FileIo,
        *,
        writable: bool,
        growing: bool = False,
    ) -> None:
        super().__init__(handle, cookie, attributes)
        self.io = io
        self.writable = writable
        self.growing = growing

    def written(self, moment: int) -> None:
        """Note that the content changed, and maybe its size."""
        self.attributes.size = self.io.content.size
        self.touch(moment)


class Directory(Node):
    """A directory. Entries come and go in a thread, each in one step: a reader copies first."""

    def __init__(
        self, handle: bytes, cookie: int, attributes: Attributes, parent: "Directory | None"
    ) -> None:
        super().__init__(handle, cookie, attributes)
        self.parent = parent or self
        self.entries: dict[bytes, Node] = {}

    def listing(self, after: int) -> list[tuple[int, bytes, Node]]:
        """Return cookie, name and node of the entries behind a cookie, in order."""
        found: list[tuple[int, bytes, Node]] = [(1, b".", self), (2, b"..", self.parent)]
        found += [(node.cookie, name, node) for name, node in list(self.entries.items())]
        return sorted(entry for entry in found if entry[0] > after)
