"""The trainer, the mixing of sources, the calibration and the stratified parts."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from higfa_cli.errors import UserError
from higfa_cli.models.backbones import create_backbone
from higfa_cli.recipe.classifiers import Downstream, Guide, Training
from higfa_cli.stages.context import Silent
from higfa_cli.training.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    assess,
    expected_calibration_error,
    fit_temperature,
)
from higfa_cli.training.pictures import (
    Pictures,
    TrainSet,
    make_augment,
    stratified_folds,
)
from higfa_cli.training.room import check_memory
from higfa_cli.training.synthetic import list_synthetic
from higfa_cli.training.trainer import FitResult, fit, predict_logits
from tests.support.shapes import CLASSES, SIZE, pictures, write_class_folders

CPU = torch.device("cpu")


def training(**changes: Any) -> Training:
    values: dict[str, Any] = {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": SIZE,
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 3e-3,
    }
    return Training(**(values | changes))


def trained(
    config: Training, train: TrainSet, val: Pictures | None, seed: int = 0
) -> tuple[FitResult, torch.Tensor]:
    """The result, and logits of fixed pictures from the network in its best state."""
    backbone = create_backbone(config, len(CLASSES), Path(), seed)
    result = fit(backbone, train, val, config, len(CLASSES), seed, CPU, Silent())
    backbone.network.load_state_dict(result.best_state)
    return result, predict_logits(backbone, pictures(8, 77), CPU)


def flat(value: int, labels: list[int]) -> Pictures:
    """4 x 4 pictures that all have one grey value, so that their source can be told."""
    images = torch.full((len(labels), 3, 4, 4), value, dtype=torch.uint8)
    return Pictures(images, torch.tensor(labels))


def test_separable_classes_are_learned_and_chance_is_not_mistaken_for_it() -> None:
    config = training(epochs=14)
    result, logits = trained(config, TrainSet(pictures(24, 0)), pictures(8, 1))
    unseen = float((logits.argmax(1) == pictures(8, 77).labels).float().mean())
    assert result.val_accuracy is not None and result.val_accuracy > 0.9
    assert unseen > 0.9
    shuffled = Pictures(pictures(24, 0).images, pictures(24, 0).labels.roll(48))
    _, wrong = trained(config, TrainSet(shuffled), pictures(8, 1))
    assert float((wrong.argmax(1) == pictures(8, 77).labels).float().mean()) < 0.5


@pytest.mark.parametrize("augment", ["light", "randaugment", "cutmix"])
def test_same_arguments_give_the_same_weights_and_leave_global_randomness(augment: str) -> None:
    config = training(augment=augment)
    sets = TrainSet(pictures(6, 0), pictures(3, 5), 0.4)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, first_logits = trained(config, sets, pictures(2, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second, second_logits = trained(config, sets, pictures(2, 1))
    assert first.history == second.history
    assert torch.equal(first_logits, second_logits)
    _, other = trained(config, sets, pictures(2, 1), seed=1)
    assert not torch.equal(first_logits, other)


def test_budget_is_the_same_with_and_without_a_second_source() -> None:
    config = training(epochs=3, batch_size=16)
    plain, _ = trained(config, TrainSet(pictures(5, 0)), None)
    mixed, _ = trained(config, TrainSet(pictures(5, 0), pictures(20, 1), 0.5), None)
    assert (plain.steps, plain.images_seen) == (3 * math.ceil(20 / 16), 3 * 2 * 16)
    assert (mixed.steps, mixed.images_seen) == (plain.steps, plain.images_seen)
    assert all(row.replaced == 0 for row in plain.history)
    assert all(row.replaced > 0 for row in mixed.history)


def test_validation_picks_the_earliest_best_epoch_and_its_state() -> None:
    val = pictures(8, 1)
    config = training(epochs=8)
    backbone = create_backbone(config, len(CLASSES), Path(), 0)
    result = fit(backbone, TrainSet(pictures(12, 0)), val, config, len(CLASSES), 0, CPU, Silent())
    accuracies = [row.val_accuracy for row in result.history]
    assert result.selected == "val"
    assert result.best_epoch == 1 + accuracies.index(max(accuracies))
    backbone.network.load_state_dict(result.best_state)
    found = (predict_logits(backbone, val, CPU).argmax(1) == val.labels).float().mean()
    assert float(found) == pytest.approx(max(accuracies))


@pytest.mark.parametrize("section", [Guide, Downstream])
def test_a_training_that_diverges_names_the_key_of_its_section(section: type[Training]) -> None:
    config = section(**training(learning_rate=1e30).model_dump())
    with pytest.raises(UserError, match=rf"lower {section.__name__.lower()}\.learning_rate"):
        trained(config, TrainSet(pictures(8, 0)), None)


def test_without_validation_the_last_epoch_is_used_and_said() -> None:
    result, _ = trained(training(), TrainSet(pictures(4, 0)), None)
    assert (result.selected, result.best_epoch, result.val_accuracy) == ("last", 2, None)


def test_learning_rate_warms_up_then_falls_as_a_cosine() -> None:
    result, _ = trained(training(epochs=5, batch_size=16), TrainSet(pictures(16, 0)), None)
    # 20 steps, 1 of them warm-up: epoch e begins at step 4 (e - 1).
    expected = [3e-3] + [
        3e-3 * 0.5 * (1 + math.cos(math.pi * (4 * e - 1) / 19)) for e in range(1, 5)
    ]
    assert [row.learning_rate for row in result.history] == pytest.approx(expected)


def test_batch_of_one_and_no_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="batch_size"):
        trained(training().model_copy(update={"batch_size": 1}), TrainSet(pictures(4, 0)), None)
    empty = Pictures(torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0).long())
    with pytest.raises(UserError, match="no training pictures"):
        trained(training(), TrainSet(empty), None)


def test_replacement_probability_is_realised_and_stays_in_the_class() -> None:
    real = flat(10, [0, 1, 2, 3] * 500)
    second = Pictures(
        torch.cat([flat(100 + label, [label]).images for label in (0, 1, 1, 3)]),
        torch.tensor([0, 1, 1, 3]),
    )
    sets = TrainSet(real, second, 0.3, "each")
    batch, mask = sets.batch(torch.arange(2000), torch.Generator().manual_seed(0))
    assert torch.equal(batch.labels, real.labels)
    values = batch.images[:, 0, 0, 0].to(torch.int64)
    assert torch.equal(values, torch.where(mask, 100 + batch.labels, 10))
    counts = Counter(batch.labels[mask].tolist())
    assert counts[2] == 0  # a class without a synthetic picture keeps its real ones
    for label in (0, 1, 3):  # 500 draws at 0.3: 150, standard deviation 10.2
        assert abs(counts[label] - 150) < 4 * 10.25
    assert torch.equal(real.images, flat(10, [0, 1, 2, 3] * 500).images)


def test_second_pictures_are_drawn_uniformly_and_other_classes_do_not_move_a_draw() -> None:
    real = flat(10, [0] * 3000)
    images = torch.cat([flat(100 + n, [0]).images for n in range(3)])
    second = Pictures(images, torch.tensor([0, 0, 0]))
    generator = torch.Generator().manual_seed(0)
    batch, mask = TrainSet(real, second, 1.0).batch(torch.arange(3000), generator)
    assert bool(mask.all())
    counts = torch.bincount(batch.images[:, 0, 0, 0].long() - 100, minlength=3)
    assert bool(((counts - 1000).abs() < 4 * 25.9).all())  # binomial: sqrt(3000 * 2/9) = 25.8
    more = Pictures(torch.cat([images, flat(7, [1]).images]), torch.tensor([0, 0, 0, 1]))
    generator = torch.Generator().manual_seed(0)
    again, _ = TrainSet(real, more, 1.0).batch(torch.arange(3000), generator)
    assert torch.equal(batch.images, again.images)


def test_share_rule_takes_an_exact_part_of_each_batch() -> None:
    sets = TrainSet(flat(10, [0] * 32), flat(99, [0]), 0.25, "share")
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        batch, mask = sets.batch(torch.arange(32), generator)
        assert int(mask.sum()) == 8
        assert int((batch.images[:, 0, 0, 0] == 99).sum()) == 8


def test_synthetic_pictures_of_a_class_teach_it() -> None:
    """Real photos of class 3 are mislabelled noise; the synthetic ones alone show the class."""
    real = pictures(24, 0)
    noise = torch.randint(
        0, 256, (24, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    real.images[real.labels == 3] = noise
    config = training(epochs=14)
    recalls = []
    for second in (None, pictures(24, 9, labels=(3,))):
        _, logits = trained(config, TrainSet(real, second, 0.8), pictures(8, 1))
        recalls.append(float((logits.argmax(1)[24:] == 3).float().mean()))
    assert recalls[0] < 0.5 and recalls[1] > 0.8


def test_augmentation_keeps_shape_and_draws_per_picture() -> None:
    images = pictures(1, 0).images[:1].repeat(8, 1, 1, 1)
    labels = torch.zeros(8, dtype=torch.int64)
    torch.manual_seed(0)
    for name in ("none", "light", "randaugment"):
        out, targets = make_augment(training(augment=name), 4)(images, labels)
        assert out.shape == images.shape and out.dtype == torch.uint8
        assert torch.equal(targets, torch.tensor([[1.0, 0, 0, 0]]).expand(8, 4))
        distinct = len({picture.numpy().tobytes() for picture in out})
        assert distinct == 1 if name == "none" else distinct > 4


def test_cutmix_mixes_labels() -> None:
    torch.manual_seed(0)
    batch = pictures(4, 0)
    _, targets = make_augment(training(augment="cutmix"), 4)(batch.images, batch.labels)
    assert torch.allclose(targets.sum(1), torch.ones(16))
    assert bool(((targets > 0) & (targets < 1)).any())


def test_temperature_recovers_a_known_factor() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert fit_temperature(logits, labels) == pytest.approx(1.0, rel=0.03)
    base = fit_temperature(logits, labels)
    assert fit_temperature(logits * 3.0, labels) == pytest.approx(3.0 * base, rel=1e-9)
    assert fit_temperature(logits / 2.5, labels) == pytest.approx(base / 2.5, rel=1e-9)


def test_temperature_of_a_hand_worked_case() -> None:
    # Three of four right at logit gap 2: the likelihood peaks at sigmoid(2 / T) = 3/4.
    logits = torch.tensor([[2.0, 0.0]] * 4)
    labels = torch.tensor([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(2.0 / math.log(3.0), rel=1e-9)


def test_temperature_has_bounds() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == LOWEST_TEMPERATURE
    assert fit_temperature(logits, torch.tensor([1, 0])) == HIGHEST_TEMPERATURE
    with pytest.raises(ValueError, match="held-out"):
        fit_temperature(torch.zeros(0, 2), torch.zeros(0).long())


def test_ece_of_a_hand_worked_case() -> None:
    """Four at confidence 0.9 with two right, one at 0.6 that is right: (4*0.4 + 1*0.4) / 5."""
    probabilities = torch.tensor([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    labels = torch.tensor([0, 0, 1, 1, 0])
    found = expected_calibration_error(probabilities.log(), labels, 1.0)
    assert found == pytest.approx(0.4, abs=1e-5)


def test_ece_counts_full_confidence_in_the_last_bin() -> None:
    """Confidences 1 and 0.98, one right: together |0.5 - 0.99|; apart they would give 0.51."""
    logits = torch.tensor([[200.0, 0.0], [math.log(0.98 / 0.02), 0.0]])
    found = expected_calibration_error(logits, torch.tensor([1, 0]), 1.0)
    assert found == pytest.approx(0.49, abs=1e-4)


def test_assess_reports_before_and_after() -> None:
    logits = torch.tensor([[2.0, 0.0]] * 4)
    labels = torch.tensor([0, 0, 0, 1])
    found = assess(logits, labels, 2.0 / math.log(3.0))
    assert (found.count, found.accuracy) == (4, 0.75)
    assert found.ece_before == pytest.approx(1 / (1 + math.exp(-2)) - 0.75, abs=1e-5)
    assert found.ece_after == pytest.approx(0.0, abs=1e-5)


def test_folds_are_stratified_and_follow_keys_not_order() -> None:
    keys = [f"{label}/{n}" for label in range(3) for n in range(7)]
    labels = [label for label in range(3) for _ in range(7)]
    parts = stratified_folds(keys, labels, 3, seed=1)
    for label in range(3):
        counts = Counter(part for part, one in zip(parts, labels, strict=True) if one == label)
        assert sorted(counts.values()) == [2, 2, 3]
    order = list(reversed(range(21)))
    again = stratified_folds([keys[i] for i in order], [labels[i] for i in order], 3, seed=1)
    assert [parts[i] for i in order] == again
    assert stratified_folds(keys, labels, 3, seed=2) != parts


def test_memory_cap_names_the_remedy() -> None:
    with pytest.raises(UserError, match="lower image_size"):
        check_memory(30_000, 224)


def test_synthetic_folder_accepts_encoded_and_plain_names(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "a", 2, 0, CLASSES[:2])
    found = list_synthetic(root, CLASSES)
    assert Counter(found.labels) == {0: 2, 1: 2}
    assert found.missing == CLASSES[2:]
    (root / "blue square").rename(root / "blue%2Fsquare")
    slashed = (CLASSES[0], "blue/square")
    assert Counter(list_synthetic(root, slashed).labels) == {0: 2, 1: 2}
    (root / "blue%2Fsquare").rename(root / "blue square")
    (root / "red disc" / "deep").mkdir(parents=True)
    (root / "blue disc" / "0.png").rename(root / "red disc" / "deep" / "x.PNG")
    (root / ".hidden").mkdir()
    assert Counter(list_synthetic(root, CLASSES).labels) == {0: 1, 1: 2, 2: 1}


def test_synthetic_folder_skips_failed_rows_and_held_out_sources(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "a", 3, 0, CLASSES[:1])
    rows = [
        '{"file_name": "blue disc/0.png", "status": "failed", "source": "a"}',
        '{"file_name": "blue disc/1.png", "status": "ok", "source": "b"}',
        '{"file_name": "blue disc/2.png", "source": "c"}',
    ]
    (root / "metadata.jsonl").write_text("\n".join(rows))
    assert [path.name for path in list_synthetic(root, CLASSES).paths] == ["1.png", "2.png"]
    assert [path.name for path in list_synthetic(root, CLASSES, {"b"}).paths] == ["2.png"]


def test_synthetic_folder_errors_name_the_thing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list_synthetic(tmp_path / "none", CLASSES)
    (tmp_path / "empty" / "red disc").mkdir(parents=True)
    with pytest.raises(UserError, match="no usable picture"):
        list_synthetic(tmp_path / "empty", CLASSES)
    root = write_class_folders(tmp_path / "odd", 1, 0, CLASSES[:1])
    (root / "blue disk").mkdir()
    with pytest.raises(UserError, match=r"`blue disk` is no class.*did you mean `blue disc`"):
        list_synthetic(root, CLASSES)
