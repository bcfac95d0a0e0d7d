"""The design's arrows: data goes one way, the runtime arm knows nothing of the training arm."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import learnopt
from learnopt import compare

ROOT = Path(learnopt.__file__).parent
RUNTIME = {
    "atomic",
    "averaged_weights",
    "course",
    "differentiable",
    "evidence",
    "equalise",
    "features",
    "layer_groups",
    "layout",
    "meta_network",
    "orthogonal",
    "quick_step",
    "read_outs",
    "run_state",
    "recorder",
    "recording",
    "recording_figures",
    "rule",
    "spread",
    "stop_head",
    "artifact",
    "carded",
    "intake",
    "memory",
    "optimizer",
    "inner_step",
    "kernels.fused",
    "kernels.fused_guard",
    "kernels.fused_step",
    "kernels.library",
    "kernels.in_place",
    "kernels.sharing",
}
STOPPERS = {
    "stopping",
    "stopping.best_weights",
    "stopping.curve_features",
    "stopping.curve_network",
    "stopping.headroom",
    "stopping.improvement",
    "stopping.learned",
    "stopping.neighbours",
    "stopping.patience",
    "stopping.peer_features",
    "stopping.peer_network",
    "stopping.plateau",
    "stopping.reading",
    "stopping.stopper",
    "stopping.weights",
}
TUNER = {"tuner.knowledge", "tuner.result"}
"""What the tuner's results are read with."""


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Modules of learnopt that a file imports, at any depth, without the leading `learnopt.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("learnopt.") for a in node.names if a.name.startswith("learnopt.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "learnopt":
            base = node.module.removeprefix("learnopt").removeprefix(".")
            for a in node.names:
                name = f"{base}.{a.name}" if base else a.name
                found.add(name if exists(name) else base)
    return found - {""}


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


GRAPH = {module_of(p): imports(p) for p in ROOT.rglob("*.py")}


def test_runtime_arm_imports_no_training() -> None:
    reached, todo = set(), set(RUNTIME)
    while todo:
        module = todo.pop()
        reached.add(module)
        todo |= GRAPH[module] - reached
    assert reached == RUNTIME


def test_integrations_need_decisions_and_no_training() -> None:
    ours = {m for m in GRAPH if m.startswith("integrations.")}
    assert {"integrations.lightning", "integrations.transformers", "integrations.skorch"} <= ours
    assert {f for m in ours for f in GRAPH[m]} <= RUNTIME | STOPPERS | TUNER | ours | {"integrations"}


def test_stoppers_need_no_training() -> None:
    assert {f for m in STOPPERS for f in GRAPH[m]} <= STOPPERS | {"atomic", "carded"}


FEWSHOT_SHARES = {"consoles", "task", "interrupt", "locking", "provenance"}
"""What the few-shot arm takes from elsewhere, beside what the runtime arm is made of."""


def test_the_few_shot_arm_stands_by_itself() -> None:
    own = {m for m in GRAPH if m == "fewshot" or m.startswith("fewshot.")}
    assert own, "the scan finds nothing"
    reached, todo = set(), set(own)
    while todo:
        module = todo.pop()
        reached.add(module)
        todo |= GRAPH[module] - reached
    assert reached - own <= RUNTIME | FEWSHOT_SHARES
    users = {m for m in GRAPH if GRAPH[m] & own} - own
    assert all(m.startswith("cli") for m in users), users


def test_stored_runs_are_of_all_that_decides() -> None:
    """Files that `compare` digests so that runs of another rule are not taken for those of this one."""
    bystanders = {"artifact", "atomic", "carded", "kernels.sharing", "read_outs"}  # they read, write, share out or show
    reached, todo = set(), {"baselines.learned"}
    while todo:
        module = todo.pop()
        reached.add(module)
        todo |= GRAPH[module] - reached
    assert bystanders <= reached
    digested = {name for name in compare._ARITHMETIC if name.endswith(".py")}
    assert digested == {f"{module.replace('.', '/')}.py" for module in reached - bystanders}


def test_tasks_are_imported_by_the_command_line_only() -> None:
    users = {m for m, found in GRAPH.items() if any(f == "tasks" or f.startswith("tasks.") for f in found)}
    assert users, "the scan finds nothing"
    assert all(m.split(".")[-1].startswith("cli") for m in users), users


def test_no_cycles() -> None:
    graph = {m: {f for f in found if f in GRAPH} - {m} for m, found in GRAPH.items() if m}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


def test_importing_the_optimizer_does_not_import_training() -> None:
    import subprocess
    import sys

    code = (
        "import sys, learnopt; print([m for m in sys.modules if m.startswith(('learnopt.', 'matplotlib', 'optuna'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {m.removeprefix("learnopt.") for m in ast.literal_eval(out)}
    assert loaded <= RUNTIME - {"kernels.fused"} | {"kernels"}, loaded
