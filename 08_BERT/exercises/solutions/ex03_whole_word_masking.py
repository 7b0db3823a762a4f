"""Solution: hide whole words, not pieces of words.

The authors' program, from 2019 on (github.com/google-research/bert, "Whole Word Masking"). If only
##able of un ##aff ##able is hidden, the rest of the word gives it away.
"""

import numpy as np

SPECIAL = ("[PAD]", "[CLS]", "[SEP]")


def word_numbers(pieces):
    """Which word each piece belongs to, counted from 0; -1 for special tokens.

    Args:
        pieces: (T,) texts, such as ["[CLS]", "un", "##aff", "##able", ".", "[SEP]"].

    Returns:
        (T,) ints, here [-1, 0, 0, 0, 1, -1].
    """
    numbers = np.full(len(pieces), -1)
    word = -1
    for t, piece in enumerate(pieces):
        # --- your code: a special token, a piece that goes on, or a new word
        if piece in SPECIAL:
            continue
        if not piece.startswith("##"):
            word += 1
        numbers[t] = word
        # --- end
    return numbers


def choose_words(numbers, order, share=0.15):
    """Choose words, in the given order, until enough tokens are chosen.

    Args:
        numbers: (T,) from ``word_numbers``. order: all word numbers, shuffled.
        share: of the tokens that belong to words; as soon as so many are chosen, or more, it ends.

    Returns:
        (T,) bool. At least one word, if there is one.
    """
    chosen = np.zeros(len(numbers), dtype=bool)
    wanted = max(1, round(share * int((numbers >= 0).sum())))
    # --- your code: word after word
    for word in order:
        if chosen.sum() >= wanted:
            break
        chosen |= numbers == word
    # --- end
    return chosen


def hide_words(tokens, numbers, chosen, fate, random_tokens, mask_id):
    """80/10/10, with one fate for each word: all its pieces are masked, or random, or kept.

    Args:
        tokens: (T,) ints. numbers, chosen: (T,) as above. random_tokens: (T,) ints.
        fate: (words,) in [0, 1), as in equation 8.8: below 0.8, below 0.9, or above.

    Returns:
        inputs (T,); ``tokens`` stay as they are.
    """
    # --- your code: the fate of each piece is that of its word
    of_piece = np.where(chosen, fate[numbers], 1.0)
    inputs = np.where(of_piece < 0.8, mask_id, tokens)
    return np.where((of_piece >= 0.8) & (of_piece < 0.9), random_tokens, inputs)
    # --- end
