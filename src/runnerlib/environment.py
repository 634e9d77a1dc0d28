"""The environment of a job: what is documented, and nothing of ours.

Weakest first: the defaults of a plain account, the job's env file, its variables, its secrets, and
then the platform's own, which nothing overrides.
"""

from collections.abc import Mapping

from runnerlib.spec import RunSpec
from runnerlib.spec.rules import is_credential_name, redact_url

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_VARIABLES = 2_500
LONGEST_VARIABLE_BYTES = 128 * 1024 - 1
"""The kernel takes no longer string, ``NAME=value`` with its end."""
MOST_BYTES = 1024 * 1024


class EnvironmentTooLarge(Exception):
    """The kernel or the sandbox would refuse these variables."""


def compose_environment(
    spec: RunSpec,
    *,
    root: str,
    file_variables: Mapping[str, str],
    resolved_sha: str | None,
    provides_path: bool = False,
    secrets_socket: str | None = None,
) -> dict[str, str]:
    """Return the variables of the job.

    Args:
        root: where the job sees its workspace.
        provides_path: the sandbox has a PATH of its own, which stays unless the job sets one.
        secrets_socket: where the job registers secrets (`runnerlib.registration`), as it sees it.

    Raises:
        EnvironmentTooLarge: they are more, or longer, than a process can be given.
    """
    account = {
        "HOME": f"{root}/home",
        "LANG": "C.UTF-8",
        "LOGNAME": "job",
        "PATH": PATH,
        "SHELL": "/bin/sh",
        "USER": "job",
    }
    if provides_path:
        del account["PATH"]
    platform = {
        "CI": "true",
        "CI_JOB_ID": spec.job_id,
        "CI_JOB_NAME": spec.job_name,
        "CI_JOB_ATTEMPT": str(spec.attempt),
        "CI_JOB_URL": spec.job_url,
        "CI_REPO_URL": redact_url(spec.source.url) if spec.source.url else None,
        "CI_COMMIT_SHA": resolved_sha,
        "CI_COMMIT_REF": spec.source.ref,
        "CI_WORKSPACE": root,
        "CI_ARTIFACTS_DIR": f"{root}/artifacts",
        "TRACEPARENT": spec.traceparent,
        "REACTORCIDE_CI": "true",
        "REACTORCIDE_CODE_DIR": place(spec.code_dir, root),
        "REACTORCIDE_JOB_DIR": place(spec.job_dir, root),
        "REACTORCIDE_JOB_COMMAND": spec.command,
        "REACTORCIDE_RUNNER_IMAGE": spec.image,
        "REACTORCIDE_SECRETS_SOCKET": secrets_socket,
        "PYTHONUNBUFFERED": "1",
    }
    known = {name: value for name, value in platform.items() if value is not None}
    variables = {**account, **file_variables, **spec.environment, **spec.secrets, **known}
    check_size(variables)
    return variables


def place(job_path: str, root: str) -> str:
    """Return a path below ``/job`` as the job sees it."""
    return root + job_path.removeprefix("/job")


def secret_values(*sources: Mapping[str, str]) -> list[str]:
    """Return the values of variables whose names look like credentials'."""
    return [value for source in sources for name, value in source.items() if is_credential_name(name)]


def check_size(variables: Mapping[str, str]) -> None:
    """Raises EnvironmentTooLarge for more, or longer, variables than a process can be given."""
    if len(variables) > MOST_VARIABLES:
        raise EnvironmentTooLarge(f"more than {MOST_VARIABLES} variables")
    total = 0
    for name, value in variables.items():
        length = len(name) + 1 + len(value.encode(errors="surrogateescape"))
        total += length + 1
        if length > LONGEST_VARIABLE_BYTES:
            raise EnvironmentTooLarge(f"{name} is longer than {LONGEST_VARIABLE_BYTES} bytes")
    if total > MOST_BYTES:
        raise EnvironmentTooLarge(f"all variables together are longer than {MOST_BYTES} bytes")
