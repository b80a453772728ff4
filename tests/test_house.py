"""Who may import whom, read from the sources. docs/architecture.md says why."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from steer_modules.files import TRAVELLING

HOME = Path(__file__).resolve().parent.parent
ROOMS = ("data", "topics", "fitting", "methods", "training", "targets", "evaluation", "verify", "publish")
COMMON = {
    "exporter.artifact",
    "exporter.attack_report",
    "exporter.atomic",
    "exporter.decoding",
    "exporter.digests",
    "exporter.types",
    "exporter.errors",
    "exporter.finite",
    "exporter.fitted",
    "exporter.foreign_code",
    "exporter.host",
    "exporter.estimate",
    "exporter.inspection",
    "exporter.ledger",
    "exporter.model_folder",
    "exporter.progress",
    "exporter.picture",
    "exporter.prompt_batcher",
    "exporter.reader",
    "exporter.vocabulary",
    "exporter.reasoning_report",
    "exporter.registry",
    "exporter.renamed",
    "exporter.report",
    "exporter.usable_base",
    "exporter.wording",
    "exporter.splits",
    "exporter.steerable",
    "exporter.weight_edit",
}
CONTRACTS = {
    "exporter.data.readers.base",
    "exporter.evaluation.attacks.base",
    "exporter.evaluation.metrics.base",
    "exporter.methods.base",
    "exporter.pipeline.model_attacks.base",
    "exporter.targets.base",
    "exporter.targets.values",
}
"""What a room is to the others: light, and no part of its inside."""
EDGES = {("methods", "fitting"), ("training", "fitting"), ("fitting", "evaluation.attacks")}
CLI_MAY = {
    "cli_attack",
    "cli_evaluate",
    "cli_export",
    "cli_publish",
    "cli_tune",
    "look_inside",
    "registry",
    "pipeline",
    "recipe",
    "errors",
    "failures",
    "display",
    "display_attacks",
    "display_evaluation",
    "provenance",
}


class Import(NamedTuple):
    """One imported module or name of a module, with where it stands."""

    file: Path
    line: int
    name: str
    level: int

    def __str__(self) -> str:
        return f"{self.file.relative_to(HOME)}:{self.line} imports {'.' * self.level}{self.name}"


def imports_of(file: Path) -> list[Import]:
    """Everything a file imports, anywhere in it; ``from a import b`` counts as ``a.b``."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = f"{node.module}." if node.module else ""
            found += [Import(file, node.lineno, f"{stem}{alias.name}", node.level) for alias in node.names]
    return found


def sources(*places: str) -> list[Path]:
    files = [path for place in places for path in sorted((HOME / place).rglob("*.py"))]
    assert files, places
    return files


def under(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room_of(name: str) -> str | None:
    if under(name, CONTRACTS):
        return None
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "exporter" and parts[1] in ROOMS else None


def test_the_reader_of_imports_sees_all_of_them(tmp_path: Path) -> None:
    """The control: what the other tests read must hold what is there."""
    file = tmp_path / "x.py"
    file.write_text("import a.b\nfrom c import d\nfrom . import e\ndef f():\n    from .g import h as i, j\n")
    names = [(one.level, one.name) for one in imports_of(file)]
    assert names == [(0, "a.b"), (0, "c.d"), (1, "e"), (1, "g.h"), (1, "g.j")]
    assert room_of("exporter.fitting.context") == "fitting"
    assert room_of("exporter.recipe") is None
    assert not under("exporter.types_of_things", {"exporter.types"})


def test_steer_modules_stand_alone() -> None:
    allowed = set(sys.stdlib_module_names) | {"torch", "transformers", "safetensors", "steer_modules"}
    wrong = [
        str(one)
        for file in sources("steer_modules")
        for one in imports_of(file)
        if one.level == 0 and one.name.split(".")[0] not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("name", TRAVELLING)
def test_travelling_files_import_each_other_flatly(name: str) -> None:
    """Transformers copies the files of a checkpoint by following ``from .x import y``, and nothing else."""
    file = HOME / "steer_modules" / name
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, f"{name}:{node.lineno}"
            assert f"{node.module}.py" in TRAVELLING, f"{name}:{node.lineno}: {node.module} stays at home"
        assert not (isinstance(node, ast.Name | ast.Attribute) and "TYPE_CHECKING" in ast.unparse(node)), name
    for one in imports_of(file):
        assert one.level or not under(one.name, {"steer_modules"}), str(one)
        assert not one.name.endswith("TYPE_CHECKING"), str(one)


@pytest.mark.parametrize("room", [room for room in ROOMS if any((HOME / "exporter" / room).glob("*.py"))])
def test_rooms_do_not_import_each_other(room: str) -> None:
    allowed = COMMON | CONTRACTS | {f"exporter.{room}", "steer_modules"}
    allowed |= {f"exporter.{other}" for here, other in EDGES if here == room}
    allowed |= {"exporter.onnx_graph"} if room == "targets" else set()  # its own, where runners look for it
    wrong = [
        str(one)
        for file in sources(f"exporter/{room}")
        for one in imports_of(file)
        if one.level or (under(one.name, {"exporter", "export_configs"}) and not under(one.name, allowed))
    ]
    assert not wrong


def test_only_the_pipeline_knows_the_rooms() -> None:
    outside = [*(HOME / "exporter").glob("*.py"), *(HOME / "exporter" / "pipeline").glob("*.py")]
    knowing = {file for file in outside for one in imports_of(file) if room_of(one.name) is not None}
    assert {file.parent.name for file in knowing} == {"pipeline"}


def test_what_rooms_share_knows_nothing_above_it() -> None:
    below = {
        "types": set[str](),
        "errors": set[str](),
        "registry": {"errors"},
        "digests": set[str](),
        "atomic": {"errors"},
        "artifact": {"atomic", "digests", "errors"},
        "ledger": {"atomic", "digests"},
    }
    below["loading"] = {"errors", "usable_base"}
    below["usable_base"] = {"errors", "model_folder"}
    below["progress"] = below["estimate"] = below["renamed"] = set()
    below["report"] = {"artifact", "atomic", "estimate", "renamed"}
    below["attack_report"] = {"artifact", "estimate", "report"}
    below["decoding"] = set()
    below["picture"] = below["reader"] = {"errors"}
    below["vocabulary"] = {"errors", "types"}
    below["weight_edit"] = {"artifact", "atomic", "digests", "errors", "model_folder"}
    below["fitted"] = {"weight_edit"}
    below["host"] = {"types", "errors", "foreign_code", "loading", "progress"}
    below["finite"] = {"errors"}
    below["host"] |= {"decoding", "finite", "prompt_batcher", "reader", "vocabulary"}
    below["prompt_batcher"] = {"errors", "picture", "types"}
    below["inspection"] = {"errors", "registry"}
    below["look_inside"] = {"errors", "fitted", "inspection", "registry", "workspace", "earlier_code"}
    below["onnx_graph"] = set()
    below["model_folder"] = {"errors"}
    below["steerable"] = set()
    below["earlier_code"] = {"registry"}
    below["foreign_code"] = {"earlier_code", "errors", "model_folder", "registry"}
    for name, allowed in below.items():
        for one in imports_of(HOME / "exporter" / f"{name}.py"):
            if under(one.name, {"exporter"}) and not under(one.name, CONTRACTS):
                assert one.name.split(".")[1] in allowed, str(one)


def test_names_in_the_registry_exist() -> None:
    from exporter import registry

    tables = (registry.METHODS, registry.READERS, registry.TARGETS, registry.METRICS, registry.ATTACKS)
    for table in (*tables, registry.MODEL_ATTACKS):
        for place in table.values():
            module, _, attribute = place.partition(":")
            file = HOME / Path(*module.split(".")).with_suffix(".py")
            assert file.is_file(), place
            nodes = ast.parse(file.read_text(encoding="utf-8")).body
            names = {getattr(node, "name", None) for node in nodes}
            names |= {
                ast.unparse(one) for node in nodes if isinstance(node, ast.Assign) for one in node.targets
            }
            assert attribute in names, place


def test_the_command_line_stays_thin() -> None:
    files = sorted((HOME / "exporter").glob("cli*.py"))
    assert files
    for one in (one for file in files for one in imports_of(file)):
        parts = one.name.split(".")
        assert parts[0] != "steer_modules", str(one)
        assert parts[0] != "exporter" or parts[1] in CLI_MAY or under(one.name, CONTRACTS), str(one)
        assert parts[0] not in {"torch", "transformers", "yaml", "pydantic"}, str(one)


def test_the_api_stays_thin() -> None:
    found = imports_of(HOME / "exporter" / "api.py")
    ours = {one.name.split(".")[1] for one in found if under(one.name, {"exporter"})}
    assert ours <= {"fitted", "pipeline", "progress", "provenance", "settings"}
    assert not [str(one) for one in found if under(one.name, {"torch", "transformers", "pydantic"})]


def test_nothing_imports_the_command_line() -> None:
    for file in sources("exporter", "steer_modules"):
        for one in imports_of(file):
            assert not under(one.name, {"exporter.cli", "tests", "benchmarks"}), str(one)


@pytest.mark.parametrize(
    "place", ["clean_load.py", "transformers_clean_load.py", "peft_clean_load.py", "onnx/clean_load.py"]
)
def test_what_runs_in_a_clean_process_stands_alone(place: str) -> None:
    """It is started where neither of our packages exists."""
    allowed = set(sys.stdlib_module_names) | {"peft", "torch", "transformers"}
    found = imports_of(HOME / "exporter" / "targets" / place)
    assert not [str(one) for one in found if one.level or one.name.split(".")[0] not in allowed]


def test_the_runner_stands_alone() -> None:
    """It travels in exported folders, to machines that have ONNX Runtime and little else."""
    allowed = set(sys.stdlib_module_names) | {"numpy", "onnxruntime", "tokenizers", "PIL"}
    files = [HOME / "exporter" / "targets" / "onnx_runner.py", HOME / "exporter" / "onnx_graph.py"]
    found = [one for file in files for one in imports_of(file)]
    assert not [str(one) for one in found if one.level or one.name.split(".")[0] not in allowed]


def test_the_first_run_of_an_exported_folder_stands_alone() -> None:
    """It is started where nothing is but what the folder's runner needs."""
    found = imports_of(HOME / "exporter" / "targets" / "onnx" / "first_run.py")
    assert not [
        str(one) for one in found if one.level or one.name.split(".")[0] not in sys.stdlib_module_names
    ]


MOST_ANY = 10
"""Lines with the word Any in a thousand, of exporter, steer_modules and export_configs."""


def lines_of_any(text: str) -> tuple[int, int]:
    """How many lines have the word ``Any``, those of imports left out, and how many lines there are."""
    imports = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = text.splitlines()
    named = [n for n, line in enumerate(lines, 1) if n not in imports and re.search(r"\bAny\b", line)]
    return len(named), len(lines)


def test_the_counter_of_any_sees_what_is_there() -> None:
    """The control: words in it and imports are none, docstrings and second words of a line are."""
    text = 'from typing import (\n    Any,\n)\nAnyTarget = 1\ndef f(x: Any, y: dict[str, Any]) -> None:\n    """Any."""\n'
    assert lines_of_any(text) == (2, 6)


def test_values_of_any_type_are_rare() -> None:
    """Counts lines with the word ``Any``, import lines left out, over all lines of the packages; fails at 10 in 1,000 or more."""
    counted = {
        file: lines_of_any(file.read_text(encoding="utf-8"))
        for file in sources("exporter", "steer_modules", "export_configs")
    }
    named, lines = (sum(one[place] for one in counted.values()) for place in (0, 1))
    most = sorted(counted, key=lambda file: -counted[file][0])[:10]
    where = ", ".join(f"{file.relative_to(HOME)} ({counted[file][0]})" for file in most)
    assert lines > 30_000, "the packages are not where they were"
    assert 1000 * named < MOST_ANY * lines, f"{named} of {lines} lines have the word Any; most in {where}"
