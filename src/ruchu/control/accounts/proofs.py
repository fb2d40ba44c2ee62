"""Random words that prove something: sessions, tokens, links, recovery codes.

They have 128 bits of chance and more, so a plain hash keeps them: nobody can try them all. What
is stored is the hash; who reads the database cannot sign in.
"""

import hashlib
import hmac
import secrets

_BYTES = 32
# What is longer than anything we made is not hashed.
LENGTH_MAX = 200
_RECOVERY_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is taken for another
_RECOVERY_GROUPS, _RECOVERY_GROUP = 5, 5  # 25 letters of 31: 123 bits


def fresh() -> str:
    """Return 256 random bits in letters that an address may carry."""
    return secrets.token_urlsafe(_BYTES)


def fresh_recovery_code() -> str:
    """Return a code that a person can type: five groups of five letters."""
    letters = [secrets.choice(_RECOVERY_LETTERS) for _ in range(_RECOVERY_GROUPS * _RECOVERY_GROUP)]
    text = "".join(letters)
    return "-".join(text[at : at + _RECOVERY_GROUP] for at in range(0, len(text), _RECOVERY_GROUP))


def recovery_letters(typed: str) -> str:
    """Return what counts of a recovery code, however it was typed."""
    return "".join(letter for letter in typed.lower() if letter in _RECOVERY_LETTERS)


def digest(purpose: str, word: str) -> str:
    """Return the hash of a word; one of another purpose has another hash."""
    if len(word) > LENGTH_MAX:
        word = ""  # made by nobody, so it is found nowhere
    plain = f"ruchu {purpose}\0{word}".encode(errors="surrogatepass")
    return hashlib.sha256(plain).hexdigest()


def equal(one: str, other: str) -> bool:
    """Compare two words in a time that tells nothing of where they differ."""
    return hmac.compare_digest(
        one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass")
    )
