"""A recipe: everything that decides which documents come out, as one value that a Python file makes.

    from jaxllm.data.recipe import Recipe
    from jaxllm.data.sources import Files
    from jaxllm.data.quality import GopherQuality

    def recipe() -> Recipe:
        return Recipe(name="web", sources=(Files("crawl/*.warc.gz", name="crawl"),), stages=(GopherQuality(),))

Where and by how many processes it is run is no part of it, since that changes nothing in the result.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxllm.config import apply_overrides, experiments, load_experiment
from jaxllm.tokenizers.config import TokenizerConfig

if TYPE_CHECKING:
    from jaxllm.data.stages import CrossStage, Stage

RECIPE_VERSION = 1
FOLDER = "experiments/recipes"

# What the run itself calls the step before the first stage.
READ = "read"


@dataclass(frozen=True)
class Recipe:
    """Sources, what happens to their documents, and how the result is kept."""

    name: str = "recipe"
    """Names the output directory, prepared/NAME, where none is given."""
    sources: tuple[Any, ...] = ()
    """Where documents come from (jaxllm.data.sources); on the command line --sources.NAME.field=value."""
    stages: tuple[Any, ...] = ()
    """What they go through, in order (jaxllm.data.stages); on the command line --stages.NAME.field=value."""
    tokens: bool = True
    """Write a token store beside the documents."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """What makes the tokens; one without a path is trained on the documents that are left in the end."""
    tokenizer_bytes: int = 64 * 2**20
    """Text that a tokenizer is trained on at most, taken evenly from all shards."""
    shard_bytes: int = 256 * 2**20
    """Bytes to read, as stored, that make a shard: the unit of work, of output files and of resuming."""
    partitions: int = 16
    """Parts in which a stage that compares documents sees them; one of them must fit into a worker's memory."""
    token_sample: int = 16
    """One document in so many is tokenized after every stage, which estimates the tokens there; 1 counts all."""
    examples: int = 3
    """Documents that are shown for each reason of a drop, in the manifest and the funnel report."""
    on_problem: Literal["report", "stop"] = "report"
    """What follows when a part of a source can't be read: it is listed in the manifest, or the run ends."""
    version: int = RECIPE_VERSION
    """Version of these fields."""

    def __post_init__(self):
        if not self.name or self.name != Path(self.name).name:
            raise ValueError(f"recipe.name must be the name of a folder, got {self.name!r}")
        if not self.sources:
            raise ValueError(f"recipe {self.name} has no sources, so there is nothing to read")
        for kind, members in (("sources", self.sources), ("stages", self.stages)):
            for member in members:
                if not is_dataclass(member) or isinstance(member, type):
                    raise ValueError(f"recipe.{kind}: {member!r} is no dataclass of plain values")
            names = [option_name(member.name) for member in members]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"recipe.{kind}: {twice[0]} is there twice; give each a name of its own")
        if READ in (stage.name for stage in self.stages):
            raise ValueError(f"recipe.stages: {READ!r} is what reading the sources is called; choose another name")
        for name in ("tokenizer_bytes", "shard_bytes", "partitions", "token_sample"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe.{name} must be at least 1, got {getattr(self, name)}")
        if self.examples < 0:
            raise ValueError(f"recipe.examples must not be negative, got {self.examples}")
        if self.on_problem not in ("report", "stop"):
            raise ValueError(f'recipe.on_problem must be "report" or "stop", got {self.on_problem!r}')


def is_cross(stage: Stage | CrossStage) -> bool:
    """Whether a stage compares documents, rather than look at each alone."""
    return hasattr(stage, "resolve")


def option_name(name: str) -> str:
    """The name of a stage or source as an option of the command line has it."""
    plain = re.sub(r"\W+", "_", name).strip("_")
    return f"{plain}_" if keyword.iskeyword(plain) else plain


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), prog: str = "jaxllm") -> Recipe:
    """The recipe that a file's `recipe()` returns, with changes such as `--stages.gopher.min_words=40`.

    Raises ValueError, naming the file, if there is none, if it fails, or if it returns anything but a Recipe; options
    are refused as those of experiments are.
    """
    recipe = load_experiment(name_or_path, Recipe, function="recipe", folder=FOLDER)
    return override(recipe, overrides, prog)


def recipes() -> dict[str, Path]:
    """Every recipe file within reach, by name."""
    return experiments("recipe", FOLDER)


def override(recipe: Recipe, arguments: Sequence[str], prog: str = "jaxllm") -> Recipe:
    """`recipe` with changes from the command line; sources and stages, also those within one, go by their names."""
    return _closed(apply_overrides(_opened(recipe), arguments, prog), recipe)


def _opened(value: Any) -> Any:
    """A config that declares exactly what it holds, for the command line: a tuple has a field for each member."""
    if _named_members(value):
        held = {option_name(member.name): _opened(member) for member in value}
        return make_dataclass("Members", [(name, type(one)) for name, one in held.items()], frozen=True)(**held)
    if not is_dataclass(value):
        return value
    held = {f.name: _opened(getattr(value, f.name)) for f in fields(value) if f.init}
    # A field may be declared as any stage, and hold one of a certain class.
    changed = {name: one for name, one in held.items() if is_dataclass(one)}
    if not changed:
        return value
    declared = [(name, type(one), field(default_factory=lambda one=one: one)) for name, one in changed.items()]
    # What is changed is checked when it is closed again.
    namespace = {"__post_init__": lambda self: None, "__doc__": type(value).__doc__}
    shape = make_dataclass(type(value).__name__, declared, bases=(type(value),), namespace=namespace, frozen=True)
    return shape(**held)


def _closed(opened: Any, original: Any) -> Any:
    """What _opened took apart, with the changes that were made to it."""
    if _named_members(original):
        return tuple(_closed(getattr(opened, option_name(member.name)), member) for member in original)
    if type(opened) is type(original):
        return opened
    names = [f.name for f in fields(original) if f.init]
    return type(original)(**{name: _closed(getattr(opened, name), getattr(original, name)) for name in names})


def _named_members(value: Any) -> bool:
    """Whether it is a tuple of configs that have names of their own."""
    if (
        not isinstance(value, tuple)
        or not value
        or not all(is_dataclass(one) and hasattr(one, "name") for one in value)
    ):
        return False
    return len({option_name(one.name) for one in value}) == len(value)
