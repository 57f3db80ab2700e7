"""Ridge regression from sums: numpy's least squares on the rows themselves, halves that give the whole."""

import numpy as np
import pytest
import torch

from longcompress.train.ridge import DEFAULT_RIDGE, RIDGES, Moments, choose, ranks, scaled


def rows(num, width=7, target_width=5, *, seed=0, offset=0.0):
    """x (N, C) far from zero and y (N, D) that depends on it."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(num, width)) * np.linspace(0.1, 3, width) + offset
    y = x @ random.normal(size=(width, target_width)) + random.normal(size=(num, target_width)) + 2
    return torch.from_numpy(x), torch.from_numpy(y)


def by_rows(x, y, ridge):
    """(C, D) by numpy: least squares on the centred rows, with a row of sqrt(ridge) for each column."""
    x, y = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    added = ridge * np.square(x).sum() / x.shape[1]
    x_more = np.concatenate([x, np.sqrt(added) * np.eye(x.shape[1])])
    y_more = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
    return np.linalg.lstsq(x_more, y_more, rcond=1e-10)[0]


@pytest.mark.parametrize("cut", [1, 17, 39])
@pytest.mark.parametrize(("offset", "near"), [(0.0, 1e-12), (1e4, 1e-8)])
def test_the_moments_of_parts_are_those_of_the_whole(cut, offset, near):
    x, y = rows(40, offset=offset)
    whole = Moments.of(x, y)
    zero = Moments.zero(x.shape[1], y.shape[1])
    for parts in (Moments.of(x[:cut], y[:cut]) + Moments.of(x[cut:], y[cut:]), zero + whole, whole + zero):
        for name, value in vars(whole).items():
            error = (getattr(parts, name) - value).abs().max() / value.abs().max()
            assert float(error) < near, name  # sums of squares would lose 1e-4 of what is 1e4 from zero
    centred = (x - x.mean(0)).numpy()
    np.testing.assert_allclose(whole.xx.numpy(), centred.T @ centred, rtol=1e-10)
    torch.testing.assert_close(whole.mean_y, y.mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("num", [60, 4])
def test_the_map_is_numpys_least_squares(ridge, num):
    x, y = rows(num, offset=100.0)
    got = Moments.of(x, y).solve().weight(ridge)
    np.testing.assert_allclose(got.numpy(), by_rows(x, y, ridge), rtol=1e-6, atol=1e-8)


def test_collinear_and_constant_features_are_no_directions():
    x, y = rows(50)
    x = torch.cat([x, x[:, :2] + x[:, 2:4], torch.full((50, 1), 123.0), 2 * x[:, :1] + 5], 1)
    solution = Moments.of(x, y).solve()
    assert solution.rank == np.linalg.matrix_rank(x.numpy() - x.numpy().mean(0)) == 7
    np.testing.assert_allclose(solution.weight(0.0).numpy(), by_rows(x, y, 0.0), atol=1e-8)
    alone = Moments.of(x[:1], y[:1]).solve()
    assert alone.rank == 0 and not bool(alone.weight(0.1).any())


def test_what_is_explained_is_what_the_rows_say():
    x, y = rows(50)
    more_x, more_y = rows(30, seed=0, offset=0.5)
    solution = Moments.of(x, y).solve()
    weight = solution.weight(0.1)
    for a, b in ((x, y), (more_x, more_y)):
        error = (b - y.mean(0) - (a - x.mean(0)) @ weight).square().sum()
        want = 1 - error / (b - y.mean(0)).square().sum()
        assert solution.explained(weight, Moments.of(a, b)) == pytest.approx(float(want), abs=1e-10)
    assert np.isnan(solution.explained(weight, Moments.zero(7, 5)))


def ranks_by_hand(x, y, weight, held, texts, right):
    """Place of the right row among all by cosine, the worst of equal places."""
    places = []
    for row, at in zip(held.numpy(), right.tolist(), strict=True):
        image = (row - x.numpy().mean(0)) @ weight.numpy()
        near = []
        for row_y in texts.numpy() - y.numpy().mean(0):
            near.append(image @ row_y / max(np.linalg.norm(image) * np.linalg.norm(row_y), 1e-12))
        places.append(sum(value >= near[at] - 1e-12 for value in near))
    return places


def test_ranks_are_those_by_hand_and_a_constant_image_finds_nothing():
    x, y = rows(50)
    held, texts = rows(12, seed=0)
    right = torch.arange(12).flip(0)
    solution = Moments.of(x, y).solve()
    weight = solution.weight(0.03)
    got = ranks(solution, weight, held, texts, right)
    assert got.tolist() == ranks_by_hand(x, y, weight, held, texts, right) and len(set(got.tolist())) > 3
    nothing = ranks(solution, torch.zeros_like(weight), held, texts, right)
    assert nothing.tolist() == [12] * 12


def test_the_ridge_is_the_best_on_what_was_held_out():
    # few rows and much noise: little ridge learns the noise, much ridge forgets the small directions
    random = np.random.default_rng(3)
    true = random.normal(size=(40, 12))
    noisy = torch.from_numpy(random.normal(size=(60, 40)))
    y = noisy @ torch.from_numpy(true) + 6 * torch.from_numpy(random.normal(size=(60, 12)))
    held = torch.from_numpy(random.normal(size=(30, 40)))
    texts = held @ torch.from_numpy(true)
    right = torch.arange(30)
    fit = Moments.of(noisy, y)
    weight, choice = choose(fit, fit.solve(), Moments.of(held, texts), held, texts, right)
    best_weight, scores = weight, {}
    for ridge in RIDGES:
        weight = torch.from_numpy(by_rows(noisy, y, ridge))
        place = np.array(ranks_by_hand(noisy, y, weight, held, texts, right))
        error = (texts - y.mean(0) - (held - noisy.mean(0)) @ weight).square().sum()
        explained = float(1 - error / (texts - y.mean(0)).square().sum())
        scores[ridge] = float((place <= 1).mean()), float((place <= 5).mean()), explained
    best = max(scores, key=scores.__getitem__)
    assert choice.ridge == best and 0 < best < max(RIDGES)
    np.testing.assert_allclose(best_weight.numpy(), by_rows(noisy, y, best), rtol=1e-6, atol=1e-8)
    assert (choice.top_1, choice.top_5) == pytest.approx(scores[best][:2])
    assert (
        choice.held_explained == pytest.approx(scores[best][2]) and choice.explained > choice.held_explained
    )
    _, alone = choose(fit, fit.solve(), Moments.zero(40, 12), held[:0], texts[:0], right[:0])
    assert alone.ridge == DEFAULT_RIDGE and np.isnan(alone.top_1) and np.isnan(alone.held_explained)


def test_the_layer_is_centred_and_as_long_as_it_is_asked_to_be():
    x, y = rows(50, offset=30.0)
    fit = Moments.of(x, y)
    solution = fit.solve()
    weight, bias = scaled(solution, solution.weight(0.1), fit, 26.0)
    out = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(out.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)
    assert float(out.square().sum(1).mean().sqrt()) == pytest.approx(26.0)
    cosine = torch.nn.functional.cosine_similarity(
        weight.t().flatten(), solution.weight(0.1).flatten(), dim=0
    )
    assert float(cosine) == pytest.approx(1.0)
