"""What the server writes into alarms is shown in both languages; other words stay as they are."""

import pytest

from ruchu.web.language import Language
from ruchu.web.parts import alarm_details

ENGLISH, CHINESE = Language("en", "Asia/Shanghai"), Language("zh", "Asia/Shanghai")
# As `control.server.housekeeping`, `node_checks`, `scheduling` and `nodes.watching` write them.
TEXTS = {
    "Policy web-hourly asks for 120 minutes; last: 2026-11-26 12:00 UTC.": (
        "Policy web-hourly asks for a point every 2 h 0 min. The last one is of 26 Nov 2026, 20:00.",
        "2026-11-26 20:00",
    ),
    "Policy a asks for 60 minutes; last: never.": (
        "Policy a asks for a point every 1 h 0 min. There is none yet.", "目前尚无恢复点",
    ),
    "86 % are used; 3694359069327 bytes are free.": ("86% are used, 3.4 TiB are free.", "可用 3.4 TiB"),
    "It was heard of last at 2026-11-26T15:18:00.000000Z. 2 tasks are with it.": (
        "It was heard of last at 26 Nov 2026, 23:18. Tasks that are with it: 2", "任务数：2",
    ),
    "It is 90 seconds ahead of that of the server.": (
        "Its clock is 1 min 30 s ahead of that of the server.", "比服务器快",
    ),
    "It is 31 seconds behind that of the server.": (
        "Its clock is 31 s behind that of the server.", "比服务器慢",
    ),
    "Seen last at 2026-11-26 12:00 UTC; it may end from 2026-11-29 12:00 UTC on.": (
        "It was seen last at 26 Nov 2026, 20:00. Its certificate may end from 29 Nov 2026, 20:00 on.",
        "2026-11-29 20:00",
    ),
    "3 starts (incremental) from 2026-11-26 12:00 to 2026-11-26 14:00 UTC were not made. "
    "One run makes up for them.": (
        ("Starts that were not made (Incremental) from 26 Nov 2026, 20:00 to 26 Nov 2026, 22:00: 3. "
         "One run makes up for them."), "（增量）3 次",
    ),
    "3 starts (full) from 2026-11-26 12:00 to 2026-11-26 14:00 UTC were not made. "
    "They are left out.": (
        ("Starts that were not made (Full) from 26 Nov 2026, 20:00 to 26 Nov 2026, 22:00: 3. "
         "They are left out."), "不再补执行",
    ),
    "A run that died had left it; it was removed: snapshot a": (
        "A run that died had left it. It was removed: snapshot a", "已清理：snapshot a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_the_server_is_known(text):
    english, chinese = TEXTS[text]
    assert alarm_details.said(ENGLISH, text) == english
    assert chinese in alarm_details.said(CHINESE, text)


def test_other_words_are_not_touched():
    assert alarm_details.said(CHINESE, "qemu: the disk is gone") is None
