"""Joins everything, from settings to a running program: the only place that knows all parts.

Its modules hold asynchronous context managers that start one part and, on leaving, stop it within a
bound; a command stacks those it needs. They are apart so that a command imports no more than it starts.
"""
