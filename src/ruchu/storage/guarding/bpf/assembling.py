"""Instructions of BPF as numbers (Documentation/bpf/standardization), with labels for jumps."""

import struct

_INSTRUCTION = struct.Struct("<BBhi")
_JUMP_ALWAYS, _JUMP_EQUAL, _JUMP_UNEQUAL = 0x05, 0x15, 0x55
_REGISTER = 0x08  # the operand is a register, not a number
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_MAP = 1  # the number of LD_IMM64 is the descriptor of a map


class Assembler:
    """Collects instructions; registers are numbers, 10 is the frame."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []
        self._jumps: dict[int, str] = {}
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """Name the place that follows."""
        assert name not in self._labels
        self._labels[name] = len(self._code)

    def move(self, target: int, source: int) -> None:
        """Copy a register."""
        self._add(0xBF, target, source)

    def number(self, target: int, value: int) -> None:
        """Put a small number into a register."""
        self._add(0xB7, target, value=value)

    def add(self, target: int, value: int) -> None:
        """Add a number to a register."""
        self._add(0x07, target, value=value)

    def divide(self, target: int, value: int) -> None:
        """Divide a register, unsigned."""
        self._add(0x37, target, value=value)

    def mask(self, target: int, value: int) -> None:
        """Keep the bits of a number in a register."""
        self._add(0x57, target, value=value)

    def shift_right(self, target: int, bits: int) -> None:
        """Shift a register."""
        self._add(0x77, target, value=bits)

    def load(self, target: int, source: int, offset: int, size: int = 8) -> None:
        """Read memory at a register."""
        self._add(0x61 | _SIZES[size], target, source, offset)

    def store(self, target: int, offset: int, source: int, size: int = 8) -> None:
        """Write a register to memory at another."""
        self._add(0x63 | _SIZES[size], target, source, offset)

    def map(self, target: int, descriptor: int) -> None:
        """Put a map into a register."""
        self._add(0x18, target, _MAP, value=descriptor)
        self._add(0)

    def call(self, helper: int) -> None:
        """Call a function of the kernel; it spoils the registers 1 to 5."""
        self._add(0x85, value=helper)

    def jump(self, label: str) -> None:
        """Go on elsewhere, further down."""
        self._jump(_JUMP_ALWAYS, label)

    def jump_equal(self, left: int, value: int, label: str) -> None:
        """Go on elsewhere if a register holds a number."""
        self._jump(_JUMP_EQUAL, label, left, value=value)

    def jump_unequal(self, left: int, value: int, label: str) -> None:
        """Go on elsewhere unless a register holds a number."""
        self._jump(_JUMP_UNEQUAL, label, left, value=value)

    def jump_same(self, left: int, right: int, label: str) -> None:
        """Go on elsewhere if two registers are the same."""
        self._jump(_JUMP_EQUAL | _REGISTER, label, left, right)

    def leave(self, value: int) -> None:
        """End the program with a number."""
        self.number(0, value)
        self._add(0x95)

    def assembled(self) -> bytes:
        """Return the program."""
        code = bytearray()
        for at, (operation, target, source, offset, value) in enumerate(self._code):
            if at in self._jumps:
                offset = self._labels[self._jumps[at]] - at - 1  # noqa: PLW2901 - known only now
            code += _INSTRUCTION.pack(operation, target | source << 4, offset, value)
        return bytes(code)

    def _jump(
        self, operation: int, label: str, left: int = 0, right: int = 0, value: int = 0
    ) -> None:
        self._jumps[len(self._code)] = label
        self._add(operation, left, right, value=value)

    def _add(
        self, operation: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0
    ) -> None:
        self._code.append((operation, target, source, offset, value))
