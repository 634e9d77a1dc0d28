"""Corndogs: a shared, priority-ordered list of tickets, each naming a job that is ready.

The service keeps no truth of ours. It may be down, late, doubled or wiped: jobs lose time by it, and
nothing else.
"""
