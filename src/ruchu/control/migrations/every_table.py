"""Imports every module that defines tables, so that `METADATA` is whole. One line each."""

from ruchu.control.accounts import tables as _accounts
from ruchu.control.alarms import tables as _alarms
from ruchu.control.anomalies import tables as _anomalies
from ruchu.control.approvals import tables as _approvals
from ruchu.control.audit import tables as _audit
from ruchu.control.database.schema import METADATA
from ruchu.control.definitions import tables as _definitions
from ruchu.control.events import tables as _events
from ruchu.control.inventory import tables as _inventory
from ruchu.control.jobs import tables as _jobs
from ruchu.control.nodes import tables as _nodes
from ruchu.control.policies import tables as _policies
from ruchu.control.repeats import tables as _repeats
from ruchu.control.reports import tables as _reports
from ruchu.control.schedules import tables as _schedules
from ruchu.control.settings import tables as _settings
from ruchu.control.sites import tables as _sites
from ruchu.control.storages import tables as _storages
from ruchu.control.vault import tables as _vault

__all__ = ["METADATA"]

_ = (
    _events,
    _reports,
    _anomalies,
    _alarms,
    _accounts,
    _approvals,
    _audit,
    _vault,
    _inventory,
    _jobs,
    _nodes,
    _policies,
    _schedules,
    _settings,
    _storages,
    _repeats,
    _definitions,
    _sites,
)
