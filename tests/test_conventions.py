"""What the tree itself promises: names, generated documents, and files that must not exist."""

import sys
from pathlib import Path

import pytest

from internal.config.docs import render_docs, render_env_example

ROOT = Path(__file__).parent.parent
PACKAGES = sorted((ROOT / "internal").rglob("__init__.py"))
MODULES = sorted((ROOT / "internal").rglob("*.py"))
# Names that say nothing: what goes in there has a better home.
JUNK_DRAWERS = {
    "helpers",
    "helper",
    "common",
    "misc",
    "types",
    "constants",
    "base",
    "util",
    "utils",
}


def test_cmd_is_no_package() -> None:
    """It would shadow the standard library's cmd, and pdb and pytest with it."""
    assert not (ROOT / "cmd" / "__init__.py").exists()


def test_no_program_is_named_like_a_standard_module() -> None:
    names = {path.stem for path in (ROOT / "cmd").glob("*.py")}

    assert names.isdisjoint(sys.stdlib_module_names)


def test_no_module_is_a_junk_drawer() -> None:
    assert [path for path in MODULES if path.stem in JUNK_DRAWERS] == []


def test_packages_are_empty_files() -> None:
    assert [path for path in PACKAGES if path.read_bytes()] == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES}

    assert folders == {path.parent for path in PACKAGES}


@pytest.mark.parametrize(
    ("path", "rendered"),
    [("docs/configuration.md", render_docs()), (".env.example", render_env_example())],
)
def test_generated_documents_are_up_to_date(path: str, rendered: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == rendered, "run `make docs`"


def test_pins_carry_hashes() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        pins = [line for line in path.read_text().splitlines() if "==" in line]
        assert pins
        assert all(pin.endswith("\\") for pin in pins), path.name
