"""The scores of classes: what kind they are, which are the best, and what a softmax makes of logits."""

from __future__ import annotations

import numpy as np

PROBABILITY, LOG, LOGIT, SCORE = "probability", "log-probability", "logit", "score"


def kind_of_scores(scores: np.ndarray) -> str:
    """What the scores of N×classes are, by their numbers: probabilities are not below 0 and make 1 in all."""
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        return SCORE
    slack = 5e-3  # what rounding to bfloat16 makes of it
    if (scores >= 0).all() and (abs(scores.sum(1) - 1) <= slack).all():
        return PROBABILITY
    if (scores <= 0).all() and (abs(np.exp(scores).sum(1) - 1) <= slack).all():
        return LOG
    return SCORE if (scores >= 0).all() and (scores <= 1).all() else LOGIT


def best(scores: np.ndarray, top: int) -> np.ndarray:
    """The `top` classes of each image of N×classes, best first, and of equal ones the first: N×top."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]


def softmax(scores: np.ndarray) -> np.ndarray:
    """That of N×classes, in float64."""
    exact = scores.astype(np.float64)
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
