"""Runs a process of the product with points in it: `crash_points_launcher.py ROLE PLAN`.

Roles: `serve` and `worker` as the commands of that name, `runner` as `python -m runnerlib.attempt`. A
worker starts its runners through this file too.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from crash_points_hooks import (
    Meter,
    Plan,
    install_commit_points,
    install_file_points,
    install_pipe_points,
    install_transport_points,
)

HERE = Path(__file__)


def command_of(role: str, plan: Plan) -> tuple[str, ...]:
    """Return the command that runs ``role`` under ``plan``."""
    return (sys.executable, str(HERE), role, plan.encode())


def run_runner(plan: Plan) -> None:
    """Be a runner. Ends the process."""
    from runnerlib import attempt

    meter = Meter(plan)
    if plan.fault == "kill":
        install_pipe_points(meter)
    install_file_points(meter, writes=plan.fault != "kill")
    code = attempt.main()
    sys.stderr.flush()
    os._exit(code)


def import_services() -> None:
    """Import all that `serve` and `worker` will, so that processes forked off here need not."""
    import reactorcide.api.app
    import reactorcide.api.server
    import reactorcide.cli.serve
    import reactorcide.cli.service
    import reactorcide.cli.worker
    import reactorcide.observability.logging
    import reactorcide.wiring.api
    import reactorcide.wiring.core
    import reactorcide.wiring.database
    import reactorcide.wiring.worker  # noqa: F401


def run_service(role: str, plan: Plan) -> None:
    """Be `serve` or `worker`, to its end."""
    from reactorcide.cli.serve import serve
    from reactorcide.cli.worker import worker
    from reactorcide.worker import runner

    meter = Meter(plan)
    runner.RUNNER_COMMAND = command_of("runner", replace(plan, process="runner"))  # type: ignore[assignment]
    install_commit_points(meter, as_full_disk=plan.fault != "kill")
    install_file_points(meter, writes=plan.fault != "kill")
    if plan.fault == "kill":
        install_transport_points(meter)
    {"serve": serve, "worker": worker}[role]([])


def run_role(role: str, plan: Plan) -> None:
    """Be what ``role`` names, to its end."""
    # As `python -P` and `python -c`: the directory of this file is no place to look for modules.
    sys.path.remove(str(HERE.parent))
    if role == "runner":
        run_runner(plan)
    else:
        run_service(role, plan)


if __name__ == "__main__":
    run_role(sys.argv[1], Plan.decode(sys.argv[2]))
