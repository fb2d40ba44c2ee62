"""Policies: kept, checked, changed; which machines they select, and which nobody protects."""
