"""The experiments of 1986: exclusive or, mirror symmetry, and the 8-3-8 encoder.

    python 02_MLP/paper/train_1986.py --seed 3
        Fig. 1 of the paper: 6-2-1 sigmoid units tell mirror-symmetric patterns of six bits. The
        paper needed 1,425 sweeps from its initial weights; from ours, some seeds need fewer, some
        more, and most get stuck.

    python 02_MLP/paper/train_1986.py --data xor --epsilon 0.5
    python 02_MLP/paper/train_1986.py --data encoder

One epoch is one sweep through all cases, with equation (9) after it. Prints the sweeps until every
output is on its side of one half, and what the hidden units answer to each case. A few seconds.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/02_MLP-paper/.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mlp_paper import MLP, GradientDescent1986, MLPConfig, initialise_1986, squared_error
from utils.data_loaders import load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, read_metrics, run_script

NETWORKS = {"xor": MLPConfig.xor, "symmetry": MLPConfig.symmetry, "encoder": MLPConfig.encoder}
PAPER = {"symmetry": {"sweeps_needed": 1425.0}}


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["symmetry", "xor", "encoder"] = option("symmetry", "the task")
    epochs: int = option(4000, "sweeps through all cases")
    epsilon: float = option(0.1, "learning rate of equation (9)", above=0)
    alpha: float = option(0.9, "momentum of equation (9)", least=0)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data)
    x = torch.from_numpy(data.x_train).float()
    desired = torch.from_numpy(data.y_train).float().reshape(len(x), -1)  # (N,) or (N, K) -> (N, K)

    model = MLP(NETWORKS[options.data]())
    initialise_1986(model, torch.Generator().manual_seed(options.seed))
    optimizer = GradientDescent1986(model.parameters(), options.epsilon, options.alpha)

    with Run(replace(options, batch_size=len(x)), __file__, model=options.data) as run:
        run.restore(model, optimizer)
        for _ in run.epochs():
            for _ in run.batches(len(x)):
                outputs = model(x)
                wrong = ((outputs > 0.5) != (desired > 0.5)).any(dim=1).sum()
                optimizer.zero_grad()
                error = squared_error(outputs, desired)
                error.backward()
                optimizer.step()
                run.log(loss=error, wrong_cases=wrong)
            if run.epoch % 500 == 499:
                run.evaluate(wrong_cases=wrong)
        # The error of step t was measured before it, so after t - 1 sweeps.
        right = [r["step"] - 1 for r in read_metrics(run.folder) if r.get("wrong_cases") == 0]
        result = {"sweeps_needed": right[0]} if right else {}
        run.finish(paper=PAPER.get(options.data), learnt=bool(right), **result)

    print("sweeps until all cases were right:", right[0] if right else "not learnt; try --seed")
    print("hidden units, by case:")
    with torch.no_grad():
        hidden = model.activation(model.layers[0](x))
    for case, code in zip(x[:16].int().tolist(), hidden[:16].tolist(), strict=True):
        print("  ", "".join(map(str, case)), " ".join(f"{value:.2f}" for value in code))


if __name__ == "__main__":
    run_script(main)
