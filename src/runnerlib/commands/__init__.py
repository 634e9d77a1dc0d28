"""The commands of `runnerlib`, a module for each group; light to import, heavy parts when they run."""
