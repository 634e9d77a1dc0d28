"""``python -m runnerlib``."""

from runnerlib.cli import main

main()
