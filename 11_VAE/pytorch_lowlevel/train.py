"""Train the variational autoencoder of level 2: tensors and autograd, the update rule by hand.

    python 11_VAE/pytorch_lowlevel/train.py
        scikit-learn's digits (8x8), made binary: 64-128-10 and back. Some seconds.

    python 11_VAE/pytorch_lowlevel/train.py --data mnist --hidden 500 --latents 20 --epochs 20 \\
        --importance-examples 1000
        MNIST with the paper's sizes. It has to be downloaded once:
        python -m utils.data_loaders --download mnist

    python 11_VAE/pytorch_lowlevel/train.py --decoder gaussian
        the grey values themselves, with a little noise that makes them continuous.

Metrics and pictures are those of numpy/train.py, whose docstring explains them; the test images are
made binary by the same draw.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/11_VAE-pytorch_lowlevel/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from estimates_numpy import active_latents, observe
from utils.data_loaders import load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device
from utils.visualization import plot_bars, plot_mosaic
from vae_lowlevel import (
    Adagrad,
    Params,
    VAEConfig,
    elbo,
    forward,
    importance_weighted,
    init_params,
    mean_image,
    train_step,
)

GREY_LEVELS = {"digits": 17, "mnist": 256, "fashion-mnist": 256}


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["digits", "mnist", "fashion-mnist"] = option("digits", "the data set")
    epochs: int = option(300, "passes over the training data")
    batch_size: int = option(100, "examples in one step (the paper's M)")
    lr: float = option(0.02, "Adagrad's rate, constant; the paper takes 0.01, 0.02 or 0.1")
    hidden: tuple[int, ...] = option((128,), "widths of the hidden layers, e.g. 200,200")
    latents: int = option(10, "Z, width of the latent vector")
    decoder: Literal["bernoulli", "gaussian"] = option("bernoulli", "binary or continuous pixels")
    samples: int = option(1, "samples of z for each example (the paper's L)", above=0)
    beta: float = option(1.0, "weight of the KL divergence", least=0)
    importance_samples: int = option(5000, "K of the last estimate", above=0)
    importance_examples: int = option(0, "test images of the last estimate; 0 = all", least=0)

    def __post_init__(self) -> None:
        self.network(1)  # refuses --hidden and --latents that make no network

    def network(self, D: int) -> VAEConfig:
        """The network for images of D pixels."""
        return VAEConfig(D, self.hidden, self.latents, self.decoder)

    @property
    def levels(self) -> int:
        """Grey values that are told apart; 0 where the pixels are made binary."""
        return GREY_LEVELS[self.data] if self.decoder == "gaussian" else 0


@torch.no_grad()
def evaluate(
    params: Params, x: torch.Tensor, config: VAEConfig, offset: float
) -> tuple[float, torch.Tensor]:
    """Mean bound of x (N, D) with one sample each, the same every time; and the KL (N, Z).

    ``offset`` is added to every log-likelihood: from a density to a probability (eq. 11.45).
    """
    noise = torch.randn(1, len(x), config.latents, generator=torch.Generator().manual_seed(1))
    bounds, divergences = [], []
    for part, e in zip(x.split(1000), noise.to(x).split(1000, dim=1), strict=True):
        log_p, kl = forward(params, part, e, config)
        bounds.append(elbo(log_p, kl))
        divergences.append(kl)
    return torch.cat(bounds).mean().item() + offset, torch.cat(divergences)


def importance_estimate(
    params: Params, x: torch.Tensor, config: VAEConfig, samples: int, offset: float
) -> float:
    """Mean importance-weighted bound of x (N, D), a hundred examples at a time."""
    generator = torch.Generator().manual_seed(2)
    parts = [importance_weighted(params, p, config, samples, generator) for p in x.split(100)]
    return torch.cat(parts).mean().item() + offset


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    data = load_arrays(options.data, options.data_dir)
    images = data.x_train.reshape(len(data.x_train), -1)  # (N, 1, H, W) -> (N, D)
    # One draw for every run, whatever its seed: figures of different runs can be compared.
    x_test = observe(
        data.x_test.reshape(len(data.x_test), -1), options.levels, np.random.default_rng(0)
    )
    x_test = torch.from_numpy(x_test).to(device)
    D, H = images.shape[1], data.x_train.shape[2]
    offset = -D * math.log(options.levels) if options.levels else 0.0

    config = options.network(D)
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = Adagrad(params, options.lr)
    name = f"vae-{options.latents}" + ("-gaussian" if options.levels else "")

    with Run(options, __file__, model=name) as run:
        run.restore(params, optimizer.state)
        for _ in run.epochs():
            for index in run.batches(len(images)):
                x = torch.from_numpy(observe(images[index], options.levels, run.rng())).to(device)
                # Seed and step decide the noise, so a resumed run repeats it.
                shape = (options.samples, len(x), options.latents)
                noise = torch.randn(shape, generator=run.torch_generator()).to(x)
                loss = train_step(
                    params, optimizer, x, noise, config, options.beta, examples=len(images)
                )
                run.log(loss=loss)
            if run.epoch % 10 == 9 or run.epoch == options.epochs - 1:
                run.evaluate(test_elbo=evaluate(params, x_test, config, offset)[0])
        kl = evaluate(params, x_test, config, offset)[1].cpu().numpy()
        K, n = options.importance_samples, options.importance_examples or len(x_test)
        estimate = importance_estimate(params, x_test[:n], config, K, offset)
        run.finish(
            note=f"K = {K} on the first {n} test images" if n < len(x_test) else "",
            test_kl=kl.sum(axis=1).mean(),
            test_active_latents=active_latents(kl),
            **{f"test_iw{K}_elbo": estimate},
        )

        generator = torch.Generator().manual_seed(options.seed)
        z = torch.randn(100, options.latents, generator=generator).to(device)
        drawn = mean_image(params, z, config).reshape(-1, H, D // H)
        plot_mosaic(drawn, title="Samples: the decoder's means", path=run.folder / "samples.png")
        sizes = np.sort(kl.mean(axis=0))[::-1]
        plot_bars(
            sizes,
            title="KL divergence of each latent, test images",
            xlabel="latent, sorted",
            ylabel="nats",
            path=run.folder / "kl.png",
        )
    print(f"bound with {K} samples: {estimate:.2f} nats")
    print("KL of each latent, sorted:", " ".join(f"{size:.2f}" for size in sizes))


if __name__ == "__main__":
    run_script(main)
