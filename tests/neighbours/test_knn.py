"""k-NN against scikit-learn, against plain sorting, and at its edges."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from iceprobe.neighbours import classify, nearest, settings
from iceprobe.neighbours import search as search_module

TILES = [(512, 8192), (7, 13), (1, 1), (1000, 50)]


def blobs(n: int, classes: int, seed: int, dtype=torch.float64, dim: int = 16):
    """Points ``(n, dim)`` around one centre a class, overlapping, and their classes ``(n,)``."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99)).double()
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    noise = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return (centres[labels] + 2 * noise).to(dtype), labels


@pytest.mark.parametrize("temperature", [0.07, 0.2])
@pytest.mark.parametrize("k", [1, 5, 20, 200])
def test_classes_are_those_of_scikit_learn(k, temperature):
    bank, bank_labels = blobs(600, 7, seed=0)
    queries, _ = blobs(301, 7, seed=1)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    )
    expected = reference.fit(bank.numpy(), bank_labels.numpy()).predict(queries.numpy())

    similarity, index = nearest(queries, bank, 200)
    found = classify(similarity, bank_labels[index], 7, (k, temperature))[:, 0]

    np.testing.assert_array_equal(found.numpy(), expected)
    distance, neighbours = reference.kneighbors(queries.numpy())
    np.testing.assert_array_equal(index[:, :k].numpy(), neighbours)
    np.testing.assert_allclose(similarity[:, :k].numpy(), 1 - distance, rtol=0, atol=1e-13)


@pytest.mark.parametrize("tiles", TILES)
def test_ties_go_to_the_lower_row_whatever_the_tiles(monkeypatch, tiles):
    monkeypatch.setattr(search_module, "QUERIES", tiles[0])
    monkeypatch.setattr(search_module, "BANK", tiles[1])
    # Rows of a few distinct axes: exact products, and many exact ties at every rank.
    bank = torch.eye(4, dtype=torch.float64)[torch.arange(101) * 7 % 4]
    queries = torch.tensor([[3.0, 2, 1, 0], [1, 1, 1, 1], [0, 0, 0, 5]], dtype=torch.float64)
    unit = queries / queries.norm(dim=1, keepdim=True)
    expected = (unit @ bank.T).sort(dim=1, descending=True, stable=True)

    similarity, index = nearest(queries, bank, 30)

    torch.testing.assert_close(similarity, expected.values[:, :30], rtol=0, atol=1e-15)
    assert index.equal(expected.indices[:, :30])


def test_float32_agrees_with_float64_to_rounding():
    bank, _ = blobs(500, 5, seed=0)
    queries, _ = blobs(100, 5, seed=1)
    exact, _ = nearest(queries, bank, 10)
    rounded, _ = nearest(queries.float(), bank.float(), 10)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=1e-6)


def test_half_precision_features_are_compared_in_float32():
    bank, _ = blobs(50, 5, seed=0, dtype=torch.float16)
    similarity, _ = nearest(bank, bank, 1)
    torch.testing.assert_close(similarity[:, 0], torch.ones(50).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("common", [0.0, 120.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_vectors_that_point_one_way_are_distinguished_as_in_float64(dtype, common):
    """Cosines of 0.9997, as the class tokens of a masked autoencoder have (`common` = 120)."""
    direction = torch.randn(192, generator=torch.Generator().manual_seed(5)).double()
    bank, labels = blobs(2000, 10, seed=0, dim=192)
    queries, _ = blobs(400, 10, seed=1, dim=192)
    bank, queries = ((rows + common * direction).to(dtype) for rows in (bank, queries))
    reference = KNeighborsClassifier(
        50, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    )
    reference.fit(bank.double().numpy(), labels.numpy())
    distance, _ = reference.kneighbors(queries.double().numpy())

    similarity, index = nearest(queries, bank, 50)
    found = classify(similarity, labels[index], 10, (50, 0.07))[:, 0]

    np.testing.assert_allclose(1 - similarity.numpy(), distance, rtol=1e-5 if common else 1e-6)
    expected = reference.predict(queries.double().numpy())
    assert (found.numpy() != expected).sum() == 0


def test_a_vector_of_zeros_is_similar_to_nothing():
    similarity, _ = nearest(torch.zeros(1, 4), torch.eye(4), 2)
    assert similarity.tolist() == [[0.0, 0.0]]


def test_k_beyond_the_bank_takes_all_of_it():
    bank, labels = blobs(9, 3, seed=0)
    similarity, index = nearest(bank, bank, 200)
    assert index.shape == (9, 9)
    assert settings(9) == [(k, t) for k in (5, 9) for t in (0.07, 0.1, 0.2)]
    assert settings(3) == [(3, t) for t in (0.07, 0.1, 0.2)]
    assert classify(similarity, labels[index], 3, (9, 0.07)).shape == (9, 1)


def test_top_classes_are_ordered_and_nobody_guesses_without_a_vote():
    similarity = torch.tensor([[0.9, 0.8, 0.8, 0.1]])
    labels = torch.tensor([[4, 2, 1, 0]])
    # Votes: class 4 most, 1 and 2 equal (the lower first); class 0 is beyond k = 3.
    assert classify(similarity, labels, 6, (3, 0.1), top=5).tolist() == [[4, 1, 2, -1, -1]]


def test_two_weak_neighbours_outvote_one_strong_only_when_hot():
    similarity = torch.tensor([[0.9, 0.8, 0.8]], dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1]])
    # exp(0.1 / T) against 2: the border is T = 0.1 / ln 2 = 0.144.
    assert classify(similarity, labels, 2, (3, 0.1)).item() == 0
    assert classify(similarity, labels, 2, (3, 0.2)).item() == 1


def test_progress_ends_at_the_number_of_queries(monkeypatch):
    monkeypatch.setattr(search_module, "QUERIES", 4)
    seen = []
    nearest(torch.eye(10), torch.eye(10), 1, progress=lambda *at: seen.append(at))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_a_query_compared_with_half_of_the_bank_is_half_done(monkeypatch):
    monkeypatch.setattr(search_module, "BANK", 5)
    seen = []
    nearest(torch.eye(10)[:4], torch.eye(10), 1, progress=lambda *at: seen.append(at))
    assert seen == [(2, 4), (4, 4)]


@pytest.mark.parametrize("length", [1e-6, 1e6])
def test_the_length_of_a_query_changes_nothing(length):
    bank, _ = blobs(50, 5, seed=0)
    queries, _ = blobs(3, 5, seed=1)
    similarity, index = nearest(queries, bank, 7)
    scaled, same = nearest(queries * length, bank, 7)
    assert same.equal(index)
    torch.testing.assert_close(scaled, similarity, rtol=0, atol=1e-15)
