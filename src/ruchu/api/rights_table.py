"""Which right every endpoint takes, and in which resource group. One table; nothing else decides.

The guard in `identity` refuses whoever has the right in no group at all, before anything else is
looked at. The endpoint then asks for it in the group of the object, if the table says so. An
endpoint that is not in the table answers nobody.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from ruchu.model.principals import Right


class Where(enum.StrEnum):
    """In which resource group somebody needs the right."""

    OPEN = "nobody need be signed in"
    SIGNED_IN = "any account"
    PERSON = "a person, for their own account"
    OWN = "one's own account; those of others: everywhere"
    EVERYWHERE = "everywhere"
    ANY = "in any group"
    ITEMS = "shows what is in groups where one has it"
    OBJECT = "in the group of the object"
    NAMED = "in every group that the request names"


@dataclass(frozen=True, slots=True)
class Need:
    """What an endpoint takes.

    Attributes:
        where: in which group.
        rights: everywhere all of them, else one of them; none where being signed in is enough.
        person: no token will do.
    """

    where: Where
    rights: tuple[Right, ...] = ()
    person: bool = False


def _need(where: Where, *rights: Right, person: bool = False) -> Need:
    return Need(where, rights, person)


_OPEN = Need(Where.OPEN)
_SELF = Need(Where.PERSON, person=True)
_ADMINISTERS = _need(Where.EVERYWHERE, Right.ACCOUNTS)
_CONFIGURES = _need(Where.EVERYWHERE, Right.CONFIGURE)
_SEES_ALL = _need(Where.EVERYWHERE, Right.VIEW)
_SEES = _need(Where.OBJECT, Right.VIEW)
_LISTS = _need(Where.ITEMS, Right.VIEW)
_SETS_UP = _need(Where.OBJECT, Right.CONFIGURE)
_OPERATES = _need(Where.OBJECT, Right.OPERATE)
_RESTORES = _need(Where.OBJECT, Right.RESTORE)
_WORKS = _need(Where.OBJECT, Right.OPERATE, Right.RESTORE)
_DEFINES = _need(Where.EVERYWHERE, Right.CONFIGURE, Right.OPERATE, Right.ACCOUNTS)

# By the name of the operation, which is that of its function.
TABLE: Mapping[str, Need] = {
    # Sessions.
    "sign_in": _OPEN,
    "make_administrator": _OPEN,
    "list_sessions": _SELF,
    "who": Need(Where.SIGNED_IN),
    "sign_out": _SELF,
    "revoke_session": _SELF,
    # Identity providers.
    "sign_in_ways": _OPEN,
    "begin_oidc": _OPEN,
    "finish_oidc": _OPEN,
    "list_providers": _ADMINISTERS,
    "show_provider": _ADMINISTERS,
    "put_provider": _ADMINISTERS,
    "remove_provider": _ADMINISTERS,
    # Accounts.
    "list_users": _ADMINISTERS,
    "add_user": _ADMINISTERS,
    "show_user": _need(Where.OWN, Right.ACCOUNTS),
    "change_user": _need(Where.OWN, Right.ACCOUNTS),
    "remove_user": _ADMINISTERS,
    "password_link": _ADMINISTERS,
    "user_sessions": _ADMINISTERS,
    "choose_password": _OPEN,
    "change_password": _SELF,
    "enrol_authenticator": _SELF,
    "confirm_authenticator": _SELF,
    "turn_authenticator_off": _SELF,
    "reset_authenticator": _ADMINISTERS,
    "list_tokens": _SELF,
    "add_token": _SELF,
    "revoke_token": _SELF,
    "list_groups": _LISTS,
    "group_usage": _SEES,
    "put_group": _ADMINISTERS,
    "remove_group": _ADMINISTERS,
    # Audit and four eyes.
    "search_audit": _need(Where.EVERYWHERE, Right.AUDIT),
    "verify_audit": _need(Where.EVERYWHERE, Right.AUDIT),
    "list_approvals": _LISTS,
    "show_approval": _SEES,
    "approve": _need(Where.OBJECT, Right.APPROVE, person=True),
    "refuse": _SEES,  # that of others takes APPROVE, and a person
    "four_eyes": _need(Where.ANY, Right.VIEW),
    "set_four_eyes": _CONFIGURES,
    # Alarms.
    "list_alarms": _LISTS,
    "count_alarms": _LISTS,
    "past_alarms": _LISTS,
    "show_alarm": _SEES,
    "alarm_history": _SEES,
    "alarm_deliveries": _SEES,
    "acknowledge": _OPERATES,
    "list_rules": _SEES_ALL,
    "put_rule": _CONFIGURES,
    "remove_rule": _CONFIGURES,
    "list_channels": _CONFIGURES,
    "put_channel": _CONFIGURES,
    "remove_channel": _CONFIGURES,
    "test_channel": _CONFIGURES,
    "list_freezes": _SEES_ALL,
    "decide": _need(Where.EVERYWHERE, Right.OPERATE),
    # Nodes: they reach the things of every group.
    "list_nodes": _SEES_ALL,
    "new_token": _CONFIGURES,
    "show_node": _SEES_ALL,
    "change_node": _CONFIGURES,
    "revoke_node": _CONFIGURES,
    "doctor": _SEES_ALL,
    "node_tasks": _SEES_ALL,
    "instants": _SEES_ALL,
    "list_instants": _LISTS,
    "console_picture": _need(Where.OBJECT, Right.RESTORE),
    # Platforms: an address is an address of everybody's machines.
    "list_platforms": _LISTS,
    "add_platform": _CONFIGURES,
    "show_platform": _SEES,
    "change_platform": _SETS_UP,
    "remove_platform": _SETS_UP,
    "check_platform": _SETS_UP,
    "refresh_platform": _SEES,
    "platform_offers": _SEES,
    "platform_tree": _SEES,
    "reap_platform": _SETS_UP,
    "list_machines": _LISTS,
    "machines_overview": _LISTS,
    "show_machine": _SEES,
    "machine_hardware": _SEES,
    "unprotected": _LISTS,
    # Storages: a location is a place of everybody's points.
    "list_storages": _LISTS,
    "add_storage": _CONFIGURES,
    "show_storage": _SEES,
    "change_storage": _SETS_UP,
    "remove_storage": _SETS_UP,
    "refresh_storage": _SEES,
    "grow_storage": _SETS_UP,
    "probe_storage": _SETS_UP,
    "storage_use": _SEES,
    "list_restorable": _LISTS,
    "point_history": _LISTS,
    "point_days": _LISTS,
    "saved_machine": _SEES,
    "list_points": _LISTS,
    "show_point": _SEES,
    "list_files": _RESTORES,
    "search_files": _RESTORES,
    "fetch_files": _RESTORES,
    "return_files": _RESTORES,
    "disk_image": _RESTORES,
    "star": _OPERATES,
    "delete_points": _OPERATES,
    # Policies: their group, and those of the platform and the storage they name.
    "list_policies": _LISTS,
    "add_policy": _need(Where.NAMED, Right.OPERATE),
    "show_policy": _SEES,
    "change_policy": _OPERATES,
    "remove_policy": _OPERATES,
    "run_policy": _OPERATES,
    "dry_run": _SEES,
    "policy_overview": _LISTS,
    "preview_policy": _need(Where.ANY, Right.VIEW),
    "platform_places": _SEES,
    # Runs: OPERATE, or RESTORE for those that restore.
    "list_runs": _LISTS,
    "list_progress": _LISTS,
    "start_run": _need(Where.NAMED, Right.OPERATE, Right.RESTORE),
    "show_run": _SEES,
    "run_tasks": _SEES,
    "run_history": _SEES,
    "stop_run": _WORKS,
    "pause_run": _WORKS,
    "resume_run": _WORKS,
    # Definitions: all of them; or those of a file, each in its group.
    "export_definitions": _DEFINES,
    "import_definitions": _DEFINES,
    "plan_file": _need(Where.NAMED, Right.OPERATE, Right.CONFIGURE, Right.ACCOUNTS),
    "apply_file": _need(Where.NAMED, Right.OPERATE, Right.CONFIGURE, Right.ACCOUNTS),
    # Servers below this one; what is passed on takes its own right everywhere.
    "list_sites": _SEES_ALL,
    "show_site": _SEES_ALL,
    "attach_site": _CONFIGURES,
    "detach_site": _CONFIGURES,
    "refresh_site": _SEES_ALL,
    "call_site": _SEES_ALL,
    # Figures.
    "overview": _LISTS,
    "load": _SEES_ALL,
    "report_protection": _LISTS,
    "report_capacity": _LISTS,
    "report_success": _LISTS,
    # The server.
    "authority": _OPEN,
    "follow_events": _need(Where.ANY, Right.VIEW),
    "health": _OPEN,
    "metrics": _SEES_ALL,
    "about": Need(Where.SIGNED_IN),
    "get_settings": _CONFIGURES,
    "put_settings": _CONFIGURES,
}


def row(method: str, path: str, need: Need) -> str:
    """Return the row of an endpoint in the table of the documentation."""
    both = " and " if need.where is Where.EVERYWHERE else " or "
    rights = both.join(f"`{right}`" for right in need.rights)
    where = need.where.value
    if need.person and need.where is not Where.PERSON:
        where += "; a person, no token"
    return f"| `{method.upper()} {path}` | {rights} | {where} |"
