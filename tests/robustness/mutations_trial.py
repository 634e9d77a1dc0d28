"""Trying a mutation: a copy of the tree with one bug in it, and the tests that are to find it.

The copy has an interpreter of its own, whose `.pth` file names the copy's `src` before the packages of the
environment we run in. So also what a test starts as `python -P -m runnerlib.attempt`, with an environment
made anew, runs the code of the copy.
"""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_COPIED = ("src", "tests", "bench", "scripts")
_VERDICT = re.compile(r"^(FAILED|ERROR) (\S+)", re.MULTILINE)
_NOT_INHERITED = ("PYTHON", "PYTEST", "REACTORCIDE", "COV")


@dataclass(frozen=True)
class Mutation:
    """One bug: in ``file``, below `src`, the ``original`` text becomes ``bug``."""

    name: str
    breaks: str
    file: str
    original: str
    bug: str
    tests: tuple[str, ...]
    """Node ids below `tests`, of which at least one must fail."""

    def find_fault(self, repository: Path = REPOSITORY) -> str | None:
        """Say why it does not apply any more, None if it does."""
        path = repository / "src" / self.file
        if not path.exists():
            return f"{self.file} is gone"
        text = path.read_text()
        if (count := text.count(self.original)) != 1:
            return f"its text stands {count} times in {self.file}"
        try:
            ast.parse(text.replace(self.original, self.bug))
        except SyntaxError as error:
            return f"with it {self.file} cannot be read: {error}"
        missing = [test for test in self.tests if not is_test(test, repository)]
        return f"no such test: {', '.join(missing)}" if missing else None

    def apply(self, tree: Path) -> None:
        """Put the bug into a copy."""
        path = tree / "src" / self.file
        path.write_text(path.read_text().replace(self.original, self.bug))


@dataclass(frozen=True)
class Trial:
    """How the tests of a mutation went."""

    exit_code: int | None
    """Of pytest: 0 all passed, 1 some failed, else it could not try; None: it did not end in time."""
    failed: tuple[str, ...]
    seconds: float
    output: str

    @property
    def is_red(self) -> bool:
        """Whether a test failed; that nothing could be imported or set up does not count."""
        return self.exit_code == 1 and bool(self.failed)


def is_test(node: str, repository: Path = REPOSITORY) -> bool:
    """Tell whether there is a test of this node id, as far as its file's text shows."""
    name, _, rest = node.partition("::")
    path = repository / "tests" / name
    if not path.is_file():
        return False
    *classes, test = re.sub(r"\[.*", "", rest).split("::")
    own, text = path.read_text(), _with_contracts(path, repository)
    indent = " {4}" if classes else ""
    return all(re.search(rf"^class {name}\b", own, re.MULTILINE) for name in classes) and (
        not test or re.search(rf"^{indent}(?:async )?def {test}\b", text, re.MULTILINE) is not None
    )


def _with_contracts(path: Path, repository: Path) -> str:
    """Return the text of a test file, and of the contracts that its classes inherit, and those inherit."""
    text = path.read_text()
    for name in re.findall(r"^from contracts\.(\w+) import", text, re.MULTILINE):
        text += _with_contracts(repository / f"tests/contracts/{name}.py", repository)
    return text


class Workshop:
    """A directory in which copies of the tree are broken, one after another."""

    def __init__(self, root: Path, repository: Path = REPOSITORY) -> None:
        self.tree = root / "tree"
        self._root = root
        self._sound = root / "sound"
        self._repository = repository
        self._python = root / "python/bin/python"

    def furnish(self) -> None:
        """Copy the tree as it is now, and make the interpreter of the copy.

        Raises:
            RuntimeError: the interpreter would run other code than the copy's.
        """
        self._root.chmod(0o755)
        for name in _COPIED:
            if (self._repository / name).is_dir():
                shutil.copytree(self._repository / name, self._sound / name)
        shutil.copy(self._repository / "pyproject.toml", self._sound)
        venv.EnvBuilder(symlinks=True, with_pip=False).create(self._root / "python")
        (packages,) = (self._root / "python/lib").glob("python*/site-packages")
        ours = [path for path in sys.path if path.endswith("site-packages")]
        # Directories named here are not searched for .pth files: our own editable install stays out.
        (packages / "copy.pth").write_text("\n".join([str(self.tree / "src"), *ours]))
        self._restore()
        command = "import reactorcide, runnerlib; print(reactorcide.__file__, runnerlib.__file__)"
        for options in ((), ("-P",)):
            said = subprocess.run(
                [self._python, *options, "-c", command],
                cwd="/",
                env={},
                capture_output=True,
                text=True,
                check=True,
            )
            if not all(Path(path).is_relative_to(self.tree) for path in said.stdout.split()):
                raise RuntimeError(f"the copy does not run its own code: {said.stdout}")

    def try_out(
        self, tests: Sequence[str], mutation: Mutation | None = None, *, limit_seconds: float, stops: bool
    ) -> Trial:
        """Run tests on a fresh copy, with a bug in it or without; ``stops``: at the first failure."""
        self._restore()
        if mutation is not None:
            mutation.apply(self.tree)
        began = time.monotonic()
        code, output = self._run_pytest(tests, limit_seconds, stops=stops)
        found = _VERDICT.findall(output)
        failed = tuple(node.removeprefix("tests/") for kind, node in found if kind == "FAILED")
        return Trial(code, failed, time.monotonic() - began, output)

    def _restore(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(self._sound, self.tree)

    def _run_pytest(
        self, tests: Sequence[str], limit_seconds: float, *, stops: bool
    ) -> tuple[int | None, str]:
        options = ["-q", "-rfE", "--tb=short", "-p", "no:xdist", "-p", "no:cacheprovider"]
        options += [f"--basetemp={self._root / 'temp'}", *(["-x"] if stops else [])]
        kept = {name: v for name, v in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        log = self._root / "pytest.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [self._python, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)],
                cwd=self.tree,
                env=kept | {"COLUMNS": "300"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            code: int | None
            try:
                code = process.wait(limit_seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                # Also what a test that failed has left.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return code, log.read_text(errors="replace")


def check_all(mutations: Iterable[Mutation]) -> list[str]:
    """Return what is wrong with the list itself."""
    seen: set[str] = set()
    faults = []
    for mutation in mutations:
        if mutation.name in seen:
            faults.append(f"{mutation.name}: there are two of this name")
        seen.add(mutation.name)
        if mutation.original == mutation.bug:
            faults.append(f"{mutation.name}: it changes nothing")
        if (fault := mutation.find_fault()) is not None:
            faults.append(f"{mutation.name}: {fault}")
    return faults
