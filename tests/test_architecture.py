"""The house rules: imports go down the list of rooms only, files stay small, names say something."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "jaxllm"

# From the top. A room may import any room below it, never one above. The package itself re-exports the surface of
# several rooms, so only the command line may import that.
ROOMS = (
    "cli",
    "",
    "pipeline",
    "serving",
    "alignment",
    "evaluate",
    "reason",
    "interpret",
    "inference",
    "plan",
    "training",
    "objectives",
    "adapters",
    "quantize",
    "interop",
    "models",
    "kernels",
    "parallel",
    "data",
    "tokenizers",
    "config",
    "pictures",
    "lazy_names",
)
MEANINGLESS = {"utils", "util", "common", "misc", "helpers", "helper", "base"}
FOREIGN = {"torch", "transformers"}
LONGEST_FILE = 450


def room_of(path: Path, package: Path) -> str:
    """The room that a file lies in: of __init__.py the package itself, of __main__.py the command."""
    first = path.relative_to(package).parts[0].removesuffix(".py")
    return {"__init__": "", "__main__": "cli"}.get(first, first)


def imports(path: Path, package: Path) -> list[str]:
    """Every module that a file imports, at its top or inside a function, as an absolute dotted name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = [node.module] if node.module else []
            if node.level:
                here = (package.name, *path.relative_to(package).parent.parts)
                parts = [*here[: len(here) - node.level + 1], *parts]
            module = ".".join(parts)
            # `from jaxllm import config` imports a room, `from jaxllm import __version__` the package itself.
            names = [f"{module}.{alias.name}" for alias in node.names if alias.name in ROOMS]
            found += names if module == package.name and len(names) == len(node.names) else [module, *names]
    return found


def broken_rules(package: Path) -> list[str]:
    broken = []
    for path in sorted(package.rglob("*.py")):
        name, room = path.relative_to(package).as_posix(), room_of(path, package)
        if room not in ROOMS:
            broken.append(f"{name}: {room!r} is not a room of the house")
            continue
        lines = len(path.read_text().splitlines())
        if lines > LONGEST_FILE:
            broken.append(f"{name}: {lines} lines; a file is one idea, at most {LONGEST_FILE}")
        for word in sorted(MEANINGLESS.intersection(Path(name).with_suffix("").parts)):
            broken.append(f"{name}: {word!r} says nothing of what is inside")
        for module in sorted(set(imports(path, package))):
            top, _, rest = module.partition(".")
            if top in FOREIGN:
                broken.append(f"{name}: imports {top}, which only tests and benchmarks may")
            if top != package.name or room == "":
                continue
            other = rest.partition(".")[0]
            if other != room and (other not in ROOMS or ROOMS.index(other) < ROOMS.index(room)):
                broken.append(f"{name}: {room} may not import {module}")
    return broken


def test_the_house_is_in_order():
    assert broken_rules(PACKAGE) == []


@pytest.mark.parametrize(
    "name, source, complaint",
    [
        ("models/a.py", "import jaxllm.training.loop", "models may not import jaxllm.training.loop"),
        ("models/a.py", "from jaxllm.training.loop import train", "models may not import jaxllm.training.loop"),
        ("models/a.py", "from jaxllm import training", "models may not import jaxllm.training"),
        ("models/a.py", "from ..training import loop", "models may not import jaxllm.training"),
        ("models/a.py", "def f():\n    from jaxllm.cli import main", "models may not import jaxllm.cli"),
        ("models/a.py", "import jaxllm", "models may not import jaxllm"),
        ("models/a.py", "from jaxllm import load", "models may not import jaxllm"),
        ("config.py", "from jaxllm.tokenizers.config import X", "config may not import jaxllm.tokenizers.config"),
        ("attic/a.py", "", "'attic' is not a room of the house"),
        ("models/utils.py", "", "'utils' says nothing of what is inside"),
        ("data/common/a.py", "", "'common' says nothing of what is inside"),
        ("interop/a.py", "def f():\n    import torch.nn", "imports torch, which only tests and benchmarks may"),
        ("interop/a.py", "from transformers import AutoModel", "imports transformers, which only tests and"),
        ("models/a.py", "x = 1\n" * 451, "451 lines; a file is one idea, at most 450"),
    ],
)
def test_each_rule_can_be_broken(tmp_path, name, source, complaint):
    path = tmp_path / "jaxllm" / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (broken,) = broken_rules(tmp_path / "jaxllm")
    assert broken.startswith(f"{name}: {complaint}")


@pytest.mark.parametrize(
    "name, source",
    [
        (
            "training/a.py",
            "from jaxllm.models import x\nfrom jaxllm import config as configs\nfrom . import loop\nimport jax",
        ),
        ("cli/a.py", "from jaxllm import __version__\nfrom jaxllm.pipeline import pretrain\nfrom ..config import x"),
        ("__init__.py", "from jaxllm.inference import load"),
        ("__main__.py", "from jaxllm.cli.main import main"),
        ("models/torch_names.py", "from jaxllm.models import torch_names\nx = 1\n" * 225),
    ],
)
def test_what_is_allowed(tmp_path, name, source):
    path = tmp_path / "jaxllm" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert broken_rules(tmp_path / "jaxllm") == []
