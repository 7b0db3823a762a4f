"""Weights of timm, torchvision and transformers for the Vision Transformer (level 3).

Paper: A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929. The names of
our weights are timm's; the other two libraries have names of their own.

Map of this file:
    convert_torchvision_state_dict, convert_transformers_state_dict    their names into ours
    from_pretrained                                                    by name, or from a folder
    sizes_of                                                           what the weights show

    model = from_pretrained(VisionTransformer.of, "vit_base_patch16_224")

Shapes: no weight changes its shape, but three (D, D) of transformers become one (3D, D).

Read before: vit_paper.py, beside this file.

Deviations from the paper: none; mind that the libraries' epsilons of the layer norm differ.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]

TORCHVISION = {
    r"class_token": "cls_token",
    r"conv_proj\.": "patch_embed.proj.",
    r"encoder\.pos_embedding": "pos_embed",
    r"encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.",
    r"encoder\.ln\.": "norm.",
    r"\.ln_": ".norm",
    r"self_attention\.in_proj_": "attn.qkv.",
    r"self_attention\.out_proj\.": "attn.proj.",
    r"\.mlp\.(0|linear_1)\.": ".mlp.fc1.",
    r"\.mlp\.(3|linear_2)\.": ".mlp.fc2.",
    r"heads\.pre_logits\.": "pre_logits.0.",
    r"heads\.head\.": "head.",
}
TRANSFORMERS = {
    r"vit\.embeddings\.cls_token": "cls_token",
    r"vit\.embeddings\.position_embeddings": "pos_embed",
    r"vit\.embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"vit\.layers\.(\d+)\.": r"blocks.\1.",
    r"vit\.layernorm\.": "norm.",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.([qkv])_proj\.": r"attn.\1.",
    r"attention\.o_proj\.": "attn.proj.",
    r"classifier\.": "head.",
}


def _renamed(state: Mapping[str, Tensor], table: Mapping[str, str]) -> State:
    found = {}
    for name, value in state.items():
        for old, new in table.items():
            name = re.sub(old, new, name)
        found[name] = value
    return found


def convert_torchvision_state_dict(state: Mapping[str, Tensor]) -> State:
    """Weights of torchvision's VisionTransformer under our names; the layouts are the same."""
    return _renamed(state, TORCHVISION)


def convert_transformers_state_dict(state: Mapping[str, Tensor]) -> State:
    """Weights of transformers' ViTForImageClassification under our names: q, k, v become qkv."""
    found = _renamed(state, TRANSFORMERS)
    for name in [n for n in found if ".attn.q." in n]:
        parts = [found.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        found[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return found


def from_pretrained(build: Callable[..., nn.Module], name: str, library: str = "timm") -> nn.Module:
    """A model with weights by name, or from a folder that the library's ``save_pretrained`` wrote.

    Args:
        build: makes the model of its sizes: ``VisionTransformer.of``; for a hybrid of timm,
            ``partial(VisionTransformer.of, HybridEmbed(...))``.
        name: such as "vit_base_patch16_224" (timm), "vit_b_16" (torchvision, names only),
            "google/vit-base-patch16-224" (transformers), or the folder (timm, transformers).

    Raises:
        ValueError: another library, or a model with parts that ours has not, or one that does
            something else with the same weights.
    """
    if library == "timm":
        from timm import create_model

        source = create_model(f"local-dir:{name}" if Path(name).is_dir() else name, pretrained=True)
        size, patch = source.patch_embed.img_size[0], source.patch_embed.feat_ratio()
        heads, eps = source.blocks[0].attn.num_heads, source.blocks[0].norm1.eps
        state = source.state_dict()
    elif library == "torchvision":
        from torchvision.models import get_model

        source = get_model(name, weights="DEFAULT")
        size, patch = source.image_size, source.patch_size
        first = source.encoder.layers[0]
        heads, eps = first.num_heads, first.ln_1.eps
        state = convert_torchvision_state_dict(source.state_dict())
    elif library == "transformers":
        from transformers import ViTForImageClassification

        source = ViTForImageClassification.from_pretrained(name)
        size, patch = source.config.image_size, source.config.patch_size
        heads, eps = source.config.num_attention_heads, source.config.layer_norm_eps
        state = convert_transformers_state_dict(source.state_dict())
    else:
        raise ValueError(f"expected timm, torchvision or transformers, got {library!r}")
    model = build(**sizes_of(state, size, patch, heads, eps))
    theirs, ours = ({n: v.shape for n, v in s.items()} for s in (state, model.state_dict()))
    different = sorted(n for n in theirs | ours if theirs.get(n) != ours.get(n))
    if different:
        named = ", ".join(different[:4]) + (", ..." if len(different) > 4 else "")
        raise ValueError(f"expected a plain Vision Transformer; {name} differs in {named}")
    model.load_state_dict(state)
    if not _alike(model.eval(), source.eval()):
        raise ValueError(
            f"expected a plain Vision Transformer; {name} has its weights and computes something "
            "else, by another activation or pooling"
        )
    return model


@torch.no_grad()
def _alike(model: nn.Module, source: nn.Module) -> bool:
    """Whether two models give the same for an image of noise: weights do not show all they do."""
    C, H = model.config.channels, model.config.image_size
    x = torch.randn(1, C, H, H, generator=torch.Generator().manual_seed(0))
    ours, theirs = model(x), source(x)
    theirs = getattr(theirs, "logits", theirs)  # transformers wraps them
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())


def sizes_of(state: State, size: int, patch: int, heads: int, eps: float) -> dict[str, Any]:
    """The fields of ``ViTConfig`` for these weights: those that show in them, and the given."""
    hidden, width = state["blocks.0.mlp.fc1.weight"].shape
    first = next(v for n, v in state.items() if n.startswith("patch_embed") and v.ndim == 4)
    return {
        "image_size": size,
        "patch_size": patch,
        "width": width,
        "layers": len({n.split(".")[1] for n in state if n.startswith("blocks.")}),
        "heads": heads,
        "hidden": hidden,
        "classes": len(state.get("head.bias", ())),
        "channels": first.shape[1],
        "pool": "cls" if "cls_token" in state else "gap",
        "representation": len(state.get("pre_logits.0.bias", ())),
        "eps": eps,
    }
