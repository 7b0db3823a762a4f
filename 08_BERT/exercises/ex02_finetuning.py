"""Exercise: fine-tune with a learning rate for each layer, and with layers that stay as they are.

Howard, Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018,
arXiv:1801.06146, section 3.2 (discriminative fine-tuning); Devlin et al., "BERT", section A.2 (no
weight decay of biases and norms).

The model is a ``BertForSequenceClassification`` of level 3. Names of its parameters:
``bert.embeddings...``, ``bert.encoder.layer.<i>...``, ``bert.pooler...``, ``classifier...``.
"""


def depth(name, layers):
    """How far from the input a parameter is: embeddings 0, layer i is i + 1, the rest layers + 1.

    Args:
        name: of the parameter. layers: L.
    """
    # TODO: take the name apart
    raise NotImplementedError("take the name apart")


def parameter_groups(model, lr, factor, weight_decay):
    """A group for each parameter, as ``torch.optim.AdamW`` takes them.

    What is on top has the rate ``lr``, everything below ``factor`` times the rate of what is
    directly above it. Biases and layer norms have no weight decay.

    Returns:
        [{"params": [p], "lr": ..., "weight_decay": ...}, ...] in the order of
        ``model.named_parameters()``.
    """
    layers = model.bert.config.layers
    groups = []
    for name, p in model.named_parameters():
        # TODO: the rate and the decay of this parameter
        raise NotImplementedError("the rate and the decay of this parameter")
        groups.append({"params": [p], "lr": rate, "weight_decay": decay})
    return groups


def freeze(model, count):
    """Keep the embeddings and the first ``count`` layers as they are: no gradients for them."""
    layers = model.bert.config.layers
    for name, p in model.named_parameters():
        # TODO: one line
        raise NotImplementedError("one line")
