"""SRC-15: manifests of trees have one spelling, and what could reach out of a tree is in none."""

import pytest

from runnerlib.spec.trees import (
    MAX_TREE_ENTRIES,
    TreeEntry,
    TreeRefused,
    check_link,
    check_tree_path,
    decode_manifest,
    encode_manifest,
    name_of,
)

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def file(path: str, **changed: object) -> TreeEntry:
    fields = {"mode": "644", "size_bytes": 0, "content": EMPTY} | changed
    return TreeEntry(path, **fields)  # type: ignore[arg-type]


def link(path: str, target: str) -> TreeEntry:
    return TreeEntry(path, "link", 0, target)


def refused(*entries: TreeEntry) -> str:
    with pytest.raises(TreeRefused) as raised:
        decode_manifest(encode_manifest(entries))
    return str(raised.value)


def test_a_manifest_is_read_as_it_was_written_in_the_order_of_bytes() -> None:
    entries = [file("b"), file("a/z", mode="755"), file("a.b"), link("ü", "a/z"), file("日本", size_bytes=9)]

    manifest = encode_manifest(entries)

    assert [entry.path for entry in decode_manifest(manifest)] == ["a.b", "a/z", "b", "ü", "日本"]
    assert encode_manifest(reversed(entries)) == manifest
    assert name_of(manifest) != name_of(encode_manifest(entries[1:]))
    assert decode_manifest(encode_manifest([])) == []


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"{}", b"\xff", b'{"format":2,"entries":[]}', b'{"format":1,"entries":[["a"]]}'),
        b'{"format":1, "entries":[]}',
        b'{"entries":[],"format":1}',
        b'{"format":1,"entries":[],"more":1}',
        b'{"format":1,"entries":[["a","600",0,"%s"]]}' % EMPTY.encode(),
        b'{"format":1,"entries":[["b","644",0,"%s"],["a","644",0,"%s"]]}' % (EMPTY.encode(), EMPTY.encode()),
        b'{"format":1,"entries":[["\\u0061","644",0,"%s"]]}' % EMPTY.encode(),
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(TreeRefused):
        decode_manifest(data)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "../a", "a\nb", "a\0b", "a\x7fb", "a\x9bb"),
        *(".git", "a/.git/config", ".GIT/x", ".Git", ".git.", ".git ", ".git. .", "git~1", "GIT~1/hooks"),
        *(".g\u200cit", ".git\ufeff", ".git::$INDEX_ALLOCATION", "x" * 256, "d/" * 512 + "x", "\ud800"),
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    assert check_tree_path(path) is not None


@pytest.mark.parametrize(
    "path", ["a", ".gitignore", ".github/x", "a b/ü€/日本", "...", "a\\b", "-a", "git~2"]
)
def test_ordinary_paths_are_good(path: str) -> None:
    assert check_tree_path(path) is None


@pytest.mark.parametrize(
    ("path", "target"),
    [
        *(("a", "/"), ("a", "/etc/passwd"), ("a", ".."), ("a", "../x"), ("d/a", "../../x"), ("a", "b/..")),
        *(
            ("d/a", "../b/../../x"),
            ("a", ""),
            ("a", "x" * 1025),
            ("a", "x\0y"),
            ("a", ".git"),
            ("d/a", "../.GIT/x"),
        ),
    ],
)
def test_a_link_that_could_lead_out_is_refused(path: str, target: str) -> None:
    assert check_link(path, target) is not None


@pytest.mark.parametrize(
    ("path", "target"), [("a", "b"), ("d/a", "../b"), ("d/e/a", "../../b/c"), ("a", "./b//c")]
)
def test_a_link_that_stays_inside_is_good(path: str, target: str) -> None:
    assert check_link(path, target) is None


def test_each_faulty_entry_is_named() -> None:
    assert "/entries/0" in refused(file("../a"), file("b"))
    assert "of another one" in refused(file("a"), file("a"))
    assert "or of a folder" in refused(file("a"), file("a/b"))
    assert "or of a folder" in refused(link("a", "b"), file("a/b"))
    assert "size 0" in refused(TreeEntry("a", "link", 1, "b"))
    assert "leads out" in refused(link("a", "/etc"))
    assert "hexadecimal" in refused(file("a", content=EMPTY.upper()))
    assert "size" in refused(file("a", size_bytes=-1))


def test_a_manifest_of_too_many_files_is_refused() -> None:
    assert "at most" in refused(*(file(str(number)) for number in range(MAX_TREE_ENTRIES + 1)))


def test_of_many_faults_the_first_are_told() -> None:
    assert refused(*(file(f"../{number}") for number in range(1000))).count("/entries/") == 20
