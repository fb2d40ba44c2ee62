"""When runs start: calendar arithmetic, windows, targets, and the scheduler that starts each once.

Everything but `records` and `scheduler` is pure.
"""
