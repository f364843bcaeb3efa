"""Every sentence that the sources hand to people, read from their syntax trees: constants, `Text` templates, f-strings.

A sentence is followed from where it is said (a finding, a complaint, a rule's return) to the names it was given in the
same function. What comes from elsewhere (an argument, an attribute) is found where that is made.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.tongues.chinese import PLACEHOLDER

#: Numbers of a sentence, which both tongues have.
FIGURE = re.compile(r"(?<![A-Za-z_])\d+(?:[.,]\d+)*")
ROOT = Path(__file__).resolve().parents[2]
#: Errors whose message is a template, with its values beside it.
ERRORS = (
    "InvalidRequest", "InvalidJson", "InvalidYaml", "InvalidJobState", "NotAllowed", "NotFound", "Conflict", "TooLarge",
    "Unavailable", "ModelNotFound", "Overloaded", "TooSlow",
)  # fmt: skip
#: Callable -> places of its arguments that are sentences.
SAID = {
    "Text": (0,),
    "Message": (0,),
    "refuse": (0,),
    "RowError": (1,),
    "Complaint": ("message",),
    "info": (2, 3, "message", "advice"),
    "warning": (2, 3, "message", "advice"),
    "error": (2, 3, "message", "advice"),
    "severity": (2, 3),
    "_wrong": (1,),
    "_refused": (1,),
    "_unusable": (0,),
    "unreadable": (1,),
    "Unreadable": (0,),
    "Bomb": (0,),
    "refused": (1,),
    "Step": ("what",),
    "Reason": ("why",),
    **dict.fromkeys(ERRORS, (0,)),
}


@dataclass(frozen=True, kw_only=True)
class Sentence:
    place: str
    #: The template; of an f-string its source.
    template: str
    #: An f-string or a sum: its values cannot be told from its words any more.
    fused: bool


def sentences(path: Path) -> Iterator[Sentence]:
    tree = ast.parse(path.read_text())
    owners = _owners(tree)
    for node in ast.walk(tree):
        for said in _said(node):
            for found in _followed(said, owners.get(node, tree), tree, frozenset()):
                fused = not isinstance(found, ast.Constant)
                template = ast.unparse(found) if fused else str(found.value)  # type: ignore[attr-defined]
                yield Sentence(place=f"{path.relative_to(ROOT)}:{found.lineno}", template=template, fused=fused)


def _owners(tree: ast.Module) -> dict[ast.AST, ast.AST]:
    """The innermost function around each node."""
    owners: dict[ast.AST, ast.AST] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            owners |= {node: function for node in ast.walk(function)}
    return owners


def _said(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        for place in SAID.get(name, ()):
            if isinstance(place, int) and place < len(node.args):
                yield node.args[place]
            yield from (made.value for made in node.keywords if made.arg == place)
    elif isinstance(node, ast.FunctionDef) and "rule(" in " ".join(ast.unparse(mark) for mark in node.decorator_list):
        yield from (made.value for made in ast.walk(node) if isinstance(made, ast.Return) and made.value is not None)


def _followed(node: ast.expr, owner: ast.AST, tree: ast.Module, seen: frozenset[str]) -> Iterator[ast.expr]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and any(char.isalpha() for char in PLACEHOLDER.sub("", node.value)):
            yield node
    elif isinstance(node, ast.JoinedStr | ast.BinOp):
        yield node
    elif isinstance(node, ast.IfExp):
        yield from _followed(node.body, owner, tree, seen)
        yield from _followed(node.orelse, owner, tree, seen)
    elif isinstance(node, ast.BoolOp | ast.Dict):
        for value in node.values:
            yield from _followed(value, owner, tree, seen)
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        yield from _followed(node.value, owner, tree, seen)
    elif isinstance(node, ast.Name) and node.id not in seen:
        for value in _given(node.id, ast.walk(owner)) or _given(node.id, tree.body):
            yield from _followed(value, owner, tree, seen | {node.id})


def _given(name: str, statements: Iterable[ast.AST]) -> list[ast.expr]:
    """What is assigned to the name there, one by one where it is one of several."""
    found: list[ast.expr] = []
    for node in statements:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.NamedExpr | ast.AnnAssign) else targets
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name and node.value is not None:  # type: ignore[attr-defined]
                found.append(node.value)  # type: ignore[attr-defined]
            elif isinstance(target, ast.Tuple):
                names = [item.id if isinstance(item, ast.Name) else "" for item in target.elts]
                found += [
                    value
                    for at, item in enumerate(names)
                    if item == name
                    for value in _items(node.value, at)  # type: ignore[attr-defined]
                ]
    return found


def _items(node: ast.expr, index: int) -> Iterator[ast.expr]:
    if isinstance(node, ast.Tuple):
        yield node.elts[index]
    elif isinstance(node, ast.IfExp):
        yield from _items(node.body, index)
        yield from _items(node.orelse, index)
