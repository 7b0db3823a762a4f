"""Train the variational autoencoder of level 1: NumPy, every gradient and the update rule by hand.

    python 11_VAE/numpy/train.py
        scikit-learn's digits (8x8), made binary: 64-128-10 and back. Some seconds.

    python 11_VAE/numpy/train.py --data mnist --hidden 500 --latents 20 --epochs 20 \\
        --importance-examples 1000
        MNIST with the paper's sizes. It has to be downloaded once:
        python -m utils.data_loaders --download mnist

    python 11_VAE/numpy/train.py --decoder gaussian
        the grey values themselves, with a little noise that makes them continuous.

test_elbo is the mean lower bound of the test images in nats, one sample of z each;
test_iw5000_elbo the importance-weighted bound with 5,000 samples, close to log p(x). Both are of
test images that were made binary once, the same for every run; with --decoder gaussian both are
bounds on the log-probability of the grey values (theory.md, section 14). At the end the script
prints what each latent costs, and draws kl.png (the same) and samples.png in the run folder.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/11_VAE-numpy/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from adagrad_numpy import Adagrad, add_prior
from estimates_numpy import active_latents, importance_weighted, observe
from utils.data_loaders import load_arrays
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from utils.visualization import plot_bars, plot_mosaic
from vae_numpy import VAE, VAEConfig

GREY_LEVELS = {"digits": 17, "mnist": 256, "fashion-mnist": 256}


@dataclass(frozen=True)
class Options(RunOptions):
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


def evaluate(model: VAE, x: np.ndarray, offset: float) -> tuple[float, np.ndarray]:
    """Mean bound of x (N, D) with one sample each, the same every time; and the KL (N, Z).

    ``offset`` is added to every log-likelihood: from a density to a probability (eq. 11.45).
    """
    noise = np.random.default_rng(1).standard_normal((1, len(x), model.config.latents))
    bounds, divergences = [], []
    for i in range(0, len(x), 1000):
        part = noise[:, i : i + 1000].astype(x.dtype)
        bounds.append(model.forward(x[i : i + 1000], part))
        divergences.append(model.kl)
    return float(np.concatenate(bounds).mean()) + offset, np.concatenate(divergences)


def importance_estimate(model: VAE, x: np.ndarray, samples: int, offset: float) -> float:
    """Mean importance-weighted bound of x (N, D), a hundred examples at a time."""
    rng = np.random.default_rng(2)
    bounds = [
        importance_weighted(model, x[i : i + 100], samples, rng) for i in range(0, len(x), 100)
    ]
    return float(np.concatenate(bounds).mean()) + offset


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    images = data.x_train.reshape(len(data.x_train), -1)  # (N, 1, H, W) -> (N, D)
    # One draw for every run, whatever its seed: figures of different runs can be compared.
    x_test = observe(
        data.x_test.reshape(len(data.x_test), -1), options.levels, np.random.default_rng(0)
    )
    D, H = images.shape[1], data.x_train.shape[2]
    offset = -D * math.log(options.levels) if options.levels else 0.0

    model = VAE(options.network(D), np.random.default_rng(options.seed), dtype=np.float32)
    optimizer = Adagrad(model.params, options.lr)
    name = f"vae-{options.latents}" + ("-gaussian" if options.levels else "")

    with Run(options, __file__, model=name) as run:
        run.restore(model.params, optimizer.state)
        for _ in run.epochs():
            for index in run.batches(len(images)):
                rng = run.rng()
                x = observe(images[index], options.levels, rng)
                noise = rng.standard_normal((options.samples, len(x), options.latents))
                bound = model.forward(x, noise.astype(x.dtype), options.beta)
                grads = model.backward(np.full(len(x), -1 / len(x), x.dtype))  # eq. 11.15
                optimizer.step(add_prior(grads, model.params, len(images)))
                run.log(loss=-bound.mean(), kl=model.kl.sum(axis=1).mean())
            if run.epoch % 10 == 9 or run.epoch == options.epochs - 1:
                run.evaluate(test_elbo=evaluate(model, x_test, offset)[0])
        _, kl = evaluate(model, x_test, offset)
        K, n = options.importance_samples, options.importance_examples or len(x_test)
        estimate = importance_estimate(model, x_test[:n], K, offset)
        run.finish(
            note=f"K = {K} on the first {n} test images" if n < len(x_test) else "",
            test_kl=kl.sum(axis=1).mean(),
            test_active_latents=active_latents(kl),
            **{f"test_iw{K}_elbo": estimate},
        )

        z = np.random.default_rng(options.seed).standard_normal((100, options.latents))
        drawn = model.mean_image(z.astype(np.float32)).reshape(-1, H, D // H)
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
