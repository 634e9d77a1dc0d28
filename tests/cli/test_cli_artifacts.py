"""`artifacts` at the keyboard: listed, downloaded whole, and never written anywhere else."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from cli_shell import Api, Keyboard

from reactorcide.domain.artifacts import Artifact

pytest_plugins = ["cli_fixtures"]

FILES = {"d/e/ä b.txt": b"one\n", "d/two": b"two\n", "three.bin": bytes(100_000)}


async def job_with(api: Api, keys: Keyboard, files: dict[str, bytes], *, promised: int | None = None) -> str:
    job_id: str = (await keys.type("submit", "--json", "--command", "true")).json["job_id"]
    started = await api.start_next()
    await api.finish(started, artifacts=len(files) if promised is None else promised)
    if files:
        await api.leave(started, files)
    return job_id


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


async def test_artifacts_are_listed(api: Api, keys: Keyboard) -> None:
    job_id = await job_with(api, keys, FILES)

    plain = await keys.type("artifacts", "list", job_id)
    programs = await keys.type("artifacts", "list", job_id, "--json")

    assert plain.stdout.decode().splitlines()[1].split()[:4] == ["d/e/ä", "b.txt", "4", "B"]
    assert [entry["path"] for entry in programs.json["artifacts"]] == sorted(FILES)
    assert programs.json["complete"] is True


async def test_all_artifacts_are_downloaded_whole(api: Api, keys: Keyboard, tmp_path: Path) -> None:
    job_id = await job_with(api, keys, FILES)

    first = await keys.type("artifacts", "get", job_id, "--all", "-o", "out/put")
    again = await keys.type("artifacts", "get", job_id, "--all", "-o", "out/put", "--json")

    assert (first.code, first.stderr) == (0, "")
    assert first.stdout.decode().splitlines() == [f"out/put/{path}" for path in sorted(FILES)]
    assert len(again.json["artifacts"]) == 3
    assert files_below(tmp_path / "out/put") == FILES


async def test_some_artifacts_are_chosen_by_path_or_folder(api: Api, keys: Keyboard, tmp_path: Path) -> None:
    job_id = await job_with(api, keys, FILES)

    done = await keys.type("artifacts", "get", job_id, "d/e", "d/two", "-o", "out")

    assert done.code == 0
    assert set(files_below(tmp_path / "out")) == {"d/e/ä b.txt", "d/two"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nothing/here"], 69, "the job left no such artifact"),
        ([], 2, "name the artifacts to get"),
        (["--all", "d/two"], 2, "name the artifacts to get"),
    ],
)
async def test_what_cannot_be_got_is_an_error(
    api: Api, keys: Keyboard, arguments: list[str], code: int, told: str
) -> None:
    job_id = await job_with(api, keys, FILES)

    done = await keys.type("artifacts", "get", job_id, *arguments)

    assert done.code == code
    assert told in done.stderr


async def test_get_waits_for_what_is_on_its_way(api: Api, keys: Keyboard, tmp_path: Path) -> None:
    job_id: str = (await keys.type("submit", "--json", "--command", "true")).json["job_id"]
    started = await api.start_next()
    await api.finish(started, artifacts=1)
    getting = asyncio.create_task(keys.type("artifacts", "get", job_id, "--all", "-o", "out"))
    await asyncio.wait({getting}, timeout=1)
    was_done = getting.done()

    await api.leave(started, {"late": b"late"})

    assert not was_done
    assert (await getting).code == 0
    assert files_below(tmp_path / "out") == {"late": b"late"}


async def test_what_has_not_come_in_time_is_an_error(api: Api, keys: Keyboard, tmp_path: Path) -> None:
    job_id = await job_with(api, keys, {"one": b"one"}, promised=2)

    done = await keys.type("artifacts", "get", job_id, "--all", "--wait", "1", "-o", "out")

    assert done.code == 69
    assert "not all artifacts" in done.stderr
    assert files_below(tmp_path / "out") == {"one": b"one"}


async def test_src_15_nothing_is_written_through_a_link(api: Api, keys: Keyboard, tmp_path: Path) -> None:
    job_id = await job_with(api, keys, {"d/x": b"new", "y": b"new"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(b"old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "y").symlink_to(tmp_path / "elsewhere" / "x")

    through_folder = await keys.type("artifacts", "get", job_id, "d/x", "-o", "out")
    over_link = await keys.type("artifacts", "get", job_id, "y", "-o", "out")

    assert through_folder.code == 69
    assert over_link.code == 0
    assert (tmp_path / "elsewhere" / "x").read_bytes() == b"old"
    assert (tmp_path / "out" / "y").read_bytes() == b"new"
    assert not (tmp_path / "out" / "y").is_symlink()


async def test_src_15_a_path_that_leads_out_is_refused_whatever_the_coordinator_says(
    api: Api, keys: Keyboard, tmp_path: Path
) -> None:
    job_id = await job_with(api, keys, {"x": b"new"})
    found = await api.services.artifacts.find(job_id)
    (key,) = api.services.artifacts._lists
    (kept,) = found.artifacts
    api.services.artifacts._lists[key] = (Artifact("../x", kept.size_bytes, kept.sha256, kept.content_type),)

    done = await keys.type("artifacts", "get", job_id, "--all", "-o", "out")

    assert done.code == 69
    assert "refused to write" in done.stderr
    assert not (tmp_path / "x").exists()


async def test_an_artifact_of_another_digest_is_not_kept(api: Api, keys: Keyboard, tmp_path: Path) -> None:
    job_id = await job_with(api, keys, {"x": b"true"})
    store, digest = api.services.artifacts._objects, hashlib.sha256(b"true").hexdigest()
    store.put(f"artifacts/{job_id}/1/{digest}", b"lies")

    done = await keys.type("artifacts", "get", job_id, "x", "-o", "out")

    assert done.code == 69
    assert "digest" in done.stderr
    assert files_below(tmp_path / "out") == {}
