"""The HTTP API: what comes in is checked for form here, what goes out gets its form here, and no more."""
