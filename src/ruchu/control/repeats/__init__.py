"""Requests that a program may send twice, and how the first of them was answered."""
