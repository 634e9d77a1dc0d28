"""Reactorcide: a self-hosted CI/CD job coordinator."""

__version__ = "0.1.0"
