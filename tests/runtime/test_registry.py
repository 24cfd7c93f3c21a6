import sys
from pathlib import Path

import pytest

from samix.runtime.registry import Registry, allow


def colours() -> Registry[int]:
    return Registry("colours", {"red": 1})


def module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_registry_is_a_mapping_of_what_was_registered() -> None:
    registry = colours()
    registry.register("blue", 2)
    assert dict(registry) == {"red": 1, "blue": 2}
    assert registry.get("blue") == registry.resolve("blue", trusted=False) == 2


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    for call in (colours().get, lambda name: colours().resolve(name, trusted=True)):
        with pytest.raises(ValueError, match=r"unknown colour 'rde'; choose one of red, .*; did you mean red\?"):
            call("rde")


@pytest.mark.parametrize("name", ["red", "a b", "", "a:b"])
def test_a_name_that_is_taken_or_is_no_word_is_not_registered(name: str) -> None:
    with pytest.raises(ValueError, match=r"already has|letters"):
        colours().register(name, 2)


def test_a_part_of_ones_own_is_imported_if_the_user_typed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "my_colours", "GREEN = 3\n", monkeypatch)
    assert colours().resolve("my_colours:GREEN", trusted=True) == 3


@pytest.mark.parametrize("name", ["evil:X", "os:system"])
def test_a_file_cannot_make_samix_import_or_find_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, "evil", "raise SystemExit('imported')\n", monkeypatch)
    with pytest.raises(ValueError, match=rf"a file names {name} in colours.*--allow {name}"):
        colours().resolve(name, trusted=False)
    assert "evil" not in sys.modules


def test_a_file_may_name_what_the_user_typed_or_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "my_colours_too", "GREEN, BROWN = 3, 4\n", monkeypatch)
    colours().resolve("my_colours_too:GREEN", trusted=True)
    allow("my_colours_too:BROWN")
    assert [colours().resolve(f"my_colours_too:{name}", trusted=False) for name in ("GREEN", "BROWN")] == [3, 4]
    with pytest.raises(ValueError, match=r"package.module:Name"):
        allow("my_colours_too")


@pytest.mark.parametrize("name", ["no_such_module:X", "math:no_such_name"])
def test_an_import_that_fails_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be imported"):
        colours().resolve(name, trusted=True)


def test_an_installed_package_adds_names_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "plugin_colours", "CYAN = 4\n", monkeypatch)
    info = tmp_path / "plugin_colours-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-colours\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[samix.colours]\ncyan = plugin_colours:CYAN\n")
    assert colours().names() == ("red", "cyan")
    assert colours().resolve("cyan", trusted=True) == 4
    assert "cyan" not in colours()
