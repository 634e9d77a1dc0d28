"""`run --dirty` of the whole product: the job sees exactly the working tree, on either kind of worker."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_product import PROGRAM, Product, wait_until

# The repositories that are sent are those of the commands' own tests.
sys.path.append(str(Path(__file__).parents[1] / "cli"))

from repositories import MOTLEY, MOTLEY_LINKS, make_motley

# What there is, as lines of JSON: the path, then mode and content, or where a link leads.
LOOK = """
import hashlib, json, os
for folder, _, names in os.walk("."):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.islink(path):
            print(json.dumps([path[2:], "->", os.readlink(path)]))
        else:
            data = open(path, "rb").read()
            print(json.dumps([path[2:], oct(os.stat(path).st_mode)[-3:], hashlib.sha256(data).hexdigest()]))
"""


@pytest.fixture
def far_worker(running: Product, tmp_path: Path) -> Iterator[None]:
    """A worker that reaches the product by HTTP alone, and takes from a queue of its own."""
    folder = tmp_path / "far"
    folder.mkdir()
    token = running.json("tokens", "create", "far", "--kind", "worker")["token"]
    url = json.loads((running.data_dir / "server.json").read_text())["url"]
    settings = {
        "REACTORCIDE_DATA_DIR": str(folder),
        "REACTORCIDE_COORDINATOR_URL": url,
        "REACTORCIDE_WORKER_TOKEN": token,
        "REACTORCIDE_WORKER_NAME": "far",
        "REACTORCIDE_WORKER_QUEUE": "far",
    }
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [*PROGRAM, "worker"], env={**running.environment, **settings}, stdout=out, stderr=out
        )
    try:
        wait_until(lambda: "far" in running.run("workers").stdout, 30, (folder / "out").read_text)
        yield
    finally:
        process.terminate()
        process.wait(30)


def expected() -> set[tuple[str, str, str]]:
    files = {
        (path, f"{mode:o}", hashlib.sha256(content).hexdigest()) for path, (content, mode) in MOTLEY.items()
    }
    return files | {(path, "->", target) for path, target in MOTLEY_LINKS.items()}


def run_in(product: Product, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "run", "--dirty", *arguments],
        cwd=folder,
        env=product.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def seen(done: subprocess.CompletedProcess[str]) -> set[tuple[str, str, str]]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    return {tuple(json.loads(line)) for line in lines}


@pytest.mark.parametrize("queue", ["reactorcide-jobs", "far"])
@pytest.mark.usefixtures("far_worker")
def test_a_job_sees_the_working_tree_and_nothing_else(running: Product, tmp_path: Path, queue: str) -> None:
    made, commit = make_motley(tmp_path / "repository")
    look = ("-q", queue, "--", "python3", "-c", LOOK)

    first = run_in(running, made.path, *look)
    made.write("changed.txt", "third\n")
    second = run_in(running, made.path, *look)
    inside = run_in(running, made.path / "sub", "-q", queue, "--", "pwd; ls; echo $CI_COMMIT_SHA; ../run.sh")

    assert (first.returncode, second.returncode, inside.returncode) == (0, 0, 0), first.stderr
    assert seen(first) == expected()
    assert {entry[0] for entry in seen(first) ^ seen(second)} == {"changed.txt"}
    assert f"laying out commit {commit} + 9 changed files (patch " in first.stdout
    assert "sent 1 of 12 files, 6 B" in second.stderr
    assert f"/job/src/sub\ndeep\nup\n{commit}\nran\n" in inside.stdout


def test_here_without_a_coordinator_a_job_sees_the_same(product: Product, tmp_path: Path) -> None:
    made, commit = make_motley(tmp_path / "repository")

    done = run_in(product, made.path, "--local", "--", "python3", "-c", LOOK)

    assert done.returncode == 0, done.stderr
    assert seen(done) == expected()
    assert f"commit {commit[:7]} + patch " in done.stderr
