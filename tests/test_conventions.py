"""What the tree itself promises: names, generated documents, and files that must not exist."""

import re
import sys
from pathlib import Path

import pytest

from internal.chat.ws.events import CloseReason, Op
from internal.config.docs import render_docs, render_env_example
from internal.monitoring.metrics import Metrics
from internal.routes import catalogue

ROOT = Path(__file__).parent.parent
PACKAGES = sorted((ROOT / "internal").rglob("__init__.py"))
MODULES = sorted((ROOT / "internal").rglob("*.py"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
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


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether a link's file is there, and in it a heading for what stands behind the `#`."""
    if "://" in target:
        return True
    path, _, anchor = target.partition("#")
    found = page.parent / path if path else page
    if not found.exists():
        return False
    headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE) if anchor else []
    return not anchor or anchor in map(_anchor, headings)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


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
    [
        ("docs/configuration.md", render_docs()),
        (".env.example", render_env_example()),
        ("docs/errors.md", catalogue.render_errors()),
        ("docs/asyncapi.json", catalogue.render_asyncapi()),
    ],
)
def test_generated_documents_are_up_to_date(path: str, rendered: str) -> None:
    assert read(path) == rendered, "run `make docs`"


def test_the_generated_parts_of_the_protocol_are_up_to_date() -> None:
    protocol = read("docs/protocol.md")

    assert catalogue.render_protocol(protocol) == protocol, "run `make docs`"


def test_every_route_stands_in_the_protocol() -> None:
    protocol = read("docs/protocol.md")

    for row in catalogue.routes():
        assert f"`{row.method} {row.paths[0]}`" in protocol
        assert [path for path in row.paths[1:] if f"`{path}`" not in protocol] == []


def test_every_word_of_the_gateway_stands_in_the_protocol() -> None:
    protocol = read("docs/protocol.md")
    opcodes = [f"| {int(op)} | `{op.name}` |" for op in Op]
    reasons = [f"| {reason.code} | `{reason.name}` |" for reason in CloseReason]
    events = [
        f"| `{name}` |" for name in (*catalogue.events(), *catalogue.ANSWERS, "READY", "RESUMED")
    ]

    assert [row for row in (*opcodes, *reasons, *events) if row not in protocol] == []


def test_every_metric_stands_in_the_manual() -> None:
    manual = read("docs/operations.md")
    names = [metric.name for metric in Metrics().registry.collect()]
    ours = [name for name in names if name.startswith("parley_")]

    assert ours
    assert [name for name in ours if f"`{name}`" not in manual] == []


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))

    for number, page in enumerate(pages, start=1):
        assert re.fullmatch(rf"{number:04}-[a-z0-9-]+\.md", page.name), page.name
        assert page.read_text(encoding="utf-8").startswith(f"# {number:04} "), page.name


def test_links_between_documents_lead_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in DOCUMENTS
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
        if not leads_somewhere(page, target)
    ]

    assert dead == []


def test_changelog_fragments_are_named_by_their_kind() -> None:
    names = {path.name for path in (ROOT / "changelog.d").iterdir()} - {"README.md"}
    pattern = re.compile(r"[a-z0-9-]+\.(feature|fix|breaking|ops)\.md")

    assert [name for name in names if not pattern.fullmatch(name)] == []


def test_pins_carry_hashes() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        pins = [line for line in path.read_text().splitlines() if "==" in line]
        assert pins
        assert all(pin.endswith("\\") for pin in pins), path.name
