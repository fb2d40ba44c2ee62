"""Alarms: what is wrong, who is told of it, over which channel, and whether they were reached."""
