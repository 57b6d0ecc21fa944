"""What may import what. One way only: scripts → speculative_decode → specdec; a domain and a study know less than a script.

Of a study, tables.py fills pages and asks the light modules alone, as does a part of it in a file of its own (speed.py). An
analysis beside it reads measured rows again: it may ask specdec and domains, but no script, and no torch.

Imports are read from the source, those inside functions too, so nothing has to run.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
ALGORITHM = "speculative_decode"
LIGHT = {f"specdec.{name}" for name in ("files", "terminal", "report", "trace", "theory", "intervals")}  # without torch
PAGES = ("tables", "speed", "own_family", "small_tests")  # the modules of a study that fill its page
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"}
ASK_DOMAINS = {
    "count_calls",
    "data_generation",
    "clean_dataset",
    "check_dataset",
    "generate_answers",
    "generate_queries",
    "evaluate_acceptance",
    "test_trained_model",
}
DOMAINS_MAY = {"specdec.files", "specdec.terminal"}
DOMAINS_MAY_INSIDE = {"specdec.models", "specdec.weights"}  # in a function, to check a prompt against a tokenizer


def imports(source: str) -> list[tuple[str, bool]]:
    """(module, whether inside a function) of every import in `source`; `from specdec import files` is specdec.files."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0, "imports are absolute here"
            found.append((node.module, inside))
            if node.module in ("specdec", "domains", "studies"):
                found[-1:] = [(f"{node.module}.{alias.name}", inside) for alias in node.names]
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(source), False)
    return found


def wrong(importer: str, imported: str, inside: bool = False) -> str | None:
    """Why module `importer` may not import `imported`, or None if it may."""
    top, package = imported.partition(".")[0], importer.partition(".")[0]
    if top in HEAVY and (package == "studies" or importer in LIGHT):
        return "works without torch"
    if top not in {"specdec", "domains", "studies"} | SCRIPTS:
        return None
    if package == "studies":
        study, _, module = importer.rpartition(".")
        if module in PAGES:
            own = {f"{study}.{name}" for name in PAGES}
            return None if imported in LIGHT | own else "tables ask the light modules of specdec alone"
        return None if top in ("specdec", "domains") else "an analysis asks specdec and domains alone"
    if top == "studies":
        return "a study is imported by nobody"
    if package == "specdec":
        if top != "specdec":
            return "specdec imports itself alone"
        return "works without torch" if importer in LIGHT and imported not in LIGHT else None
    if package == "domains":
        allowed = DOMAINS_MAY | (DOMAINS_MAY_INSIDE if inside else set())
        return None if top == "domains" or imported in allowed else "a domain asks specdec.files, and in a function a tokenizer"
    if importer == ALGORITHM:
        return None if top == "specdec" else "the algorithm asks specdec alone"
    if top == "domains" and importer not in ASK_DOMAINS:
        return "data scripts and evaluation ask domains, training and decoding do not"
    return None


def modules() -> dict[str, Path]:
    """Module name → file of everything in the repository but the tests."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("specdec/*.py"), *ROOT.glob("domains/*.py"), *ROOT.glob("studies/**/*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def test_imports_run_one_way():
    known = modules()
    assert {"speculative_decode", "specdec.report", "studies.preference.tables"} <= known.keys()
    found = []
    for importer, path in known.items():
        for imported, inside in imports(path.read_text(encoding="utf-8")):
            if reason := wrong(importer, imported, inside):
                found.append(f"{importer} imports {imported}: {reason}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "importer, imported",
    [
        ("specdec.engine", "speculative_decode"),
        ("specdec.models", "domains.at"),
        ("specdec.report", "studies.preference.tables"),
        ("specdec.report", "torch"),
        ("specdec.trace", "specdec.engine"),  # would import torch behind our back
        ("speculative_decode", "train_dpo"),
        ("speculative_decode", "domains.at"),
        ("train_dpo", "domains.at"),
        ("evaluate_acceptance", "studies.preference.tables"),
        ("domains.at", "specdec.engine"),
        ("domains.at", "specdec.models"),  # outside a function
        ("domains.at", "check_dataset"),
        ("studies.engine.tables", "benchmark_decoding"),
        ("studies.engine.tables", "specdec.models"),
        ("studies.engine.tables", "specdec.provenance"),
        ("studies.engine.tables", "domains.at"),
        ("studies.preference.analysis", "evaluate_acceptance"),
        ("studies.preference.analysis", "torch"),
        ("studies.engine.tables", "torch"),
        ("studies.engine.tables", "studies.preference.tables"),
        ("studies.engine.tables", "studies.distillation.speed"),
        ("studies.distillation.tables", "studies.distillation.positions"),
        ("studies.distillation.speed", "specdec.models"),
    ],
)
def test_a_wrong_import_is_noticed(importer, imported):
    assert wrong(importer, imported)


def test_every_form_of_import_is_read():
    source = (
        "from typing import TYPE_CHECKING\nimport specdec.engine as engine\nfrom specdec import models, files\n"
        "if TYPE_CHECKING:\n    import torch\ndef f():\n    from domains.at import names\n"
    )
    assert imports(source)[1:] == [
        ("specdec.engine", False),
        ("specdec.models", False),
        ("specdec.files", False),
        ("torch", False),
        ("domains.at", True),
    ]


def test_pages_are_filled_without_torch():
    """What the source promises, once by running it: every tables.py in a process of its own."""
    tables = [name for name in modules() if name.endswith(".tables")]
    code = f"import sys, {', '.join(tables)}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    loaded = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert tables and loaded.strip() == ""
