"""Training: one seed gives one decoder, wherever it was interrupted, and what it learns from is what it was given."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.learning import PATCHES, PREFIX, SPEC, FakeSource, assert_same_state, fake_data, train_params
from shadowline.core.progress import Progress
from shadowline.features.cache import FeatureKey
from shadowline.models.dinomaly.history import TrainingHistory
from shadowline.models.dinomaly.schedule import learning_rate
from shadowline.models.dinomaly.training import Trainer
from shadowline.models.dinomaly.training_data import ClassData

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("bolt", "cap", "disc")


def trainer(*, seed: int = 7, data: dict[str, ClassData] | None = None, **changes: object) -> Trainer:
    return Trainer(data or fake_data(*NAMES), train_params(**changes), SPEC, seed=seed)


class StopsAt(Progress):
    """Raises KeyboardInterrupt when the loss of `step` is reported, in the middle of that step's bookkeeping."""

    def __init__(self, step: int) -> None:
        self._step = step

    def metric(self, name: str, value: float, step: int) -> None:
        if name == "train/loss" and step == self._step:
            raise KeyboardInterrupt


# --- one seed, one decoder ------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_decoders_bit_for_bit():
    one, other = trainer(), trainer()
    one.run(Progress())
    torch.rand(17)  # whatever else draws from the global generator in between
    other.run(Progress())
    assert_same_state(one, other)


def test_another_seed_gives_another_decoder():
    one, other = trainer(seed=7), trainer(seed=8)
    one.run(Progress())
    other.run(Progress())
    assert one.history.steps[-1].loss != other.history.steps[-1].loss


def test_the_order_in_which_classes_are_named_does_not_matter():
    data = fake_data(*NAMES)
    one, other = trainer(data=data), trainer(data=dict(reversed(data.items())))
    one.run(Progress())
    other.run(Progress())
    assert_same_state(one, other)


@pytest.mark.parametrize("stop", [2, 5, 6, 9, 10, 11])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(stop, tmp_path):
    """Before the first checkpoint, right at one, after one, after an evaluation, in the last step."""
    undisturbed, resumed = trainer(), trainer()
    undisturbed.run(Progress())
    with pytest.raises(KeyboardInterrupt):
        trainer().run(StopsAt(stop), tmp_path / "checkpoint")
    resumed.run(Progress(), tmp_path / "checkpoint")
    assert_same_state(undisturbed, resumed)


def test_a_run_may_be_interrupted_many_times(tmp_path):
    undisturbed, resumed = trainer(), trainer()
    undisturbed.run(Progress())
    for stop in (6, 8, 11):
        with pytest.raises(KeyboardInterrupt):
            trainer().run(StopsAt(stop), tmp_path / "checkpoint")
    resumed.run(Progress(), tmp_path / "checkpoint")
    assert_same_state(undisturbed, resumed)


def test_a_resumed_run_repeats_only_what_was_not_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer().run(StopsAt(8), tmp_path / "checkpoint")
    resumed = trainer()
    resumed.load(tmp_path / "checkpoint")
    assert resumed.step == 5


FOREIGN = {
    "seed": lambda: trainer(seed=8),
    "parameters": lambda: trainer(lr=0.001),
    "images": lambda: trainer(data=fake_data(*NAMES, num_train=5)),
    "classes": lambda: trainer(data=fake_data("bolt", "cap", "dial")),
    "encoder": lambda: trainer(
        data={
            name: replace(class_data, source=replace(class_data.source, fingerprint="other"))
            for name, class_data in fake_data(*NAMES).items()
        }
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_the_checkpoint_of_another_run_is_ignored(what, tmp_path):
    """Other parameters, data, encoder or seed: as if the checkpoint were not there."""
    with pytest.raises(KeyboardInterrupt):
        trainer().run(StopsAt(6), tmp_path / "checkpoint")
    undisturbed, beside_a_foreign_one = FOREIGN[what](), FOREIGN[what]()
    undisturbed.load(tmp_path / "checkpoint")
    assert undisturbed.step == 0
    undisturbed.run(Progress())
    beside_a_foreign_one.run(Progress(), tmp_path / "checkpoint")
    assert_same_state(undisturbed, beside_a_foreign_one)


# --- what a step sees -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_classes", "batch_size"), [(1, 4), (3, 4), (3, 3), (5, 16), (3, 2)])
def test_every_batch_mixes_all_classes_in_equal_parts(num_classes, batch_size):
    """Counts differ by one at most, though the classes are not equally large; over steps each is favoured in turn."""
    data = {}
    for i in range(num_classes):
        data |= fake_data(f"class{i}", num_train=3 + 4 * i)
    running, totals = trainer(data=data, batch_size=batch_size), np.zeros(num_classes)
    for step in range(40):
        assert len(running.batch(step)) == batch_size
        counts = [len(class_data.source.asked) for class_data in data.values()]
        assert sum(counts) == batch_size
        assert max(counts) - min(counts) <= 1
        totals += counts
        for class_data in data.values():
            class_data.source.asked.clear()
    assert totals.max() - totals.min() <= 0.2 * totals.max()


def test_no_image_comes_twice_in_a_batch_while_others_wait():
    data = fake_data("bolt", num_train=6)
    trainer(data=data, batch_size=6).batch(3)
    assert sorted(data["bolt"].source.asked) == list(data["bolt"].train)


def test_a_class_smaller_than_its_share_is_drawn_with_repeats():
    data = fake_data("bolt", num_train=2)
    assert len(trainer(data=data, batch_size=16).batch(0)) == 16
    assert set(data["bolt"].source.asked) == set(data["bolt"].train)


def test_no_step_ever_sees_a_val_image():
    data = fake_data(*NAMES)
    running = trainer(data=data)
    for step in range(30):
        running.batch(step)
    assert all(set(class_data.source.asked) == set(class_data.train) for class_data in data.values())


@pytest.mark.parametrize(("fraction", "kept"), [(0.25, 4), (0.5, 8), (0.01, 1), (1.0, 16)])
@pytest.mark.parametrize("prefix", [1, 5])
def test_token_fraction_drops_patches_and_keeps_the_prefix(fraction, kept, prefix):
    """Every token carries its own number: prefix first, the kept patches distinct and in order, per image."""
    numbers = torch.arange(prefix + PATCHES, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 64)
    keys = tuple(FeatureKey(f"{i}") for i in range(6))
    data = {"bolt": ClassData(FakeSource(dict.fromkeys(keys, numbers[0])), keys[:4], keys[4:])}
    running = Trainer(data, train_params(token_fraction=fraction), replace(SPEC, num_prefix=prefix), seed=7)
    batch = running.batch(0)
    assert batch.shape == (4, 2, prefix + kept, 64)
    rows = batch[..., 0]
    assert (rows == rows[:, :1]).all(), "the groups of an image keep the same tokens"
    assert (rows[:, :, :prefix] == torch.arange(prefix)).all()
    assert (rows.diff(dim=-1) > 0).all()
    if kept < PATCHES:
        assert len({tuple(image.tolist()) for image in rows[:, 0]}) > 1, "images keep tokens of their own"
        assert not torch.equal(batch, running.batch(1)), "and other ones in the next step"


# --- learning -------------------------------------------------------------------------------------------------------


def test_the_loss_falls_on_every_class():
    running = trainer(steps=60, warmup_steps=5, eval_every=20, hard_ramp_steps=40)
    before = {name: running.val_loss(name) for name in NAMES}
    result = running.run(Progress())
    for name in NAMES:
        assert running.val_loss(name) < 0.6 * before[name]
    assert result.history.steps[-1].loss < 0.6 * result.history.steps[0].loss


def test_the_history_is_what_was_done(tmp_path):
    running = trainer(steps=10, eval_every=4)
    history = running.run(Progress()).history
    assert [point.step for point in history.steps] == list(range(10))
    assert [point.lr for point in history.steps] == [learning_rate(step, running.params) for step in range(10)]
    assert [evaluation.step for evaluation in history.evaluations] == [4, 8, 10], "the last step is evaluated too"
    assert history.best_loss == min(evaluation.val_loss for evaluation in history.evaluations)
    assert history.evaluations[0].val_loss == pytest.approx(np.mean(list(history.evaluations[0].per_class.values())))
    history.write(tmp_path / "history.json")
    assert "seconds" not in (tmp_path / "history.json").read_text()
    assert TrainingHistory.read(tmp_path / "history.json") == history.model_copy(update={"seconds": 0.0})


def test_the_result_holds_the_weights_of_the_best_evaluation():
    running = trainer()
    result = running.run(Progress())
    assert not result.decoder.training
    assert np.mean([running.val_loss(name) for name in NAMES]) == result.history.best_loss


def unlearnable() -> dict[str, ClassData]:
    """Val is the opposite of train: what helps on one hurts on the other."""
    (one,) = fake_data("bolt").values()
    opposite = {key: -value if key in one.val else value for key, value in one.source.features.items()}
    return {"bolt": replace(one, source=FakeSource(opposite))}


def test_training_stops_when_patience_is_spent_and_keeps_the_best():
    running = trainer(data=unlearnable(), steps=100, eval_every=2, patience=3, lr=0.01)
    history = running.run(Progress()).history
    assert history.stopped == "early"
    assert running.step < 100
    best = [evaluation.step for evaluation in history.evaluations].index(history.best_step)
    assert len(history.evaluations) - 1 - best == 3
    assert running.val_loss("bolt") == history.best_loss


def test_a_run_that_stopped_early_does_not_go_on_when_started_again(tmp_path):
    changes = {"steps": 100, "eval_every": 2, "patience": 3, "lr": 0.01, "checkpoint_every": 1}
    first, again = (trainer(data=unlearnable(), **changes) for _ in range(2))
    first.run(Progress(), tmp_path / "checkpoint")
    again.run(Progress(), tmp_path / "checkpoint")
    assert_same_state(first, again)


# --- refusals -------------------------------------------------------------------------------------------------------


def poisoned(split: str) -> dict[str, ClassData]:
    """One class, one image of the split, and that one is NaN."""
    (one,) = fake_data("bolt", num_train=1, num_val=1).values()
    (key,) = getattr(one, split)
    one.source.features[key] = torch.full_like(one.source.features[key], math.nan)
    return {"bolt": one}


def test_features_that_are_not_finite_stop_training_at_their_step():
    with pytest.raises(ValueError, match=r"train: loss is nan at step 0; lower train.lr or check the features"):
        trainer(data=poisoned("train")).run(Progress())


def test_val_features_that_are_not_finite_stop_training_at_the_first_evaluation():
    """Otherwise the untrained weights would be the best ones for ever."""
    with pytest.raises(ValueError, match=r"val loss is nan at step 4, per class \{'bolt': nan\}; check the features"):
        trainer(data=poisoned("val")).run(Progress())


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_without_images_is_refused_by_name(split):
    data = fake_data("bolt", "cap")
    data["cap"] = replace(data["cap"], **{split: ()})
    with pytest.raises(ValueError, match=r"classes \['cap'\] have no train or val images"):
        trainer(data=data)


def test_no_classes_at_all_are_refused():
    with pytest.raises(ValueError, match=r"\(none\) have no train or val images"):
        Trainer({}, train_params(), SPEC, seed=7)


def test_a_checkpoint_is_replaced_whole(tmp_path: Path):
    trainer().run(Progress(), tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_honoured(precision):
    """bfloat16 changes the numbers and not the masters: weights stay float32."""
    running = trainer(precision=precision, steps=4, warmup_steps=1)
    losses = [running.train_step() for _ in range(3)]
    reference = trainer(precision="auto", steps=4, warmup_steps=1)
    same = losses == [reference.train_step() for _ in range(3)]
    assert same == (precision == "float32")
    assert all(weight.dtype == torch.float32 for weight in running.decoder.parameters())


def test_prefix_tokens_take_part_in_the_decoder_but_not_in_the_loss():
    """The gradient of the decoder's output is zero at the prefix and at no patch; its input holds the prefix."""
    running, seen = trainer(), {}

    def watch(module, inputs, output):
        seen["tokens"] = inputs[0].shape[2]
        output.register_hook(lambda gradient: seen.update(gradient=gradient.abs().sum(dim=(0, 1, 3))))

    running.decoder.register_forward_hook(watch)
    running.train_step()
    assert seen["tokens"] == PREFIX + PATCHES // 2
    assert not seen["gradient"][:PREFIX].any()
    assert seen["gradient"][PREFIX:].all()
