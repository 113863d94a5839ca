"""Measures of vectors without labels, from their equations alone: whole matrices, no streams."""

import numpy as np
from scipy.spatial.distance import pdist


def rankme(x: np.ndarray, epsilon: float = 1e-7) -> float:
    sigma = np.linalg.svd(x, compute_uv=False)
    p = sigma / np.abs(sigma).sum() + epsilon
    return float(np.exp(-(p * np.log(p)).sum()))


def covariance_eigenvalues(x: np.ndarray) -> np.ndarray:
    sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
    return sigma**2 / len(x)


def power_law(spectrum: np.ndarray, first: int, last: int) -> tuple[float, float]:
    """α and R²: weighted least squares by the normal equations."""
    i = np.arange(first, last + 1, dtype=np.float64)
    y = np.log(spectrum[first - 1 : last])
    design = np.stack([-np.log(i), np.ones_like(i)], 1)
    weights = np.diag(1 / i)
    found = np.linalg.solve(design.T @ weights @ design, design.T @ weights @ y)
    left = ((y - design @ found) ** 2).sum()
    return float(found[0]), float(1 - left / ((y - y.mean()) ** 2).sum())


def uniformity(x: np.ndarray, t: float = 2.0) -> float:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return float(np.log(np.exp(-t * pdist(unit) ** 2).mean()))


def alignment(views: np.ndarray) -> float:
    """Of ``(n, q, D)``, pair by pair."""
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    q = views.shape[1]
    pairs = [(a, b) for a in range(q) for b in range(a)]
    return float(np.mean([((unit[:, a] - unit[:, b]) ** 2).sum(1).mean() for a, b in pairs]))


def lidar(views: np.ndarray, delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    """Of ``(n, q, D)``, with the inverse root of Σ_w as published."""
    n, q, dim = views.shape
    mu = views.mean(1)
    centre = mu.mean(0)
    between = sum(np.outer(m - centre, m - centre) for m in mu) / n
    within = sum(np.outer(e - m, e - m) for of, m in zip(views, mu, strict=True) for e in of)
    within = within / (n * q) + delta * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    found = np.abs(np.linalg.eigvalsh(root @ between @ root))
    p = found / found.sum() + epsilon
    return float(np.exp(-(p * np.log(p)).sum()))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the centred Gram matrices."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    k, ell = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    return float((k * ell).sum() / np.sqrt((k * k).sum() * (ell * ell).sum()))


def unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, with Gram matrices whose diagonals are 0."""
    n = len(x)
    one = np.ones(n)

    def hsic(k: np.ndarray, ell: np.ndarray) -> float:
        first = np.trace(k @ ell)
        second = (one @ k @ one) * (one @ ell @ one) / ((n - 1) * (n - 2))
        third = 2 / (n - 2) * (one @ k @ ell @ one)
        return float((first + second - third) / (n * (n - 3)))

    k, ell = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(ell, 0)
    return hsic(k, ell) / np.sqrt(hsic(k, k) * hsic(ell, ell))
