"""Every kind of definition, in the order in which they can be made."""

from ruchu.control.definitions.keepers import Keeper
from ruchu.control.definitions.people import ProviderKeeper, UserKeeper
from ruchu.control.definitions.places import (
    GroupKeeper,
    NodeKeeper,
    PlatformKeeper,
    StorageKeeper,
)
from ruchu.control.definitions.rules import (
    ChannelKeeper,
    PolicyKeeper,
    RuleKeeper,
    SettingsKeeper,
)

_ALL: tuple[Keeper, ...] = (
    GroupKeeper(),
    NodeKeeper(),
    PlatformKeeper(),
    StorageKeeper(),
    ChannelKeeper(),
    RuleKeeper(),
    ProviderKeeper(),
    UserKeeper(),
    PolicyKeeper(),
    SettingsKeeper(),
)
KEEPERS = {keeper.kind: keeper for keeper in _ALL}
# What a file of policies may define; the rest is people and what belongs to this one server.
OF_FILES = ("groups", "platforms", "storages", "channels", "rules", "policies")
# More definitions of one kind are no site that one server serves.
NAMES_MAX = 5_000
