"""Exported definitions as bytes: JSON, or JSON sealed with a passphrase in the format of age.

What is sealed can be opened without Ruchu: `age --decrypt FILE`.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyrage
from pyrage import passphrase as age

from ruchu.errors import SealedFileClosed, UsageError

BEGIN = "-----BEGIN AGE ENCRYPTED FILE-----"
# Definitions of the largest site take some megabytes; the rest of the API takes no more either.
BYTES_MAX = 4 << 20
# It stands alone between a file that lies around and every secret of a site.
PASSPHRASE_MIN = 12


def written(document: Mapping[str, Any], passphrase: str | None) -> str:
    """Return a document as text, sealed if there is a passphrase.

    Raises:
        UsageError: the passphrase is too short to protect every secret of a site.
    """
    if passphrase is None:
        return json.dumps(document, ensure_ascii=False, indent=1)
    return seal(document, passphrase)


def seal(document: Mapping[str, Any], passphrase: str) -> str:
    """Return a document that only the passphrase opens, as text.

    Raises:
        UsageError: the passphrase is too short to protect every secret of a site.
    """
    if len(passphrase) < PASSPHRASE_MIN:
        hint = f"At least {PASSPHRASE_MIN} characters: it protects every secret of this server."
        raise UsageError("(the passphrase of the file is too short)", hint=hint)
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    sealed: bytes = age.encrypt(data, passphrase, armored=True)
    return sealed.decode()


def unseal(text: str, passphrase: str) -> Mapping[str, Any]:
    """Return the document in a sealed or a plain text.

    Raises:
        SealedFileClosed: the passphrase does not open it.
        UsageError: it is no such document.
    """
    if len(text) > BYTES_MAX:
        raise UsageError("(the file is too large)")
    data = text
    if text.lstrip().startswith(BEGIN):
        if not passphrase:
            raise SealedFileClosed("(no passphrase was given)")
        try:
            data = age.decrypt(text.strip().encode(), passphrase).decode()
        except (pyrage.DecryptError, ValueError):
            raise SealedFileClosed from None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError("(the file is no JSON)") from None
    if not isinstance(found, Mapping):
        raise UsageError("(the file holds no definitions)")
    return found
