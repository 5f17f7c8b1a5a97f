"""`docs/keys*.md` 与键的绑定一致；每个绑定都有名字与说明。约 1 秒。"""

import ast

import pytest
from keys_tool import PAGES, ROOT, SECTIONS, own_bindings, page

from nanogpt.i18n import LANGUAGES


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_is_made_from_the_bindings(lang: str) -> None:
    assert PAGES[lang].read_text(encoding="utf-8") == page(lang), "run `make keys`"


def test_every_owner_of_bindings_is_on_the_page() -> None:
    """新的屏或部件有了自己的键，就要在 `keys_tool.SECTIONS` 里有一节。"""
    known = {kind.__name__ for _en, _zh, owner, *_notes in SECTIONS for kind in owner.__mro__}
    found = set()
    for path in (ROOT / "workbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                    isinstance(item, ast.AnnAssign) and getattr(item.target, "id", "") == "BINDINGS"
                    for item in node.body):
                found.add(node.name)
    assert len(found) > 8
    assert found - known == set()


def test_every_binding_has_an_id_and_a_name() -> None:
    bindings = [binding for _en, _zh, owner, *_notes in SECTIONS for binding in own_bindings(owner)]
    assert len(bindings) > 60
    assert [binding.key for binding in bindings if not (binding.id and binding.description)] == []


def test_no_key_hides_another_of_ours() -> None:
    """一屏的键不盖住它所继承的键。只有空列表里的回车是两用的（`check_action` 决定是哪一个）。"""
    clashes = []
    for _en, _zh, owner, *_notes in SECTIONS:
        actions: dict[str, set[str]] = {}
        for kind in owner.__mro__:
            if kind.__module__.startswith("workbench"):
                for binding in vars(kind).get("BINDINGS", ()):
                    for key in binding.key.split(","):
                        actions.setdefault(key, set()).add(binding.action)
        clashes += [(owner.__name__, key) for key, found in actions.items() if len(found) > 1]
    assert clashes == [("RunsScreen", "enter")]
