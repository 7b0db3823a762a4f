"""Tests of level 3: equal to levels 1 and 2, to timm, torchvision and transformers.

A fresh model has a head of zeros and a class token of zeros, so that everything before could be
anything. Every comparison perturbs all parameters first.
"""

import copy
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import transformers
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer_hybrid import HybridEmbed as TimmHybridEmbed
from torch import nn

import vit_lowlevel as low
import vit_numpy as np_level
import vit_paper
from hybrid_paper import HybridEmbed, ResNetV2, StdConv2d, same_padding
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import AdamW
from rollout_paper import attention_rollout, seen_of_patches
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch
from vit_paper import (
    VisionTransformer,
    ViTConfig,
    loss_function,
    paper_optimizer,
    resize_positions,
    resized,
)
from vit_training_paper import augment, random_erase
from vit_weights_paper import (
    convert_torchvision_state_dict,
    convert_transformers_state_dict,
    from_pretrained,
    sizes_of,
)

SIZES = {"image_size": 24, "patch_size": 8, "width": 12, "layers": 2, "heads": 3}
SIZES |= {"hidden": 20, "classes": 7}
POOLS = pytest.mark.parametrize("pool", ["cls", "gap"])


def make_batch(seed=0, size=3, side=24):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, side, side, generator=generator, dtype=torch.float64)
    return x, torch.randint(7, (size,), generator=generator)


def make_model(**changes):
    torch.manual_seed(0)
    model = VisionTransformer.of(**(SIZES | changes)).double().eval()
    perturb(model)
    return model


def step(model, batch, outputs=lambda y: y):
    """Logits, loss and gradients of one pass."""
    model.zero_grad()
    logits = outputs(model(batch[0]))
    loss = F.cross_entropy(logits, batch[1])
    loss.backward()
    return Result(logits, loss, {n: p.grad.clone() for n, p in model.named_parameters()})


# --- across levels


def numpy_step(model, batch):
    logits = model.forward(batch[0].numpy())
    loss, cache = softmax_cross_entropy_forward(logits, batch[1].numpy())
    return Result(logits, loss, model.backward(softmax_cross_entropy_backward(cache)))


@POOLS
def test_equals_levels_1_and_2(pool):
    sizes = SIZES | {"pool": pool, "channels": 2, "eps": 0.01}  # no defaults
    model, (x, targets) = make_model(**sizes), make_batch()
    batch = x[:, :2], targets
    one = np_level.VisionTransformer(np_level.ViTConfig(**sizes), np.random.default_rng(0))
    load_into(one.params, model)
    params = to_torch(model, requires_grad=True)
    logits = low.forward(params, batch[0], low.ViTConfig(**sizes))
    loss = F.cross_entropy(logits, batch[1])
    loss.backward()
    got = step(model, batch)
    assert_parity(got, numpy_step(one, batch))
    assert_parity(got, Result(logits, loss, {name: p.grad for name, p in params.items()}))


def test_maps_and_rollout_equal_levels_1_and_2():
    model, (x, _) = make_model(), make_batch()
    one = np_level.VisionTransformer(np_level.ViTConfig(**SIZES), np.random.default_rng(0))
    load_into(one.params, model)
    one.forward(x.numpy())
    maps, low_maps = model.attention_maps(x), []
    low.forward(to_torch(model), x, low.ViTConfig(**SIZES), maps=low_maps)
    for got, a, b in zip(maps, one.attention_maps(), low_maps, strict=True):
        assert max_difference(got, a) < 1e-12 and max_difference(got, b) < 1e-12
    want = np_level.attention_rollout(one.attention_maps())
    assert max_difference(attention_rollout(maps), want) < 1e-12


class SameDropout:
    """Keeps and drops the same elements of every array of one shape."""

    def random(self, shape):
        return np.random.default_rng([3, *shape]).random(shape)

    def __call__(self, x, rate, training, inplace):
        assert training and not inplace
        return x * (torch.from_numpy(self.random(tuple(x.shape))) >= rate) / (1 - rate)


def test_dropout_is_where_level_1_has_it(monkeypatch):
    model, (x, _) = make_model(dropout=0.3).train(), make_batch()
    config = np_level.ViTConfig(**SIZES, dropout=0.3)
    one = np_level.VisionTransformer(config, np.random.default_rng(0))
    load_into(one.params, model)
    want = Result(one.forward(x.numpy(), train=True, rng=SameDropout()))
    monkeypatch.setattr(F, "dropout", SameDropout())
    assert_parity(Result(model(x)), want)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(Result(one.forward(x.numpy())), want)


def test_ten_steps_equal_level_1():
    model = make_model()
    one = np_level.VisionTransformer(np_level.ViTConfig(**SIZES), np.random.default_rng(0))
    load_into(one.params, model)
    optimizer = paper_optimizer(model.parameters(), lr=0.01, weight_decay=0.1)
    numpy_optimizer = AdamW(one.params, lr=0.01, weight_decay=0.1)
    losses, numpy_losses = [], []
    for i in range(10):
        batch = make_batch(i, size=6)
        losses.append(step(model, batch).loss)
        optimizer.step()
        result = numpy_step(one, batch)
        numpy_optimizer.step(result.grads)
        numpy_losses.append(result.loss)
    assert_trajectory(losses, numpy_losses)


# --- against timm


def timm_model(**changes):
    options = {"img_size": 24, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
    options |= {"mlp_ratio": 20 / 12, "num_classes": 7} | changes
    torch.manual_seed(1)
    model = timm.models.VisionTransformer(**options).double().eval()
    perturb(model)
    return model


TIMM_GAP = {"class_token": False, "global_pool": "avg", "fc_norm": False}


@POOLS
def test_equals_timm(pool):
    reference = timm_model(**(TIMM_GAP if pool == "gap" else {}))
    model = make_model(pool=pool)
    load_into(model, reference)
    assert_parity(step(model, make_batch()), step(reference, make_batch()))


def other_epsilon(model):
    for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
        norm.eps = 1e-12


def swapped_norms(model):
    block = model.blocks[0]
    block.norm1, block.norm2 = block.norm2, block.norm1


def no_last_norm(model):
    model.norm = nn.Identity()


def tanh_gelu(model):
    mlp = model.blocks[1].mlp
    mlp.forward = lambda x: mlp.fc2(F.gelu(mlp.fc1(x), approximate="tanh"))


def thirds_in_another_order(model):
    attention = model.blocks[0].attn
    split = attention.split
    attention.split = lambda x: tuple(split(x)[i] for i in (1, 0, 2))


FAULTS = [other_epsilon, swapped_norms, no_last_norm, tanh_gelu, thirds_in_another_order]


@pytest.mark.parametrize("fault", FAULTS)
def test_sabotage_is_noticed(fault):
    reference, model = timm_model(), make_model()
    load_into(model, reference)
    x = make_batch()[0]
    outputs = [Result(m(x)) for m in (model, reference)]
    assert_parity(*outputs)
    fault(model)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(Result(model(x)), outputs[1])


def test_a_fresh_model_hides_every_fault():
    """Why everything is perturbed: the head is zero, and so are all logits."""
    for fault in FAULTS:
        model = VisionTransformer.of(**SIZES)
        fault(model)
        assert not model(make_batch()[0].float()).any()


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("B/16", "vit_base_patch16_224"),
        ("B/32", "vit_base_patch32_224"),
        ("L/16", "vit_large_patch16_224"),
        ("L/32", "vit_large_patch32_224"),
        ("H/14", "vit_huge_patch14_224"),
    ],
)
def test_every_published_model_has_timms_names_and_shapes(name, timm_name):
    with torch.device("meta"):
        ours = VisionTransformer(ViTConfig.published(name)).state_dict()
    theirs = timm.create_model(timm_name, num_classes=1000, device="meta").state_dict()
    assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in theirs.items()}


# --- against torchvision and transformers


@pytest.mark.parametrize("representation", [0, 5])
def test_equals_torchvision(representation):
    torch.manual_seed(1)
    reference = torchvision.models.VisionTransformer(
        24, 8, 2, 3, 12, 20, num_classes=7, representation_size=representation or None
    )
    reference = reference.double().eval()
    perturb(reference)
    model = make_model(representation=representation)
    load_into(model, convert_torchvision_state_dict(reference.state_dict()))
    got, want = step(model, make_batch()), step(reference, make_batch())
    assert_parity(got, Result(want.outputs, want.loss, convert_torchvision_state_dict(want.grads)))


def test_names_of_older_torchvision_are_read_too():
    state = torchvision.models.VisionTransformer(24, 8, 2, 3, 12, 20, num_classes=7).state_dict()
    older = {
        n.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
        for n, v in state.items()
    }
    assert set(older) != set(state)
    want = convert_torchvision_state_dict(state)
    got = convert_torchvision_state_dict(older)
    assert set(got) == set(want) and all(got[n] is want[n] for n in want)


def transformers_model(eps=1e-12, **changes):
    config = transformers.ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        image_size=24,
        patch_size=8,
        num_labels=7,
        layer_norm_eps=eps,
        attn_implementation="sdpa",
        **changes,
    )
    torch.manual_seed(1)
    model = transformers.ViTForImageClassification(config).eval()
    perturb(model)
    return model


@pytest.mark.parametrize("eps", [1e-12, 1e-6])
def test_equals_transformers(eps):
    reference = transformers_model(eps).double()
    model = make_model(eps=eps)
    load_into(model, convert_transformers_state_dict(reference.state_dict()))
    got, want = step(model, make_batch()), step(reference, make_batch(), lambda y: y.logits)
    assert_parity(got, Result(want.outputs, want.loss, convert_transformers_state_dict(want.grads)))


def test_the_libraries_epsilons_differ():
    assert transformers.ViTConfig().layer_norm_eps == 1e-12
    assert timm_model().norm.eps == 1e-6
    assert torchvision.models.VisionTransformer(24, 8, 1, 3, 12, 20).encoder.ln.eps == 1e-6
    reference, model = transformers_model().double(), make_model(eps=1e-6)
    load_into(model, convert_transformers_state_dict(reference.state_dict()))
    x = make_batch()[0]
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(Result(model(x)), Result(reference(x).logits))


# --- weights by name and from a folder


def test_from_pretrained_reads_a_folder_that_timm_wrote(tmp_path):
    options = {"img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 7}
    reference = timm.create_model("vit_base_patch16_224", **options).eval()
    perturb(reference)
    timm.models.save_for_hf(reference, tmp_path, model_args=options, safe_serialization=True)
    model = from_pretrained(VisionTransformer.of, str(tmp_path))
    assert not model.training and model.config == ViTConfig(32, 16, 12, 2, 3, 48, 7)
    x = torch.randn(2, 3, 32, 32)
    assert max_difference(model(x), reference(x)) < 1e-6


def test_from_pretrained_reads_a_folder_that_transformers_wrote(tmp_path):
    reference = transformers_model()
    reference.save_pretrained(tmp_path)
    model = from_pretrained(VisionTransformer.of, str(tmp_path), "transformers")
    assert model.config == ViTConfig(**SIZES, eps=1e-12)
    x = torch.randn(2, 3, 24, 24)
    assert max_difference(model(x), reference(x).logits) < 1e-6


def test_from_pretrained_by_name_without_a_network(monkeypatch):
    """The libraries' functions give models with random weights instead."""
    asked = []
    norm = partial(nn.LayerNorm, eps=1e-3)
    theirs = timm_model(in_chans=2, norm_layer=norm).float()
    monkeypatch.setattr(timm, "create_model", lambda n, **how: asked.append((n, how)) or theirs)
    x = torch.randn(2, 3, 24, 24)
    model = from_pretrained(VisionTransformer.of, "vit_some_name")
    assert model.config == ViTConfig(**SIZES, channels=2, eps=1e-3)
    assert max_difference(model(x[:, :2]), theirs(x[:, :2])) < 1e-6

    other = torchvision.models.VisionTransformer(
        24, 8, 2, 3, 12, 20, num_classes=7, representation_size=5, norm_layer=norm
    ).eval()
    perturb(other)
    get = lambda n, **how: asked.append((n, how)) or other  # noqa: E731
    monkeypatch.setattr(torchvision.models, "get_model", get)
    model = from_pretrained(VisionTransformer.of, "vit_b_16", "torchvision")
    assert model.config == ViTConfig(**SIZES, representation=5, eps=1e-3) and not model.training
    assert max_difference(model(x), other(x)) < 1e-6
    assert asked == [("vit_some_name", {"pretrained": True}), ("vit_b_16", {"weights": "DEFAULT"})]


def test_from_pretrained_builds_a_hybrid(monkeypatch):
    _, theirs = hybrid_pair()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs.float())
    build = partial(VisionTransformer.of, HybridEmbed(**STEM))
    model = from_pretrained(build, "vit_hybrid")
    assert model.config == ViTConfig(**(SIZES | {"image_size": 40, "patch_size": 8}))
    x = torch.randn(2, 3, 40, 40)
    assert max_difference(model(x), theirs(x)) < 1e-6


def test_a_resized_hybrid_has_a_resnet_of_its_own():
    model = VisionTransformer(
        ViTConfig(**(SIZES | {"image_size": 40, "patch_size": 8})), HybridEmbed(**STEM)
    )
    larger = resized(model, 80)
    for p in larger.patch_embed.parameters():
        p.data.add_(1)
    assert all(
        not torch.equal(p, q)
        for p, q in zip(
            model.patch_embed.parameters(), larger.patch_embed.parameters(), strict=True
        )
    )


def test_a_model_without_a_head_or_class_token_is_recognised():
    state = timm_model(num_classes=0, **TIMM_GAP).state_dict()
    sizes = sizes_of(state, 24, 8, 3, 1e-6)
    assert sizes["classes"] == 0 and sizes["pool"] == "gap"
    model = VisionTransformer.of(**sizes).double()
    load_into(model, state)
    reference = timm_model(num_classes=0, **TIMM_GAP)
    x = make_batch()[0]
    assert model(x).shape == (3, 12) and max_difference(model(x), reference(x)) < 1e-12


def test_a_model_with_other_parts_is_refused(monkeypatch):
    theirs = timm_model(reg_tokens=2).float()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    with pytest.raises(ValueError, match="expected a plain Vision Transformer; .*reg_token"):
        from_pretrained(VisionTransformer.of, "vit_with_registers")
    theirs = timm_model(init_values=0.1).float()
    with pytest.raises(ValueError, match="expected a plain Vision Transformer; .*ls1"):
        from_pretrained(VisionTransformer.of, "vit_with_scales")


@pytest.mark.parametrize(
    "other", [{"global_pool": "avg", "fc_norm": False}, {"act_layer": "quick_gelu"}]
)
def test_a_model_that_computes_something_else_of_the_same_weights_is_refused(monkeypatch, other):
    theirs = timm_model(**other).float()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    with pytest.raises(ValueError, match="computes something else"):
        from_pretrained(VisionTransformer.of, "vit_of_another_kind")


# --- the hybrid

STEM = {"width": 12, "layers": (1, 2), "stem": 32}


def hybrid_pair():
    torch.manual_seed(1)
    backbone = timm.models.resnetv2.ResNetV2(
        layers=(1, 2),
        channels=(128, 256),
        num_classes=0,
        global_pool="",
        in_chans=3,
        preact=False,
        stem_type="same",
        stem_chs=32,
        conv_layer=partial(timm.layers.StdConv2dSame, eps=1e-8),
    )
    embed = partial(TimmHybridEmbed, backbone=backbone)
    reference = timm.models.VisionTransformer(
        img_size=40, embed_dim=12, depth=2, num_heads=3, num_classes=7, embed_layer=embed,
        patch_size=1, mlp_ratio=20 / 12,
    )  # fmt: skip
    reference = reference.double().eval()
    perturb(reference, scale=0.05)
    sizes = SIZES | {"image_size": 40, "patch_size": 8}
    model = VisionTransformer(ViTConfig(**sizes), HybridEmbed(**STEM)).double().eval()
    load_into(model, reference)
    return model, reference


def test_hybrid_equals_timm():
    model, reference = hybrid_pair()
    batch = make_batch(side=40)
    assert_parity(step(model, batch), step(reference, batch))


def other_padding(model):
    model.patch_embed.backbone.stem["conv"].forward = lambda x: F.conv2d(
        x, standardised(model.patch_embed.backbone.stem["conv"].weight), None, 2, 3
    )


def standardised(weight):
    var, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
    return (weight - mean) / (var + 1e-8).sqrt()


def plain_kernels(model):
    layer = model.patch_embed.backbone.stages[0].blocks[0].conv2
    layer.forward = lambda x: F.conv2d(x, layer.weight, None, 1, 1)


def forgotten_norm(model):
    model.patch_embed.backbone.stages[1].blocks[0].downsample.norm = nn.Identity()


@pytest.mark.parametrize("fault", [other_padding, plain_kernels, forgotten_norm])
def test_sabotage_of_the_hybrid_is_noticed(fault):
    model, reference = hybrid_pair()
    x = make_batch(side=40)[0]
    assert_parity(Result(model(x)), Result(reference(x)))
    fault(model)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(Result(model(x)), Result(reference(x)))


def test_published_hybrid_has_timms_names_shapes_and_count():
    with torch.device("meta"):
        model = VisionTransformer(ViTConfig.published("B/16"), HybridEmbed())
        ours = model.state_dict()
    theirs = timm.create_model("vit_base_r50_s16_224", num_classes=1000, device="meta")
    assert {n: v.shape for n, v in ours.items()} == {
        n: v.shape for n, v in theirs.state_dict().items()
    }
    assert sum(p.numel() for p in model.parameters()) == 98_659_112


def test_same_padding_gives_the_sides_divided_and_rounded_up():
    for side in (7, 8, 9, 12):
        for kernel, stride in ((7, 2), (3, 2), (3, 1), (1, 2)):
            x = torch.randn(1, 3, side, side + 1)
            y = StdConv2d(3, 32, kernel, stride)(x)
            assert y.shape[2:] == (-(-side // stride), -(-(side + 1) // stride))
    assert same_padding(torch.zeros(1, 1, 8, 8), 3, 2).shape == (1, 1, 9, 9)


def test_the_stem_divides_the_side_by_its_reduction():
    net = ResNetV2((1, 1, 1), width=32)
    assert (net.reduction, net.out_channels) == (16, 512)
    assert net(torch.randn(1, 3, 48, 32)).shape == (1, 512, 3, 2)


def test_tokens_of_several_cells_and_images_of_another_depth():
    embed = HybridEmbed(12, (1, 1), channels=1, stem=32, patch=2)
    x = torch.randn(2, 1, 32, 48)
    cells = embed.backbone(x)
    assert cells.shape == (2, 256, 4, 6)
    y = embed(x)
    assert y.shape == (2, 2 * 3, 12)
    last = cells[:, :, 2:4, 4:6].flatten(1) @ embed.proj.weight.flatten(1).T
    assert max_difference(y[:, 5], last) < 1e-5


def test_initial_spread_of_the_hybrid():
    """He's rule, which the Transformer around it leaves as it is."""
    torch.manual_seed(0)
    embed = VisionTransformer(ViTConfig(**SIZES), HybridEmbed(**STEM)).patch_embed
    for layer in (m for m in embed.modules() if isinstance(m, nn.Conv2d)):
        assert abs(layer.weight.std() / (2 / layer.weight[0].numel()) ** 0.5 - 1) < 0.06
    assert not embed.proj.bias.any()


# --- the paper's figures

PARAMETERS = {"B/16": 86_567_656, "B/32": 88_224_232, "L/16": 304_326_632}
PARAMETERS |= {"L/32": 306_535_400, "H/14": 632_045_800}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name, count):
    with torch.device("meta"):
        model = VisionTransformer(ViTConfig.published(name))
    assert sum(p.numel() for p in model.parameters()) == count


def test_parameter_count_of_the_default_training():
    model = VisionTransformer.of(
        image_size=32, patch_size=8, width=64, layers=4, heads=4, hidden=128, classes=10
    )
    assert sum(p.numel() for p in model.parameters()) == 148_170  # the README says so


# Table 1: layers, width, MLP, heads, and the rounded numbers of parameters in millions.
TABLE_1 = {"B/16": (12, 768, 3072, 12, 86), "L/16": (24, 1024, 4096, 16, 307)}
TABLE_1 |= {"H/14": (32, 1280, 5120, 16, 632)}


@pytest.mark.parametrize(("name", "row"), TABLE_1.items())
def test_table_1(name, row):
    c = ViTConfig.published(name)
    assert (c.layers, c.width, c.hidden, c.heads) == row[:4]
    assert abs(PARAMETERS[name] / 1e6 / row[4] - 1) < 0.01


def test_published_sizes_can_be_changed():
    c = ViTConfig.published("B/32", classes=10, image_size=384, dropout=0.1)
    assert (c.classes, c.grid, c.width, c.dropout) == (10, 12, 768, 0.1)


# --- other resolutions


@POOLS
def test_other_resolutions_equal_timm(pool):
    reference = timm_model(**(TIMM_GAP if pool == "gap" else {}))
    model = make_model(pool=pool)
    load_into(model, reference)
    larger = resized(model, 40)
    reference.set_input_size(img_size=40)
    assert larger.config.image_size == 40 and not larger.training
    # timm interpolates in float32 whatever the model is.
    assert max_difference(larger.pos_embed, reference.pos_embed) < 1e-6
    with torch.no_grad():
        reference.pos_embed.copy_(larger.pos_embed)
    batch = make_batch(side=40)
    assert_parity(step(larger, batch), step(reference, batch))
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 24, 24\)"):
        model(batch[0])


@pytest.mark.parametrize("grid", [2, 3, 5, 6])
def test_positions_equal_timm(grid):
    pos = torch.randn(1, 10, 6)
    want = resample_abs_pos_embed(pos, (grid, grid), num_prefix_tokens=1)
    got = resize_positions(pos, grid)
    assert max_difference(got, want) < 1e-6 and torch.equal(got[:, 0], pos[:, 0])


def test_the_libraries_interpolate_differently():
    pos = torch.randn(1, 10, 6)
    ours = resize_positions(pos, 2)
    grid = pos[:, 1:].view(1, 3, 3, 6).permute(0, 3, 1, 2)
    plain = F.interpolate(grid, (2, 2), mode="bicubic").flatten(2).mT  # transformers
    corners = F.interpolate(grid, (2, 2), mode="bicubic", align_corners=True).flatten(2).mT
    given = torchvision.models.vision_transformer.interpolate_embeddings(
        16, 8, {"encoder.pos_embedding": pos}
    )["encoder.pos_embedding"]
    assert max_difference(given[:, 1:], corners) < 1e-6
    assert max_difference(ours[:, 1:], plain) > 1e-2
    assert max_difference(ours[:, 1:], corners) > 1e-2


def test_the_hybrid_can_be_resized():
    model, _ = hybrid_pair()
    x = make_batch(side=40)[0]
    before = model(x)
    larger = resized(model, 64)
    assert torch.equal(model(x), before)
    assert larger(make_batch(side=64)[0]).shape == (3, 7)
    got, want = larger.state_dict(), model.state_dict()
    assert all(torch.equal(got[n], want[n]) for n in want if n != "pos_embed")
    assert torch.equal(got["pos_embed"], resize_positions(want["pos_embed"], 8))


def test_a_resized_model_goes_on_with_its_training():
    assert resized(make_model().train(), 40).training


# --- rollout


def test_seen_of_patches():
    rollout = torch.tensor([[[0.1, 0.2, 0.4, 0.1, 0.2], *([[0.2] * 5] * 4)]])
    want = torch.tensor([[[0.5, 1.0], [0.25, 0.5]]])
    assert torch.allclose(seen_of_patches(rollout), want)
    # A picture for each image; without a class token what all tokens together have seen.
    two = seen_of_patches(torch.cat([rollout / 2, rollout]))
    assert torch.allclose(two, want.expand(2, 2, 2))
    columns = torch.tensor([0.1, 0.4, 0.2, 0.3]).expand(1, 4, 4)
    mean = seen_of_patches(columns, class_token=False)
    assert torch.allclose(mean, torch.tensor([[[0.25, 1.0], [0.5, 0.75]]]))


def test_rollout_finds_the_patch_that_attention_is_led_to():
    maps = [torch.full((1, 3, 5, 5), 0.2) for _ in range(3)]
    maps[1] = torch.zeros(1, 3, 5, 5)
    maps[1][..., 3] = 1.0  # in the second layer all look at token 3
    seen = seen_of_patches(attention_rollout(maps))
    assert seen.flatten().argmax() == 2


# --- training


def test_the_optimizer_is_the_papers():
    (group,) = paper_optimizer(make_model().parameters()).param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.1)


def test_random_erase():
    torch.manual_seed(0)
    images = torch.ones(400, 3, 8, 6)
    erased = random_erase(images, 0.3)
    holes = (erased == 0).sum(dim=(1, 2, 3))
    assert set(holes.tolist()) == {0, 3 * 4 * 3}
    assert 80 < (holes > 0).sum() < 160
    seen = (erased == 0).any(dim=1).float().mean(dim=0)
    assert (seen > 0).all()  # everywhere, the corners too
    assert torch.equal(images, torch.ones_like(images))


def test_augmented_images_are_crops_or_their_mirror_images_with_holes():
    images = 1 + torch.rand(300, 3, 12, 12)
    torch.manual_seed(0)
    whole = augment(images)
    torch.manual_seed(0)
    changed = augment(images, erase=0.3)
    erased = changed != whole
    assert not changed[erased].any()
    assert 60 < erased.flatten(1).any(dim=1).sum() < 120
    padded = F.pad(images, (4, 4, 4, 4))
    for b in range(20):
        crops = [padded[b, :, i : i + 12, j : j + 12] for i in range(9) for j in range(9)]
        assert any(torch.equal(c, whole[b]) for crop in crops for c in (crop, crop.flip(2)))


def test_every_image_has_a_crop_of_its_own_and_all_are_as_likely():
    image = torch.rand(1, 3, 6, 6)
    padded = F.pad(image, (4, 4, 4, 4))[0]
    seen = {}
    for i in range(9):
        for j in range(9):
            crop = padded[:, i : i + 6, j : j + 6]
            seen[crop.numpy().tobytes()] = seen[crop.flip(2).contiguous().numpy().tobytes()] = 0
    torch.manual_seed(0)
    for one in augment(image.expand(4000, -1, -1, -1)):
        seen[one.numpy().tobytes()] += 1
    assert len(seen) == 2 * 81 and min(seen.values()) > 5 and max(seen.values()) < 50  # 25 each


def test_the_loss_is_a_smoothed_cross_entropy():
    model, (x, targets) = make_model(), make_batch()
    log_p = model(x).log_softmax(dim=1)
    right = log_p[range(3), targets]
    for share in (0.0, 0.2):
        want = -((1 - share) * right + share * log_p.mean(dim=1)).mean()
        assert abs(loss_function(model, (x, targets), share) - want) < 1e-12


# --- properties


def test_initial_loss_is_that_of_guessing():
    model = VisionTransformer.of(**SIZES)
    loss = loss_function(model, (torch.randn(8, 3, 24, 24), torch.arange(8) % 7))
    assert abs(loss.item() - np.log(7)) < 1e-6


def test_initial_spread():
    torch.manual_seed(0)
    sizes = {"width": 96, "heads": 4, "hidden": 200, "representation": 50}
    model = VisionTransformer.of(**(SIZES | sizes))
    block = model.blocks[0]
    want = {
        model.pos_embed: 0.02,
        model.patch_embed.proj.weight: (3 * 64) ** -0.5,
        block.attn.qkv.weight: (2 / (96 + 96)) ** 0.5,  # each third by itself
        block.attn.proj.weight: (2 / (96 + 96)) ** 0.5,
        block.mlp.fc1.weight: (2 / (96 + 200)) ** 0.5,
        block.mlp.fc2.weight: (2 / (96 + 200)) ** 0.5,
        model.pre_logits[0].weight: (2 / (96 + 50)) ** 0.5,
    }
    for parameter, std in want.items():
        assert abs(parameter.std().item() / std - 1) < 0.06
        assert abs(parameter.mean().item()) < 4 * std / parameter.numel() ** 0.5
    assert not model.head.weight.any() and not model.cls_token.any()
    for name, parameter in model.named_parameters():
        if ".mlp." in name and name.endswith("bias"):
            assert 0 < parameter.abs().max() < 1e-5, name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name


@POOLS
def test_overfits_one_batch(pool):
    torch.manual_seed(0)
    model = VisionTransformer.of(**SIZES, pool=pool)
    optimizer = paper_optimizer(model.parameters(), lr=0.01, weight_decay=0.0)
    x, targets = make_batch(size=12)
    for _ in range(60):
        loss = step(model, (x.float(), targets)).loss
        optimizer.step()
    assert loss < 0.02


def test_without_positions_shuffled_patches_are_the_same():
    model, (x, _) = make_model(), make_batch()
    strips = torch.cat([x[:, :, 8:16], x[:, :, :8], x[:, :, 16:]], dim=2)
    assert max_difference(model(strips), model(x)) > 1e-3
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:2]
    assert max_difference(model(strips), model(x)) < 1e-12


def test_dropout_is_for_training_only():
    model, (x, _) = make_model(dropout=0.3), make_batch()
    assert torch.equal(model(x), model(x))
    assert not torch.equal(copy.deepcopy(model).train()(x), model(x))


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ViTConfig(patch_size=15), "expected a patch size that divides 224, got 15"),
        (lambda: ViTConfig(heads=5), "expected a width that 5 heads divide, got 768"),
        (lambda: ViTConfig(channels=0), "expected channels of at least 1, got 0"),
        (lambda: ViTConfig(pool="max"), r"expected a pool of \('cls', 'gap'\), got 'max'"),
        (lambda: ViTConfig(dropout=1.0), r"dropout in \[0, 1\), got 1000, 0, 1.0"),
        (lambda: ViTConfig(dropout=-0.1), r"dropout in \[0, 1\), got 1000, 0, -0.1"),
        (lambda: ViTConfig(classes=-1), "expected classes and .* of at least 0 .* got -1, 0, 0"),
        (lambda: ViTConfig(representation=-1), "of at least 0 .* got 1000, -1, 0"),
        (lambda: ViTConfig.published("S/16"), "expected a model of B/16, .*; got 'S/16'"),
        (
            lambda: make_model()(torch.zeros(8, 1, 28, 28)),
            r"expected images \(B, 3, 24, 24\), got \(8, 1, 28, 28\)",
        ),
        (lambda: attention_rollout([]), r"expected maps \(B, nH, T, T\), got \[\]"),
        (
            lambda: attention_rollout([torch.ones(2, 5, 5)]),
            r"expected maps \(B, nH, T, T\), got \[\(2, 5, 5\)\]",
        ),
        (  # shapes that would broadcast
            lambda: attention_rollout([torch.ones(2, 3, 5, 5), torch.ones(1, 3, 5, 5)]),
            r"expected maps \(B, nH, T, T\), got \[\(2, 3, 5, 5\), \(1, 3, 5, 5\)\]",
        ),
        (
            lambda: from_pretrained(VisionTransformer.of, "x", "keras"),
            "expected timm, torchvision or transformers, got 'keras'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_presets_are_those_of_table_1_alone():
    assert vit_paper.PUBLISHED == ("B/16", "B/32", "L/16", "L/32", "H/14")
