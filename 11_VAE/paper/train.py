"""Train level 3: the networks of the paper, or a convolutional one, by the shared loop.

    python 11_VAE/paper/train.py
        500 tanh units, 10 latents, Adagrad, M = 100 and L = 1 as printed, on scikit-learn's digits
        made binary. Half a minute.

    python 11_VAE/paper/train.py --latents 2
        the same with two latents, and the picture of Fig. 4, manifold.png.

    python 11_VAE/paper/train.py --model conv --optimizer adam --lr 0.002
        two convolutions down and two up, Adam with a falling rate.

    python 11_VAE/paper/train.py --decoder gaussian
        the grey values themselves, with a little noise that makes them continuous.

    python 11_VAE/paper/train.py --data mnist --latents 20 --lr 0.02 --epochs 60
        MNIST as in section 5; the README has what was measured. It has to be downloaded once:
        python -m utils.data_loaders --download mnist

    python 11_VAE/paper/train.py --data mnist --hidden 100 --latents 3 --lr 0.02 --epochs 60 \\
        --importance-examples 1000 --marginal-examples 1000
        the network of Fig. 3, with the estimator of appendix D on the first 1,000 test images.

    python 11_VAE/paper/train.py --data mnist --hidden 200,200 --latents 50 --optimizer adam \\
        --lr 0.001 --batch-size 20 --epochs 30
        the network of Burda et al. (2015), who print the bound of 5,000 samples after 3,280 epochs.

test_elbo is the mean lower bound of the test images in nats, one sample of z each;
test_iw5000_elbo the importance-weighted bound with 5,000 samples, close to log p(x). Both are of
test images that were made binary once, the same for every run; with --decoder gaussian both are
bounds on the log-probability of the grey values (theory.md, section 14). test_appendix_d is
log p(x) by the paper's own estimator, which wants few latents.

In the run folder: samples.png (Fig. 5), reconstructions.png, kl.png (what each latent costs; those
near zero are not used) and, with two latents, manifold.png (Fig. 4).

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/11_VAE-paper/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

import utils  # noqa: F401  (puts the levels of all chapters on the import path)
from conv_vae_paper import ConvConfig, ConvDecoder, ConvEncoder
from estimates_numpy import active_latents
from estimates_numpy import observe as observe_once
from estimates_paper import importance_weighted, posterior_estimate
from utils.data_loaders import ArrayDataset, load_arrays
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import constant, cosine, fit, set_seed
from utils.visualization import plot_bars, plot_mosaic
from vae_paper import VAE, VAEConfig, adagrad, elbo, observe, vae_loss

GREY_LEVELS = {"digits": 17, "mnist": 256, "fashion-mnist": 256}
BURDA = {"test_iw5000_elbo": -86.76}  # Table 1 of Burda et al.: VAE, one layer, k = 1


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["digits", "mnist", "fashion-mnist"] = option("digits", "the data set")
    model: Literal["mlp", "conv"] = option("mlp", "kind of encoder and decoder")
    epochs: int = option(300, "passes over the training data")
    batch_size: int = option(100, "examples in one step (the paper's M)")
    optimizer: Literal["adagrad", "adam"] = option(
        "adagrad", "adagrad with a constant rate and a prior, or adam with half a cosine"
    )
    lr: float = option(0.02, "learning rate; the paper takes 0.01, 0.02 or 0.1 for Adagrad")
    hidden: tuple[int, ...] = option((500,), "mlp: widths of the hidden layers, e.g. 200,200")
    channels: int = option(32, "conv: channels of the first convolution")
    width: int = option(256, "conv: units between maps and latents")
    latents: int = option(10, "Z, width of the latent vector")
    decoder: Literal["bernoulli", "gaussian"] = option("bernoulli", "binary or continuous pixels")
    samples: int = option(1, "samples of z for each example (the paper's L)", above=0)
    beta: float = option(1.0, "weight of the KL divergence", least=0)
    importance_samples: int = option(5000, "K of the last estimate", above=0)
    importance_examples: int = option(0, "test images of the last estimate; 0 = all", least=0)
    marginal_examples: int = option(0, "test images for appendix D; 0 = none", least=0)

    def __post_init__(self) -> None:
        if self.model == "conv" and self.decoder == "gaussian":
            raise ValueError("expected --decoder bernoulli with --model conv, got gaussian")
        if self.marginal_examples and self.latents >= 50:
            raise ValueError(f"expected fewer than 50 latents for appendix D, got {self.latents}")
        with torch.device("meta"):
            self.network(8)  # refuses sizes that make no network

    def network(self, side: int) -> VAE:
        """The model for images of side by side pixels."""
        if self.model == "conv":
            config = ConvConfig(side, self.channels, self.width, self.latents)
            return VAE(ConvEncoder(config), ConvDecoder(config), self.latents)
        return VAE.of(VAEConfig(side**2, self.hidden, self.latents, self.decoder))

    @property
    def levels(self) -> int:
        """Grey values that are told apart; 0 where the pixels are made binary."""
        return GREY_LEVELS[self.data] if self.decoder == "gaussian" else 0

    @property
    def name(self) -> str:
        """What the results call this model."""
        kind = "conv-vae" if self.model == "conv" else "vae"
        return f"{kind}-{self.latents}" + ("-gaussian" if self.levels else "")

    @property
    def paper(self) -> dict[str, float]:
        """The published figure, if the network is the one that it is of."""
        same = self.data == "mnist" and self.model == "mlp" and self.decoder == "bernoulli"
        same &= (self.hidden, self.latents) == ((200, 200), 50) and not self.importance_examples
        return BURDA if same and self.importance_samples == 5000 and self.beta == 1 else {}


@torch.no_grad()
def bounds(model: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The bound (N,) and the KL (N, Z) of x (N, D), one sample each, the same every time."""
    noise = torch.randn(1, len(x), model.latents, generator=torch.Generator().manual_seed(1))
    found, divergences = [], []
    for part, e in zip(x.split(1000), noise.to(x).split(1000, dim=1), strict=True):
        log_p, kl = model(part, e)
        found.append(elbo(log_p, kl))
        divergences.append(kl)
    return torch.cat(found), torch.cat(divergences)


def importance_estimate(model: VAE, x: Tensor, samples: int) -> float:
    """Mean importance-weighted bound of x (N, D), a hundred examples at a time."""
    generator, found = torch.Generator().manual_seed(2), []
    for part in x.split(100):
        shape = (len(part), model.latents)
        found.append(
            importance_weighted(
                lambda noise, part=part: model.log_weights(part, noise),
                shape,
                samples,
                generator,
                like=x,
            )
        )
    return torch.cat(found).mean().item()


def marginal(model: VAE, x: Tensor) -> dict[str, float]:
    """Appendix D on x (N, D) with the settings of appendix E, and the sampler's acceptance."""
    start = model.encoder(x)[0].detach()
    generator = torch.Generator().manual_seed(3)
    log_p, accepted = posterior_estimate(lambda z: model.log_joint(x, z), start, generator)
    return {"test_appendix_d": log_p.mean().item(), "test_acceptance": accepted.mean().item()}


@torch.no_grad()
def draw(model: VAE, x: Tensor, kl: np.ndarray, side: int, seed: int, folder: Path) -> None:
    """Samples, reconstructions, what each latent costs, and the manifold of two latents."""

    def mosaic(images: Tensor, title: str, name: str, columns: int = 10) -> None:
        pictures = images.reshape(-1, side, side).cpu()
        plot_mosaic(pictures, columns=columns, title=title, path=folder / name)

    mosaic(model.sample(100, torch.Generator().manual_seed(seed)), "Samples", "samples.png")
    across = min(10, len(x))
    some = x[: min(50, len(x) // across * across)]
    rows = [part.unflatten(0, (-1, across)) for part in (some, model.reconstruct(some))]
    title = "Images above, reconstructions below"
    mosaic(torch.stack(rows, dim=1), title, "reconstructions.png", across)
    if model.latents == 2:
        # Fig. 4: equal steps of probability along each axis, top left is (low, high).
        line = torch.special.ndtri((torch.arange(20) + 0.5) / 20)
        z = torch.stack(torch.meshgrid(line.flip(0), line, indexing="ij"), dim=-1).flatten(0, 1)
        title = "The manifold of two latents (Fig. 4)"
        mosaic(model.decoder.mean_image(z.flip(1).to(x)), title, "manifold.png", columns=20)
    plot_bars(
        np.sort(kl.mean(axis=0))[::-1],
        title="KL divergence of each latent, test images",
        xlabel="latent, sorted",
        ylabel="nats",
        path=folder / "kl.png",
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    side, D = data.x_train.shape[2], math.prod(data.x_train.shape[1:])
    train_set = ArrayDataset(data.x_train.reshape(-1, D))
    # One draw for every run, whatever its seed: figures of different runs can be compared.
    x_test = torch.from_numpy(
        observe_once(data.x_test.reshape(-1, D), options.levels, np.random.default_rng(0))
    )
    # From a density to the probability of the grey values (eq. 11.45)
    offset = -D * math.log(options.levels) if options.levels else 0.0

    set_seed(options.seed)
    model = options.network(side)
    if options.optimizer == "adagrad":
        optimizer = adagrad(model, options.lr, len(train_set))
    else:
        optimizer = torch.optim.Adam(model.parameters(), options.lr)

    def loss_function(model: torch.nn.Module, batch: tuple[Tensor]) -> tuple[Tensor, dict]:
        return vae_loss(model, observe(batch[0], options.levels), options.samples, options.beta)

    def evaluate(model: VAE, device: torch.device) -> dict[str, float]:
        return {"test_elbo": bounds(model, x_test.to(device))[0].mean().item() + offset}

    with Run(options, __file__, model=options.name) as run:
        steps = options.epochs * run.steps_per_epoch(len(train_set))
        schedule = constant() if options.optimizer == "adagrad" else cosine(steps)
        fit(model, loss_function, train_set, options, run, optimizer, schedule, evaluate)
        x_test = x_test.to(next(model.parameters()).device)
        kl = bounds(model, x_test)[1].cpu().numpy()
        K, n = options.importance_samples, options.importance_examples or len(x_test)
        found = {
            f"test_iw{K}_elbo": importance_estimate(model, x_test[:n], K) + offset,
            "test_kl": float(kl.sum(axis=1).mean()),
            "test_active_latents": active_latents(kl),
        }
        notes = [f"K = {K} on the first {n} test images"] if n < len(x_test) else []
        if options.marginal_examples:
            some = x_test[: options.marginal_examples]
            found |= marginal(model, some)
            found["test_appendix_d"] += offset
            notes.append(f"appendix D on the first {len(some)}")
        run.finish(paper=options.paper, note="; ".join(notes), **found)
        draw(model, x_test, kl, side, options.seed, run.folder)
    for name, value in found.items():
        print(f"{name}: {value:.4g}")
    print("KL of each latent, sorted:", *(f"{v:.2f}" for v in np.sort(kl.mean(axis=0))[::-1]))


if __name__ == "__main__":
    run_script(main)
