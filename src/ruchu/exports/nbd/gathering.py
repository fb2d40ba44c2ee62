"""Small writes that came together: those that meet on the disk are stored as one."""

import operator

# Where it begins, the cookie of its request, its data.
Write = tuple[int, int, memoryview]
_start = operator.itemgetter(0)


def runs_of(writes: list[Write]) -> list[tuple[int, list[memoryview]]]:
    """Return writes by where they begin, neighbours joined: (start, data part by part).

    None of them was answered yet, so a client cannot tell in which order they are stored, unless
    they overlap: then nothing is returned, and they are stored one after the other as they came.
    """
    runs: list[tuple[int, list[memoryview]]] = []
    parts: list[memoryview] = []
    end = -1
    for start, _, data in sorted(writes, key=_start):
        if start == end:
            parts.append(data)
        elif start > end:
            parts = [data]
            runs.append((start, parts))
        else:
            return []
        end = start + len(data)
    return runs
