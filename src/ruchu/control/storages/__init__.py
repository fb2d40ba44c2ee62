"""Storages as the server knows them, and the catalogue of the points on them.

The catalogue is a cache: what counts is what lies on the storage, and everything here can be read
from there again.
"""
