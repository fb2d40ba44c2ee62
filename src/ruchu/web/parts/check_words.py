"""What a node says of its host, in the language of who looks.

A node says it in English. What is a version, a size or a path stays as it is.
"""

import functools
import re

from ruchu.web.language import Language, later

_NAMES = (
    later("cores"), later("memory"), later("clock"), later("nfs client"), later("port 111"),
    later("uefi firmware"), later("immutable flag"), later("sealed files"),
    later("append-only directories"), later("open guard (fanotify)"),
    later("kernel guard (BPF LSM)"),
)  # fmt: skip
# The first that fits is taken.
_DETAILS = (
    later("not synchronised (NTP); retention goes by age"),
    later("synchronised"),
    later("machines run without hardware help, slowly"),
    later("no permission"),
    later("{device} opens, but the processor shows neither vmx nor svm: `ruchu run` uses TCG"),
    later("{device} is not there"),
    later("not loaded in the kernel"),
    later("{reason}: no NFS export with --portmapper here"),
    later("free for NFS exports with --portmapper"),
    later("`ruchu run` cannot run UEFI machines"),
    later("storages can be guarded"),
    later("only root can guard a storage"),
    later("set, seen and released"),
    later("writing, removing and renaming refused"),
    later("removing refused, adding allowed"),
    later("opening for writing refused, for reading allowed"),
    later("removing and changing flags refused, {count} hooks"),
    later("{what} was not refused"),
    later("writing"), later("removing"), later("renaming"), later("opening"),
    later("changing flags"),
    later("the kernel refuses a program: {reason}"),
    later("this kernel has no hook {hooks}"),
    later("{hook} of this kernel is about no {thing}"),
    later("the kernel does not describe its structures (BTF)"),
    later("the description of the kernel's structures is of another kind"),
    later("the description of the kernel's structures is cut off"),
    later("this kernel has no {structure}"),
    later("bpf(2) is not known on {machine}"),
    later("No such file or directory"),
    later("Operation not permitted"),
    later("Operation not supported"),
    later("Permission denied"),
    later("Address already in use"),
)  # fmt: skip
_PLACE = re.compile(r"\{(\w+)\}")


def name(language: Language, text: str) -> str:
    """Return what was looked at."""
    return language.say(text) if text in _NAMES else text


def detail(language: Language, text: str) -> str:
    """Return what was found; what is not known is shown as it was said."""
    for known in _DETAILS:
        found = _shape(known).fullmatch(text)
        if found is not None:
            parts = {key: detail(language, value) for key, value in found.groupdict().items()}
            return language.say(known, **parts)
    return text


@functools.cache
def _shape(known: str) -> re.Pattern[str]:
    """Return what fits a text with its places filled in."""
    parts = _PLACE.split(known)
    return re.compile("".join(
        f"(?P<{part}>.+?)" if number % 2 else re.escape(part) for number, part in enumerate(parts)
    ))  # fmt: skip
