"""Tests of level 3: equal to levels 1 and 2, to open_clip and to transformers.

A fresh model has biases of zero and a ResNet whose branches add nothing; every comparison perturbs
all parameters and running statistics first.
"""

import dataclasses
import inspect
import itertools
import json
import math
import os
import subprocess
import sys
from datetime import timedelta
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import nn

import clip_lowlevel as low
import clip_numpy as np_level
import utils
from clip_layers_numpy import contrastive_loss_backward, contrastive_loss_forward
from clip_loss_paper import contrastive_loss, paper_optimizer, sigmoid_loss
from clip_paper import CLIP, PUBLISHED, CLIPConfig, QuickGELU
from clip_resnet_paper import ModifiedResNet
from clip_retrieval_paper import class_vectors, fill, recall_at, zero_shot_probabilities
from clip_weights_paper import convert_transformers_state_dict, from_pretrained, sizes_of
from optimizers_numpy import AdamW
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_same,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, save_weights, to_torch

V, T = 40, 9
SIZES = {"embed": 10, "image_size": 16, "patch_size": 8, "vision_width": 12, "vision_layers": 2}
SIZES |= {"vision_heads": 3, "context": T, "vocabulary": V, "text_width": 8, "text_layers": 2}
SIZES |= {"text_heads": 2}
RESNET = SIZES | {"image_size": 64, "patch_size": 0, "vision_width": 4, "vision_heads": 8}
RESNET |= {"vision_layers": (1, 2, 1, 1)}
build = partial(CLIP.of, ModifiedResNet.of)


def make_tokens(B=3, seed=0, width=T):
    """Texts of 2 to T tokens: begin, words, end, zeros."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((B, width), np.int64)
    for row, length in zip(tokens, rng.permutation(np.arange(B) % (width - 2)) + 2, strict=True):
        row[:length] = rng.integers(1, V - 2, length)
        row[0], row[length - 1] = V - 2, V - 1
    return torch.from_numpy(tokens)


def make_batch(side=16, B=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, 3, side, side, generator=generator, dtype=torch.float64)
    return x, make_tokens(B, seed)


def make_model(sizes=SIZES, **changes):
    torch.manual_seed(0)
    model = build(**(sizes | changes)).double().eval()
    perturb(model)
    return model


def cosines(outputs):
    image, text, scale, *_ = outputs
    return scale * image @ text.T


def step(model, batch, loss_function=contrastive_loss):
    """Logits, loss and gradients of one pass."""
    model.zero_grad()
    outputs = model(*batch)
    loss = loss_function(*outputs)
    loss.backward()
    return Result(cosines(outputs), loss, {n: p.grad.clone() for n, p in model.named_parameters()})


# --- across levels


def numpy_pair(model, sizes=SIZES):
    config = np_level.CLIPConfig(**sizes)
    one = np_level.CLIP(config, np.random.default_rng(0))
    load_into(one.params, model)
    return one


def numpy_step(one, batch):
    image, text, scale = one.forward(batch[0].numpy(), batch[1].numpy())
    loss, cache = contrastive_loss_forward(image, text, scale)
    grads = one.backward(contrastive_loss_backward(cache))
    return Result(scale * image @ text.T, loss, grads)


def test_equals_levels_1_and_2():
    model, batch = make_model(), make_batch()
    got = step(model, batch)
    assert_parity(got, numpy_step(numpy_pair(model), batch))
    params = to_torch(model, requires_grad=True)
    image, text, scale = low.forward(params, *batch, low.CLIPConfig(**SIZES))
    loss = low.contrastive_loss(image, text, scale)
    loss.backward()
    grads = {name: p.grad for name, p in params.items()}
    assert_parity(got, Result(scale * image @ text.T, loss, grads))


def test_ten_steps_equal_level_1():
    model = make_model()
    one = numpy_pair(model)
    optimizer = paper_optimizer(model, lr=0.01, weight_decay=0.1)
    plain = {n: p for n, p in one.params.items() if p.ndim < 2}
    optimizers = [
        AdamW(
            {n: p for n, p in one.params.items() if n not in plain}, 0.01, (0.9, 0.98), 1e-6, 0.1
        ),
        AdamW(plain, 0.01, (0.9, 0.98), 1e-6, 0.0),
    ]
    losses, numpy_losses = [], []
    for i in range(10):
        batch = make_batch(B=5, seed=i)
        losses.append(step(model, batch).loss)
        optimizer.step()
        model.clamp_scale(12.0)
        result = numpy_step(one, batch)
        for numpy_optimizer in optimizers:
            numpy_optimizer.step({n: result.grads[n] for n in numpy_optimizer.params})
        one.clamp_scale(12.0)
        numpy_losses.append(result.loss)
    assert_trajectory(losses, numpy_losses)
    assert model.logit_scale.item() <= math.log(12)  # 14.3 at first


# --- against open_clip


def open_clip_model(sizes=SIZES, **more):
    torch.manual_seed(1)
    resnet = not sizes["patch_size"]
    vision = CLIPVisionCfg(
        layers=list(sizes["vision_layers"]) if resnet else sizes["vision_layers"],
        width=sizes["vision_width"],
        head_width=(32 if resnet else 1) * sizes["vision_width"] // sizes["vision_heads"],
        patch_size=sizes["patch_size"] or None,
        image_size=sizes["image_size"],
    )
    text = CLIPTextCfg(
        context_length=T,
        vocab_size=V,
        width=sizes["text_width"],
        heads=sizes["text_heads"],
        layers=sizes["text_layers"],
    )
    model = open_clip.CLIP(sizes["embed"], vision, text, quick_gelu=True, **more)
    model = model.double().eval()
    perturb(model)
    return model


def theirs(model, batch, loss_function):
    model.zero_grad()
    outputs = model(*batch)
    loss = loss_function(*outputs)
    loss.backward()
    return Result(cosines(outputs), loss, {n: p.grad.clone() for n, p in model.named_parameters()})


@pytest.mark.parametrize("sizes", [SIZES, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("train", [False, True])
def test_equals_open_clip(sizes, train):
    reference, model = open_clip_model(sizes), make_model(sizes)
    load_into(model, reference)
    reference.train(train), model.train(train)
    batch = make_batch(sizes["image_size"])
    assert_parity(step(model, batch), theirs(reference, batch, ClipLoss()))
    if sizes is RESNET:  # running statistics, which moved if train
        ours, others = dict(model.named_buffers()), dict(reference.named_buffers())
        others.pop("attn_mask", None)
        assert_same(ours, others, what="buffer")


def test_the_vectors_equal_open_clips():
    reference, model = open_clip_model(), make_model()
    load_into(model, reference)
    x, tokens = make_batch()
    assert max_difference(model.encode_image(x), reference.encode_image(x, normalize=True)) < 1e-12
    want = reference.encode_text(tokens, normalize=True)
    assert max_difference(model.encode_text(tokens), want) < 1e-12


def test_sigmoid_loss_equals_open_clips():
    reference = open_clip_model(init_logit_bias=-10.0)
    model = make_model(logit_bias=True)
    load_into(model, reference)
    batch = make_batch()
    got = step(model, batch, sigmoid_loss)
    assert_parity(got, theirs(reference, batch, SigLipLoss()))
    assert got.grads["logit_bias"].abs() > 1e-6


def exact_gelu(model):
    for block in model.transformer.resblocks:
        block.mlp["gelu"] = nn.GELU()


def swapped_norms(model):
    block = model.visual.transformer.resblocks[0]
    block.ln_1, block.ln_2 = block.ln_2, block.ln_1


def no_norm_before_the_blocks(model):
    model.visual.ln_pre = nn.Identity()


def texts_see_the_future(model):
    for block in model.transformer.resblocks:
        block.attn.causal = False


def last_token_for_the_end(model):
    def encode_text(tokens):
        x = model.token_embedding(tokens) + model.positional_embedding
        x = model.ln_final(model.transformer(x))[:, -1]
        return F.normalize(x @ model.text_projection, dim=-1)

    model.encode_text = encode_text


def scale_itself_for_its_exponential(model):
    parts = CLIP.forward
    model.forward = lambda x, t: (*parts(model, x, t)[:2], model.logit_scale)


def stride_for_the_mean(model):
    block = model.visual.layer2[0]
    block.avgpool = nn.MaxPool2d(1, 2)


def mean_for_attention(model):
    pool = model.visual.attnpool
    pool.forward = lambda x: pool.c_proj(pool.v_proj(x.mean(dim=(2, 3))))


VIT_FAULTS = [exact_gelu, swapped_norms, no_norm_before_the_blocks, texts_see_the_future]
VIT_FAULTS += [last_token_for_the_end, scale_itself_for_its_exponential]
FAULTS = [(f, SIZES) for f in VIT_FAULTS]
FAULTS += [(stride_for_the_mean, RESNET), (mean_for_attention, RESNET)]


@pytest.mark.parametrize(("fault", "sizes"), FAULTS, ids=lambda v: getattr(v, "__name__", ""))
def test_sabotage_is_noticed(fault, sizes):
    reference, model = open_clip_model(sizes), make_model(sizes)
    load_into(model, reference)
    batch = make_batch(sizes["image_size"])
    want = Result(cosines(reference(*batch)))
    assert_parity(Result(cosines(model(*batch))), want)
    fault(model)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(Result(cosines(model(*batch))), want)


@pytest.mark.parametrize(("name", "count"), [
    ("ViT-B/32", 151_277_313), ("ViT-B/16", 149_620_737), ("ViT-L/14", 427_616_513),
    ("ViT-L/14@336px", 427_944_193), ("RN50", 102_007_137), ("RN101", 119_688_033),
    ("RN50x4", 178_300_601), ("RN50x16", 290_979_217), ("RN50x64", 623_258_305),
])  # fmt: skip
def test_every_published_model_has_open_clips_names_and_shapes(name, count):
    config = open_clip.get_model_config(name.replace("/", "-").replace("@336px", "-336"))
    config.pop("custom_text", None)
    with torch.device("meta"):
        ours = build(**dataclasses.asdict(CLIPConfig.published(name)))
        reference = open_clip.CLIP(**config).state_dict()
    assert sum(p.numel() for p in ours.parameters()) == count
    state = ours.state_dict()
    assert {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in reference.items()}
    assert sizes_of(state) == {
        k: v for k, v in dataclasses.asdict(ours.config).items() if k != "activation"
    }
    assert name in PUBLISHED


def test_the_defaults_are_those_of_vit_b_32():
    assert CLIPConfig() == CLIPConfig.published("ViT-B/32")
    assert CLIPConfig.published("RN50", context=9).context == 9
    optimizer = paper_optimizer(make_model())
    assert [g["lr"] for g in optimizer.param_groups] == [5e-4, 5e-4]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.2, 0.0]


# --- against transformers


def transformers_model(eos=V - 1, act="quick_gelu"):
    text = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "vocab_size": V, "max_position_embeddings": T}
    text |= {"eos_token_id": eos, "bos_token_id": V - 2, "pad_token_id": 0}
    vision = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    vision |= {"intermediate_size": 48, "image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config=text | {"hidden_act": act, "projection_dim": 10},
        vision_config=vision | {"hidden_act": act, "projection_dim": 10},
        projection_dim=10,
        attn_implementation="sdpa",
    )
    torch.manual_seed(1)
    model = transformers.CLIPModel(config).eval()
    perturb(model)
    return model


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_equals_transformers(act):
    reference = transformers_model(act=act).double()
    model, (x, tokens) = make_model(activation=act), make_batch()
    load_into(model, convert_transformers_state_dict(reference.state_dict()))
    want = reference(input_ids=tokens, pixel_values=x, return_loss=True)
    want.loss.backward()
    grads = {n: p.grad for n, p in reference.named_parameters()}
    grads = convert_transformers_state_dict(grads)
    assert_parity(step(model, (x, tokens)), Result(want.logits_per_image, want.loss, grads))
    assert max_difference(model.encode_image(x), want.image_embeds) < 1e-12
    assert max_difference(model.encode_text(tokens), want.text_embeds) < 1e-12


@pytest.mark.parametrize("pad", [0, V - 1])
def test_padding_of_any_kind_changes_nothing(pad):
    """OpenAI pads with 0, transformers with the end of text; and a batch may be cut shorter."""
    reference = transformers_model().double()
    model, (x, tokens) = make_model(), make_batch()
    load_into(model, convert_transformers_state_dict(reference.state_dict()))
    want = step(model, (x, tokens))
    behind = torch.arange(T) > (tokens == V - 1).int().argmax(dim=1, keepdim=True)
    other = tokens.masked_fill(behind, pad)
    assert_parity(step(model, (x, other)), want)
    result = reference(input_ids=other, pixel_values=x, attention_mask=(~behind).long())
    assert max_difference(want.outputs, result.logits_per_image) < 1e-12
    one = tokens[:1, : int((tokens[0] == V - 1).int().argmax()) + 1]
    assert max_difference(model.encode_text(one), model.encode_text(tokens)[:1]) < 1e-12


def test_a_checkpoint_with_the_old_end_of_text_gives_the_same():
    """OpenAI's own configs say that the end is token 2; transformers then takes the highest."""
    tokens = make_tokens()
    ends = [transformers_model(eos).double() for eos in (2, V - 1)]
    a, b = (m.get_text_features(tokens).pooler_output for m in ends)
    assert max_difference(a, b) == 0


# --- weights by name and from folders and files


def same(model, reference):
    x, tokens = make_batch()
    want = reference(input_ids=tokens, pixel_values=x.float()).logits_per_image
    return max_difference(cosines(model(x.float(), tokens)), want) < 1e-5


def test_from_pretrained_reads_a_folder_that_transformers_wrote(tmp_path):
    reference = transformers_model(act="gelu")
    reference.save_pretrained(tmp_path)
    model = from_pretrained(build, str(tmp_path))
    assert not model.training and model.config == CLIPConfig(**SIZES, activation="gelu")
    assert same(model, reference)


def test_from_pretrained_reads_a_run_folder_finished_or_not(tmp_path):
    model = make_model(RESNET).float()
    sizes = dataclasses.asdict(model.config)
    (tmp_path / "clip.json").write_text(json.dumps(sizes))
    with pytest.raises(FileNotFoundError, match="expected clip.json and model.safetensors"):
        from_pretrained(build, str(tmp_path))
    checkpoint = tmp_path / "checkpoints" / "step-00000012"
    checkpoint.mkdir(parents=True)
    save_weights(checkpoint / "model.safetensors", model)
    (tmp_path / "config.json").write_text("{}")  # that of the run
    for place in (tmp_path, checkpoint):
        other = from_pretrained(build, str(place))
        assert other.config == model.config
        assert_same(other.state_dict(), model.state_dict(), 0)
    perturb(model)
    newer = checkpoint.with_name("step-00000020")
    newer.mkdir()
    save_weights(newer / "model.safetensors", model)
    assert_same(from_pretrained(build, str(tmp_path)).state_dict(), model.state_dict(), 0)
    perturb(model, seed=1)
    save_weights(tmp_path / "model.safetensors", model)
    assert_same(from_pretrained(build, str(tmp_path)).state_dict(), model.state_dict(), 0)


class Archive(nn.Module):
    """What OpenAI's files hold: half precision, and three numbers beside the weights."""

    def __init__(self, model):
        super().__init__()
        self.visual, self.transformer = model.visual, model.transformer
        self.token_embedding, self.ln_final = model.token_embedding, model.ln_final
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(model, name))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(7))

    def forward(self, x):
        return x


Archive.__module__ = "archive"  # TorchScript takes no name that begins with a digit


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_from_pretrained_reads_a_file_of_openais(tmp_path):
    sizes = SIZES | {"vision_width": 64, "vision_heads": 1, "text_width": 64, "text_heads": 1}
    model = make_model(sizes).half()
    torch.jit.save(torch.jit.trace(Archive(model), torch.ones(1)), str(tmp_path / "small.pt"))
    other = from_pretrained(build, str(tmp_path / "small.pt"))
    assert other.config == CLIPConfig(**sizes) and other.text_projection.dtype == torch.float32
    assert_same(other.state_dict(), model.float().state_dict(), 0)


def test_from_pretrained_by_name_without_a_network(monkeypatch):
    """The libraries' functions give models with random weights instead."""
    reference = transformers_model()
    asked = []
    monkeypatch.setattr(
        transformers.CLIPModel, "from_pretrained", lambda name: asked.append(name) or reference
    )
    assert same(from_pretrained(build, "openai/clip-vit-base-patch32"), reference)
    heads = {"vision_heads": 2, "text_width": 64, "text_heads": 1}
    other = open_clip_model(RESNET | heads)
    monkeypatch.setattr(
        open_clip, "create_model", lambda name, **options: asked.append((name, options)) or other
    )
    model = from_pretrained(build, "RN50")
    assert model.config == CLIPConfig(**(RESNET | heads))
    for name in ("RN50x4", "ViT-B/32", "ViT-L/14@336px"):
        from_pretrained(build, name)
    want = {"pretrained": "openai", "device": "cpu"}
    theirs = ("RN50", "RN50x4", "ViT-B-32", "ViT-L-14-336")
    assert asked == ["openai/clip-vit-base-patch32", *((name, want) for name in theirs)]


def test_names_of_version_4_of_transformers():
    """A part within a part, and the numbers of the places as a buffer."""
    state = transformers_model().state_dict()
    want = convert_transformers_state_dict(state)
    old = {f"{n.split('.')[0]}.{n}" if "_model." in n else n: v for n, v in state.items()}
    old |= {
        f"{kind}_model.embeddings.position_ids": torch.arange(3)[None]
        for kind in ("text", "vision")
    }
    assert "text_model.text_model.final_layer_norm.weight" in old
    assert_same(convert_transformers_state_dict(old), want, 0)


def test_other_weights_are_refused(monkeypatch):
    reference = transformers_model()
    config = reference.config
    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", lambda name: reference)
    for one in (config.text_config, config.vision_config):
        one.layer_norm_eps = 1e-6
        with pytest.raises(ValueError, match="expected layer norms with 1e-5"):
            from_pretrained(build, "somebody/clip")
        one.layer_norm_eps = 1e-5
    config.vision_config.hidden_act = "gelu"
    with pytest.raises(ValueError, match="expected one activation, got quick_gelu, gelu"):
        from_pretrained(build, "somebody/clip")
    with pytest.raises(ValueError, match="expected weights of a CLIP, got some without"):
        sizes_of({"a": torch.zeros(1)})
    other = open_clip_model(SIZES | {"vision_width": 64, "vision_heads": 1, "text_width": 64})
    other.extra = nn.Parameter(torch.zeros(1))
    monkeypatch.setattr(open_clip, "create_model", lambda name, **options: other)
    with pytest.raises(ValueError, match="expected the parts of a CLIP; ViT-B/32 differs"):
        from_pretrained(build, "ViT-B/32")


# --- losses


def vectors(B=5, E=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, B, E, generator=generator, dtype=torch.float64)
    return tuple(F.normalize(x, dim=-1).requires_grad_() for x in pair)


def test_losses_equal_open_clips():
    image, text = vectors()
    scale, bias = torch.tensor(3.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    want = ClipLoss()(image, text, scale)
    assert max_difference(contrastive_loss(image, text, scale), want) < 1e-14
    want = SigLipLoss()(image, text, scale, bias)
    assert max_difference(sigmoid_loss(image, text, scale, bias), want) < 1e-14


def test_the_loss_is_symmetric_and_one_pair_has_none():
    image, text = vectors()
    one, other = contrastive_loss(image, text, 7.0), contrastive_loss(text, image, 7.0)
    assert max_difference(one, other) < 1e-14
    assert contrastive_loss(image[:1], text[:1], 7.0) == 0
    with pytest.raises(ValueError, match=r"expected images and texts \(B, E\) alike, got \(5, 4\)"):
        contrastive_loss(image, text[:3], 7.0)


def share_of(rank, sizes, loss):
    """Loss and gradients of one process, weighted as ``fit`` weighs them, summed over all."""
    torch.manual_seed(0)
    model = build(**SIZES, logit_bias=loss == "sigmoid").double()
    start = sum(sizes[:rank])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(sizes), 3, 16, 16, generator=generator, dtype=torch.float64)
    tokens = make_tokens(sum(sizes))
    mine = slice(start, start + sizes[rank])
    function = sigmoid_loss if loss == "sigmoid" else contrastive_loss
    value = function(*model(x[mine], tokens[mine])) * sizes[rank] / sum(sizes)
    value.backward()
    found = {"loss": value.detach()} | {n: p.grad for n, p in model.named_parameters()}
    if len(sizes) > 1:
        for value in found.values():
            dist.all_reduce(value)
    return found


def join_group(file, rank):
    store = dist.FileStore(str(file), 2)
    wait = timedelta(seconds=120)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=wait)


CHILD = """
import sys
from datetime import timedelta
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

import utils
from clip_loss_paper import contrastive_loss, sigmoid_loss
from clip_paper import CLIP
from clip_resnet_paper import ModifiedResNet

build = partial(CLIP.of, ModifiedResNet.of)
"""


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    """Shares of 3 and 2, as a batch of 5 is cut; a second process has the other share."""
    losses = ("contrastive", "sigmoid")
    want = [share_of(0, [5], loss) for loss in losses]
    program = CHILD + f"V, T, SIZES = {V}, {T}, {SIZES}\n"
    program += "".join(inspect.getsource(f) for f in (make_tokens, share_of, join_group))
    program += "join_group(sys.argv[1], 1)\n"
    program += "".join(f"share_of(1, [3, 2], {loss!r})\n" for loss in losses)
    program += "dist.destroy_process_group()\n"  # or its threads may abort the process at its end
    file = tmp_path / "store"
    environment = os.environ | {"PYTHONPATH": str(utils.ROOT)}
    with subprocess.Popen([sys.executable, "-c", program, str(file)], env=environment) as child:
        try:
            join_group(file, 0)
            got = [share_of(0, [3, 2], loss) for loss in losses]
            assert child.wait(60) == 0
        finally:
            child.kill()
            if dist.is_initialized():
                dist.destroy_process_group()
    for one, two in zip(want, got, strict=True):
        assert_same(two, one)
    assert {"loss", "logit_scale", "logit_bias", "visual.proj"} <= set(got[1])


# --- what a classifier made of words, and recall, come to


def test_prompts_are_averaged_and_brought_to_length_1():
    table = {"a cat": [1.0, 0.0], "the cat": [0.0, 1.0], "a dog": [0.6, 0.8], "the dog": [0.6, 0.8]}
    asked = []

    def encode(texts):
        asked.extend(texts)
        return torch.tensor([table[text] for text in texts])

    got = class_vectors(encode, ["cat", "dog"], ["a {}", "the {}"])
    assert asked == ["a cat", "the cat", "a dog", "the dog"]
    want = torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]])
    assert max_difference(got, want) < 1e-7
    p = zero_shot_probabilities(got[1:], got, 100.0)
    assert p.shape == (1, 2) and p[0, 1] > 0.7 and float(p.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("templates", "names", "message"),
    [
        ([], ["cat"], "at least one class name and one template"),
        (["a {}"], [], "at least one class name and one template"),
        (["a photo"], ["cat"], "expected one {} in each template, got 'a photo'"),
        (["a {}", "{} or {}"], ["cat"], "expected one {} in each template, got '{} or {}'"),
    ],
)
def test_impossible_prompts(templates, names, message):
    with pytest.raises(ValueError, match=message):
        fill(templates, names)


def naive_recall(scores, positives, k):
    """Over all orders that the scores allow: how often is a right one among the first k?"""
    found = []
    for row, right in zip(scores.tolist(), positives.tolist(), strict=True):
        orders = [o for o in itertools.permutations(range(len(row)))
                  if all(row[a] >= row[b] for a, b in itertools.pairwise(o))]  # fmt: skip
        found.append(np.mean([any(right[i] for i in order[:k]) for order in orders]))
    return np.mean(found)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_recall_with_ties_and_several_right_answers(k):
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.integers(3, size=(12, 5)).astype(float))
    positives = torch.tensor(rng.random((12, 5)) < 0.4)
    positives[:, 0] |= ~positives.any(dim=1)
    got = recall_at(scores, positives, [k])[k]
    assert got == pytest.approx(naive_recall(scores, positives, k))


def test_recall_of_equal_scores_is_that_of_guessing():
    """Counting only strictly better answers would say 100 %, the diagonal alone 0 or 100 %."""
    right = torch.eye(8, dtype=torch.bool)
    assert recall_at(torch.zeros(8, 8), right, (1, 4, 8, 50)) == pytest.approx(
        {1: 1 / 8, 4: 0.5, 8: 1.0, 50: 1.0}
    )


def test_recall_with_captions_of_the_same_image():
    """Two images, two captions each: the second caption found is as good as the first."""
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.8, 0.1, 0.2, 0.7]])
    owners = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    assert recall_at(scores, owners, (1, 2)) == {1: 0.5, 2: 1.0}
    assert recall_at(scores.T, owners.T, (1, 2)) == {1: 0.5, 2: 1.0}


@pytest.mark.parametrize(
    ("scores", "positives", "ks", "message"),
    [
        (torch.zeros(2, 3), torch.ones(3, 2), (1,), r"got \(2, 3\) and \(3, 2\)"),
        (torch.zeros(0, 3), torch.ones(0, 3), (1,), "expected scores"),
        (torch.zeros(2, 2), torch.tensor([[1, 0], [0, 0]]), (1,), "got none to 1"),
        (torch.zeros(2, 2), torch.eye(2), (0,), "expected K of at least 1"),
        (torch.tensor([[math.nan]]), torch.ones(1, 1), (1,), "expected finite scores"),
    ],
)
def test_impossible_recall(scores, positives, ks, message):
    with pytest.raises(ValueError, match=message):
        recall_at(scores, positives.bool(), ks)


# --- properties


def test_a_text_does_not_see_what_comes_later():
    model, tokens = make_model(), make_tokens()
    x = model.token_embedding(tokens)
    changed = x.clone()
    changed[:, 5:] += 1.0
    a, b = model.transformer(x), model.transformer(changed)
    assert max_difference(a[:, :5], b[:, :5]) == 0 and max_difference(a[:, 5:], b[:, 5:]) > 1e-3


def test_quick_gelu_is_near_gelu():
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    difference = (QuickGELU()(x) - F.gelu(x)).abs().max()
    assert 0.02 < difference < 0.021


def test_fresh_weights_follow_the_rules_of_the_authors_program():
    torch.manual_seed(0)
    changes = {"embed": 40, "vision_width": 48, "text_width": 32, "vision_layers": 3}
    model = build(**(SIZES | changes))
    spread = {f"visual.{n}": 48**-0.5 for n in ("class_embedding", "positional_embedding", "proj")}
    spread |= {"token_embedding.weight": 0.02, "positional_embedding": 0.01}
    spread |= {"text_projection": 32**-0.5}
    for prefix, width, layers in (("visual.", 48, 3), ("", 32, 2)):
        for i in range(layers):
            name = f"{prefix}transformer.resblocks.{i}."
            spread |= {f"{name}attn.in_proj_weight": width**-0.5}
            spread |= {f"{name}attn.out_proj.weight": (2 * layers * width) ** -0.5}
            spread |= {f"{name}mlp.c_fc.weight": (2 * width) ** -0.5}
            spread |= {f"{name}mlp.c_proj.weight": (2 * layers * width) ** -0.5}
    pool = ModifiedResNet.of(CLIPConfig(**RESNET)).attnpool  # 32 * 4 channels
    tables = {f"pool.{n}": p for n, p in pool.named_parameters() if p.ndim == 2}
    spread |= dict.fromkeys(tables, 128**-0.5)
    params = dict(model.named_parameters()) | tables
    assert spread.keys() < params.keys() and len(tables) == 5
    for name, p in params.items():
        if name in spread:  # within four standard errors
            rel = 4 / (2 * p.numel()) ** 0.5
            assert p.std().item() == pytest.approx(spread[name], rel=rel), name
            assert abs(p.mean().item()) < 4 * spread[name] / p.numel() ** 0.5, name
        elif name not in ("logit_scale", "visual.conv1.weight"):  # PyTorch's own, of the kernels
            assert (p == (0 if name.endswith("bias") else 1)).all(), name


def test_initial_loss_is_near_that_of_guessing():
    torch.manual_seed(0)
    model = build(**(SIZES | {"embed": 64, "text_width": 32, "vision_width": 48}))
    x, tokens = make_batch(B=6)
    loss = contrastive_loss(*model(x.float(), tokens))
    assert abs(loss.item() - math.log(6)) < 0.8
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    sigmoid = build(**SIZES, logit_bias=True)
    assert sigmoid.logit_scale.exp().item() == pytest.approx(10) and sigmoid.logit_bias == -10


def test_a_batch_can_be_learnt_by_heart():
    torch.manual_seed(0)
    model, (x, tokens) = build(**SIZES), make_batch(B=6)
    optimizer = paper_optimizer(model, lr=0.01, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss = contrastive_loss(*model(x.float(), tokens))
        loss.backward()
        optimizer.step()
        model.clamp_scale()
    assert loss < 0.05


def test_every_parameter_gets_a_gradient():
    for sizes in (SIZES, RESNET):
        grads = step(make_model(sizes).train(), make_batch(sizes["image_size"])).grads
        # The biases of keys add the same to all scores of a query.
        dead = [n for n, g in grads.items() if not g.abs().max() > 1e-12 and "k_proj.bias" not in n]
        assert dead == []


def test_a_fresh_resnet_hides_its_branches():
    """Why running statistics and gains are perturbed: the last gain of each branch is zero."""
    torch.manual_seed(0)
    model = ModifiedResNet.of(CLIPConfig(**RESNET)).eval()
    x = torch.randn(2, 3, 64, 64)
    before = model(x)
    nn.init.normal_(model.layer2[1].conv2.weight)
    assert torch.equal(model(x), before)


def test_the_scale_is_clamped_at_100():
    model = build(**SIZES)
    nn.init.constant_(model.logit_scale, 9.0)
    model.clamp_scale()
    assert model.logit_scale.exp().item() == pytest.approx(100)
    nn.init.constant_(model.logit_scale, 1.0)
    model.clamp_scale()
    assert model.logit_scale == 1.0


def test_weight_decay_leaves_gains_biases_and_temperature_alone():
    model = build(**RESNET, logit_bias=True)
    optimizer = paper_optimizer(model, 0.1, 0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = ({names[id(p)] for p in g["params"]} for g in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0]
    assert {"logit_scale", "logit_bias", "ln_final.weight", "visual.bn1.weight"} <= plain
    assert not any(n.endswith(("bias", "ln_1.weight", "bn2.weight")) for n in decayed)
    assert {"token_embedding.weight", "visual.conv1.weight", "text_projection"} <= decayed
    assert optimizer.defaults["betas"] == (0.9, 0.98) and optimizer.defaults["eps"] == 1e-6
    assert len(decayed | plain) == len(names)


# --- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed": 0}, "expected embed of at least 1, got 0"),
        ({"text_heads": 3}, "expected a text width that 3 heads divide, got 8"),
        ({"vision_heads": 5}, "expected a vision width that 5 heads divide, got 12"),
        ({"patch_size": 5}, "expected a side that 5 divides, got 16"),
        ({"patch_size": 0}, "expected one number of blocks, of a ResNet four, got 2"),
        ({"vision_layers": (1, 2)}, r"expected one number of blocks.*got \(1, 2\)"),
        ({"activation": "relu"}, "expected activation of .*got 'relu'"),
    ],
)
def test_impossible_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        CLIPConfig(**(SIZES | changes))


def test_bad_names_images_and_tokens():
    with pytest.raises(ValueError, match="expected a model of ViT-B/32, .*got 'ViT-B'"):
        CLIPConfig.published("ViT-B")
    with pytest.raises(ValueError, match="expected a ViT; a ResNet is given as"):
        CLIP(CLIPConfig(**RESNET))
    model = make_model()
    for encoder in (model, make_model(RESNET)):
        side = encoder.config.image_size
        with pytest.raises(ValueError, match=rf"expected images \(B, 3, {side}, {side}\), got"):
            encoder.encode_image(torch.zeros(2, 3, 24, 24))
    with pytest.raises(ValueError, match=r"expected tokens \(B, T\), T at most 9, got \(1, 10\)"):
        model.encode_text(make_tokens(1, width=10))
    with pytest.raises(ValueError, match="expected the end of text, 39, in each row"):
        model.encode_text(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="expected a side that 32 divides"):
        ModifiedResNet((1, 1, 1, 1), 4, 8, 40, 10)
