"""`run --local`: a job on this machine, by the rules and the very code of a coordinator and its worker.

The submission that would be sent is frozen here, by this machine's settings, and given to a runner.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from reactorcide.cli import render
from reactorcide.cli.answers import ArtifactAnswer
from reactorcide.cli.errors import CommandFailed
from reactorcide.cli.job_file import JobBody
from reactorcide.cli.options import HereOptions
from reactorcide.domain.errors import InvalidInput
from reactorcide.domain.jobs import JobResources, JobSpec
from reactorcide.domain.submission import JobRequest, freeze_request
from reactorcide.services.new_ids import IdSource

if TYPE_CHECKING:
    from reactorcide.cli.dirty import ReadTree
    from reactorcide.cli.local_runner import LocalEnd, LocalFolder
    from reactorcide.config import Settings
    from runnerlib.spec import RunResult

_COORDINATORS = ("queue_name", "priority", "labels", "retry_on_lost", "queue_timeout_seconds")
"""What a job may say that means nothing without a coordinator."""
_PIECE_BYTES = 1024 * 1024
_NO_SANDBOX_HINT = "see 'reactorcide doctor'; --unsandboxed runs jobs without one, with all that you may do"


def read_host_settings(here: HereOptions) -> "Settings":
    """Return this machine's settings with the flags in their place, its data directory made."""
    from reactorcide.cli.service import as_variables, make_data_dir, read_settings

    flags = {"executor": here.executor, "unsandboxed": here.unsandboxed}
    settings = read_settings({**os.environ, **as_variables(flags)}, {}).settings
    make_data_dir(settings)
    return settings


def run_submission(
    body: JobBody,
    here: HereOptions,
    *,
    own_paths: tuple[str, ...] = (),
    bring_tree: Callable[[Path], None] | None = None,
    as_json: bool,
) -> int:
    """Run the job of a submission's body here; return the exit code that stands for its end.

    Args:
        own_paths: copy sources that the person at the keyboard has named.
        bring_tree: as of `run_frozen`.

    Raises:
        CommandFailed: the job is refused, or this machine cannot run it.
    """
    settings = read_host_settings(here)
    job = freeze_here(leave_out_coordinators(body), settings, own_paths)
    _check_apart(job, settings)
    end = run_frozen(job, settings, here, copy_roots=own_paths, bring_tree=bring_tree, as_json=as_json)
    tell_local_end(job, end, as_json=as_json)
    return end.exit_code


def _check_apart(job: JobSpec, settings: "Settings") -> None:
    """Raise CommandFailed if the workspace would lie in what is copied into it."""
    from runnerlib.spec.rules import is_inside

    place = str(settings.data_dir.resolve())
    if job.source_path is not None and is_inside(place, job.source_path):
        raise CommandFailed(
            f"the directory to copy, {job.source_path}, holds the data directory {place}, where it goes",
            "set REACTORCIDE_DATA_DIR to a place outside of it, or copy less",
        )


def leave_out_coordinators(body: JobBody) -> JobBody:
    """Return ``body`` without what only a coordinator knows; the person is told."""
    ignored = [name for name in _COORDINATORS if name in body]
    if ignored:
        render.say(f"left out, as only a coordinator knows it: {', '.join(ignored)}")
    return {name: value for name, value in body.items() if name not in ignored}


def freeze_here(body: Mapping[str, object], settings: "Settings", own_paths: tuple[str, ...]) -> JobSpec:
    """Return the frozen job of a submission's body, by the settings of this machine.

    Raises:
        CommandFailed: with every fault of it.
    """
    from reactorcide.wiring.host import submission_policy

    if not body.get("job_command"):
        raise click.UsageError("the job has no command: give one behind --, or in the file")
    policy = submission_policy(settings)
    policy = replace(policy, copy_source_roots=(*policy.copy_source_roots, *own_paths))
    given = cast(dict[str, Any], dict(body))
    if "artifacts" in given:
        given["artifacts"] = tuple(given["artifacts"])
    if "resources" in given:
        given["resources"] = JobResources(**given["resources"])
    try:
        return freeze_request(JobRequest(**given), policy)
    except InvalidInput as error:
        lines = "".join(f"\n  {fault.pointer}: {fault.detail}" for fault in error.faults)
        raise CommandFailed(f"the job is refused:{lines}", _hint_of(error)) from error


def run_frozen(
    job: JobSpec,
    settings: "Settings",
    here: HereOptions,
    *,
    copy_roots: tuple[str, ...] = (),
    attempt: int = 1,
    bring_tree: Callable[[Path], None] | None = None,
    as_json: bool,
) -> "LocalEnd":
    """Run a frozen job here under a new id, show its log, and keep its artifacts where it was said.

    Args:
        copy_roots: directories that may be copied, besides those of the settings.
        bring_tree: puts the contents of the job's tree into a folder.
    """
    import msgspec

    from reactorcide.cli.local_runner import local_folder, run_here
    from reactorcide.wiring.host import host_terms
    from reactorcide.worker.run_spec import AttemptPlace, compose_run_spec

    policy = host_terms(settings).policy
    policy = msgspec.structs.replace(policy, copy_source_roots=(*policy.copy_source_roots, *copy_roots))
    job_id = IdSource().new_id()
    with local_folder(settings.data_dir, job_id) as folder:
        tree_dir = None
        if bring_tree is not None:
            tree_dir = folder.path / "tree"
            bring_tree(tree_dir)
        place = AttemptPlace(job_id, attempt, folder.spool, folder.work, policy, tree_dir=tree_dir)
        spec = compose_run_spec(job, place, timeout_seconds=job.timeout_seconds)
        if as_json:
            told = {"job_id": job_id, "name": job.name, "source_type": job.source_type}
            render.write_json_line({"type": "job", "job": told | {"job_command": job.job_command}})
        end = run_here(spec, folder, os.environ, as_json=as_json)
        _keep_artifacts(folder, end.result, here.artifacts_to)
    return end


def lay_contents(tree: "ReadTree", folder: Path) -> None:
    """Put the contents of a tree into a new folder, each under its SHA-256, as a worker has them."""
    from reactorcide.cli.dirty import read_pieces

    folder.mkdir(mode=0o700)
    (folder / tree.name).write_bytes(tree.manifest)
    for file in tree.tree.files:
        if file.mode == "link" or (folder / tree.digests[file.path]).exists():
            continue
        with (folder / tree.digests[file.path]).open("wb") as copy:
            for piece in read_pieces(file):
                copy.write(piece)


def tell_local_end(job: JobSpec, end: "LocalEnd", *, as_json: bool) -> None:
    """Say how a job ended here: the last line of JSON lines, and a line for the person."""
    if as_json:
        render.write_json_line({"type": "end", "job": describe_end(job, end)})
    render.say(sum_up(end))
    if end.result.reason == "sandbox_unavailable":
        render.say(f"hint: {_NO_SANDBOX_HINT}")


def describe_end(job: JobSpec, end: "LocalEnd") -> dict[str, object]:
    """Return the end as the coordinator's answers have it: unset fields are left out."""
    result = end.result
    limits = result.limits
    told: dict[str, object | None] = {
        "job_id": end.job_id,
        "name": job.name,
        "status": result.status,
        "reason": result.reason,
        "fault": result.fault,
        "message": result.message,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "resolved_sha": result.resolved_sha,
        "isolation": result.isolation,
        "image_digest": result.image_digest,
        "limits": None
        if limits is None
        else {name: getattr(limits, name) for name in limits.__struct_fields__},
        "log_size": result.log_length,
        "log_sha256": result.log_sha256,
        "artifact_count": result.artifacts,
        "seconds": round(end.seconds, 3),
    }
    if isinstance(found := told["limits"], dict):
        told["limits"] = {name: value for name, value in found.items() if value is not None}
    return {name: value for name, value in told.items() if value is not None}


def sum_up(end: "LocalEnd") -> str:
    """Return the line that says how a job ended here."""
    result = end.result
    done = {"cancelled": "was cancelled", "timeout": "timed out"}.get(result.status, result.status)
    place = f" in {result.isolation}" if result.isolation != "none" else ""
    code = f", exit code {result.exit_code}" if result.exit_code is not None else ""
    reason = f" ({result.reason})" if result.reason not in ("ok", "exit_nonzero") else ""
    message = f": {result.message}" if result.message and result.reason != "exit_nonzero" else ""
    return f"{done} after {render.show_seconds(end.seconds)}{place}{code}{reason}{message}"


def _keep_artifacts(folder: "LocalFolder", result: "RunResult", target: Path | None) -> None:
    """Copy the artifacts out, each checked against its digest; without a target, say that they are lost."""
    from runnerlib.spec.artifacts import ARTIFACTS_FILE, decode_artifacts

    if not result.artifacts:
        return
    if target is None:
        render.say(f"artifacts dropped: {result.artifacts}; --artifacts-to DIR keeps them")
        return
    from reactorcide.cli.downloads import Download

    collected = decode_artifacts((folder.spool / ARTIFACTS_FILE).read_bytes())
    places = {found.path: str(found.number) for found in collected}
    with Download(_SpooledArtifacts(folder.spool, places), "", target) as download:
        for found in collected:
            answer = ArtifactAnswer(found.path, found.size_bytes, found.sha256, found.content_type)
            download.fetch(answer, lambda _: None)
    render.say(f"artifacts kept in {target}: {len(collected)}")


@dataclass(frozen=True)
class _SpooledArtifacts:
    """The artifacts of a spool, as a coordinator would give them out."""

    spool: Path
    places: Mapping[str, str]

    def read_artifact(self, job_id: str, path: str, *, start: int = 0) -> Iterator[bytes]:
        """Yield an artifact from the byte ``start`` on."""
        from runnerlib.spec.artifacts import ARTIFACTS_FOLDER

        del job_id
        with (self.spool / ARTIFACTS_FOLDER / self.places[path]).open("rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE_BYTES):
                yield piece


def _hint_of(error: InvalidInput) -> str | None:
    """Return what to do about a refused copy source: what a file names is not what the person named."""
    if any(fault.pointer == "/source_path" for fault in error.faults):
        return "name the directory with --source-path, or list it in REACTORCIDE_COPY_SOURCE_ROOTS"
    return None
