"""CLIP from tensors (level 2): both encoders, the losses, nothing but dicts of parameters.

Paper: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020, sections 2.3 to 2.5; the sigmoid loss: X. Zhai et al., "Sigmoid Loss for
Language Image Pre-Training", 2023, arXiv:2303.15343.

Map of this file:
    CLIPConfig      sizes
    init_params     a dict of leaf tensors
    patches, layer_norm, attention, block    the parts
    encode_image, encode_text, forward       the model
    contrastive_loss, sigmoid_loss, clamp_scale

The update rule and the learning rate are clip_training_lowlevel.py.

Shapes: B pairs; C, H, W channels, height, width; P patch side, G = H/P; T tokens of a text, or
patches and the class token; D width of an encoder; nH heads; V vocabulary; E common width.

Read before: 12_CLIP/numpy/clip_numpy.py, which writes out what autograd does here.

Deviations from the paper: as at level 1; the image encoder is a ViT only.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both encoders.

    Args:
        embed: E. image_size: H = W. patch_size: P. vision_width, vision_layers, vision_heads: of
            the image encoder. context: T at most. vocabulary: V; the last token ends a text.
        text_width, text_layers, text_heads: of the text encoder.
    """

    embed: int = 64
    image_size: int = 32
    patch_size: int = 8
    vision_width: int = 64
    vision_layers: int = 3
    vision_heads: int = 4
    context: int = 24
    vocabulary: int = 600
    text_width: int = 64
    text_layers: int = 2
    text_heads: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"expected a patch size that divides {self.image_size}, got {self.patch_size}"
            )
        for kind in ("vision", "text"):
            width, heads = getattr(self, f"{kind}_width"), getattr(self, f"{kind}_heads")
            if width % heads:
                raise ValueError(f"expected a {kind} width that {heads} heads divide, got {width}")


def init_params(
    config: CLIPConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves, by the rules of the authors' program.

    The numbers are drawn on the CPU, so that a seed gives the same network on every device.
    """
    c, D, W = config, config.vision_width, config.text_width
    params: Params = {}

    def normal(name: str, *shape: int, std: float) -> None:
        params[name] = std * torch.randn(shape, generator=generator)

    def norm(name: str, width: int) -> None:
        params[f"{name}.weight"], params[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    def blocks(prefix: str, width: int, layers: int) -> None:
        shrunk = (2 * layers * width) ** -0.5  # what is added to the sum starts smaller
        for i in range(layers):
            name = f"{prefix}transformer.resblocks.{i}."
            normal(f"{name}attn.in_proj_weight", 3 * width, width, std=width**-0.5)
            params[f"{name}attn.in_proj_bias"] = torch.zeros(3 * width)
            for layer, M, N, std in (
                ("attn.out_proj", width, width, shrunk),
                ("mlp.c_fc", 4 * width, width, (2 * width) ** -0.5),
                ("mlp.c_proj", width, 4 * width, shrunk),
            ):
                normal(f"{name}{layer}.weight", M, N, std=std)
                params[f"{name}{layer}.bias"] = torch.zeros(M)
            norm(f"{name}ln_1", width)
            norm(f"{name}ln_2", width)

    P, tokens, std = c.patch_size, (c.image_size // c.patch_size) ** 2 + 1, D**-0.5
    normal("visual.class_embedding", D, std=std)
    normal("visual.positional_embedding", tokens, D, std=std)
    normal("visual.proj", D, c.embed, std=std)
    normal("visual.conv1.weight", D, 3, P, P, std=(3 * P * P) ** -0.5)
    norm("visual.ln_pre", D)
    blocks("visual.", D, c.vision_layers)
    norm("visual.ln_post", D)
    normal("token_embedding.weight", c.vocabulary, W, std=0.02)
    normal("positional_embedding", c.context, W, std=0.01)
    blocks("", W, c.text_layers)
    norm("ln_final", W)
    normal("text_projection", W, c.embed, std=W**-0.5)
    params["logit_scale"] = torch.tensor(math.log(1 / 0.07))
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


# --- the parts


def patches(x: Tensor, P: int) -> Tensor:
    """Cut images into patches, row by row: (B, C, H, W) -> (B, G*G, C*P*P)."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // P, P, W // P, P)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)  # (B, G, G, C, P, P) -> ...


def linear(x: Tensor, name: str, params: Params) -> Tensor:
    """(..., D) -> (..., M)."""
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def layer_norm(x: Tensor, name: str, params: Params, eps: float = 1e-5) -> Tensor:
    """Every vector to mean 0 and variance 1, then scaled and shifted: (..., D)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    var = centred.square().mean(dim=-1, keepdim=True)
    return params[f"{name}.weight"] * centred / torch.sqrt(var + eps) + params[f"{name}.bias"]


def quick_gelu(x: Tensor) -> Tensor:
    """A cheap stand-in for GELU, elementwise."""
    return x * torch.sigmoid(1.702 * x)


def attention(x: Tensor, name: str, params: Params, heads: int, causal: bool) -> Tensor:
    """Self-attention of x (B, T, D); ``causal`` hides what comes later."""
    B, T, D = x.shape
    qkv = x @ params[f"{name}in_proj_weight"].T + params[f"{name}in_proj_bias"]
    qkv = qkv.view(B, T, 3, heads, D // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, T, 3, nH, Dh) -> 3 times (B, nH, T, Dh)
    scores = q @ k.mT / math.sqrt(D // heads)
    if causal:
        later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    y = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # (B, nH, T, Dh) -> (B, T, D)
    return linear(y, f"{name}out_proj", params)


def block(x: Tensor, name: str, params: Params, heads: int, causal: bool) -> Tensor:
    """x plus attention, plus MLP, each of the normalised x: (B, T, D)."""
    h = layer_norm(x, f"{name}ln_1", params)
    x = x + attention(h, f"{name}attn.", params, heads, causal)
    h = quick_gelu(linear(layer_norm(x, f"{name}ln_2", params), f"{name}mlp.c_fc", params))
    return x + linear(h, f"{name}mlp.c_proj", params)


# --- the model


def unit(x: Tensor) -> Tensor:
    """The same directions, length 1: (B, E)."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def encode_image(params: Params, x: Tensor, config: CLIPConfig) -> Tensor:
    """Vectors of length 1 of images: (B, 3, H, W) -> (B, E).

    Raises:
        ValueError: the images have another shape.
    """
    H, name = config.image_size, "visual."
    if x.ndim != 4 or x.shape[1:] != (3, H, H):
        raise ValueError(f"expected images (B, 3, {H}, {H}), got {tuple(x.shape)}")
    kernels = params["visual.conv1.weight"].flatten(1)  # (D, 3, P, P) -> (D, 3*P*P)
    x = patches(x, config.patch_size) @ kernels.T  # -> (B, G*G, D)
    x = torch.cat([params["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = layer_norm(x + params["visual.positional_embedding"], "visual.ln_pre", params)
    for i in range(config.vision_layers):
        x = block(x, f"{name}transformer.resblocks.{i}.", params, config.vision_heads, False)
    x = layer_norm(x[:, 0], "visual.ln_post", params)  # (B, T, D) -> (B, D)
    return unit(x @ params["visual.proj"])


def encode_text(params: Params, tokens: Tensor, config: CLIPConfig) -> Tensor:
    """Vectors of length 1 of token numbers, read off at the first end of text: (B, T) -> (B, E).

    Raises:
        ValueError: tokens of another shape, or a text without an end.
    """
    T, end = config.context, config.vocabulary - 1
    if tokens.ndim != 2 or tokens.shape[1] > T:
        raise ValueError(f"expected tokens (B, T), T at most {T}, got {tuple(tokens.shape)}")
    ends = tokens == end
    if not ends.any(dim=1).all():
        raise ValueError(f"expected the end of text, {end}, in each row")
    x = params["token_embedding.weight"][tokens]  # (B, T) -> (B, T, D)
    x = x + params["positional_embedding"][: tokens.shape[1]]
    for i in range(config.text_layers):
        x = block(x, f"transformer.resblocks.{i}.", params, config.text_heads, True)
    x = x[torch.arange(len(x)), ends.int().argmax(dim=1)]  # (B, T, D) -> (B, D)
    return unit(layer_norm(x, "ln_final", params) @ params["text_projection"])


def forward(
    params: Params, images: Tensor, tokens: Tensor, config: CLIPConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Image vectors and text vectors (B, E), and the scale of the cosines."""
    image, text = encode_image(params, images, config), encode_text(params, tokens, config)
    return image, text, params["logit_scale"].exp()


# --- losses


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Mean of both cross-entropies of the scaled cosines; row i belongs to row i."""
    logits = scale * image @ text.T  # (B, B)
    right = logits.diagonal()
    return ((logits.logsumexp(dim=1) - right) + (logits.logsumexp(dim=0) - right)).mean() / 2


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Every pair on its own: sum over the texts, mean over the images."""
    logits = scale * image @ text.T + bias
    signs = 2 * torch.eye(len(image), dtype=logits.dtype, device=logits.device) - 1
    return F.softplus(-signs * logits).sum() / len(image)


@torch.no_grad()
def clamp_scale(params: Params, largest: float = 100.0) -> None:
    """After each step: cosines are multiplied by at most so much."""
    params["logit_scale"].clamp_(max=math.log(largest))
