"""What a recipe does to a training: crops, what is done to them, loss, schedules; and the recipes refused."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kaggle_hw4 import variants
from kaggle_hw4.errors import UsageError
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.recipe import Variant
from kaggle_hw4.training.augmentation import Augmentation, augments, draw, white_noise
from kaggle_hw4.training.losses import losses, with_margin
from kaggle_hw4.training.schedules import average_weight, crop_length, margin, mean_crop
from kaggle_hw4.variants import SETS, entries, register
from kaggle_hw4.workspace import content_hash

CPU = torch.device("cpu")
PLAIN = Variant("conformer", layers=1, pooling="mean", head="linear", crop=60, batch=8)
COSINE = replace(PLAIN, head="aam-softmax", margin=0.2)
CHANGES: dict[str, dict[str, Any]] = {
    "time_mask": {"time_mask": 12},
    "mel_mask": {"mel_mask": 8},
    "equaliser": {"equaliser": 3.0},
    "gain": {"gain": 6.0},
    "noise": {"noise": 1.0},
    "mixup": {"mixup": 0.5},
    "time_warp": {"time_warp": 0.2},
    "mel_warp": {"mel_warp": 0.1},
}
ALL = {field: value for change in CHANGES.values() for field, value in change.items()}


def crops(fill: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """8 crops of 60 frames, some shorter with `fill` beyond their lengths."""
    lengths = torch.tensor([60, 60, 33, 60, 50, 60, 60, 21])
    x = torch.randn(8, 60, 40, generator=torch.Generator().manual_seed(0)) * 3 - 2
    return torch.where((torch.arange(60) < lengths[:, None])[..., None], x, torch.tensor(fill)), lengths


def changed(v: Variant, *, seed: int = 0, step: int = 0, fill: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    x, lengths = crops(fill)
    return Augmentation(v, CPU)(x, lengths, torch.from_numpy(draw(v, seed, [step])[0]))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_off_by_default_and_changes_crops_when_on(name: str) -> None:
    v = replace(PLAIN, **CHANGES[name])
    assert augments(v)
    assert not augments(PLAIN)
    x, _ = crops()
    once, again, other = changed(v)[0], changed(v)[0], changed(v, step=1)[0]
    assert torch.equal(once, again)
    assert not torch.allclose(once, x)
    assert not torch.allclose(once, other)
    assert once.isfinite().all()


def test_what_is_drawn_is_a_function_of_seed_and_step_alone() -> None:
    v = replace(PLAIN, **ALL)
    draws = draw(v, 3, range(10))
    np.testing.assert_array_equal(draw(v, 3, range(4, 7)), draws[4:7])
    assert not np.array_equal(draw(v, 4, [0]), draws[:1])
    np.testing.assert_array_equal(draw(replace(PLAIN, gain=6.0), 3, range(10))[..., :-1], draws[..., :-1])


def test_many_models_at_once_see_what_each_sees_alone() -> None:
    v = replace(PLAIN, **ALL)
    x, lengths = crops()
    draws = torch.from_numpy(np.concatenate([draw(v, seed, [5]) for seed in (0, 1, 2)]))
    change = Augmentation(v, CPU)
    together, shares = change(torch.stack([x, x, x]), torch.stack([lengths] * 3), draws)
    for m in range(3):
        alone, share = change(x, lengths, draws[m])
        torch.testing.assert_close(together[m], alone)
        assert torch.equal(shares[m], share)


@pytest.mark.parametrize("name", [*CHANGES, "all"])
def test_what_stands_in_the_padding_changes_no_real_frame(name: str) -> None:
    v = replace(PLAIN, **(ALL if name == "all" else CHANGES[name]))
    _, lengths = crops()
    real = torch.arange(60) < lengths[:, None]
    one, other = changed(v, fill=0.0)[0], changed(v, fill=7.0)[0]
    torch.testing.assert_close(one[real], other[real])


def test_masks_hide_two_stretches_and_no_more() -> None:
    x, lengths = crops()
    hidden = []
    for step in range(50):
        y = changed(replace(PLAIN, time_mask=12, mel_mask=8), step=step)[0]
        equal = y == x
        frames, mels = (~equal.any(2)).sum(1), (~equal.any(1)).sum(1)
        assert (frames <= 24).all()
        assert (mels <= 16).all()
        hidden.append(((frames / lengths).mean(), (mels / 40).mean()))
    assert np.mean(hidden, axis=0).min() > 0.1


def test_a_mixture_has_the_powers_of_both_in_their_shares() -> None:
    x, _ = crops()
    v = replace(PLAIN, mixup=0.5)
    y, share = Augmentation(v, CPU)(x, None, torch.from_numpy(draw(v, 0, [0])[0]))
    expected = share[:, None, None] * x.exp() + (1 - share)[:, None, None] * x.roll(1, 0).exp()
    torch.testing.assert_close(y.exp(), expected, rtol=1e-4, atol=1e-9)
    assert 0.5 <= share.min() < share.max() <= 1


def test_added_noise_is_2_to_28_db_below_and_only_in_its_share_of_crops() -> None:
    x = torch.full((8, 60, 40), 1.0)
    ratios, touched = [], 0
    for step in range(100):
        v = replace(PLAIN, noise=0.5)
        y, _ = Augmentation(v, CPU)(x, None, torch.from_numpy(draw(v, 0, [step])[0]))
        added = (y.exp() - x.exp()).mean((1, 2)) / x.exp().mean((1, 2))
        touched += int((added > 0).sum())
        ratios += (-10 * added[added > 0].log10()).tolist()
    assert 0.42 < touched / 800 < 0.58
    assert np.quantile(ratios, (0.025, 0.5, 0.975)) == pytest.approx([2.4, 15, 27.8], abs=1)


def test_noise_is_that_of_the_front_end() -> None:
    mel = white_noise(500)
    assert mel.shape == (500, 40)
    assert mel.exp().mean().item() == pytest.approx(1)
    assert mel.mean(0).diff()[20:].mean() > 0  # higher mels are wider, so hold more power
    assert torch.equal(mel, white_noise(500))


def test_an_equaliser_is_constant_over_time_and_never_goes_below_the_floor() -> None:
    x, _ = crops()
    shift = changed(replace(PLAIN, equaliser=3.0))[0] - x
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-4, rtol=0)
    decibels = [10 / math.log(10) * (changed(replace(PLAIN, equaliser=3.0), step=i)[0] - x)[:, 0] for i in range(100)]
    assert torch.cat(decibels).std().item() == pytest.approx(3, rel=0.15)
    v = replace(PLAIN, gain=20.0)
    quiet, _ = Augmentation(v, CPU)(torch.full((8, 60, 40), -20.0), None, torch.from_numpy(draw(v, 0, [0])[0]))
    assert quiet.min().item() == pytest.approx(math.log(1e-9))


def test_a_time_warp_keeps_both_ends_and_the_order_of_the_frames() -> None:
    v = replace(PLAIN, time_warp=0.2)
    ramp = torch.arange(60.0)[None, :, None].expand(8, 60, 40)
    y, _ = Augmentation(v, CPU)(ramp, None, torch.from_numpy(draw(v, 0, [0])[0]))
    assert (y.diff(dim=1) >= 0).all()
    torch.testing.assert_close(y[:, 0], torch.zeros(8, 40), atol=1e-4, rtol=0)
    torch.testing.assert_close(y[:, -1], torch.full((8, 40), 59.0), atol=1e-4, rtol=0)
    assert (y - ramp).abs().max() > 3


def test_a_mel_warp_moves_a_peak_by_its_share() -> None:
    v = replace(PLAIN, mel_warp=0.1)
    x = -(torch.arange(40.0) - 20).abs().expand(8, 60, 40)
    y, _ = Augmentation(v, CPU)(x, None, torch.from_numpy(draw(v, 0, [0])[0]))
    places = y[:, 0].argmax(1)
    assert places.min() >= 18
    assert places.max() <= 23
    assert len(set(places.tolist())) > 1


def test_margins_lower_the_true_cosine_only() -> None:
    cosines = torch.linspace(-1, 1, 41)[:, None].repeat(1, 3)
    labels = torch.zeros(41, dtype=torch.int64)
    lowered = with_margin(30 * cosines, labels, torch.tensor(0.2), COSINE) / 30
    assert torch.equal(lowered[:, 1:] * 30, 30 * cosines[:, 1:])
    angles = torch.arccos(cosines[:, 0])
    inside = angles + 0.2 < math.pi
    torch.testing.assert_close(lowered[inside, 0], torch.cos(angles + 0.2)[inside], atol=1e-3, rtol=0)
    assert (lowered[:, 0].diff() > 0).all()  # a better cosine is never worth less
    additive = with_margin(30 * cosines, labels, torch.tensor(0.2), replace(COSINE, head="am-softmax")) / 30
    torch.testing.assert_close(additive[:, 0], cosines[:, 0] - 0.2)


@pytest.mark.parametrize("head", ["am-softmax", "aam-softmax"])
def test_the_loss_of_cosines_has_a_gradient_everywhere(head: str) -> None:
    logits = torch.tensor([[[30.0, -30.0], [-30.0, 30.0]]], requires_grad=True)
    loss = losses(logits, torch.zeros(1, 2, dtype=torch.int64), None, torch.tensor(0.2), replace(COSINE, head=head))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_loss_of_a_mixture_is_that_of_both_in_their_shares() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    share = torch.rand(2, 4)
    got = losses(logits, labels, share, torch.tensor(0.0), replace(PLAIN, mixup=0.2))
    each = torch.nn.functional.cross_entropy
    expected = [
        sum(
            share[m, i] * each(logits[m, i], labels[m, i]) + (1 - share[m, i]) * each(logits[m, i], labels[m, i - 1])
            for i in range(4)
        )
        / 4
        for m in range(2)
    ]
    torch.testing.assert_close(got, torch.stack(expected))


def test_schedules_of_margin_crops_and_averages() -> None:
    v = replace(COSINE, steps=1000, warmup=100, margin_ramp=0.5, also_crops=(80, 100), final_share=0.1, final_crop=300)
    assert [margin(step, v) for step in (0, 249, 499, 999)] == pytest.approx([0.0004, 0.1, 0.2, 0.2])
    assert margin(950, replace(v, final_margin=0.4)) == 0.4
    assert margin(0, PLAIN) == 0
    assert [crop_length(step, v) for step in (0, 1, 2, 3, 899, 900, 999)] == [60, 80, 100, 60, 100, 300, 300]
    assert mean_crop(v) == pytest.approx(np.mean([crop_length(step, v) for step in range(1000)]), rel=1e-3)
    assert {crop_length(step, replace(PLAIN, steps=100, warmup=10)) for step in range(102)} == {
        60
    }  # timing goes beyond the end


def test_the_last_weights_are_averaged_evenly() -> None:
    v = replace(PLAIN, steps=100, warmup=10, average_last=0.2)
    average = 0.0
    for step in range(100):
        average += average_weight(step, v) * (step - average)
    assert average == pytest.approx(np.mean(range(80, 100)))
    assert average_weight(50, v) == average_weight(50, PLAIN)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"backbone": "lstm"}, "no backbone 'lstm'[\\s\\S]*transformer, conformer, ecapa, resnet"),
    ({"pooling": "max"}, "no pooling 'max'"),
    ({"head": "three-layer"}, "no head 'three-layer'"),
    ({"margin": 0.2}, "margin 0.2[\\s\\S]*with a linear head[\\s\\S]*am-softmax or aam-softmax"),
    ({"sub_centres": 3}, "sub_centres 3 with a linear head"),
    ({"final_margin": 0.4}, "final_margin 0.4 with a linear head"),
    ({"head": "aam-softmax", "margin": 1.2}, "margin 1.2"),
    ({"heads": 3}, "d_model 80 cannot be shared among 3 heads"),
    ({"pooling": "multi-head", "backbone": "ecapa", "d_model": 64, "feedforward": 66}, "66 features among 4 heads"),
    ({"backbone": "ecapa", "d_model": 20}, "cannot split d_model 20"),
    ({"subsampling": 3}, "subsampling 3 of conformer"),
    ({"subsampling": 2, "backbone": "resnet"}, "subsampling 2 of resnet"),
    ({"backbone": "resnet", "crop": 5}, "subsampling by 8 is longer than a crop of 5 frames"),
    ({"subsampling": 4, "also_crops": (3,)}, "subsampling by 4 is longer than a crop of 3 frames"),
    ({"aggregate": True, "backbone": "ecapa"}, "aggregate with ecapa"),
    ({"pre_norm": True}, "pre_norm with conformer"),
    ({"dropout": 1.0}, "dropout 1.0 is no share"),
    ({"final_share": 0.1}, "final_share 0.1 with final_crop 0"),
    ({"head": "aam-softmax", "final_margin": 0.4}, "final_margin 0.4 without a last stage"),
    ({"time_mask": 30}, "two masks of up to 30 frames"),
    ({"time_warp": 0.3}, "time_warp 0.3"),
    ({"noise": 1.5}, "noise 1.5"),
    ({"mixup": 0.2, "batch": 1}, "mixup in a batch of 1"),
    ({"gain": -1.0}, "gain -1.0 is below 0"),
    ({"embedding": 16, "batch": 1}, "embedding in a batch of 1"),
    ({"kernel": 30}, "kernel 30"),
    ({"steps": 0}, "steps 0"),
    ({"steps": 10**20}, "steps 10{20}\\s+Choose at most 1,000,000,000"),
    ({"test_crops": 10**12}, "test_crops 10{12}\\s+Choose at most 1,000"),
    ({"lr": -1e-3}, "lr -0.001"),
    ({"backbone": "resnet", "final_share": 0.1, "final_crop": 4}, "subsampling by 8 is longer than a crop of 4 frames"),
    ({"time_mask": 12, "final_share": 0.1, "final_crop": 20}, "up to 12 frames[\\s\\S]*less than half of 20 frames"),
    ({"steps": 500}, "warmup 1000 of 500 steps[\\s\\S]*Choose a warmup below steps"),
    ({"backbone": "resnet", "d_model": 15}, "resnet with d_model 15[\\s\\S]*even"),
    ({"mean_norm": True, "gain": 3.0, "noise": 0.3}, "mean_norm takes out what gain 3.0 and equaliser 0.0 do"),
    ({"mean_norm": True, "equaliser": 2.0}, "mean_norm takes out what gain 0.0 and equaliser 2.0 do"),
    ({"head": "aam-softmax", "margin_ramp": 0.3}, "margin_ramp 0.3 without a margin"),
    ({"scale": 20.0}, "scale 20.0 with a linear head[\\s\\S]*Leave it at 30.0"),
    ({"also_crops": 250}, "also_crops 250[\\s\\S]*\\(250,\\)"),
    ({"also_crops": (250, 1 << 17)}, "also_crops 131072[\\s\\S]*from 1 to 65,536"),
    ({"final_share": 0.1, "final_crop": 1 << 17}, "final_crop 131072[\\s\\S]*from 0 to 65,536"),
    ({"embedding": 1 << 17}, "embedding 131072[\\s\\S]*from 0 to 65,536"),
    ({"subsampling": 4, "batch": 1, "crop": 4}, "a single frame[\\s\\S]*Batch normalisation needs two"),
    ({"backbone": "ecapa", "batch": 1, "crop": 1}, "a single frame"),
]
ACCEPTED: list[dict[str, Any]] = [
    {"subsampling": 4, "batch": 1, "crop": 5},
    {"backbone": "transformer", "batch": 1, "crop": 1},
    {"backbone": "resnet", "batch": 1, "crop": 8, "d_model": 16},
    {"steps": 1, "warmup": 1},
    {"mean_norm": True, "equaliser": 2.0, "noise": 0.3},
    {"mean_norm": True, "gain": 3.0, "mixup": 0.2},
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_recipe_that_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(PLAIN, **fields)


@pytest.mark.parametrize("fields", ACCEPTED)
def test_a_recipe_at_the_edge_of_what_is_refused_gives_a_finite_loss(fields: dict[str, Any]) -> None:
    v = replace(PLAIN, **fields)
    torch.manual_seed(0)
    logits = SpeakerClassifier(v, 4).train()(torch.randn(v.batch, v.crop, 40))
    assert logits.isfinite().all()


def test_a_whole_number_in_a_field_of_fractions_makes_the_same_recipe() -> None:
    one, other = replace(PLAIN, gain=3), replace(PLAIN, gain=3.0)
    assert content_hash(one.recipe()) == content_hash(other.recipe())


def test_a_variant_that_contradicts_itself_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_REGISTRY", dict(variants._REGISTRY))
    register("mine")(lambda: replace(PLAIN, steps=0))
    with pytest.raises(UsageError, match="variant mine: steps 0"):
        [entry.variant for entry in entries()]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", *SETS])
def test_a_name_that_no_folder_can_have_or_a_set_has_is_refused(name: str) -> None:
    before = entries()
    with pytest.raises(UsageError, match="cannot be the name of a variant"):
        register(name)(lambda: PLAIN)
    assert entries() == before


def test_a_recipe_comes_back_from_json() -> None:
    import json

    for entry in variants.entries():
        assert Variant(**json.loads(json.dumps(entry.variant.recipe()))) == entry.variant
        assert json.loads(json.dumps(entry.variant.recipe())) == entry.variant.recipe()
