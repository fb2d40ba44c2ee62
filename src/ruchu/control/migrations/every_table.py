"""Imports every module that defines tables, so that `METADATA` is whole. One line each."""

from ruchu.control.database.schema import METADATA
from ruchu.control.events import tables as _events

__all__ = ["METADATA"]

_ = (_events,)
