"""Which plugins are loaded, in which order, and from where never."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from attempt_runs import IS_ROOT
from plugin_folder import PluginFolder
from runnerlib.plugins import PluginPhase, PluginsUnusable, PluginUnknown, load_plugins, read_settings
from runnerlib.spec import JobSource, RunSpec, encode_spec


def test_plugins_come_by_priority_and_then_by_name(plugins: PluginFolder) -> None:
    plugins.add("late", "", settings="priority = 200")
    plugins.add("b-usual", "")
    plugins.add("a-usual", "")
    plugins.add("early", "", settings="priority = -1")

    host = load_plugins(plugins.path, None)

    assert host.names == ("early", "a-usual", "b-usual", "late")


def test_a_plugin_is_called_in_its_phases_only(plugins: PluginFolder) -> None:
    plugins.add("one", "", phases='["cleanup", PluginPhase.ON_ERROR]')
    plugins.add("two", "", phases="(PluginPhase.CLEANUP,)")

    host = load_plugins(plugins.path, None)

    assert [plugin.name for plugin in host.for_phase(PluginPhase.CLEANUP)] == ["one", "two"]
    assert [plugin.name for plugin in host.for_phase(PluginPhase.ON_ERROR)] == ["one"]
    assert host.for_phase(PluginPhase.PRE_CONTAINER) == ()


def test_a_job_may_name_plugins_but_not_do_without_the_required_ones(plugins: PluginFolder) -> None:
    plugins.add("usual", "")
    plugins.add("off", "", settings="enabled = False")
    plugins.add("must", "", settings="required = True")

    assert load_plugins(plugins.path, None).names == ("must", "usual")
    assert load_plugins(plugins.path, ("off",)).names == ("must", "off")
    assert load_plugins(plugins.path, ()).names == ("must",)


def test_an_unknown_name_is_told_with_those_there_are(plugins: PluginFolder) -> None:
    plugins.add("timer", "")
    plugins.add("limiter", "")

    with pytest.raises(PluginUnknown, match=r"'tmier'.*it has limiter, timer"):
        load_plugins(plugins.path, ("timer", "tmier"))


def test_only_files_with_the_prefix_are_loaded(plugins: PluginFolder) -> None:
    plugins.write("other.py", "raise SystemExit('loaded')")
    plugins.write("plugin_old.py.bak", "raise SystemExit('loaded')")
    (plugins.path / "inner").mkdir()
    (plugins.path / "inner" / "plugin_inner.py").write_text("raise SystemExit('loaded')")
    plugins.add("good", "")

    assert load_plugins(plugins.path, None).names == ("good",)
    assert not (plugins.path / "__pycache__").exists()


def test_a_class_need_not_be_derived_from_ours(plugins: PluginFolder) -> None:
    plugins.write(
        "plugin_duck.py",
        "class Duck:\n"
        "    name = 'duck'\n"
        "    def supported_phases(self): return ['cleanup']\n"
        "    def execute(self, context): ...\n"
        "class _Draft(Duck): name = ''\n"
        "class Unrelated: ...\n",
    )

    (duck,) = load_plugins(plugins.path, None).plugins

    assert (duck.name, duck.priority, duck.timeout_seconds, duck.is_required) == ("duck", 100, 60.0, False)


BAD_FILES = {
    "syntax": ("def (:", r"plugin_bad\.py cannot be loaded: SyntaxError"),
    "import": ("import no_such_module_here", r"plugin_bad\.py cannot be loaded: ModuleNotFoundError.*line 1"),
    "exit": ("\nraise SystemExit(0)", r"plugin_bad\.py cannot be loaded: SystemExit.*line 2"),
    "null": ("a = '\0'", r"plugin_bad\.py cannot be loaded"),
    "long": ("#" * (1024 * 1024 + 1), r"plugin_bad\.py is longer than 1048576 bytes"),
}
BAD_CLASSES = {
    "no name": ("", "[]", r"class Bad: name '' must be"),
    "odd name": ("name = 'a b'", "[]", r"class Bad: name 'a b' must be"),
    "number as name": ("name = 3", "[]", r"class Bad: name 3 must be"),
    "priority": (
        "name = 'bad'; priority = 'high'",
        "[]",
        r"class Bad: priority 'high' must be a whole number",
    ),
    "enabled": ("name = 'bad'; enabled = 'no'", "[]", r"class Bad: enabled 'no' must be True or False"),
    "too long": ("name = 'bad'; timeout_seconds = 601", "[]", r"timeout_seconds 601 must be .* at most 600"),
    "no time": ("name = 'bad'; timeout_seconds = 0", "[]", r"timeout_seconds 0 must be above 0"),
    "phase": ("name = 'bad'", "['pre_start']", r"no phase 'pre_start'; there are pre_validation"),
    "phases as text": ("name = 'bad'", "'pre_start'", r"no phase 'pre_start'"),
    "phases raise": ("name = 'bad'", "1 / 0", r"plugin_bad\.py cannot be loaded: ZeroDivisionError.*line 4"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_loaded_is_named_with_the_reason(plugins: PluginFolder, case: str) -> None:
    text, expected = BAD_FILES[case]
    plugins.write("plugin_bad.py", text)

    with pytest.raises(PluginsUnusable, match=expected):
        load_plugins(plugins.path, ())


@pytest.mark.parametrize("case", BAD_CLASSES)
def test_a_class_that_is_not_as_it_must_be_is_named_with_the_rule(plugins: PluginFolder, case: str) -> None:
    settings, phases, expected = BAD_CLASSES[case]
    plugins.write(
        "plugin_bad.py",
        "from runnerlib.plugins import Plugin\n"
        "class Bad(Plugin):\n"
        f"    {settings or 'priority = 1'}\n"
        f"    def supported_phases(self): return {phases}\n"
        "    def execute(self, context): ...\n",
    )

    with pytest.raises(PluginsUnusable, match=expected):
        load_plugins(plugins.path, None)


def test_two_plugins_of_one_name_are_refused(plugins: PluginFolder) -> None:
    plugins.add("same", "")
    (plugins.path / "plugin_z.py").write_text((plugins.path / "plugin_same.py").read_text())

    with pytest.raises(PluginsUnusable, match=r"'same': plugin_same\.py and plugin_z\.py"):
        load_plugins(plugins.path, None)


def writable_folder(plugins: PluginFolder) -> Path:
    plugins.path.chmod(0o777)
    return plugins.path


def sticky_folder(plugins: PluginFolder) -> Path:
    plugins.path.chmod(0o1777)
    return plugins.path


def writable_by_the_group(plugins: PluginFolder) -> Path:
    plugins.path.chmod(0o775)
    return plugins.path


def writable_above(plugins: PluginFolder) -> Path:
    plugins.path.parent.chmod(0o777)
    return plugins.path


def writable_file(plugins: PluginFolder) -> Path:
    plugins.add("good", "").chmod(0o666)
    return plugins.path


def link_out(plugins: PluginFolder) -> Path:
    outside = plugins.path.parent / "outside.py"
    outside.write_text("")
    (plugins.path / "plugin_out.py").symlink_to(outside)
    return plugins.path


def dangling_link(plugins: PluginFolder) -> Path:
    (plugins.path / "plugin_none.py").symlink_to("none.py")
    return plugins.path


def folder_as_file(plugins: PluginFolder) -> Path:
    (plugins.path / "plugin_folder.py").mkdir()
    return plugins.path


def pipe_as_file(plugins: PluginFolder) -> Path:
    os.mkfifo(plugins.path / "plugin_pipe.py", 0o600)
    return plugins.path


def missing_folder(plugins: PluginFolder) -> Path:
    return plugins.path / "none"


def file_as_folder(plugins: PluginFolder) -> Path:
    return plugins.add("good", "")


def folder_of_jobs(plugins: PluginFolder) -> Path:
    inner = plugins.path.parent / "work" / "plugins"
    inner.mkdir(parents=True)
    return inner


def link_into_jobs(plugins: PluginFolder) -> Path:
    link = plugins.path.parent / "link"
    link.symlink_to(folder_of_jobs(plugins))
    return link


BAD_PLACES: dict[Callable[[PluginFolder], Path], str] = {
    writable_folder: r"plugins can be written by others \(mode 0777\)",
    sticky_folder: r"plugins can be written by others \(mode 1777\)",
    writable_by_the_group: r"plugins can be written by others \(mode 0775\)",
    writable_above: r"can be written by others \(mode 0777\)",
    writable_file: r"plugin_good\.py can be written by others \(mode 0666\)",
    link_out: r"plugin_out\.py is a link that leads out of",
    dangling_link: r"plugin_none\.py cannot be read",
    folder_as_file: r"plugin_folder\.py is not a regular file",
    pipe_as_file: r"plugin_pipe\.py is not a regular file",
    missing_folder: r"none cannot be read: No such file",
    file_as_folder: r"is no folder",
    folder_of_jobs: r"lies in .*work, where jobs write",
    link_into_jobs: r"lies in .*work, where jobs write",
}


@pytest.mark.parametrize("make", BAD_PLACES, ids=lambda make: make.__name__)
def test_a_place_that_others_may_fill_is_refused(
    plugins: PluginFolder, make: Callable[[PluginFolder], Path]
) -> None:
    folder = make(plugins)

    with pytest.raises(PluginsUnusable, match=BAD_PLACES[make]):
        load_plugins(folder, None, job_folders=[plugins.path.parent / "work"])


@pytest.mark.skipif(not IS_ROOT, reason="only root can make files of another user")
def test_a_folder_or_file_of_another_user_is_refused(plugins: PluginFolder) -> None:
    os.chown(plugins.add("good", ""), 4711, 4711)
    with pytest.raises(PluginsUnusable, match=r"plugin_good\.py belongs to another user \(uid 4711\)"):
        load_plugins(plugins.path, None)

    os.chown(plugins.path, 4711, 4711)
    with pytest.raises(PluginsUnusable, match=r"plugins belongs to another user \(uid 4711\)"):
        load_plugins(plugins.path, None)


def test_links_inside_the_folder_are_followed_as_kubernetes_makes_them(plugins: PluginFolder) -> None:
    plugins.add("mounted", "")
    version = plugins.path / "..2026_01_01"
    version.mkdir(mode=0o755)
    (plugins.path / "plugin_mounted.py").rename(version / "plugin_mounted.py")
    (plugins.path / "..data").symlink_to(version.name)
    (plugins.path / "plugin_mounted.py").symlink_to("..data/plugin_mounted.py")

    assert load_plugins(plugins.path, None).names == ("mounted",)

    version.chmod(0o777)
    with pytest.raises(PluginsUnusable, match=r"..2026_01_01 can be written by others"):
        load_plugins(plugins.path, None)


def test_settings_come_from_the_file_beside_the_plugin(plugins: PluginFolder) -> None:
    class Settings(msgspec.Struct, forbid_unknown_fields=True):
        limit: int = 3

    file = str(plugins.path / "plugin_x.py")

    assert read_settings(file, Settings) == Settings(3)
    beside = plugins.write("plugin_x.toml", "limit = 7")
    assert read_settings(file, Settings) == Settings(7)
    for text, expected in {
        "limit = 'many'": r"plugin_x\.toml: Expected `int`, got `str` - at `\$\.limit`",
        "limti = 7": r"plugin_x\.toml: Object contains unknown field `limti`",
        "limit =": r"plugin_x\.toml: Invalid value",
    }.items():
        plugins.write("plugin_x.toml", text)
        with pytest.raises(PluginsUnusable, match=expected):
            read_settings(file, Settings)
    beside.chmod(0o666)
    with pytest.raises(PluginsUnusable, match="can be written by others"):
        read_settings(file, Settings)


def test_without_a_folder_of_plugins_nothing_of_theirs_is_imported(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    spec = RunSpec(
        job_id=f"plain-{os.getpid()}",
        job_name="a job",
        attempt=1,
        command="echo hi",
        source=JobSource(type="none"),
        spool_dir=str(tmp_path / "spool"),
        workspace_root=str(tmp_path / "work"),
    )
    code = "import sys, runnerlib.attempt as a; a.main(); print([n for n in sys.modules if 'plugin' in n])"

    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(encode_spec(spec))
        process.stdin.flush()
        said = process.stderr.read()

    assert said == b"[]\n"
    assert (tmp_path / "spool" / "log").read_bytes() == b"hi\n"
