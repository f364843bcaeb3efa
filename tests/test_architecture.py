"""The house rules that a machine can check: imports, sizes of functions and files, who reads the environment."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("gateway", "trainer_worker", "export_worker", "inference_worker")
PACKAGES = ("shared", *SERVICES)
HEAVY = {"torch", "transformers", "peft", "trl", "deepspeed", "bitsandbytes", "vllm", "llmcompressor", "datasets"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: Training loops may be this long; everything else keeps to MAX_FUNCTION_LINES.
MAX_LOOP_LINES = 80
MAX_FUNCTION_LINES = 50
MAX_FILE_LINES = 400


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in it, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def is_child(path: Path) -> bool:
    return "child" in path.relative_to(ROOT).parts


def test_services_import_shared_and_never_each_other() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        for name in imports(path)
        if (top := name.split(".")[0]) in SERVICES and top != path.relative_to(ROOT).parts[0]
    ]
    assert not wrong


def test_heavy_packages_are_imported_by_children_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        if not is_child(path)
        for name in imports(path)
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong


def test_children_know_nothing_of_broker_ledger_or_http_server() -> None:
    forbidden = {"celery", "redis", "flask", "sqlalchemy"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        if is_child(path)
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert not wrong


@pytest.mark.parametrize("module", ["spec", "schema", "attempt", "keeper", "settings"])
def test_what_every_image_loads_stays_light(module: str) -> None:
    heavy = HEAVY | {"flask", "celery", "sqlalchemy", "redis"}
    code = f"import sys, shared.{module}; print(sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_only_settings_reads_the_environment() -> None:
    allowed = {ROOT / "shared" / "settings.py"}
    wrong = []
    for path in SOURCES:
        if path in allowed or is_child(path):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.putenv"}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_functions_are_short() -> None:
    sizes = [(name, size) for path in SOURCES for name, size in functions(path)]
    lengths = sorted(size for _, size in sizes)
    loops = ("/child/", "stages/")
    too_long = [
        f"{name}: {size}"
        for name, size in sizes
        if size > (MAX_LOOP_LINES if any(part in name for part in loops) else MAX_FUNCTION_LINES)
    ]
    assert not too_long
    assert statistics.median(lengths) < 10
    assert lengths[int(0.9 * len(lengths))] < 30


def test_files_are_short_and_say_what_they_are_for() -> None:
    wrong = []
    for path in SOURCES:
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_FILE_LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        if text.strip() and ast.get_docstring(ast.parse(text)) is None:
            wrong.append(f"{path.relative_to(ROOT)}: no docstring")
        if not text.isascii():
            wrong.append(f"{path.relative_to(ROOT)}: not ASCII")
    assert not wrong


def test_nobody_prints_or_unpickles_or_runs_a_shell() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            shell = any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords)
            if name in {"print", "exec", "eval", "os.system", "pickle.load", "pickle.loads", "yaml.load"} or shell:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not wrong


def test_every_plug_in_has_both_its_halves() -> None:
    pairs = {
        "shared/stages": "trainer_worker/child/stages",
        "shared/methods": "trainer_worker/child/methods",
    }
    for declared, implemented in pairs.items():
        names = [{p.stem for p in (ROOT / folder).glob("*.py")} - {"__init__"} for folder in (declared, implemented)]
        assert names[0] == names[1], f"{declared} and {implemented} differ"
    quantized = {p.stem for p in (ROOT / "shared" / "formats").glob("*.py")} - {"__init__", "merged"}
    assert quantized == {p.stem for p in (ROOT / "export_worker" / "child" / "quantizers").glob("*.py")} - {"__init__"}
