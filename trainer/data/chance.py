"""Keyed chance: a random choice depends on what it is for, never on what was drawn before it."""

import hashlib

import numpy as np


def key_of(*parts: str | int) -> int:
    """Returns 128 bits that depend on every part and its place; equal in every process and on every
    machine.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = str(part).encode("utf-8", "surrogatepass")
        # the length before each part: ("ab", "c") and ("a", "bc") are different keys
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int, name: str, position: int, purpose: str) -> np.random.Generator:
    """Returns the generator of one choice about one sample.

    seed: the run's. name: the clip's. position: the sample's place in the stream of all draws.
    purpose: what is chosen ("crop", "noise", ...), so that two choices about a sample are
    independent. Philox keyed by BLAKE2b of all four.
    """
    return np.random.Generator(np.random.Philox(key=key_of(seed, name, position, purpose)))


def share_of(name: str) -> float:
    """Returns a number in [0, 1) that depends on the name alone: a split by it survives added and
    removed clips.
    """
    return (key_of(name, "share") >> 75) / 2**53
