"""Cases of 09_GPT: steps and generation against transformers' GPT-2, level 1 against torch."""

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import gpt_lowlevel
import gpt_numpy
import gpt_paper
import gpt_sampling_paper
import gpt_training_lowlevel
from benchmarks.case import Case, Work, array_step, module_step, tensor_step
from recurrent_numpy import sequence_cross_entropy_backward, sequence_cross_entropy_forward

V, CONTEXT, D, NH, LAYERS, BATCH = 65, 64, 128, 4, 4, 12
SIZES = (V, CONTEXT, D, NH, LAYERS, 0.0)
START, WRITTEN = 8, 48


def _windows() -> tuple[np.ndarray, np.ndarray]:
    text = np.random.default_rng(0).integers(V, size=(BATCH, CONTEXT + 1))
    return text[:, :-1], text[:, 1:]


def _transformers() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=V,
        n_positions=CONTEXT,
        n_embd=D,
        n_head=NH,
        n_layer=LAYERS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config)


def _paper() -> gpt_paper.GPT:
    """Ours, with the same weights."""
    model = gpt_paper.GPT(gpt_paper.GPTConfig(*SIZES))
    state = gpt_paper.convert_transformers_state_dict(_transformers().state_dict())
    model.load_state_dict(state)
    return model


def numpy_step() -> Work:
    x, y = _windows()
    config = gpt_numpy.GPTConfig(*SIZES)
    model = gpt_numpy.GPT(config, np.random.default_rng(0), np.float32)

    def gradients() -> dict[str, np.ndarray]:
        _, cache = sequence_cross_entropy_forward(model.forward(x, train=True), y)
        return model.backward(sequence_cross_entropy_backward(cache))

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    x, y = (torch.from_numpy(a) for a in _windows())
    config = gpt_lowlevel.GPTConfig(*SIZES)
    params = gpt_lowlevel.init_params(config)

    def loss() -> torch.Tensor:
        logits = gpt_lowlevel.forward(params, x, config)
        return gpt_training_lowlevel.next_token_loss(logits, y)

    return tensor_step(params, loss)


def _module_step(model: nn.Module, logits) -> Work:
    x, y = (torch.from_numpy(a) for a in _windows())
    return module_step(model, lambda: gpt_paper.next_token_loss(logits(x), y))


def paper_step() -> Work:
    model = _paper().train()
    return _module_step(model, model)


def transformers_step() -> Work:
    model = _transformers().train()
    return _module_step(model, lambda x: model(x, use_cache=False).logits)


def _start() -> torch.Tensor:
    return torch.from_numpy(_windows()[0][:1, :START])


def paper_generation() -> Work:
    model, start = _paper().eval(), _start()
    return lambda: gpt_sampling_paper.generate(model, start, WRITTEN, temperature=0)


def uncached_generation() -> Work:
    model, start = _paper().eval(), _start()
    return lambda: gpt_sampling_paper.generate(
        model, start, WRITTEN, temperature=0, use_cache=False
    )


def transformers_generation() -> Work:
    model, start = _transformers().eval(), _start()
    mask = torch.ones_like(start)

    def work() -> torch.Tensor:
        return model.generate(
            start,
            attention_mask=mask,
            max_new_tokens=WRITTEN,
            min_new_tokens=WRITTEN,
            do_sample=False,
            pad_token_id=0,
        )

    return work


_MODEL = f"{LAYERS} layers, width {D}, {V} tokens"
_STEP = f"forward, backward and SGD, {_MODEL}, {BATCH} windows of {CONTEXT}, float32"
_WRITE = f"{WRITTEN} tokens after {START}, greedily, {_MODEL}, float32"
_GPT2 = "transformers GPT-2, same weights"
CASES = [
    Case("09 numpy step", _STEP, numpy_step, paper_step, "our torch.nn modules", 2.5),
    Case("09 lowlevel step", _STEP, lowlevel_step, paper_step, "our torch.nn modules", 2.5),
    Case("09 paper step", _STEP, paper_step, transformers_step, _GPT2, 1.0),
    # The target of 1.5 times its tokens per second is 2/3 of its time.
    Case(
        "09 generation, cached", _WRITE, paper_generation, transformers_generation, _GPT2, 2 / 3, 9
    ),
    Case(
        "09 generation, what a cache saves",
        _WRITE,
        paper_generation,
        uncached_generation,
        "ours without a cache",
        1.0,
        9,
    ),
]
