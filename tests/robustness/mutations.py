"""C19, the proof by mutation: each of these bugs is found by the tests that are named for it.

python tests/robustness/mutations.py                     # all of them
python tests/robustness/mutations.py --list
python tests/robustness/mutations.py fence_without_lease guardian_ignores_the_end_of_its_worker
python tests/robustness/mutations.py fence_without_lease --by robustness/test_state_machine.py

Exit code 1 if a mutation survives, does not apply any more, or if its tests fail without it.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

LIMIT_SECONDS = 400.0
"""For the tests of one mutation, on a machine that has other things to do."""


def main() -> int:
    """Try the mutations that the command line names."""
    sys.path.append(str(Path(__file__).resolve().parent))
    from mutations_borders import BORDERS
    from mutations_state import STATE
    from mutations_trial import Workshop, check_all
    from mutations_workers import WORKERS

    every = {mutation.name: mutation for mutation in (*STATE, *WORKERS, *BORDERS)}
    asked = _read_arguments(sorted(every))
    chosen = [every[name] for name in asked.names] or list(every.values())
    if asked.by:
        chosen = [replace(mutation, tests=tuple(asked.by)) for mutation in chosen]
    if asked.list:
        say("\n".join(f"{m.name}: {m.breaks} ({m.file})" for m in chosen))
        return 0
    if faults := check_all(chosen):
        say("\n".join(faults))
        return 1
    root = Path(tempfile.mkdtemp(prefix="mutations-"))
    try:
        workshop = Workshop(root)
        workshop.furnish()
        failed = 0
        if not asked.no_control:
            failed += _control(workshop, sorted({test for m in chosen for test in m.tests}))
        say(f"{'mutation':<52} {'s':>5}  caught by")
        for mutation in chosen:
            trial = workshop.try_out(mutation.tests, mutation, limit_seconds=LIMIT_SECONDS, stops=True)
            caught = (
                ", ".join(trial.failed) if trial.is_red else f"NOBODY (pytest ended with {trial.exit_code})"
            )
            say(f"{mutation.name:<52} {trial.seconds:5.1f}  {caught}")
            if not trial.is_red:
                failed += 1
                say(trial.output[-3000:])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    say(f"{len(chosen)} mutations, {failed} survived or could not be tried")
    return 1 if failed else 0


def _control(workshop: "Workshop", tests: Sequence[str]) -> int:  # noqa: F821 - imported in `main`
    """Run all the tests without a bug; return how many failed."""
    trial = workshop.try_out(tests, limit_seconds=LIMIT_SECONDS + 20 * len(tests), stops=False)
    if trial.exit_code == 0:
        say(f"control: {len(tests)} tests are green without a mutation, {trial.seconds:.1f} s")
        return 0
    say(f"control: not green without any mutation\n{trial.output[-6000:]}")
    return 1


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _read_arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The proof by mutation.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=[[], *names], help="all, if none is named"
    )
    parser.add_argument("--by", action="append", metavar="TEST", help="whether this one finds them too")
    parser.add_argument("--list", action="store_true", help="tell what they break, and do nothing")
    parser.add_argument("--no-control", action="store_true", help="do not run the tests without a mutation")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
