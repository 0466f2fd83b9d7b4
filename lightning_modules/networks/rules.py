"""Rules that are fitted once to the vectors of all training images, without gradients: scikit-learn's, and two of ours.

What was fitted is held as tensors, so that a rule is a network like others: it travels in the checkpoint and answers on
any device. Everything is deterministic and runs on one thread, so that processes that fit the same images agree.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lightning_modules.common.tables import check_name
from lightning_modules.networks.source_network import Standardised

MOST_FEATURES = 512
"""Standardised vectors up to this length are a rule's features; of longer ones the scores are."""
MOST_NUMBERS = 2**28
"""Numbers in the vectors of all training images that a rule is fitted to: 2 GiB in float64."""
MOST_SEARCHED = 2**24
"""Up to as many numbers the strength of the regularisation is chosen by cross-validation."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""scikit-learn's C, the inverse of the strength, to choose from; the middle one where none is chosen."""
FOLDS = 3
_ITERATIONS = 1000
_NEGLIGIBLE = 1e-6  # deviation of a coordinate, as a share of its mean: rounding errors of float32

Vectors = NDArray[np.float64]
Labels = NDArray[np.int64]
Batches = Iterable[tuple[Tensor, Tensor]]
"""Vectors (n, d) and labels (n,) of training images, batch by batch."""


class FittedRule(Standardised, ABC):
    """Vectors (N, d) to logits over sources by a rule.

    Features for FDR and t-SNE are the standardised vectors, or the scores (N, K) where those are longer than
    `MOST_FEATURES`.

    Attributes:
        bias: Added to the scores, (K,). A parameter because Lightning and DDP want one; no optimiser moves it.
    """

    def __init__(self, dimensions: int, num_classes: int) -> None:
        super().__init__(dimensions)
        self.num_classes = num_classes
        self.num_features = dimensions if dimensions <= MOST_FEATURES else num_classes
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features (N, num_features) of vectors (N, d)."""
        seen = (vectors - self.input_mean) / self.input_std
        scores = self.scores(seen)
        return self.to_logits(scores + self.bias), seen if self.num_features == seen.shape[1] else scores

    @abstractmethod
    def scores(self, seen: Tensor) -> Tensor:
        """One number (N, K) for each source, of standardised vectors (N, d)."""

    def to_logits(self, scores: Tensor) -> Tensor:
        """Log probabilities up to a constant; the order of the sources stays."""
        return scores

    def fit(self, batches: Batches) -> None:
        """Standardise by all vectors, and fit the rule to them.

        Raises:
            ValueError: a source without images, or more numbers than `MOST_NUMBERS`.
        """
        vectors, labels = self._gather(batches)
        mean, std = vectors.mean(axis=0), vectors.std(axis=0)
        std[std <= _NEGLIGIBLE * np.abs(mean)] = 0.0  # is then left unscaled
        self.set_input_statistics((torch.from_numpy(mean), torch.from_numpy(std)))
        mean, std = (found.double().cpu().numpy() for found in (self.input_mean, self.input_std))
        with threadpool_limits(1), torch.no_grad():
            vectors -= mean  # in place: they may fill much of the memory
            vectors /= std
            self.fit_rule(vectors, labels)

    @abstractmethod
    def fit_rule(self, vectors: Vectors, labels: Labels) -> None:
        """Fit to standardised vectors (N, d) and labels (N,)."""

    def _gather(self, batches: Batches) -> tuple[Vectors, Labels]:
        vectors, labels, numbers = [], [], 0
        for seen, named in batches:
            numbers += seen.numel()
            if numbers > MOST_NUMBERS:
                raise ValueError(
                    f"found more than {MOST_NUMBERS:,} numbers in the vectors of all training images, "
                    f"{seen.shape[1]:,} in each; a rule holds them all at once: take fewer images "
                    "(data.images_per_source), or the network `linear`, which is trained in steps"
                )
            vectors.append(seen.detach().float().cpu().numpy())
            labels.append(named.cpu().numpy())
        known = np.concatenate(labels)
        if lacking := sorted(set(range(self.num_classes)) - set(known.tolist())):
            raise ValueError(f"found no training image of the sources {lacking}; a rule needs some of each")
        return np.concatenate(vectors).astype(np.float64), known.astype(np.int64)


class LinearRule(FittedRule):
    """A linear score for each source; the strength of the regularisation by cross-validation where affordable.

    `FOLDS` folds, each of `STRENGTHS`, the strongest of the best; without a search (above `MOST_SEARCHED` numbers, or
    with fewer than `FOLDS` images of a source) the one in the middle.
    """

    def __init__(self, dimensions: int, num_classes: int) -> None:
        super().__init__(dimensions, num_classes)
        self.coefficients: Tensor
        self.strength: Tensor
        self.register_buffer("coefficients", torch.zeros(num_classes, dimensions))
        self.register_buffer("strength", torch.tensor(STRENGTHS[len(STRENGTHS) // 2], dtype=torch.float64))

    def scores(self, seen: Tensor) -> Tensor:
        """See `FittedRule`; without the intercepts, which are the bias."""
        return seen @ self.coefficients.T

    @abstractmethod
    def classifier(self, strength: float) -> Any:
        """scikit-learn's."""

    @abstractmethod
    def quality(self, classifier: Any, vectors: Vectors, labels: Labels) -> float:
        """What is compared on the images of a fold, greater is better."""

    def fit_rule(self, vectors: Vectors, labels: Labels) -> None:
        """See `FittedRule`."""
        if vectors.size <= MOST_SEARCHED and np.bincount(labels).min() >= FOLDS:
            self.strength.fill_(self._search(vectors, labels))
        fitted = self.classifier(float(self.strength)).fit(vectors, labels)
        weights, intercepts = fitted.coef_, fitted.intercept_
        if len(weights) == 1:  # of two sources one score is given, for the second
            weights, intercepts = np.concatenate([-weights, weights]) / 2, np.concatenate([-intercepts, intercepts]) / 2
        self.coefficients.copy_(torch.from_numpy(weights))
        self.bias.copy_(torch.from_numpy(intercepts))

    def _search(self, vectors: Vectors, labels: Labels) -> float:
        found = np.zeros(len(STRENGTHS))
        for fitted, left in folds(labels):
            for place, strength in enumerate(STRENGTHS):
                classifier = self.classifier(strength).fit(vectors[fitted], labels[fitted])
                found[place] += self.quality(classifier, vectors[left], labels[left])
        return STRENGTHS[int(found.argmax())]


class Logistic(LinearRule):
    """Multinomial logistic regression (scikit-learn, L2 penalty); C by the log loss on the folds left out.

    Its logits are log probabilities up to a constant.
    """

    def classifier(self, strength: float) -> Any:
        """See `LinearRule`."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=strength, max_iter=_ITERATIONS)

    def quality(self, classifier: Any, vectors: Vectors, labels: Labels) -> float:
        """Mean log likelihood."""
        return float(classifier.predict_log_proba(vectors)[np.arange(len(labels)), labels].mean())


class LinearSVM(LinearRule):
    """Linear support vector machines, one source against the rest (scikit-learn's LinearSVC); C by accuracy.

    Its logits are the decision values times one number, fitted to the likelihood of images that the machine had not
    seen (of the folds; without three images of each source, of those it had): the order is the machine's, the
    probabilities are calibrated in the mean.
    """

    def __init__(self, dimensions: int, num_classes: int) -> None:
        super().__init__(dimensions, num_classes)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def classifier(self, strength: float) -> Any:
        """See `LinearRule`."""
        from sklearn.svm import LinearSVC

        return LinearSVC(C=strength, max_iter=10 * _ITERATIONS, random_state=0)

    def quality(self, classifier: Any, vectors: Vectors, labels: Labels) -> float:
        """Accuracy."""
        return float((classifier.predict(vectors) == labels).mean())

    def to_logits(self, scores: Tensor) -> Tensor:
        """Decision values times `scale`."""
        return scores * self.scale

    def fit_rule(self, vectors: Vectors, labels: Labels) -> None:
        """See `FittedRule`."""
        super().fit_rule(vectors, labels)
        if np.bincount(labels).min() < FOLDS:
            parts = [(np.arange(len(labels)), np.arange(len(labels)))]
        else:
            parts = folds(labels)
        decided, known = [], []
        for fitted, left in parts:
            values = self.classifier(float(self.strength)).fit(vectors[fitted], labels[fitted])
            values = values.decision_function(vectors[left])
            decided.append(np.stack([-values, values], axis=1) / 2 if values.ndim == 1 else values)
            known.append(labels[left])
        self.scale.fill_(likeliest_scale(np.concatenate(decided), np.concatenate(known)))


class NearestNeighbours(FittedRule):
    """The 5 nearest training images vote, by Euclidean distance of standardised vectors (Dzanic et al. 2020).

    The most votes win, of equal ones the first source. Scores are the logarithms of smoothed shares of the votes,
    ``(votes + 1 / K) / (5 + 1)``.
    """

    NEIGHBOURS: ClassVar[int] = 5

    def __init__(self, dimensions: int, num_classes: int) -> None:
        super().__init__(dimensions, num_classes)
        self.known: Tensor
        self.known_labels: Tensor
        self.register_buffer("known", torch.zeros(0, dimensions))
        self.register_buffer("known_labels", torch.zeros(0, dtype=torch.int64))

    def scores(self, seen: Tensor) -> Tensor:
        """See the class."""
        if not len(self.known):
            raise RuntimeError("the rule is not fitted yet; call fit() first")
        exact = "donot_use_mm_for_euclid_dist"  # the product of matrices cannot tell near ones apart
        distances = torch.cdist(seen.double(), self.known.double(), compute_mode=exact)
        count = min(self.NEIGHBOURS, len(self.known))
        nearest = self.known_labels[distances.topk(count, largest=False).indices]  # (N, 5)
        votes = nn.functional.one_hot(nearest, self.num_classes).sum(dim=1)
        return ((votes + 1 / self.num_classes) / (count + 1)).log()

    def fit_rule(self, vectors: Vectors, labels: Labels) -> None:
        """Keep the vectors."""
        self.known = torch.from_numpy(vectors).to(self.known)
        self.known_labels = torch.from_numpy(labels).to(self.known_labels)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in ("known", "known_labels"):  # as many as the checkpoint holds
            if (saved := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *others)


class Correlation(FittedRule):
    """The source with whose mean vector an image's vector correlates most (Marra et al. 2019).

    Vectors are noise residuals; their mean over the training images of a source is its fingerprint. Scores, and always
    the features, are the K normalised correlations (each vector less its own mean, of length 1). Logits are these times
    the root of d: in units of the spread of a correlation by chance. They are not calibrated.
    """

    def __init__(self, dimensions: int, num_classes: int) -> None:
        super().__init__(dimensions, num_classes)
        self.num_features = num_classes
        self.fingerprints: Tensor
        self.register_buffer("fingerprints", torch.zeros(num_classes, dimensions))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and correlations (N, K) of vectors (N, d)."""
        scores = self.scores(vectors)
        return self.to_logits(scores + self.bias), scores

    def scores(self, seen: Tensor) -> Tensor:
        """See the class."""
        correlations: Tensor = _unit(seen) @ _unit(self.fingerprints).T
        return correlations

    def to_logits(self, scores: Tensor) -> Tensor:
        """Correlations in units of their spread by chance."""
        return scores * math.sqrt(self.fingerprints.shape[1])

    def fit(self, batches: Batches) -> None:
        """Mean vectors, batch by batch: there may be any number of training images."""
        shape, device = self.fingerprints.shape, self.fingerprints.device
        sums = torch.zeros(shape, dtype=torch.float64, device=device)
        counts = torch.zeros(self.num_classes, dtype=torch.int64, device=device)
        for seen, labels in batches:
            member = nn.functional.one_hot(labels.to(device), self.num_classes)
            sums += member.double().T @ seen.to(device).double()
            counts += member.sum(dim=0)
        if lacking := (counts == 0).nonzero()[:, 0].tolist():
            raise ValueError(f"found no training image of the sources {lacking}; a rule needs some of each")
        self.fingerprints.copy_(sums / counts[:, None])

    def fit_rule(self, vectors: Vectors, labels: Labels) -> None:
        """Fit to vectors that are there at once."""
        self.fit([(torch.from_numpy(vectors), torch.from_numpy(labels))])


def _unit(vectors: Tensor) -> Tensor:
    centred = vectors - vectors.mean(dim=1, keepdim=True)
    return nn.functional.normalize(centred, dim=1)


def folds(labels: Labels) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places of the images that are fitted, and of those left out, in each of `FOLDS` folds that hold all sources."""
    from sklearn.model_selection import StratifiedKFold

    return list(StratifiedKFold(FOLDS).split(labels, labels))


def likeliest_scale(decided: Vectors, labels: Labels) -> float:
    """The factor on scores (N, K) at which their softmax gives the labels (N,) the greatest likelihood, 1e-3 to 1e3."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(exponent: float) -> float:
        return -float(log_softmax(decided * 10**exponent, axis=1)[np.arange(len(labels)), labels].mean())

    return float(10 ** minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x)


RULES: dict[str, Callable[[int, int], FittedRule]] = {
    "logistic": Logistic,
    "svm": LinearSVM,
    "knn": NearestNeighbours,
    "correlation": Correlation,
}
"""Rules by name; a new one is a class and a line here, and its name in `source_network.RULE_NAMES`."""


def build_rule(name: str, dimensions: int, num_classes: int) -> FittedRule:
    """The rule of that name, not fitted yet."""
    return RULES[check_name("rule", name, RULES)](dimensions, num_classes)
