"""How well a linear probe tells domains apart: what a network keeps of the style of its images.

Li, Wang, Shi, Liu, Hou, arXiv:1603.04779, found that a linear classifier tells domains apart by batch norm statistics
almost without errors, in shallow and in deep layers.
"""

from __future__ import annotations

import numpy as np

from ..installed import needing

FOLDS = 5


def domain_probe(features: np.ndarray, domains: np.ndarray, seed: int = 0) -> float:
    """Accuracy of a logistic regression that predicts the domain from features, on samples that it has not seen.

    Features are standardised by the training samples. There are FOLDS stratified folds, or as many as the smallest
    domain has samples, if that is less. The accuracy is balanced (the mean over the domains), so that chance is
    1 / domains, however many samples each has.

    Args:
        features: (N, D), such as `Statistics.style` of images.
        domains: (N,), labels of any type.
        seed: Seed of the folds.

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: Wrong shapes, features that are not finite, fewer than two domains, or fewer than two samples of a
            domain.
        ImportError: scikit-learn is not installed.
    """
    features, domains = np.asarray(features), np.asarray(domains)
    if features.ndim != 2 or domains.shape != features.shape[:1]:
        raise ValueError(
            f'domain_probe: expected features (N, D) and domains (N,), got {features.shape} and {domains.shape}'
        )
    if not np.isfinite(features).all():
        raise ValueError('domain_probe: features that are not finite')
    known, counts = np.unique(domains, return_counts=True)
    if len(known) < 2 or counts.min() < 2:
        told = ', '.join(f'{name}: {count}' for name, count in zip(known, counts, strict=True))
        raise ValueError(f'domain_probe: expected two domains or more of two samples or more, got {told or "none"}')
    with needing('domain_probe'):
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight='balanced', max_iter=1000))
    folds = StratifiedKFold(min(FOLDS, int(counts.min())), shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, features, domains, cv=folds, scoring='balanced_accuracy').mean())
