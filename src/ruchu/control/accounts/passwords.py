"""Passwords: which are refused, and how they are kept."""

import re
import threading
import unicodedata
from dataclasses import dataclass

import argon2
import argon2.exceptions

from ruchu.errors import WeakPassword

# NIST SP 800-63B: length is what counts; 12 is beyond guessing for Argon2 at these costs, and the
# upper limit keeps a request from making us hash a book.
LENGTH_MIN, LENGTH_MAX = 12, 256
_DISTINCT_MIN = 5
_BESIDE_NAME_MIN = 8
# Sign-ins that are hashed at the same time: each takes 64 MiB.
_AT_ONCE = 2

# What stays of the worst passwords of the public lists without digits, marks and repetitions:
# people who must take twelve characters stretch these.
_WORST = frozenset({
    "abc", "abcd", "abcdef", "abcdefg", "abcdefgh", "abcdefghijkl", "access", "admin",
    "administrator", "adminadmin", "asdf", "asdfasdf", "asdfgh", "asdfghjkl", "asdfghjklzxc",
    "azerty", "azertyuiop", "backup", "baseball", "changeme", "computer",
    "correcthorsebatterystaple", "default", "dragon", "fanghuo", "football", "guest", "hello",
    "helloworld", "iloveyou", "internet", "letmein", "letmeinplease", "login", "manager",
    "master", "mima", "monkey", "newpassword", "pass", "passpass", "password", "passwordpassword",
    "princess", "qazwsx", "qazwsxedc", "qazwsxedcrfv", "qwer", "qwerasdf", "qwerasdfzxcv",
    "qwert", "qwerty", "qwertyqwerty", "qwertyui", "qwertyuiop", "qwertyuiopas", "root",
    "rootroot", "ruchu", "ruchuruchu", "ruchubackup", "secret", "server", "shadow", "starwars",
    "summer", "sunshine", "superman", "sysadmin", "temp", "test", "testtest", "testing",
    "trustno", "welcome", "whatever", "winter", "woaini", "wodemima", "zaq", "zaqxsw", "zxcvbn",
    "zxcvbnm", "zhongguo",
})  # fmt: skip
_SEQUENCES = (
    "01234567890123456789", "98765432109876543210", "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm", "1qaz2wsx3edc4rfv5tgb6yhn", "1q2w3e4r5t6y7u8i9o0p",
    "112233445566778899", "123123123123123123", "147258369147258369", "159753159753159753",
)  # fmt: skip
_NO_LETTERS = re.compile(r"[\W\d_]+")
_ENDS = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_LEET = str.maketrans("013457$@!", "oieastsai")


def prepared(password: str) -> str:
    """Return a password in one spelling of Unicode."""
    return unicodedata.normalize("NFKC", password)


def _hashed(password: str) -> bytes:
    return prepared(password).encode(errors="surrogatepass")  # whatever JSON may bring


def check(password: str, name: str) -> None:
    """Refuse a password that would be guessed.

    Raises:
        WeakPassword: it is too short, too long, the name, or one of the worst.
    """
    plain = prepared(password)
    if not LENGTH_MIN <= len(plain) <= LENGTH_MAX:
        raise WeakPassword(f"it has {len(plain)} characters, {LENGTH_MIN} at least are needed"
                           if len(plain) < LENGTH_MIN else "it is too long")  # fmt: skip
    folded = plain.casefold()
    if len(set(folded)) < _DISTINCT_MIN:
        raise WeakPassword("it repeats a few characters")
    if _without(folded, name.casefold()):
        raise WeakPassword("it is little more than the name of the account")
    if folded.isdigit() or any(folded in each for each in _SEQUENCES):
        raise WeakPassword("it is only digits, or follows the keyboard")
    core = _ENDS.sub("", folded).translate(_LEET)
    if {_NO_LETTERS.sub("", folded), _NO_LETTERS.sub("", core)} & _WORST:
        raise WeakPassword("it is one of those that are tried first")


def _without(folded: str, name: str) -> bool:
    """Tell whether little stays of a password without the name."""
    return len(name) > 2 and name in folded and len(folded.replace(name, "")) < _BESIDE_NAME_MIN


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of Argon2id: RFC 9106's second choice, about 0.1 s and 64 MiB for each attempt.

    Guessing costs the thief of the database as much; more would let strangers keep our memory
    busy.
    """

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4


class Hasher:
    """Hashes passwords. Safe in several threads; only so many of them hash at once."""

    def __init__(self, costs: Costs | None = None) -> None:
        wanted = costs or Costs()
        self._hasher = argon2.PasswordHasher(
            time_cost=wanted.iterations, memory_cost=wanted.memory_kib, parallelism=wanted.lanes
        )
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        # Verified for names that do not exist, so that they take as long as those that do.
        self._nobody = self._hasher.hash("nobody has this password")

    def hash(self, password: str) -> str:
        """Return the hash of a password, with its salt and costs."""
        with self._turns:
            return self._hasher.hash(_hashed(password))

    def verify(self, kept: str | None, password: str) -> bool:
        """Tell whether a password is the one of a hash; as slow without a hash."""
        if len(password) > LENGTH_MAX:
            password = ""  # no account has it; the work stays the same
        with self._turns:
            try:
                self._hasher.verify(kept or self._nobody, _hashed(password))
            except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
                return False
        return kept is not None

    def is_outdated(self, kept: str) -> bool:
        """Tell whether a hash was made with other costs than today's."""
        return self._hasher.check_needs_rehash(kept)
