"""The command ``isolation``: what jobs would run in on this host, and what of it is enforced by what."""

from typing import Literal

import click


@click.command()
@click.option(
    "--executor",
    type=click.Choice(["auto", "process", "container"]),
    default="auto",
    show_default=True,
    help="What would run the jobs.",
)
@click.option("--container-engine", metavar="NAME", help="docker, podman, nerdctl, or the path of one.")
@click.option("--container-user", default="runner", show_default=True, help="Who jobs are in containers.")
@click.option("--container-allow-root", is_flag=True, help="That user may be root.")
@click.option("--container-network", metavar="NAME", help="The engine's network of jobs that may use one.")
@click.option("--unsandboxed", is_flag=True, help="Say what jobs get without a sandbox.")
@click.option("--read-only-path", multiple=True, help="A host path that jobs may read. Repeatable.")
@click.option("--require", multiple=True, metavar="MEASURE", help="Fail unless it is enforced. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Everything known, as JSON.")
def isolation(
    *,
    executor: Literal["auto", "process", "container"],
    container_engine: str | None,
    container_user: str,
    container_allow_root: bool,
    container_network: str | None,
    unsandboxed: bool,
    read_only_path: tuple[str, ...],
    require: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print what isolation jobs have on this host; exit 1 if it is less than required."""
    import msgspec

    from runnerlib.isolation import probe_isolation, report
    from runnerlib.spec import HostPolicy, parse_measures

    try:
        required = parse_measures(",".join(require))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--require") from error
    found = probe_isolation(
        HostPolicy(
            executor=executor,
            container_engine=container_engine,
            container_user=container_user,
            container_allow_root=container_allow_root,
            container_network=container_network,
            unsandboxed=unsandboxed,
            read_only_paths=read_only_path,
            require_isolation=required,
        )
    )
    click.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(report(found)))
    if found.unmet:
        raise SystemExit(1)
