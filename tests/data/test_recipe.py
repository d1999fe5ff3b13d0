"""Recipes: loading, changing from the command line, and what is refused."""

import pytest

from jaxllm.data.recipe import Recipe, load_recipe, override, recipes
from tests.data.preparation.small import Lines, SameText, Short, Upper
from tests.test_config import broken_rules

RECIPE = Recipe("web", (Lines("here", "my lines"),), (Short(), SameText(), Upper()))


def test_sources_and_stages_are_changed_by_their_names():
    words = ["--stages.short_texts.words=7", "--sources.my_lines.folder", "there", "--partitions=3", "--tokens=false"]
    changed = override(RECIPE, [*words, "--tokenizer.vocab_size=999"])
    assert changed.stages == (Short(7), SameText(), Upper())
    assert changed.sources == (Lines("there", "my lines"),)
    assert (changed.partitions, changed.tokens, changed.tokenizer.vocab_size) == (3, False, 999)
    assert type(changed) is Recipe and override(RECIPE, []) == RECIPE


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        override(RECIPE, ["--help"])
    page = capsys.readouterr().out
    for line in ("--stages.short_texts.words INT", "the fewest (default: 3)", "--sources.my_lines.folder STR"):
        assert line in page
    assert "Names the output directory" in page


@pytest.mark.parametrize(
    "words, message",
    [
        (["--stages.short_texts.wrds=7"], "stages.short_texts.words"),
        (["--stages.short_texts.words=many"], "many"),
        (["--partitions=0"], "recipe.partitions must be at least 1, got 0"),
    ],
)
def test_what_can_not_be_is_refused(words, message, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        override(RECIPE, words)
    assert message in capsys.readouterr().err + str(error.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "a/b"}, "recipe.name must be the name of a folder, got 'a/b'"),
        ({"sources": ()}, "recipe web has no sources"),
        ({"stages": (Short(), Short(9))}, "recipe.stages: short_texts is there twice"),
        ({"stages": (Short(name="read"),)}, "'read' is what reading the sources is called"),
        ({"stages": (len,)}, "recipe.stages: <built-in function len> is no dataclass"),
        ({"token_sample": 0}, "recipe.token_sample must be at least 1, got 0"),
        ({"examples": -1}, "recipe.examples must not be negative"),
        ({"on_problem": "ignore"}, 'recipe.on_problem must be "report" or "stop"'),
    ],
)
def test_impossible_recipes(changes, message):
    values = {"name": "web", "sources": RECIPE.sources} | changes
    with pytest.raises(ValueError) as error:
        Recipe(**values)
    assert message in str(error.value)


def test_recipe_files(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("def recipe(): return 3")
    with pytest.raises(ValueError, match=r"mine.py: recipe\(\) returned a value of type int; it must return a Recipe"):
        load_recipe(path)
    with pytest.raises(ValueError, match="unknown recipe 'stdlb'; did you mean stdlib"):
        load_recipe("stdlb")
    assert "stdlib" in recipes()
    names = [stage.name for stage in load_recipe("stdlib").stages]
    assert names == ["clean", "gopher quality", "code", "personal data", "exact documents", "minhash"]
    assert load_recipe("stdlib", ["--stages.minhash.threshold=0.9"]).stages[-1].threshold == 0.9
    changed = load_recipe("stdlib", ["--stages.gopher_quality.stage.min_words=9"])
    assert changed.stages[1].stage.min_words == 9


def test_the_recipe_obeys_the_rules_of_configs():
    assert broken_rules(Recipe) == []
