"""Examples of bodies and answers, by schema and by operation, where the parts alone say too little.

A test holds them against the schemas.
"""

from typing import Any

_AT = "2026-11-22T18:00:00.000000Z"
_LATER = "2026-11-23T06:00:00.000000Z"
_ID = "3f9a6c1e0b7d4e52a1c8f0d93b6e7a41"
_OTHER = "77b1d0aa5c934f6e8e21b7c4d0f5a896"
_POLICY = {
    "name": "nightly",
    "selection": {"platform": "kvm", "patterns": ["web-*"]},
    "storage": "main",
    "schedules": [{"kind": "incremental", "daily": {"times": ["02:00"]}}],
    "zone": "Asia/Shanghai",
    "retention": {"daily": 7, "weekly": 4},
}

SCHEMAS: dict[str, Any] = {
    "User": {
        "id": _ID, "name": "li.na", "display": "李娜", "mail": "li.na@example.com",
        "language": "zh", "disabled": False, "created": _AT, "signed_in": _LATER,
        "has_password": True, "totp": True, "elsewhere": False, "grants": {"*": ["operator"]},
    },
    "Session": {
        "id": _ID, "user": _OTHER, "created": _AT, "seen": _AT, "expires": _LATER,
        "address": "192.0.2.7", "agent": "Firefox",
    },
    "Opened": {"session": _ID, "token": "kJ2v…", "user": _OTHER},
    "Token": {
        "id": _ID, "user": _OTHER, "name": "monitoring", "prefix": "ruchu_1b2c3d4e",
        "rights": ["view"], "groups": ["*"], "created": _AT, "expires": _LATER, "used": None,
    },
    "TokenMade": {"id": _ID, "token": "ruchu_1b2c3d4e_…"},
    "Group": {"name": "default", "title": "", "quota": {"bytes": 0, "machines": 0, "runs": 0}},
    "Usage": {"bytes": 107374182400, "machines": 12, "runs": 3},
    "Recorded": {
        "number": 17, "at": _AT, "actor": "li.na", "action": "policy.run", "subject": "nightly",
        "outcome": "done", "facts": {"kind": "full"},
    },
    "Verified": {
        "whole": True, "records": 17, "number": 17, "hash": "9c1f…", "anchors": 1, "broken": 0,
        "reason": "",
    },
    "Asked": {
        "id": _ID, "kind": "delete-points", "subject": "main",
        "arguments": {"storage": _OTHER, "points": [_ID], "grace_days": 0, "by": "li.na"},
        "losses": [f"{_AT} web-1 (full, 3.2 GiB) on main, 3f9a6c1e"], "group": "default",
        "digest": "5e88…", "requester_name": "li.na", "requested": _AT, "expires": _LATER,
        "state": "waiting", "decider_name": "", "decided": None, "remark": "", "result": None,
    },
    "Alarm": {
        "id": _ID, "code": "backup-failed", "subject": "web-1", "severity": "error",
        "state": "open", "first_at": _AT, "last_at": _LATER, "count": 2,
        "text": "The storage is full.", "facts": {"group": "default"}, "acknowledged_by": None,
        "acknowledged_at": None, "cleared_at": None,
    },
    "HistoryEntry": {"at": _AT, "what": "opened", "who": "", "detail": "The storage is full."},
    "Delivery": {
        "id": _ID, "alarm": _OTHER, "channel": "ops", "reason": "raised", "critical": False,
        "state": "sent", "message": _ID, "due": _AT, "attempts": 1,
        "reached": ["ops@example.com"], "error": None, "sent_at": _AT,
    },
    "Rule": {
        "name": "failures", "channels": ["ops"], "codes": ["*-failed"], "severity": "error",
        "group": None, "subject": "*", "quiet": None, "steps": [], "repeat_min": None,
        "tells_cleared": True, "enabled": True,
    },
    "RuleDocument": {"channels": ["ops"], "codes": ["*-failed"], "severity": "error"},
    "ChannelDefinition": {
        "name": "ops", "kind": "mail",
        "settings": {"host": "mail.example.com", "port": 587, "recipients": ["ops@example.com"]},
        "language": "en", "hourly_max": 60, "enabled": True,
    },
    "Freeze": {
        "id": _ID, "chain": _OTHER, "subject": "web-1", "since": _AT,
        "why": "what was changed does not compress", "active": True, "decision": None,
        "decided_by": None, "decided_at": None, "note": None,
    },
    "NodeShown": {
        "id": _ID, "name": "node-2", "state": "online", "embedded": False, "enrolled": _AT,
        "last_seen": _LATER, "release": "0.1.0", "parallel": 4, "maintenance": False,
        "facts": {"host": "kvm-2"},
        "load": {"tasks": 1}, "version": 3,
    },
    "TokenUrl": {
        "url": "ruchu://192.0.2.1:8444/…",
        "command": "ruchu node --join 'ruchu://192.0.2.1:8444/…' --state /var/lib/ruchu/node",
    },
    "PlatformRow": {
        "id": _ID, "name": "kvm", "uri": "qemu:///system", "scratch": "", "nodes": [],
        "parallel": 4, "host_parallel": 2, "resource_group": "default", "seen": _AT,
        "problem": "", "facts": {}, "version": 1,
    },
    "MachineRow": {
        "platform": "kvm", "id": _ID, "name": "web-1", "state": "running", "host": "kvm-1",
        "folder": "", "tags": ["production"], "vcpus": 4, "memory": 8589934592,
        "disk_size": 107374182400, "seen": _AT,
    },
    "PointRow": {
        "storage": "main", "id": _ID, "chain": _OTHER, "sequence": 0, "name": "web-1",
        "object": "vm", "platform": "kvm", "kind": "full", "time": _AT,
        "bytes_stored": 3435973836, "bytes_read": 107374182400, "starred": False,
        "locked_until": None, "disks": [{"name": "vda", "size": 107374182400}],
        "policy": _OTHER, "run": _ID, "verified": None, "verdict": "",
    },
    "PolicyShown": {"id": _ID, "version": 1, "created": _AT, "changed": _AT, "policy": _POLICY},
    "Start": {"at": _AT, "kind": "incremental", "satisfies": []},
    "Machine": {
        "platform": "kvm", "id": _ID, "name": "web-1", "host": "kvm-1", "folder": "", "tags": [],
    },
    "RunRow": {
        "id": _ID, "kind": "backup", "name": "nightly", "policy": _OTHER,
        "started_by": "schedule", "due": _AT, "priority": 5, "resource_group": "default",
        "state": "running", "reason": "", "body": {"kind": "incremental"}, "attempt": 1,
        "stop": False, "pause": False, "created": _AT, "started": _AT, "ended": None,
        "next_attempt": None, "summary": {},
    },
    "RunShown": {
        "id": _ID, "kind": "backup", "name": "nightly", "policy": _OTHER,
        "started_by": "schedule", "due": _AT, "priority": 5, "resource_group": "default",
        "state": "running", "reason": "", "attempt": 1, "stop": False, "pause": False,
        "created": _AT, "started": _AT, "ended": None, "next_attempt": None, "summary": {},
    },
    "RunProgress": {
        "run": _ID, "tasks": 3, "ended": 1, "running": 1, "phase": "copy", "done": 1048576,
        "total": 3435973836, "rate": 104857600.0, "share": 0.3334,
    },
    "TaskRow": {
        "id": _ID, "run": _OTHER, "kind": "backup", "label": "web-1", "attempt": 1,
        "priority": 5, "state": "sent", "node": _OTHER, "body": {}, "secrets": ["storage:main"],
        "nodes": [], "limits": {"writers:main": 4}, "move": False, "stop": False,
        "created": _AT, "sent": _AT, "ended": None, "number": 12, "phase": "copy",
        "progress": {"done": 1048576, "total": 3435973836}, "outcome": None, "result": None,
        "error": None,
    },
    "RunEvent": {"number": 1, "run": _ID, "task": None, "at": _AT, "name": "queued", "body": {}},
    "NewRunWanted": {
        "kind": "restore", "name": "web-2",
        "body": {"point": "3f9a6c1e", "platform": "kvm", "placement": {"name": "web-2"}},
        "priority": 5,
    },
    "About": {
        "version": "0.1.0", "at": _AT, "nodes_at": "192.0.2.1:8444", "fingerprint": "9c1f…",
    },
    "Restorable": {
        "name": "web-1", "platform": "kvm", "object": "vm", "exists": False, "points": 12,
        "newest": _LATER, "oldest": _AT, "bytes_stored": 3435973836, "starred": 1,
        "storages": ["main"], "point": _ID, "kind": "incremental",
    },
    "DayOfPoints": {"day": "2026-11-22", "points": 4, "kinds": {"full": 1, "incremental": 3},
            "starred": 1, "locked": 0},
    "MachineOfPoint": {
        "name": "web-1", "vcpus": 2, "memory": 4294967296, "firmware": "uefi",
        "disks": [{"key": "vda", "size": 21474836480, "format": "qcow2",
                   "location": "/var/lib/libvirt/images/web-1.qcow2", "bus": "virtio"}],
        "nics": [{"mac": "52:54:00:12:34:56", "network": "default", "model": "virtio",
                  "kind": "network"}],
    },
    "PlatformOffers": {
        "networks": ["default"],
        "places": [{"name": "default", "path": "/var/lib/libvirt/images", "free": 42949672960}],
    },
    "AllInstants": {
        "instants": [{
            "instant": _ID, "name": "web-1-now", "machine": _OTHER, "state": "running",
            "export": "running", "point": _OTHER, "storage": "main", "platform": "kvm",
            "protocol": "nbd", "disks": ["vda"], "cache": "/var/lib/ruchu/instants/cache",
            "cache_bytes": 1048576, "since": _AT, "node": _OTHER, "node_name": "node-2",
        }],
        "silent": [{"node": _ID, "name": "node-3", "why": "It is not connected."}],
    },
    "Health": {"status": "ok", "version": "0.1.0", "at": _AT},
    "NewUser": {"name": "li.na", "display": "李娜", "grants": {"*": ["operator"]}},
    "UserChange": {"disabled": True},
    "PlatformChange": {"parallel": 8},
    "StorageChange": {"readers": 4},
    "GroupRule": {"value": "backup-admins", "group": "*", "role": "administrator"},
}  # fmt: skip

BODIES: dict[str, Any] = {"add_policy": _POLICY, "change_policy": _POLICY}

ANSWERS: dict[str, Any] = {
    "check_platform": {"platform": "kvm", "ok": True, "checks": []},
    "doctor": [{"name": "qemu-nbd", "ok": True, "text": "8.2.0"}],
    "instants": [{"instant": _ID, "machine": "web-1-now", "point": _OTHER, "state": "running"}],
}
