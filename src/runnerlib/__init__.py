"""Runs one job in isolation; the part of Reactorcide that works without a coordinator."""
