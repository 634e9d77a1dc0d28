"""The worker: takes jobs while it has free slots, runs each in a runner process, tells how it ended."""
