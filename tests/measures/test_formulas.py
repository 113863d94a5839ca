"""Each measure against closed forms and against its equation on whole matrices."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from iceprobe.measures.cka import hsic, linear_cka
from iceprobe.measures.lidar import lidar
from iceprobe.measures.moments import Moments
from iceprobe.measures.registry import MEASURES, Undefined
from iceprobe.measures.spectrum import (
    alpha_req,
    eigenvalues,
    entropy_rank,
    participation_ratio,
    rankme,
)
from iceprobe.measures.sphere import alignment, uniformity
from tests.reference import measures as reference

RNG = np.random.default_rng(0)


def of_spectrum(spectrum: np.ndarray, n: int, mean: float = 0.0) -> np.ndarray:
    """``n`` vectors whose covariance has exactly these eigenvalues: Hadamard-like columns, rotated."""
    dim = len(spectrum)
    columns = np.linalg.qr(np.c_[np.ones(n), RNG.normal(size=(n, dim))])[0][:, 1:]  # centred
    return columns * np.sqrt(n * spectrum) @ ortho_group.rvs(dim, random_state=1) + mean


def moments(x: np.ndarray) -> Moments:
    return Moments.of([x], x.shape[1])


def test_moments_far_from_zero_keep_their_digits():
    x = RNG.normal(size=(500, 6)) * np.array([1, 1, 1, 1e-3, 1e-3, 1e-3]) + 1e6
    found = Moments.of(np.array_split(x, [7, 7, 100, 499]), 6)
    assert found.count == 500
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(x.T, bias=True), rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(found.second, x.T @ x, rtol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 48])
def test_rankme_of_equal_singular_values_is_d(dim):
    p = 1 / dim + 1e-7  # the ε that is published
    x = of_spectrum(np.full(dim, 0.3), 4 * dim + 4)
    assert rankme(moments(x).second, len(x)) == pytest.approx(
        np.exp(-dim * p * np.log(p)), rel=1e-9
    )
    assert rankme(moments(x).second, len(x)) == pytest.approx(dim, rel=1e-4)


@pytest.mark.parametrize("shape", [(200, 12), (9, 30)])
def test_rankme_is_that_of_the_singular_values(shape):
    x = RNG.normal(size=shape) * np.linspace(1, 0.01, shape[1]) + 0.5  # not centred, as published
    assert rankme(moments(x).second, len(x)) == pytest.approx(reference.rankme(x), rel=1e-6)
    centred = rankme(shape[0] * moments(x).covariance, shape[0])
    assert abs(centred - reference.rankme(x)) > 0.01


def test_participation_ratio():
    assert participation_ratio(np.full(17, 2.5)) == pytest.approx(17)
    assert participation_ratio(np.array([3.0, 1.0, 0.0])) == pytest.approx(16 / 10)
    x = of_spectrum(np.array([3.0, 1.0, 0.0]), 40, mean=5.0)
    assert participation_ratio(eigenvalues(moments(x).covariance)) == pytest.approx(1.6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
def test_alpha_of_a_power_law_is_its_exponent(alpha):
    spectrum = 7.0 * np.arange(1, 151) ** -alpha
    found = alpha_req(spectrum)
    assert found.alpha == pytest.approx(alpha, abs=1e-12)
    assert found.r2 == pytest.approx(1.0)
    assert found.last == 100
    x = of_spectrum(spectrum, 400, mean=3.0)
    assert alpha_req(eigenvalues(moments(x).covariance)).alpha == pytest.approx(alpha, abs=1e-9)


def test_alpha_is_the_weighted_fit_of_the_tail():
    x = RNG.normal(size=(300, 60)) @ RNG.normal(size=(60, 60))
    spectrum = eigenvalues(moments(x).covariance)
    np.testing.assert_allclose(spectrum, reference.covariance_eigenvalues(x), rtol=1e-9)
    found = alpha_req(spectrum)
    assert (found.alpha, found.r2) == pytest.approx(reference.power_law(spectrum, 4, 60))
    assert found.last == 60
    # The first three don't count.
    steep = spectrum.copy()
    steep[:3] *= 1000
    assert alpha_req(steep) == found


def test_alpha_ends_where_eigenvalues_are_zero():
    spectrum = np.r_[np.arange(1, 21) ** -1.0, np.zeros(30)]
    assert alpha_req(spectrum).last == 20
    assert alpha_req(spectrum).alpha == pytest.approx(1.0)
    with pytest.raises(Undefined, match="from eigenvalue 4 on needs 8 of them, and there are 6"):
        alpha_req(spectrum[:9])


def test_uniformity_by_hand():
    antipodal = np.array([[1.0, 0], [-3, 0]])
    assert uniformity(antipodal) == pytest.approx(-2 * 4)
    square = np.array([[2.0, 0], [-1, 0], [0, 5], [0, -1]])
    # Of six pairs two are antipodal, at 4, and four orthogonal, at 2.
    assert uniformity(square) == pytest.approx(np.log((2 * np.exp(-8) + 4 * np.exp(-4)) / 6))
    assert uniformity(np.ones((5, 3))) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(Undefined, match="no direction"):
        uniformity(np.array([[1.0, 0], [0, 0]]))


def test_uniformity_over_any_blocks_is_that_of_all_pairs(monkeypatch):
    x = RNG.normal(size=(101, 5)) + 0.3
    expected = reference.uniformity(x)
    for cells in (1, 500, 10_000_000):
        monkeypatch.setattr("iceprobe.measures.sphere._CELLS", cells)
        assert uniformity(x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("q", [2, 3, 5])
def test_alignment_is_that_of_all_pairs_of_views(q):
    views = RNG.normal(size=(30, q, 7))
    assert alignment([views[:11], views[11:]]) == pytest.approx(reference.alignment(views))
    same = np.repeat(views[:, :1], q, 1) * np.arange(1, q + 1)[:, None]  # of other lengths
    assert alignment([same]) == pytest.approx(0.0, abs=1e-12)
    assert alignment([np.array([[[1.0, 0], [-2, 0]]])]) == pytest.approx(4.0)


@pytest.mark.parametrize(("n", "q", "dim"), [(60, 4, 9), (12, 2, 20)])
def test_lidar_is_that_of_the_whitened_covariance(n, q, dim):
    centres = RNG.normal(size=(n, 1, dim)) * np.linspace(3, 0.1, dim)
    views = centres + RNG.normal(size=(n, q, dim)) * np.linspace(0.1, 1, dim) + 4.0
    found = lidar(np.array_split(views, [1, 5]), dim)
    # 1e-4 of it is rounding of eigenvalues that are 0 (n < D), each below ε.
    assert found == pytest.approx(reference.lidar(views), rel=1e-6)
    assert found == pytest.approx(lidar([views], dim), rel=1e-9)


def test_lidar_of_isotropic_examples_is_d():
    """Means in equal variance over 8 dimensions, and views that differ alike in all of them."""
    means = of_spectrum(np.full(8, 1.0), 40)
    offsets = 0.5 * np.r_[np.eye(8), -np.eye(8)]
    views = means[:, None] + offsets
    assert lidar([views], 8) == pytest.approx(8, rel=1e-5)
    # In a dimension whose views differ as much as its examples, nothing is told apart.
    views = views + np.array([-50.0, 50] * 8)[:, None] * np.eye(8)[0]
    assert 7 <= lidar([views], 8) < 7.1
    for same in (offsets, 0.1 + 1e-3 * offsets):
        with pytest.raises(Undefined, match="the same for all examples"):
            lidar([np.stack([same, same, same])], 8)


def compare(x: np.ndarray, y: np.ndarray, cuts=()) -> dict[str, float]:
    def of(a, b):
        return hsic(zip(np.array_split(a, cuts), np.array_split(b, cuts), strict=True))

    return linear_cka(of(x, y), of(x, x), of(y, y))


def test_cka_of_a_rotation_is_one_and_of_orthogonal_subspaces_zero():
    x = RNG.normal(size=(200, 6))
    turned = 3 * x @ ortho_group.rvs(6, random_state=2) + 9
    assert compare(x, turned) == pytest.approx({"cka": 1.0, "cka_unbiased": 1.0})
    columns = np.linalg.qr(np.c_[np.ones(200), x, RNG.normal(size=(200, 4))])[0][:, 1:]
    assert compare(columns[:, :6], columns[:, 6:])["cka"] == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize(("n", "shift"), [(50, 0.0), (7, 100.0)])
def test_cka_is_that_of_the_gram_matrices(n, shift):
    x = RNG.normal(size=(n, 5)) + shift
    y = np.c_[(x[:, :2] - shift) ** 2, RNG.normal(size=(n, 9))]
    for cuts in ((), (1, 4), (3,)):
        found = compare(x, y, cuts)
        assert found["cka"] == pytest.approx(reference.cka(x, y), rel=1e-9)
        assert found["cka_unbiased"] == pytest.approx(
            reference.unbiased_cka(x - shift, y), rel=1e-9
        )


def test_unbiased_cka_of_unrelated_vectors_is_about_zero_where_the_biased_one_is_not():
    found = [compare(RNG.normal(size=(40, 100)), RNG.normal(size=(40, 100))) for _ in range(30)]
    assert np.mean([one["cka"] for one in found]) > 0.6
    assert abs(np.mean([one["cka_unbiased"] for one in found])) < 0.03


def test_cka_of_three_examples_has_no_unbiased_value_and_of_equal_ones_none():
    x = RNG.normal(size=(3, 4))
    assert list(compare(x, x)) == ["cka"]
    with pytest.raises(Undefined, match="the same"):
        compare(np.ones((9, 2)), RNG.normal(size=(9, 2)))


def test_ranks_of_entropy():
    assert entropy_rank(np.array([1.0, 1, 0, 0])) == pytest.approx(2, rel=1e-5)


def test_the_table_says_all_of_each():
    for name in MEASURES:
        one = MEASURES[name]
        assert callable(one.load())
        assert all((one.title, one.equation, one.range, one.source, one.summary))
