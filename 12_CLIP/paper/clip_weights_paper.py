"""Published weights for CLIP (level 3): OpenAI's, transformers', and those of our own runs.

Paper: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020. Our names are those of OpenAI's program, which open_clip kept; transformers
has its own.

Map of this file:
    convert_transformers_state_dict    its names into ours
    sizes_of                           fields of ``CLIPConfig`` that show in the weights
    from_pretrained                    by name, or from a folder or a file

    build = partial(CLIP.of, ModifiedResNet.of)
    model = from_pretrained(build, "ViT-B/32")

Shapes: three (D, D) of transformers become one (3D, D); its projections (E, D) become (D, E).

Read before: clip_paper.py, beside this file.

Deviations from the paper: none.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]

TRANSFORMERS = {
    # Version 4 had text_model.text_model and vision_model.vision_model in some of its classes.
    r"^(text|vision)_model\.\1_model\.": r"\1_model.",
    r"^text_model\.embeddings\.token_embedding\.": "token_embedding.",
    r"^text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"^text_model\.encoder\.layers\.": "transformer.resblocks.",
    r"^text_model\.final_layer_norm\.": "ln_final.",
    r"^vision_model\.embeddings\.class_embedding": "visual.class_embedding",
    r"^vision_model\.embeddings\.patch_embedding\.": "visual.conv1.",
    r"^vision_model\.embeddings\.position_embedding\.weight": "visual.positional_embedding",
    r"^vision_model\.pre_layrnorm\.": "visual.ln_pre.",
    r"^vision_model\.encoder\.layers\.": "visual.transformer.resblocks.",
    r"^vision_model\.post_layernorm\.": "visual.ln_post.",
    r"^visual_projection\.weight": "visual.proj",
    r"^text_projection\.weight": "text_projection",
    r"\.self_attn\.": ".attn.",
    r"\.layer_norm([12])\.": r".ln_\1.",
    r"\.mlp\.fc1\.": ".mlp.c_fc.",
    r"\.mlp\.fc2\.": ".mlp.c_proj.",
}


def convert_transformers_state_dict(state: Mapping[str, Tensor]) -> State:
    """Weights of transformers' CLIPModel under our names: q, k, v in one, projections turned."""
    found = {}
    for name, value in state.items():
        if name.endswith("position_ids"):  # a buffer of version 4
            continue
        for old, new in TRANSFORMERS.items():
            name = re.sub(old, new, name)
        found[name] = value.T if name in ("visual.proj", "text_projection") else value
    for name in [n for n in found if ".attn.q_proj." in n]:
        parts = [found.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        found[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return found


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of ``CLIPConfig`` for these weights; heads are 64 wide, as in all of OpenAI's.

    Raises:
        ValueError: weights of something else.
    """
    lacking = {"token_embedding.weight", "text_projection", "visual.conv1.weight"} - set(state)
    if lacking:
        raise ValueError(f"expected weights of a CLIP, got some without {sorted(lacking)}")

    def blocks(prefix: str) -> int:
        return len({n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)})

    vocabulary, text_width = state["token_embedding.weight"].shape
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        vision = {"vision_layers": blocks("visual.transformer.resblocks.")}
        vision |= {"image_size": grid * patch, "patch_size": patch, "vision_width": width}
        vision["vision_heads"] = width // 64
    else:
        width = len(state["visual.conv3.weight"])
        grid = round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        layers = tuple(blocks(f"visual.layer{i}.") for i in (1, 2, 3, 4))
        vision = {"vision_layers": layers, "image_size": 32 * grid, "patch_size": 0}
        vision |= {"vision_width": width, "vision_heads": 32 * width // 64}
    return vision | {
        "embed": state["text_projection"].shape[1],
        "context": len(state["positional_embedding"]),
        "vocabulary": vocabulary,
        "text_width": text_width,
        "text_layers": blocks("transformer.resblocks."),
        "text_heads": text_width // 64,
        "logit_bias": "logit_bias" in state,
    }


def _transformers_sizes(config: Any) -> dict[str, Any]:
    """What does not show in the weights: heads and activation."""
    text, vision = config.text_config, config.vision_config
    if {text.layer_norm_eps, vision.layer_norm_eps} != {1e-5}:
        raise ValueError(f"expected layer norms with 1e-5, got {vision.layer_norm_eps}")
    if text.hidden_act != vision.hidden_act:
        raise ValueError(f"expected one activation, got {text.hidden_act}, {vision.hidden_act}")
    heads = {"text_heads": text.num_attention_heads, "vision_heads": vision.num_attention_heads}
    return heads | {"activation": text.hidden_act}


def from_pretrained(build: Callable[..., nn.Module], name: str) -> nn.Module:
    """A model in eval mode with weights by name, or from a folder or a file on this machine.

    Args:
        build: makes the model of its sizes: ``partial(CLIP.of, ModifiedResNet.of)``.
        name: one of

            - a run folder of 12_CLIP/paper/train.py, or a checkpoint in it;
            - a folder that transformers' ``CLIPModel.save_pretrained`` wrote;
            - a ``.pt`` file of OpenAI's;
            - OpenAI's name, such as "ViT-B/32" or "RN50" (open_clip fetches it);
            - a name on the Hugging Face hub, such as "openai/clip-vit-base-patch32".

    Raises:
        ValueError: no such name, or weights of something else. FileNotFoundError: a folder without
            weights.
    """
    path = Path(name)
    if (path.is_dir() and not (path / "config.json").is_file()) or (path / "clip.json").is_file():
        from safetensors.torch import load_file

        sizes, file = _own_files(path)
        state = load_file(str(file))
    elif path.is_file():
        # TorchScript, as OpenAI published it; this reader runs no Python code of the file.
        state = {n: v.float() for n, v in torch.jit.load(name, "cpu").state_dict().items()}
        for number in ("input_resolution", "context_length", "vocab_size"):
            state.pop(number, None)
        sizes = sizes_of(state)
    elif path.is_dir() or (name.count("/") == 1 and not name.startswith(("ViT", "RN"))):
        from transformers import CLIPModel

        source = CLIPModel.from_pretrained(name)
        state = convert_transformers_state_dict(source.state_dict())
        sizes = sizes_of(state) | _transformers_sizes(source.config)
    else:
        from open_clip import create_model, list_pretrained_tags_by_model

        theirs = name.replace("/", "-").replace("@336px", "-336")
        if "openai" not in list_pretrained_tags_by_model(theirs):
            raise ValueError(
                "expected a run folder, a folder of transformers, a .pt file, or a name such as "
                f"ViT-B/32; found no {name}"
            )
        state = create_model(theirs, pretrained="openai", device="cpu").state_dict()
        sizes = sizes_of(state)
    model = build(**sizes)
    different = sorted(set(state) ^ set(model.state_dict()))
    if different:
        raise ValueError(f"expected the parts of a CLIP; {name} differs in {different}")
    model.load_state_dict(state)
    return model.eval()


def _own_files(folder: Path) -> tuple[dict[str, Any], Path]:
    """Sizes and weights of a run, finished or not; ``folder`` may be a checkpoint within it."""
    places = [p for p in (folder, *folder.resolve().parents[:2]) if (p / "clip.json").is_file()]
    files = [folder / "model.safetensors"]
    files += sorted(folder.glob("checkpoints/*/model.safetensors"), reverse=True)
    found = next((file for file in files if file.is_file()), None)
    if not places or found is None:
        raise FileNotFoundError(
            f"expected clip.json and model.safetensors of a run in {folder}, or config.json and "
            "weights of transformers"
        )
    sizes = json.loads((places[0] / "clip.json").read_text(encoding="utf-8"))
    if isinstance(sizes["vision_layers"], list):
        sizes["vision_layers"] = tuple(sizes["vision_layers"])
    return sizes, found
