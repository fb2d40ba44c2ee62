"""The columns of the reports, and every word of them, in English and Chinese. Pure."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ruchu.errors import UsageError


class Table(enum.StrEnum):
    """A report."""

    PROTECTION = "protection"
    CAPACITY = "capacity"
    SUCCESS = "success"


class Shape(enum.StrEnum):
    """What the cells of a column are."""

    TEXT = "text"
    TEXTS = "texts"
    MOMENT = "moment"
    DAY = "day"
    SECONDS = "seconds"
    MINUTES = "minutes"
    BYTES = "bytes"
    COUNT = "count"
    SHARE = "share"
    FLAG = "flag"
    KIND = "kind"


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        key: of the cells in the rows.
        shape: what they are.
        en, zh: its heading.
        width: share of the width of a page.
    """

    key: str
    shape: Shape
    en: str
    zh: str
    width: float = 1.0

    def heading(self, language: str) -> str:
        """Return the heading in a language."""
        return self.zh if language == "zh" else self.en


COLUMNS: Mapping[Table, Sequence[Column]] = {
    Table.PROTECTION: (
        Column("name", Shape.TEXT, "Machine", "机器", 2.4),
        Column("platform", Shape.TEXT, "Platform", "平台", 1.3),
        Column("policies", Shape.TEXTS, "Policies", "备份策略", 2),
        Column("newest", Shape.MOMENT, "Newest point", "最新恢复点", 1.6),
        Column("age_s", Shape.SECONDS, "Age", "距今", 1.1),
        Column("target_minutes", Shape.MINUTES, "RPO target", "RPO 目标", 1.1),
        Column("met", Shape.FLAG, "RPO met", "满足 RPO", 0.9),
        Column("points", Shape.COUNT, "Points", "恢复点数", 0.9),
        Column("stored", Shape.BYTES, "Stored", "占用空间", 1.1),
        Column("disk_size", Shape.BYTES, "Disks", "磁盘容量", 1.1),
    ),
    Table.CAPACITY: (
        Column("name", Shape.TEXT, "Storage", "存储", 2),
        Column("size", Shape.BYTES, "Size", "总容量", 1.1),
        Column("used", Shape.BYTES, "Used", "已用", 1.1),
        Column("free", Shape.BYTES, "Free", "可用", 1.1),
        Column("share", Shape.SHARE, "Used", "使用率", 0.8),
        Column("stored", Shape.BYTES, "By points", "恢复点占用", 1.1),
        Column("growth", Shape.BYTES, "Growth a day", "日增长", 1.1),
        Column("full_on", Shape.DAY, "Full about", "预计写满", 1.2),
        Column("earliest", Shape.DAY, "At the earliest", "最早", 1.2),
        Column("latest", Shape.DAY, "At the latest", "最晚", 1.2),
    ),
    Table.SUCCESS: (
        Column("name", Shape.TEXT, "Policy", "备份策略", 2.4),
        Column("kind", Shape.KIND, "Kind", "类型", 1.3),
        Column("runs", Shape.COUNT, "Runs", "作业数", 0.8),
        Column("succeeded", Shape.COUNT, "Succeeded", "成功", 1),
        Column("partly", Shape.COUNT, "Partly", "部分成功", 0.9),
        Column("failed", Shape.COUNT, "Failed", "失败", 0.8),
        Column("stopped", Shape.COUNT, "Stopped", "已停止", 0.9),
        Column("rate", Shape.SHARE, "Success", "成功率", 0.9),
        Column("read", Shape.BYTES, "Read", "读取量", 1.1),
        Column("stored", Shape.BYTES, "Stored", "写入量", 1.1),
        Column("last", Shape.MOMENT, "Last run", "最近作业", 1.5),
        Column("last_failure", Shape.MOMENT, "Last failure", "最近失败", 1.5),
    ),
}
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "protection": "Protection", "capacity": "Capacity", "success": "Success of runs",
        "yes": "yes", "no": "no", "none": "-", "by_hand": "(by hand)",
        "made": "Made {at} ({zone})", "rows": "{count} rows", "days": "The last {days} days",
        "cut": "The first {shown} of {count} rows. The CSV file has all of them.",
        "page": "Page", "nothing": "There is nothing to report.",
        "bytes": "bytes", "seconds": "s", "minutes": "min",
        "d": "{n} d", "h": "{n} h", "min": "{n} min",
        "no_font": (
            "This server has no font with Chinese characters: those of names are missing here. "
            "Install one, such as the package fonts-noto-cjk."
        ),
        "backup": "Backup", "restore": "Restore", "instant": "Instant restore",
        "instant-stop": "End of an instant restore", "migration": "Migration",
        "verify": "Verification", "merge": "Retention", "repair": "Repair",
        "evacuate": "Evacuation", "delete-points": "Deletion of points", "copy": "Copy",
        "drill": "Drill",
    },
    "zh": {
        "protection": "保护状态报表", "capacity": "容量报表", "success": "作业成功率报表",
        "yes": "是", "no": "否", "none": "-", "by_hand": "（手动）",
        "made": "生成于 {at}（{zone}）", "rows": "共 {count} 行", "days": "最近 {days} 天",
        "cut": "仅显示前 {shown} 行，共 {count} 行；完整数据见 CSV 文件。",
        "page": "页", "nothing": "没有可报告的内容。",
        "bytes": "字节", "seconds": "秒", "minutes": "分钟",
        "d": "{n} 天", "h": "{n} 小时", "min": "{n} 分钟",
        "no_font": "",
        "backup": "备份", "restore": "恢复", "instant": "即时恢复", "instant-stop": "即时恢复结束",
        "migration": "迁移", "verify": "校验", "merge": "保留清理", "repair": "修复",
        "evacuate": "迁出", "delete-points": "删除恢复点", "copy": "复制", "drill": "演练",
    },
}  # fmt: skip
LANGUAGES = tuple(WORDS)


def words(language: str) -> Mapping[str, str]:
    """Return the words of a language.

    Raises:
        UsageError: there are none.
    """
    found = WORDS.get(language)
    if found is None:
        raise UsageError(f"(language {language[:20]!r})", hint=f"One of: {', '.join(WORDS)}.")
    return found
