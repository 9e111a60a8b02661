"""Recipes: what is read, what is refused and in which words."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from hiif_deploy.errors import OptionError
from hiif_training.models.registry import make_model
from hiif_training.pictures.degradations import Degradations
from hiif_training.training.recipe import Recipe, read_recipe

MODEL = '[model]\nname = "hiif"\nargs = { encoder_spec = { name = "edsr-mini" } }\n'
SHIPPED = sorted(Path(str(files("hiif_training") / "recipes")).glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text + MODEL, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(OptionError) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_recipes_are_shipped() -> None:
    assert "compact" in [path.stem for path in SHIPPED]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_describes_a_model_that_can_be_built(path: Path) -> None:
    recipe = read_recipe(path)
    assert sum(p.numel() for p in make_model(recipe.model).parameters()) > 10_000
    assert recipe.warmup < recipe.steps
    assert recipe.final_learning_rate < recipe.learning_rate


def test_what_a_recipe_says_is_what_it_means(tmp_path: Path) -> None:
    text = 'data = ["a", "b"]\nseed = 3\nsteps = 20\nscale = [1, 2.5]\nema = 0.5\nprecision = "bf16"\n'
    recipe = read_recipe(written(tmp_path, text))
    model = {"name": "hiif", "args": {"encoder_spec": {"name": "edsr-mini"}}}
    assert recipe == Recipe(model=model, data=("a", "b"), seed=3, steps=20, scale=(1, 2.5), ema=0.5, precision="bf16")


def test_a_recipe_may_name_only_the_model(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")).batch == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = 1e-3\n", "unknown key 'learning_rat'; did you mean learning_rate?"),
        ("Steps = 3\n", "unknown key 'Steps'; did you mean steps?"),
        ("qqq = 3\n", "unknown key 'qqq'; known keys: model, data, seed, steps, batch, accumulate, patch, queries"),
        ("steps = 0\n", "steps is 0, expected at least 1"),
        ("batch = -2\n", "batch is -2, expected at least 1"),
        ("patch = 0\n", "patch is 0, expected at least 1"),
        ("save_every = 0\n", "save_every is 0, expected at least 1"),
        ("scale = [0.5, 4.0]\n", "scale is [0.5, 4.0], expected 1 ≤ low ≤ high"),
        ("scale = [4.0, 2.0]\n", "scale is [4.0, 2.0], expected 1 ≤ low ≤ high"),
        ("shrink = [0.0, 2.0]\n", "shrink is [0.0, 2.0], expected 1 ≤ low ≤ high"),
        ('precision = "fp8"\n', "precision is 'fp8', expected 'fp32' or 'bf16' or 'fp16'"),
        ('schedule = "linear"\n', "schedule is 'linear', expected 'cosine' or 'published-cosine' or 'steps'"),
        ('schedule = "steps"\n', "schedule 'steps' and milestones belong together"),
        ("milestones = [5, 3]\n", "milestones is [5, 3], expected ascending whole numbers"),
        ("batch = 6\naccumulate = 4\n", "batch 6 is not a multiple of accumulate 4"),
        ('steps = "many"\n', "steps is 'many', expected a whole number"),
        ("steps = 2.5\n", "steps is 2.5, expected a whole number"),
        ("warmup = true\n", "warmup is True, expected a whole number"),
        ('data = "pictures"\n', "data is 'pictures', expected a list of folders"),
        ("data = [1]\n", "data is (1,), expected a list of folders"),
        ("degrade = 1\n", "degrade is 1, expected a table such as { jpeg = 0.5 }"),
        ("degrade = { jpg = 0.5 }\n", "unknown key 'degrade.jpg'; did you mean jpeg?"),
        ("degrade = { jpeg = 5.0 }\n", "degrade.jpeg is 5.0, expected a probability, 0 to 1"),
        ("degrade = { jpeg_quality = [0, 5] }\n", "degrade.jpeg_quality is [0, 5], expected 1 ≤ low ≤ high ≤ 100"),
        ("ema = 1.5\n", "ema is 1.5, expected 0 ≤ ema < 1"),
        ("init = 3\n", "init is 3, expected the path of a checkpoint"),
        ('init_part = "encoder"\n', "init_part 'encoder' needs a checkpoint: --init CHECKPOINT"),
        ('init = "a.pth"\ninit_part = "head"\n', "init_part is 'head', expected 'model' or 'encoder'"),
        ('freeze = "encoder"\n', "freeze 'encoder' needs trained weights for it: --init CHECKPOINT"),
        ('freeze = "all"\n', "freeze is 'all', expected 'none' or 'encoder'"),
        ("encoder_rate = 0.0\n", "encoder_rate is 0.0, expected more than 0; to stop: freeze"),
        ('init = "a.pth"\nfreeze = "encoder"\nencoder_rate = 0.1\n', "a frozen encoder has no rate: leave out encoder"),
        ("teacher_weight = 0.5\n", "teacher and a teacher_weight above 0 belong together"),
        ('teacher = "a.pth"\n', "teacher and a teacher_weight above 0 belong together"),
        ('teacher = "a.pth"\nteacher_weight = 2\n', "teacher_weight is 2, expected 0 to 1"),
        ("scale = 3\n", "cannot unpack"),
        ("steps = \n", "cannot be read: "),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(written(tmp_path, text))


def test_a_recipe_without_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("steps = 3\n", encoding="utf-8")
    assert refusal(path).endswith("[model] with name and args is missing")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    assert "cannot be read: " in refusal(tmp_path / "recipe.toml")


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read: " in refusal(path)


def changed(folder: Path, *changes: str, data: tuple[str, ...] = ()) -> Recipe:
    return read_recipe(written(folder, "steps = 3\n"), changes, data)


def test_the_command_line_changes_values_of_every_kind(tmp_path: Path) -> None:
    recipe = changed(tmp_path, "steps=7", "scale=[1, 2]", "precision=bf16", 'data=["a"]', "ema = 0.5")
    assert (recipe.steps, recipe.scale, recipe.precision, recipe.data, recipe.ema) == (7, (1, 2), "bf16", ("a",), 0.5)


def test_degradations_are_a_table_of_the_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, "[degrade]\njpeg = 0.5\njpeg_quality = [30, 60]\n"), ["degrade.noise=0.25"])
    assert recipe.degrade == Degradations(jpeg=0.5, jpeg_quality=(30, 60), noise=0.25)
    assert recipe.plain()["degrade"]["jpeg_quality"] == [30, 60]


def test_the_command_line_changes_single_arguments_of_the_model(tmp_path: Path) -> None:
    recipe = changed(tmp_path, "model.args.levels=4", "model.args.encoder_spec.name=edsr-baseline")
    assert recipe.model["args"] == {"encoder_spec": {"name": "edsr-baseline"}, "levels": 4}


def test_folders_of_the_command_line_replace_those_of_the_recipe(tmp_path: Path) -> None:
    assert changed(tmp_path, 'data=["a"]', data=("b", "c")).data == ("b", "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stebs=7", "unknown key 'stebs'; did you mean steps?"),
        ("steps", "--set 'steps': expected key=value"),
        ("steps.a=1", "--set 'steps.a=1': steps is no table of the recipe"),
        ("steps=many", "steps is 'many', expected a whole number"),
    ],
)
def test_a_change_that_makes_no_recipe_is_refused(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        changed(tmp_path, change)
    assert message in str(caught.value)
