"""The codes of alarms. `docs/operators/alarms.md` shows this table; a test compares the two.

A code is stable: rules and other programs match it. The headlines are templates: `{subject}` and
the facts of the alarm by name; what is missing reads `?`. A code that is not here (a newer node
may know more) is not lost: it goes by its own name, with the text of whoever raised it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruchu.model.tasks import Severity

LANGUAGES = ("en", "zh")

INFO, WARNING, ERROR, CRITICAL = Severity


@dataclass(frozen=True, slots=True)
class AlarmCode:
    """A code of alarms.

    Attributes:
        code: stable.
        severity: what it has by default; who raises it may say otherwise.
        english: template of the headline.
        chinese: template of the headline.
        hint: what to do, in English.
        hint_chinese: what to do, in Chinese.
    """

    code: str
    severity: Severity
    english: str
    chinese: str
    hint: str
    hint_chinese: str


TABLE = (
    AlarmCode(
        "backup-failed",
        ERROR,
        "Backup of {subject} failed",
        "{subject} 备份失败",
        "Read the reason in the run's log, then run the policy again.",
        "请在任务日志中查看原因，然后重新执行该策略。",
    ),
    AlarmCode(
        "copy-failed",
        ERROR,
        "Copying the points of {subject} failed",
        "{subject} 备份副本复制失败",
        "Check both storages; the next run goes on where this one ended.",
        "请检查两端存储；下次执行会从中断处继续。",
    ),
    AlarmCode(
        "restore-failed",
        ERROR,
        "Restore of {subject} failed",
        "{subject} 恢复失败",
        "Read the reason in the run's log. The point itself is unharmed.",
        "请在任务日志中查看原因。备份点本身未受影响。",
    ),
    AlarmCode(
        "verify-failed",
        CRITICAL,
        "Points of {subject} are damaged",
        "{subject} 的备份点已损坏",
        "Repair from a copy (`ruchu repair`), and make a full backup at once.",
        "请从副本修复（`ruchu repair`），并立即做一次完整备份。",
    ),
    AlarmCode(
        "drill-failed",
        ERROR,
        "The restore drill of {subject} failed",
        "{subject} 恢复演练失败",
        "Run the drill by hand and look at the screen of the machine that was started.",
        "请手动执行演练，并查看所启动虚拟机的控制台。",
    ),
    AlarmCode(
        "run-failed", ERROR,
        "The run {subject} failed", "任务 {subject} 失败",
        "Read the reason in the run's log, then start it again.",
        "请在任务日志中查看原因，然后重新执行。",
    ),
    AlarmCode(
        "missed-run",
        ERROR,
        "A scheduled run of {subject} did not start",
        "{subject} 的计划任务未按时启动",
        "Look whether the server, the node and the time window allowed it.",
        "请检查服务器、节点及允许的时间窗口。",
    ),
    AlarmCode(
        "rpo-missed",
        ERROR,
        "{subject} has no point as young as its target asks for",
        "{subject} 的最新备份点已超出 RPO 目标",
        "Find out why its runs fail or take too long.",
        "请查明其任务失败或耗时过长的原因。",
    ),
    AlarmCode(
        "unprotected",
        WARNING,
        "{subject} is protected by no policy",
        "{subject} 未受任何策略保护",
        "Add it to a policy, or to the exclusions.",
        "请将其加入策略或排除列表。",
    ),
    AlarmCode(
        "node-lost",
        ERROR,
        "Node {subject} does not answer",
        "节点 {subject} 失去联系",
        "Check the host and its network. Its tasks wait or move, as their policy says.",
        "请检查该主机及网络。其任务将按策略等待或转移。",
    ),
    AlarmCode(
        "node-incompatible",
        WARNING,
        "Node {subject} speaks no version that this server knows",
        "节点 {subject} 的版本与服务器不兼容",
        "Upgrade the node to the release of the server.",
        "请将该节点升级到与服务器相同的版本。",
    ),
    AlarmCode(
        "clock-skew",
        WARNING,
        "The clock of {subject} is wrong",
        "{subject} 的时钟不准确",
        "Set up time synchronisation on that host.",
        "请在该主机上配置时间同步。",
    ),
    AlarmCode(
        "platform-gone", ERROR,
        "Platform {subject} cannot be reached", "平台 {subject} 无法访问",
        "Check its address, its credentials and the network of the nodes that reach it.",
        "请检查其地址、凭据以及相关节点的网络。",
    ),
    AlarmCode(
        "site-away",
        ERROR,
        "Server {subject} does not answer",
        "站点服务器 {subject} 无响应",
        "Check that server and the network; what is shown of it is how it was seen last.",
        "请检查该服务器和网络；所显示的是最后一次获取的状态。",
    ),
    AlarmCode(
        "storage-gone",
        CRITICAL,
        "Storage {subject} cannot be reached",
        "存储 {subject} 无法访问",
        "Check the mount, the disk or the network of the storage.",
        "请检查存储的挂载、磁盘或网络。",
    ),
    AlarmCode(
        "storage-full",
        CRITICAL,
        "Storage {subject} is full",
        "存储 {subject} 已满",
        "Grow it, or remove points. Backups onto it fail until then.",
        "请扩容或删除备份点。在此之前写入该存储的备份都会失败。",
    ),
    AlarmCode(
        "storage-threshold",
        WARNING,
        "Storage {subject} fills up",
        "存储 {subject} 使用量超过阈值",
        "Plan for more space; the summary report tells the day it is full.",
        "请规划扩容；汇总报告中有预计写满的日期。",
    ),
    AlarmCode(
        "quota-exceeded",
        WARNING,
        "Group {subject} uses more than its quota",
        "资源组 {subject} 超出配额",
        "Raise the quota, or shorten the retention of its policies.",
        "请提高配额或缩短其策略的保留期。",
    ),
    AlarmCode(
        "guard-refused", CRITICAL,
        "Another program tried to change storage {subject}", "其他程序试图修改存储 {subject}",
        "It was refused. The facts name the program: find out who started it.",
        "该操作已被拒绝。详情中有程序名称：请查明由谁启动。",
    ),
    AlarmCode(
        "guard-changed", CRITICAL,
        "Another program changed storage {subject}", "其他程序改动了存储 {subject}",
        "Disconnect who did it, run `ruchu storage verify --full`, keep the evidence.",
        "请隔离来源，执行 `ruchu storage verify --full`，并保留证据。",
    ),
    AlarmCode(
        "guard-flags-lifted", CRITICAL,
        "Flags that protect storage {subject} were lifted", "存储 {subject} 的保护标志被解除",
        "They are set again. The facts name the program: find out who started it.",
        "标志已重新设置。详情中有程序名称：请查明由谁启动。",
    ),
    AlarmCode(
        "guard-ended", CRITICAL,
        "The guard of storage {subject} died", "存储 {subject} 的防护进程已终止",
        "It is started again by itself. If nobody ended it by mistake, somebody is at work.",
        "系统会自动重新启动。若非误操作，则可能有人在攻击。",
    ),
    AlarmCode(
        "guard-hung", CRITICAL,
        "The guard of storage {subject} hung and was killed",
        "存储 {subject} 的防护进程无响应，已被终止",
        "It is started again by itself. Look how busy the host is.",
        "系统会自动重新启动。请检查主机负载。",
    ),
    AlarmCode(
        "guard-unsupported", ERROR,
        "Storage {subject} is not guarded although it should be",
        "存储 {subject} 未能启用防护",
        "`ruchu doctor --path` on the node says what its host lacks.",
        "请在节点上执行 `ruchu doctor --path` 查看主机缺少什么。",
    ),
    AlarmCode(
        "guard-overflow", ERROR,
        "More happened in storage {subject} than its guard could follow",
        "存储 {subject} 的变化过多，防护进程未能逐一跟踪",
        "Everything was compared instead. Find out which program is so busy there.",
        "系统已改为全面比对。请查明哪个程序在频繁访问。",
    ),
    AlarmCode(
        "guard-journal-damaged", CRITICAL,
        "The guard's own record of storage {subject} was changed",
        "存储 {subject} 的防护记录被改动",
        "Find out who could write to the node's state directory; verify the storage.",
        "请查明谁能写入节点的状态目录，并校验该存储。",
    ),
    AlarmCode(
        "guard-without-flags", WARNING,
        "Files of storage {subject} cannot be made immutable",
        "存储 {subject} 的文件无法设为不可变",
        "Put it on ext4, XFS or Btrfs, and run the node as root.",
        "请使用 ext4、XFS 或 Btrfs，并以 root 运行节点。",
    ),
    AlarmCode(
        "guard-not-admitted", WARNING,
        "A program passed itself off as Ruchu at storage {subject}",
        "有程序冒充 Ruchu 访问存储 {subject}",
        "Another installation of Ruchu on this host? If not, find out who started it.",
        "该主机上是否另装了 Ruchu？若没有，请查明由谁启动。",
    ),
    AlarmCode(
        "guard-admitted", INFO,
        "A process of Ruchu works on storage {subject}", "Ruchu 进程正在使用存储 {subject}",
        "Nothing is to be done.",
        "无需处理。",
    ),
    AlarmCode(
        "tamper-changed", CRITICAL,
        "Files of storage {subject} were changed while nobody watched",
        "存储 {subject} 的文件在无人防护时被改动",
        "Disconnect who did it, run `ruchu storage verify --full`, keep the evidence.",
        "请隔离来源，执行 `ruchu storage verify --full`，并保留证据。",
    ),
    AlarmCode(
        "tamper-removed", WARNING,
        "Files of storage {subject} are gone that were there before",
        "存储 {subject} 中原有的文件已消失",
        "Retention removes files, too. If it did not run meanwhile, verify the storage.",
        "保留清理也会删除文件。若期间未执行清理，请校验该存储。",
    ),
    AlarmCode(
        "tamper-unsealed", WARNING,
        "Files of storage {subject} lost their flags while nobody watched",
        "存储 {subject} 的文件在无人防护时失去保护标志",
        "They are set again. Find out who lifted them.",
        "标志已重新设置。请查明由谁解除。",
    ),
    AlarmCode(
        "tamper-added", INFO,
        "Storage {subject} has files that its guard had not seen",
        "存储 {subject} 出现防护进程未见过的文件",
        "Backups that were made while no guard ran add files. Nothing is to be done.",
        "无防护期间的备份会新增文件，无需处理。",
    ),
    AlarmCode(
        "anomaly",
        CRITICAL,
        "The data of {subject} changes as if it was being encrypted",
        "{subject} 的数据变化疑似被加密",
        "Look at the machine now. Retention of its points is frozen until somebody decides.",
        "请立即检查该机器。其备份点的保留清理已冻结，等待人工决定。",
    ),
    AlarmCode(
        "unusual-change",
        INFO,
        "The data of {subject} changes more than usual",
        "{subject} 的数据变化量异常",
        "An update, an import? If nobody knows of any, look at the machine.",
        "是否有更新或导入？若无人知晓，请检查该机器。",
    ),
    AlarmCode(
        "wire-certificate", WARNING,
        "A certificate was refused: {subject}", "证书被拒绝：{subject}",
        "If this is a node of yours, enrol it again; if not, somebody is trying doors.",
        "若为自有节点，请重新注册；否则可能有人在试探。",
    ),
    AlarmCode(
        "wire-revoked", WARNING,
        "A node that was revoked tries to come back: {subject}",
        "已吊销的节点试图重新连接：{subject}",
        "End `ruchu node` on that host, or enrol it anew.",
        "请在该主机上停止 `ruchu node`，或重新注册。",
    ),
    AlarmCode(
        "wire-token", ERROR,
        "An enrolment token was refused: {subject}", "注册令牌被拒绝：{subject}",
        "It was wrong, old, or used before. If another came first, revoke the node that it made.",
        "令牌错误、过期或已被使用。若他人抢先使用，请吊销由此产生的节点。",
    ),
    AlarmCode(
        "wire-token-flood", ERROR,
        "One enrolment token after the other is tried: {subject}", "有人反复尝试注册令牌：{subject}",
        "That address has to wait now. Keep strangers away from the port of the nodes.",
        "该地址已被限速。请阻止陌生人访问节点端口。",
    ),
    AlarmCode(
        "wire-incompatible", WARNING,
        "A node speaks no version that this server knows: {subject}",
        "节点的协议版本与服务器不兼容：{subject}",
        "Upgrade the node to the release of the server.",
        "请将该节点升级到与服务器相同的版本。",
    ),
    AlarmCode(
        "wire-protocol", WARNING,
        "Somebody does not keep to the protocol of nodes: {subject}",
        "有连接不遵守节点协议：{subject}",
        "If this is a node of yours, upgrade it; if not, somebody is trying doors.",
        "若为自有节点，请升级；否则可能有人在试探。",
    ),
    AlarmCode(
        "wire-request", WARNING,
        "Somebody asks the port of the nodes for what is not there: {subject}",
        "有人向节点端口请求不存在的内容：{subject}",
        "A scan, or a browser that took the wrong port. Find out who it is.",
        "可能是扫描，或浏览器用错了端口。请查明来源。",
    ),
    AlarmCode(
        "wire-handshake", WARNING,
        "Somebody does not speak TLS 1.3 to the port of the nodes: {subject}",
        "有连接未按要求使用 TLS 1.3：{subject}",
        "A scan, or a proxy in between. Find out who it is.",
        "可能是扫描或中间代理。请查明来源。",
    ),
    AlarmCode(
        "wire-slow", WARNING,
        "Somebody holds connections open and asks for nothing: {subject}",
        "有人占用连接而不发请求：{subject}",
        "They are cut off. If this is a node of yours, look at its network.",
        "这些连接已被切断。若为自有节点，请检查其网络。",
    ),
    AlarmCode(
        "wire-flood", WARNING,
        "More connections came than are borne: {subject}", "连接数超过上限：{subject}",
        "Keep strangers away from the port of the nodes.",
        "请阻止陌生人访问节点端口。",
    ),
    AlarmCode(
        "wire-stream", WARNING,
        "A node asked for data that is not meant for it: {subject}",
        "节点请求了不属于它的数据：{subject}",
        "If it comes again, look at the node: is it yours, and untouched?",
        "若再次出现，请检查该节点是否为自有且未被入侵。",
    ),
    AlarmCode(
        "wire-damaged", WARNING,
        "Data arrived damaged: {subject}", "数据在传输中损坏：{subject}",
        "It is sent again. If it stays so, look at the memory and network of that host.",
        "系统会重新发送。若持续出现，请检查该主机的内存和网络。",
    ),
    AlarmCode(
        "certificate-expiring",
        WARNING,
        "The certificate of {subject} ends soon",
        "{subject} 的证书即将到期",
        "A node renews it by itself while it is connected: look why it is not.",
        "节点在线时会自动续期：请检查其为何离线。",
    ),
    AlarmCode(
        "sign-in-locked",
        WARNING,
        "Account {subject} is locked after failed sign-ins",
        "账户 {subject} 因多次登录失败被锁定",
        "Ask its owner. The audit trail names the addresses.",
        "请询问账户所有者。审计记录中有来源地址。",
    ),
    AlarmCode(
        "audit-broken",
        CRITICAL,
        "The audit trail was changed or cut: {subject}",
        "审计链被篡改或截断：{subject}",
        "Run `ruchu audit verify`, compare with an exported copy, keep the database.",
        "请执行 `ruchu audit verify`，与导出的副本比对，并保留数据库。",
    ),
    AlarmCode(
        "snapshot-leaked",
        WARNING,
        "A snapshot of {subject} could not be removed",
        "{subject} 的快照未能删除",
        "It is tried again; if it stays, remove it on the platform before it fills the disk.",
        "系统会自动重试；若仍存在，请在平台上删除以免占满磁盘。",
    ),
    AlarmCode(
        "channel-failed",
        ERROR,
        "The alarm channel {subject} does not deliver",
        "告警通道 {subject} 发送失败",
        "Check its settings and its secret. What it owes is kept and sent later.",
        "请检查其设置和密钥。未发送的告警会保留并稍后发送。",
    ),
    AlarmCode(
        "heartbeat-failed",
        WARNING,
        "The heartbeat address {subject} does not answer",
        "心跳地址 {subject} 无响应",
        "Without it nobody notices from outside that this server is dead.",
        "在此期间，服务器宕机将无法被外部发现。",
    ),
    AlarmCode(
        "summary",
        WARNING,
        "The summary report did not reach {subject}",
        "汇总报告未能送达 {subject}",
        "Check the mail server and the address.",
        "请检查邮件服务器和收件地址。",
    ),
    AlarmCode(
        "test",
        INFO,
        "This is a test of the alarm channel {subject}",
        "这是告警通道 {subject} 的测试消息",
        "Nothing is to be done.",
        "无需处理。",
    ),
)  # fmt: skip

CODES: Mapping[str, AlarmCode] = {each.code: each for each in TABLE}

# What goes on until it is mended is cleared by whoever raised it. These happen at one moment.
_LASTING = ("guard-ended", "guard-hung", "guard-unsupported", "guard-without-flags")
_MOMENTS = ("guard-", "tamper-", "wire-", "snapshot-leaked")


def is_moment(code: str) -> bool:
    """Tell whether an alarm is of something that happened, and not of something that goes on."""
    return code.startswith(_MOMENTS) and code not in _LASTING


class _Values(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def severity_of(code: str) -> Severity:
    """Return what a code has by default; a code that is not known is an error."""
    known = CODES.get(code)
    return known.severity if known else Severity.ERROR


def headline(code: str, subject: str, facts: Mapping[str, Any], language: str) -> str:
    """Return the one line that says what an alarm is, in a language."""
    known = CODES.get(code)
    if known is None:
        return f"{code}: {subject}"
    template = known.chinese if language == "zh" else known.english
    return template.format_map(_Values({**facts, "subject": subject}))


def hint(code: str, language: str) -> str:
    """Return what to do, in a language; empty if the code is not known."""
    known = CODES.get(code)
    if known is None:
        return ""
    return known.hint_chinese if language == "zh" else known.hint
