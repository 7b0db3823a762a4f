"""CLIP in NumPy (level 1): two encoders that meet in one space, forward and backward.

Paper: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020, sections 2.3 to 2.5 and 3.1.

Map of this file:
    CLIPConfig
    initial_params
    CLIP             both encoders, the scale; forward and backward
    class_vectors    a classifier made of words

Its layers and losses are clip_layers_numpy.py, its tokenizer clip_tokenizer_numpy.py; learning
rate and clipping are chapter 10's.

Shapes: B pairs; C, H, W channels, height, width; P patch side, G = H/P; T tokens of a text, or
patches and the class token; D width of an encoder; nH heads; V vocabulary; E common width; K
classes, M texts.

Read before: clip_layers_numpy.py; 10_ViT/numpy/vit_numpy.py; 12_CLIP/theory.md.

Deviations from the paper: the image encoder is a ViT only (its ResNets are at level 3), and starts
by the rule of the text encoder.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import Params, layer_norm_backward, layer_norm_forward
from clip_layers_numpy import (
    end_of_text_backward,
    end_of_text_forward,
    project_backward,
    project_forward,
    transformer_backward,
    transformer_forward,
    unit_backward,
    unit_forward,
)
from recurrent_numpy import embedding_backward, embedding_forward
from transformer_layers_numpy import part, whole
from vit_layers_numpy import (
    patch_embed_backward,
    patch_embed_forward,
    pool_backward,
    pool_forward,
    prefix_and_positions_backward,
    prefix_and_positions_forward,
)

BLOCKS = "transformer.resblocks."


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


def initial_params(config: CLIPConfig, rng: np.random.Generator) -> Params:
    """Fresh weights in float64, by the rules of the authors' program; the scale is 1 / 0.07."""
    c, D, W = config, config.vision_width, config.text_width
    params: Params = {}

    def norm(name: str, width: int) -> None:
        params[f"{name}.weight"], params[f"{name}.bias"] = np.ones(width), np.zeros(width)

    def blocks(prefix: str, width: int, layers: int) -> None:
        shrunk = (2 * layers * width) ** -0.5  # what is added to the sum starts smaller
        for i in range(layers):
            name = f"{prefix}{BLOCKS}{i}."
            in_proj = rng.normal(0, width**-0.5, (3 * width, width))
            params[f"{name}attn.in_proj_weight"] = in_proj
            params[f"{name}attn.in_proj_bias"] = np.zeros(3 * width)
            for layer, shape, std in (
                ("attn.out_proj", (width, width), shrunk),
                ("mlp.c_fc", (4 * width, width), (2 * width) ** -0.5),
                ("mlp.c_proj", (width, 4 * width), shrunk),
            ):
                params[f"{name}{layer}.weight"] = rng.normal(0, std, shape)
                params[f"{name}{layer}.bias"] = np.zeros(shape[0])
            norm(f"{name}ln_1", width)
            norm(f"{name}ln_2", width)

    P, tokens = c.patch_size, (c.image_size // c.patch_size) ** 2 + 1
    params["visual.class_embedding"] = rng.normal(0, D**-0.5, D)
    params["visual.positional_embedding"] = rng.normal(0, D**-0.5, (tokens, D))
    params["visual.proj"] = rng.normal(0, D**-0.5, (D, c.embed))
    params["visual.conv1.weight"] = rng.normal(0, (3 * P * P) ** -0.5, (D, 3, P, P))
    norm("visual.ln_pre", D)
    blocks("visual.", D, c.vision_layers)
    norm("visual.ln_post", D)
    params["token_embedding.weight"] = rng.normal(0, 0.02, (c.vocabulary, W))
    params["positional_embedding"] = rng.normal(0, 0.01, (c.context, W))
    blocks("", W, c.text_layers)
    norm("ln_final", W)
    params["text_projection"] = rng.normal(0, W**-0.5, (W, c.embed))
    params["logit_scale"] = np.array(math.log(1 / 0.07))
    return params


class CLIP:
    """An image encoder, a text encoder, and how sharply they compare.

    Args:
        config: sizes. rng: source of the initial weights. dtype: of the parameters.

    Attributes:
        params: ``visual.class_embedding``, ..., ``visual.transformer.resblocks.0.ln_1.weight``,
            ..., ``token_embedding.weight``, ..., ``text_projection``, ``logit_scale`` (the
            logarithm of the scale).
    """

    def __init__(
        self,
        config: CLIPConfig,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config = config
        self.params = {n: p.astype(dtype) for n, p in initial_params(config, rng).items()}
        self._caches: dict[str, tuple] = {}

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Vectors of length 1 of images: (B, 3, H, W) -> (B, E).

        Raises:
            ValueError: the images have another shape.
        """
        H, p = self.config.image_size, part(self.params, "visual.")
        if x.ndim != 4 or x.shape[1:] != (3, H, H):
            raise ValueError(f"expected images (B, 3, {H}, {H}), got {x.shape}")
        bias = np.zeros(self.config.vision_width, x.dtype)  # the kernels have none
        x, embed = patch_embed_forward(x, p["conv1.weight"], bias)  # -> (B, G*G, D)
        cls, positions = p["class_embedding"][None, None], p["positional_embedding"][None]
        x, prefix = prefix_and_positions_forward(x, cls, positions)
        x, ln_pre = layer_norm_forward(x, p["ln_pre.weight"], p["ln_pre.bias"])  # eq. 12.4
        x, blocks = transformer_forward(x, part(p, BLOCKS), self.config.vision_heads, False)
        x, pool = pool_forward(x, "cls")  # -> (B, D)
        x, ln_post = layer_norm_forward(x, p["ln_post.weight"], p["ln_post.bias"])
        x, proj = project_forward(x, p["proj"])  # eq. 12.5: -> (B, E)
        x, unit = unit_forward(x)  # eq. 12.8
        self._caches["image"] = (embed, prefix, ln_pre, blocks, pool, ln_post, proj, unit)
        return x

    def _image_backward(self, dy: np.ndarray) -> Params:
        embed, prefix, ln_pre, blocks, pool, ln_post, proj, unit = self._caches["image"]
        g: Params = {}
        dx, g["proj"] = project_backward(unit_backward(dy, unit), proj)  # eqs. 12.20 and 12.21
        dx, g["ln_post.weight"], g["ln_post.bias"] = layer_norm_backward(dx, ln_post)  # eq. 7.43
        dx, grads = transformer_backward(pool_backward(dx, pool), blocks)  # eqs. 10.20, 12.26
        g |= whole(grads, BLOCKS)
        dx, g["ln_pre.weight"], g["ln_pre.bias"] = layer_norm_backward(dx, ln_pre)  # eq. 12.24
        dx, dcls, dpos = prefix_and_positions_backward(dx, prefix)  # eqs. 10.13 and 10.14
        assert dcls is not None
        g["class_embedding"], g["positional_embedding"] = dcls[0, 0], dpos[0]
        _, g["conv1.weight"], _ = patch_embed_backward(dx, embed)  # eq. 10.12
        return whole(g, "visual.")

    def encode_text(self, tokens: np.ndarray) -> np.ndarray:
        """Vectors of length 1 of token numbers: (B, T) ints -> (B, E).

        Raises:
            ValueError: tokens of another shape, or a text without an end.
        """
        c, p = self.config, self.params
        if tokens.ndim != 2 or tokens.shape[1] > c.context:
            raise ValueError(f"expected tokens (B, T), T at most {c.context}, got {tokens.shape}")
        x, table = embedding_forward(tokens, p["token_embedding.weight"])
        x = x + p["positional_embedding"][: tokens.shape[1]]  # eq. 12.6
        x, blocks = transformer_forward(x, part(p, BLOCKS), c.text_heads, True)
        x, ends = end_of_text_forward(x, tokens, c.vocabulary - 1)  # eq. 12.7: -> (B, D)
        x, ln_final = layer_norm_forward(x, p["ln_final.weight"], p["ln_final.bias"])
        x, proj = project_forward(x, p["text_projection"])
        x, unit = unit_forward(x)  # eq. 12.8
        self._caches["text"] = (table, blocks, ends, ln_final, proj, unit)
        return x

    def _text_backward(self, dy: np.ndarray) -> Params:
        table, blocks, ends, ln_final, proj, unit = self._caches["text"]
        g: Params = {}
        dx, g["text_projection"] = project_backward(unit_backward(dy, unit), proj)  # eq. 12.21
        dx, g["ln_final.weight"], g["ln_final.bias"] = layer_norm_backward(dx, ln_final)
        dx, grads = transformer_backward(end_of_text_backward(dx, ends), blocks)  # eq. 12.22
        g |= whole(grads, BLOCKS)
        g["positional_embedding"] = np.zeros_like(self.params["positional_embedding"])
        g["positional_embedding"][: dx.shape[1]] = dx.sum(axis=0)  # eq. 12.23
        g["token_embedding.weight"] = embedding_backward(dx, table)  # eq. 7.51
        return g

    def forward(
        self, images: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.floating]:
        """Image vectors and text vectors (B, E), and the scale: what a loss takes."""
        self._caches["scale"] = (np.exp(self.params["logit_scale"]),)
        return self.encode_image(images), self.encode_text(tokens), self._caches["scale"][0]

    def backward(self, dy: tuple[np.ndarray, np.ndarray, np.floating]) -> Params:
        """Gradients of all parameters from those of what :meth:`forward` gave."""
        if not {"image", "text", "scale"} <= set(self._caches):
            raise RuntimeError("expected forward before backward")
        dimage, dtext, dscale = dy
        g = self._image_backward(dimage) | self._text_backward(dtext)
        (scale,) = self._caches["scale"]
        g["logit_scale"] = np.asarray(dscale * scale)  # eq. 12.19
        return {name: g[name] for name in self.params}

    def clamp_scale(self, largest: float = 100.0) -> None:
        """After each step: cosines are multiplied by at most so much (section 2.5)."""
        np.minimum(self.params["logit_scale"], math.log(largest), out=self.params["logit_scale"])


def class_vectors(
    encode: Callable[[list[str]], np.ndarray], names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """One vector of length 1 for each class, from several prompts (eqs. 12.31, 12.32): (K, E).

    Args:
        encode: texts to vectors of length 1, (M, E).
        templates: such as "a photo of a {}".
    """
    prompts = [template.replace("{}", name) for name in names for template in templates]
    mean = encode(prompts).reshape(len(names), len(templates), -1).mean(axis=1)
    return unit_forward(mean)[0]
