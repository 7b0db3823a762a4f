"""Exercise: byte pairs by hand, the training of a tokenizer in its plainest form.

R. Sennrich, B. Haddow, A. Birch, 2016, arXiv:1508.07909, Algorithm 1, on bytes as in GPT-2. A text
is a list of ints: 0 to 255 are bytes, and the n-th merge makes the token 256 + n.
"""


def count_pairs(pieces):
    """How often each pair of neighbours occurs in all pieces together: {(left, right): count}.

    Args:
        pieces: a list of lists of ints. A pair never reaches from one piece into the next.
    """
    counts = {}
    # TODO: go through the neighbours of each piece
    raise NotImplementedError("go through the neighbours of each piece")
    return counts


def merge(tokens, pair, number):
    """Replace each occurrence of the pair, from left to right, by the token ``number``."""
    merged, i = [], 0
    while i < len(tokens):
        # TODO: two tokens become one, or one stays; either way i moves on
        raise NotImplementedError("two tokens become one, or one stays; either way i moves on")
    return merged


def train(pieces, count):
    """Learn up to ``count`` merges from pieces of text (a list of str).

    The most frequent pair is merged; of several, the one that comes first in order, (1, 2) before
    (1, 3) before (2, 0). Training ends early when no pair occurs twice.

    Returns:
        the pairs, in the order learnt.
    """
    coded = [list(piece.encode("utf-8")) for piece in pieces]
    merges = []
    for n in range(count):
        # TODO: count, choose, merge in every piece
        raise NotImplementedError("count, choose, merge in every piece")
    return merges


def encode(piece, merges):
    """The tokens of one piece of text (a str)."""
    # TODO: the merges in the order they were learnt
    raise NotImplementedError("the merges in the order they were learnt")


def decode(tokens, merges):
    """The text of some tokens; bytes that are no UTF-8 become U+FFFD."""
    # TODO: the bytes of each token, then one decoding for all
    raise NotImplementedError("the bytes of each token, then one decoding for all")
