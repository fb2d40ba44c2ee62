"""Fakes and conformance suites, shipped so that others can test against them."""
