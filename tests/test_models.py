"""Every registered variant: padding changes nothing, and it can learn. Layers equal their stock counterparts."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchaudio
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kaggle_hw4 import variants
from kaggle_hw4.errors import UsageError
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.models.convolutions import DepthwiseConv, TimeConv
from kaggle_hw4.models.heads import CosineHead
from kaggle_hw4.models.layers import (
    ConformerLayer,
    Dropout,
    FrameBatchNorm,
    TransformerLayer,
    from_torchaudio,
)
from kaggle_hw4.models.pooling import make_pooling
from kaggle_hw4.recipe import POOLINGS, Variant

NAMES = [entry.name for entry in variants.entries()]
# Those for GPUs take their time on CPU; they are of the same code as the narrow ones.
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in variants.SETS["wide"])) for name in NAMES]
LENGTHS = torch.tensor([91, 17, 130, 64, 1])


def batch(fill: float) -> torch.Tensor:
    """Utterances of LENGTHS with `fill` in the frames beyond."""
    x = torch.randn(len(LENGTHS), 130, 40, generator=torch.Generator().manual_seed(0)) * 4 - 2
    return torch.where((torch.arange(130) < LENGTHS[:, None])[:, :, None], x, torch.tensor(fill))


def model_of(name: str, *, dropout: float | None = None) -> SpeakerClassifier:
    torch.manual_seed(0)
    variant = variants.variant(name)
    model = SpeakerClassifier(variant if dropout is None else replace(variant, dropout=dropout), 50)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):  # as after training: not the identity
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("fill", [-20.0, 1e4, float("nan")])
def test_an_utterance_has_the_same_logits_alone_and_in_a_padded_batch(name: str, fill: float) -> None:
    model = model_of(name).eval()
    x = batch(fill)
    with torch.no_grad():
        together = model(x, LENGTHS)
        alone = torch.cat([model(x[i : i + 1, :length]) for i, length in enumerate(LENGTHS.tolist())])
    assert together.shape == (5, 50)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (alone - alone[0]).abs().max() > 1e-2  # the comparison is not one of constants


@pytest.mark.parametrize("name", EACH)
def test_padding_influences_nothing_in_training(name: str) -> None:
    results = []
    for fill in (0.0, 77.0):
        model = model_of(name, dropout=0.0).train()
        loss = model(batch(fill), LENGTHS).square().sum()
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append((loss, *gradients, *model.buffers()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


@pytest.mark.parametrize("name", EACH)
def test_more_padding_changes_no_gradient(name: str) -> None:
    """The same utterances padded to 130 and to 200 frames: batch statistics see real frames only."""
    results = []
    for extra in (0, 70):
        model = model_of(name, dropout=0.0).double().train()
        x = nn.functional.pad(batch(5.0).double(), (0, 0, 0, extra), value=9.0)
        model(x, LENGTHS).square().sum().backward()
        results.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", EACH)
def test_weights_come_back_from_a_state(name: str) -> None:
    model, other = model_of(name).eval(), SpeakerClassifier(variants.variant(name), 50).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(batch(0.0), LENGTHS), other(batch(0.0), LENGTHS))


@pytest.mark.parametrize("name", EACH)
def test_it_learns_a_batch_by_heart(name: str) -> None:
    model = SpeakerClassifier(variants.variant(name), 4)
    x, labels = batch(0.0)[:4], torch.tensor([3, 1, 0, 2])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(80):
        model.train()
        loss = nn.functional.cross_entropy(model(x, LENGTHS[:4]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert model(x, LENGTHS[:4]).argmax(1).tolist() == labels.tolist()


# Name, layers, heads, dropout, pooling, head, attention size; val, private, public: FACTS of the competition.
LADDER = [
    ("sample", 1, 2, 0.1, "mean", "two-layer", 64, 0.6716, None, None),
    ("transformer-2-heads-2", 2, 2, 0.1, "mean", "two-layer", 64, 0.7140, 0.88475, None),
    ("transformer-2-heads-1", 2, 1, 0.1, "mean", "two-layer", 64, 0.7265, None, None),
    ("transformer-2-heads-4", 2, 4, 0.1, "mean", "two-layer", 64, 0.7256, 0.89050, 0.89600),
    ("transformer-3-heads-4", 3, 4, 0.1, "mean", "two-layer", 64, 0.7451, 0.90550, None),
    ("conformer-2", 2, 4, 0.0, "mean", "two-layer", 64, 0.7493, 0.90600, None),
    ("conformer-3", 3, 4, 0.0, "mean", "two-layer", 64, 0.7638, 0.92625, None),
    ("conformer-4", 4, 4, 0.0, "mean", "two-layer", 64, 0.7744, 0.92250, None),
    ("conformer-3-linear", 3, 4, 0.0, "mean", "linear", 64, 0.8554, 0.95875, None),
    ("conformer-simple", 3, 4, 0.0, "simple", "linear", 64, 0.8588, 0.96125, None),
    ("conformer-full", 3, 4, 0.0, "full", "linear", 64, 0.8616, 0.96200, None),
    ("conformer-full-128", 3, 4, 0.0, "full", "linear", 128, 0.8626, 0.96000, None),
]


def test_the_ladder_has_its_twelve_rungs_with_their_scores() -> None:
    rungs = sorted((e for e in variants.entries() if e.rung), key=lambda entry: entry.rung or 0)
    assert [entry.rung for entry in rungs] == list(range(1, 13))
    found = [
        (e.name, v.layers, v.heads, v.dropout, v.pooling, v.head, v.attention_size, e.val, e.private, e.public)
        for e, v in ((entry, entry.variant) for entry in rungs)
    ]
    assert found == LADDER
    for entry in rungs:
        plain = Variant(entry.variant.backbone, layers=1, pooling="mean", head="linear")
        same = ("layers", "heads", "dropout", "pooling", "head", "attention_size")
        assert replace(plain, **{field: getattr(entry.variant, field) for field in same}) == entry.variant
    assert (plain.crop, plain.batch, plain.lr, plain.warmup, plain.steps) == (128, 32, 1e-3, 1000, 70_000)
    assert (plain.d_model, plain.feedforward, plain.kernel) == (80, 256, 31)


def test_the_default_set_is_as_published() -> None:
    names = variants.expand(["default"])
    assert names == ["transformer-simple", "transformer-full", "conformer-simple", "conformer-full"]
    for name in names:
        v = variants.variant(name)
        assert (v.layers, v.heads, v.d_model, v.feedforward, v.head) == (3, 4, 80, 256, "linear")
        assert (v.crop, v.batch, v.lr, v.warmup, v.steps) == (128, 32, 1e-3, 1000, 70_000)
        assert v.dropout == (0.1 if v.backbone == "transformer" else 0.0)
        assert (v.kernel, v.attention_size) == (31, 64)
        assert name == f"{v.backbone}-{v.pooling}"


def test_an_unknown_variant_offers_the_nearest_and_lists_all() -> None:
    with pytest.raises(UsageError, match=r"Did you mean conformer-full[\s\S]*transformer-simple"):
        variants.expand(["conformer-ful"])


def test_the_conformer_equals_torchaudios_with_its_weights() -> None:
    torch.manual_seed(1)
    theirs = torchaudio.models.Conformer(80, 4, 256, 3, 31, dropout=0.0)
    ours = nn.ModuleList(ConformerLayer(80, 4, 256, 31, 0.0) for _ in range(3))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    ours.load_state_dict(from_torchaudio(theirs.state_dict()))
    x = torch.randn(3, 150, 80)
    for mode in (False, True):
        theirs.train(mode)
        ours.train(mode)
        y = x
        for layer in ours:
            y = layer(y, None)
        torch.testing.assert_close(y, theirs(x, torch.full((3,), 150))[0], atol=1e-5, rtol=0)


def test_the_transformer_equals_pytorchs_with_its_weights() -> None:
    torch.manual_seed(2)
    theirs = nn.TransformerEncoderLayer(80, 4, 256, dropout=0.0, batch_first=True)
    ours = TransformerLayer(80, 4, 256, 0.0)
    ours.load_state_dict(theirs.state_dict())
    x, mask = torch.randn(5, 130, 80), torch.arange(130) < LENGTHS[:, None]
    theirs.train()
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask)[mask], expected[mask], atol=1e-5, rtol=0)


def test_attention_with_dropout_is_the_same_attention() -> None:
    """Its own path is taken only in training: with a probability that drops nothing it must agree."""
    torch.manual_seed(3)
    layer = TransformerLayer(80, 4, 256, 0.1)
    for module in layer.modules():
        if isinstance(module, Dropout):
            module.p = 1e-6  # below the resolution of 2**-16: nothing is dropped
    x, mask = torch.randn(5, 130, 80), torch.arange(130) < LENGTHS[:, None]
    trained = layer.train()(x, mask)[mask]
    torch.testing.assert_close(trained, layer.eval()(x, mask)[mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_the_share_it_should_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(4)
    dropout = Dropout(p).train()
    y = dropout(torch.ones(1001, 1003))
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 4 * np.sqrt(p * (1 - p) / y.numel())
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)))
    for start in range(4):  # four draws come from one 64-bit word: none may be special
        assert abs((y.view(-1)[start::4] == 0).double().mean().item() - p) < 4 * np.sqrt(p * (1 - p) / y.numel() * 4)
    x = torch.ones(10)
    assert dropout.eval()(x) is x


def test_batch_norm_takes_the_statistics_of_real_frames() -> None:
    torch.manual_seed(5)
    ours, stock = FrameBatchNorm(7), nn.BatchNorm1d(7)
    x, mask = torch.randn(5, 130, 7), torch.arange(130) < LENGTHS[:, None]
    y = ours(x, mask)
    torch.testing.assert_close(y[mask], stock(x[mask]))
    torch.testing.assert_close(ours.running_var, stock.running_var)


def test_batch_norm_of_a_single_frame_leaves_finite_statistics() -> None:
    ours = FrameBatchNorm(7)
    y = ours(torch.randn(1, 2, 7), torch.tensor([[True, False]]))
    assert y.isfinite().all()
    assert ours.running_var.isfinite().all()


@pytest.mark.parametrize("backbone", ["transformer", "conformer"])
def test_gradients_are_those_of_the_stock_layers(backbone: str) -> None:
    """In training mode, on a batch of full rows: the same loss, gradients and batch statistics."""
    torch.manual_seed(2)
    stock: nn.Module
    if backbone == "transformer":
        stock = nn.ModuleList([nn.TransformerEncoderLayer(80, 4, 256, 0.0, batch_first=True) for _ in range(2)])
        ours = nn.ModuleList([TransformerLayer(80, 4, 256, 0.0) for _ in range(2)])
        ours.load_state_dict(stock.state_dict())
    else:
        stock = torchaudio.models.Conformer(80, 4, 256, 2, 31)
        ours = nn.ModuleList([ConformerLayer(80, 4, 256, 31, 0.0) for _ in range(2)])
        ours.load_state_dict(from_torchaudio(stock.state_dict()))
    x, target = torch.randn(8, 128, 80), torch.randn(8, 128, 80)
    y = x
    for layer in ours:
        y = layer(y, None)
    z = x
    if backbone == "transformer":
        for layer in stock:
            z = layer(z)
    else:
        z, _ = stock(x, torch.full((8,), 128))
    torch.testing.assert_close(y, z, atol=1e-5, rtol=1e-5)
    for out in (y, z):
        (out - target).square().mean().backward()
    expected = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    expected = expected if backbone == "transformer" else from_torchaudio(expected)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        # Rounding of sums over 1,024 frames; a bias before a batch normalisation has none but rounding.
        torch.testing.assert_close(parameter.grad, expected[name], atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize(("kernel", "dilation", "stride"), [(1, 1, 1), (5, 1, 1), (3, 4, 1), (5, 1, 2)])
def test_the_convolution_over_time_is_pytorchs(kernel: int, dilation: int, stride: int) -> None:
    torch.manual_seed(6)
    ours = TimeConv(7, 9, kernel, dilation, stride)
    stock = nn.Conv1d(7, 9, kernel, stride, kernel // 2 * dilation, dilation)
    with torch.no_grad():
        stock.weight.copy_(ours.linear.weight.view(9, kernel, 7).transpose(1, 2))
        stock.bias.copy_(ours.linear.bias)
    for time in (1, 2, 31, 64):
        x = torch.randn(3, time, 7)
        torch.testing.assert_close(ours(x, None), stock(x.transpose(1, 2)).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("d", "kernel", "time"), [(80, 31, 128), (128, 15, 64), (5, 3, 1), (1, 7, 3), (16, 1, 50)])
def test_the_depthwise_convolution_is_pytorchs(d: int, kernel: int, time: int) -> None:
    """With its gradients, which are taken another way."""
    torch.manual_seed(4)
    ours, stock = DepthwiseConv(d, kernel), nn.Conv1d(d, d, kernel, padding="same", groups=d)
    stock.load_state_dict(ours.state_dict())
    x = torch.randn(4, time, d, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    y, z = ours(x, None), stock(same.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(y, z)
    target = torch.randn(4, time, d)
    for out in (y, z):
        (out - target).square().sum().backward()
    close = {"atol": 1e-4, "rtol": 1e-4}  # sums of up to 512 products, in another order
    torch.testing.assert_close(x.grad, same.grad, **close)
    torch.testing.assert_close(ours.weight.grad, stock.weight.grad, **close)
    torch.testing.assert_close(ours.bias.grad, stock.bias.grad, **close)


def test_a_backward_pass_within_autocast_is_in_fp32() -> None:
    """In bf16 oneDNN's never returns for this shape."""
    conv, x = DepthwiseConv(16, 31), torch.randn(4, 50, 16)
    with torch.autocast("cpu", torch.bfloat16):
        conv(x, None).square().sum().backward()
    within = conv.weight.grad
    conv.weight.grad = None
    conv(x, None).square().sum().backward()
    torch.testing.assert_close(within, conv.weight.grad)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_sees_real_frames_only_and_repetition_changes_nothing(pooling: str) -> None:
    v = Variant("conformer", layers=1, pooling=pooling, head="linear")
    torch.manual_seed(7)
    pool, width = make_pooling(v)
    x, mask = torch.randn(5, 130, 80), torch.arange(130) < LENGTHS[:, None]
    pooled = pool(x, mask)
    assert pooled.shape == (5, width)
    for row, length in enumerate(LENGTHS.tolist()):
        once = x[row : row + 1, :length]
        torch.testing.assert_close(pool(once, None), pooled[row : row + 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pool(torch.cat([once, once], 1), None), pool(once, None), atol=1e-5, rtol=1e-5)


def test_attentive_statistics_are_weighted_means_and_standard_deviations() -> None:
    v = Variant("conformer", layers=1, pooling="attentive-statistics", head="linear")
    torch.manual_seed(8)
    pool, _ = make_pooling(v)
    x = torch.randn(2, 50, 80)
    plain = torch.cat([x.mean(1), x.std(1, correction=0)], 1)
    context = pool.context(plain)
    weights = pool.score(torch.tanh(pool.frame(x) + context[:, None])).softmax(1).detach().numpy()
    for row in range(2):
        for d in (0, 79):
            values = x[row, :, d].numpy()
            mean = np.average(values, weights=weights[row, :, d])
            sd = np.sqrt(np.average((values - mean) ** 2, weights=weights[row, :, d]))
            got = pool(x, None)[row, [d, 80 + d]].detach().numpy()
            np.testing.assert_allclose(got, [mean, sd], rtol=1e-4)


def test_logits_of_a_cosine_head_are_scaled_cosines_with_the_nearest_centre() -> None:
    torch.manual_seed(9)
    head = CosineHead(16, 5, scale=30.0, sub_centres=3)
    x = torch.randn(4, 16)
    logits = head(x)
    centres = head.weight.view(5, 3, 16)
    for i in range(4):
        for speaker in range(5):
            best = max(nn.functional.cosine_similarity(x[i], centre, dim=0) for centre in centres[speaker])
            torch.testing.assert_close(logits[i, speaker], 30 * best)
    torch.testing.assert_close(head(7 * x), logits)  # of the direction only


@pytest.mark.parametrize("name", variants.SETS["best"])
def test_what_cpus_train_stays_below_a_gflop_per_200_frames(name: str) -> None:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model_of(name).eval()(torch.zeros(1, 200, 40))
    assert counter.get_total_flops() <= 1e9


EIGHT_CHANNELS = """
from dataclasses import replace
import torch
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.variants import variant
model = SpeakerClassifier(replace(variant("resnet"), d_model=8), 50)
for _ in range(8):
    model(torch.randn(5, 250, 40)).square().mean().backward()
"""


def test_a_resnet_of_eight_channels_breaks_no_memory() -> None:
    """oneDNN's strided convolutions of 1 x 1 did, and killed the process soon after."""
    subprocess.run([sys.executable, "-c", EIGHT_CHANNELS], check=True, timeout=120)


def test_no_backbone_asks_for_weights_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm is asked for an untrained network only, and nothing may look for weights anywhere."""
    import timm
    from timm.models import _builder, _hub

    asked = []
    create = timm.create_model

    def watched(*arguments: object, **options: object) -> nn.Module:
        asked.append(options["pretrained"])
        return create(*arguments, **options)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("weights of others were looked for")

    monkeypatch.setattr(timm, "create_model", watched)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(_builder, "load_pretrained", refuse)
    monkeypatch.setattr(_hub, "hf_hub_download", refuse)
    for name in NAMES:
        model_of(name)
    resnets = [name for name in NAMES if variants.variant(name).backbone == "resnet"]
    assert asked == [False] * len(resnets)
    assert resnets


def test_long_utterances_ask_their_queries_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("conformer-full").eval()
    x = batch(0.0)
    with torch.no_grad():
        expected = model(x, LENGTHS)
    pairs = []
    attention = nn.functional.scaled_dot_product_attention

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        pairs.append(q.shape[0] * q.shape[2] * k.shape[2])
        return attention(q, k, v, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr("kaggle_hw4.models.layers.ATTENTION_PAIRS", {"cpu": 10_000})
    with torch.no_grad():
        torch.testing.assert_close(model(x, LENGTHS), expected, atol=1e-5, rtol=1e-5)
    assert max(pairs) <= 10_000
