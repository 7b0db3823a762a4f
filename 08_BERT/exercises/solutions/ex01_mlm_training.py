"""Solution: a training step of the masked language model.

Devlin et al., "BERT", 2018, arXiv:1810.04805, section 3.1. Sizes: tokens (B, T) ints, logits
(B, T, V). A label of -100 means: nothing is asked here.
"""

import torch

IGNORED = -100


def hide(tokens, chosen, fate, random_tokens, mask_id):
    """What the model reads, and what it is asked, once the dice are thrown.

    Args:
        tokens: (B, T) ints. chosen: (B, T) bool, the places that are asked for.
        fate: (B, T) in [0, 1): below 0.8 a chosen token becomes ``mask_id``, from there to below
            0.9 the random token, else it stays.
        random_tokens: (B, T) ints.

    Returns:
        inputs (B, T), labels (B, T); ``tokens`` stay as they are.
    """
    # --- your code: the inputs, by the fate of each chosen token
    inputs = torch.where(chosen & (fate < 0.8), mask_id, tokens)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), random_tokens, inputs)
    # --- end
    # --- your code: the labels
    labels = torch.where(chosen, tokens, IGNORED)
    # --- end
    return inputs, labels


def mlm_loss(logits, labels):
    """Mean cross-entropy, in nats, of the labels that are not -100; 0 if there are none."""
    # --- your code: log-probabilities of the labels that count, their sum, and what to divide by
    asked = labels != IGNORED
    log_p = logits[asked].log_softmax(dim=-1)
    of_label = log_p.gather(1, labels[asked][:, None])
    return -of_label.sum() / max(1, len(of_label))
    # --- end


def train_step(model, optimizer, inputs, mask, labels):
    """One update of a ``BertForPreTraining`` of level 3 by this loss alone; returns the loss.

    Args:
        mask: (B, T) bool, False at padding.
    """
    # --- your code: old gradients away, forward, loss, backward, step
    optimizer.zero_grad()
    logits, _ = model(inputs, None, mask)
    loss = mlm_loss(logits, labels)
    loss.backward()
    optimizer.step()
    # --- end
    return loss.item()
