"""Statistics against scipy, definitions written another way, and simulations whose truth is known."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from src.statistics import Scores, holm, mean_interval, over_seeds, paired_difference, rank_stability, seeds_p


def ids(n: int) -> list[str]:
    return [f"image{i:03}" for i in range(n)]


def scored(values: np.ndarray) -> Scores:
    """Of one seed (images,) or several (seeds, images)."""
    return Scores(ids(values.shape[-1]), np.atleast_2d(values))


def beta(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return rng.beta(20 * mean, 20 * (1 - mean))


def dice_pair(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Skewed Dice (images,) of two variants on images that are hard or easy for both; the first is 0.04 better."""
    quality = rng.beta(8, 2, n)  # mean 0.8, and a closes a fifth of what is missing to 1
    return beta(rng, quality + 0.2 * (1 - quality)), beta(rng, quality)


def skewed_pair(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A gain that is never negative and exponential (skewness 2), 0.04 in the mean."""
    base = rng.uniform(0.3, 0.6, n)
    return base + rng.exponential(0.04, n), base


def test_the_interval_of_a_mean_is_scipys_but_for_the_correction_of_small_samples() -> None:
    values = np.random.default_rng(0).beta(8, 2, 400)
    found = mean_interval(values)
    scipys = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert found.n == 400 and found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(scipys), abs=2e-3)
    few = mean_interval(values[:10])  # wider than the percentiles, as wide as Student's t
    t = stats.t.interval(0.95, 9, loc=values[:10].mean(), scale=stats.sem(values[:10]))
    assert few.high - few.low == pytest.approx(t[1] - t[0], rel=0.1)
    for wrong in ([0.5], [0.5, np.nan], [[0.5, 0.6]]):
        with pytest.raises(ValueError, match="one per image"):
            mean_interval(wrong)


def test_over_seeds_by_hand() -> None:
    summary = over_seeds([0.80, 0.82, 0.87])
    assert (summary.mean, summary.std, summary.n) == pytest.approx((0.83, (0.0026 / 2) ** 0.5, 3))


def test_one_seed_has_no_deviation() -> None:
    summary = over_seeds([0.8])
    assert summary.mean == 0.8 and np.isnan(summary.std) and summary.n == 1


@pytest.mark.parametrize("values", [[], 0.8, [[0.8, 0.9]]])
def test_over_seeds_wants_one_value_per_seed(values: object) -> None:
    with pytest.raises(ValueError, match=r"need one per seed \(seeds,\)"):
        over_seeds(values)


def test_difference_agrees_with_scipy() -> None:
    a, b = dice_pair(np.random.default_rng(1), 60)
    result = paired_difference(scored(a), scored(b), resamples=50_000)
    level = 2 * stats.norm.cdf(np.sqrt(60 / 59) * stats.t.ppf(0.975, 59)) - 1
    reference = stats.bootstrap(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis),
        paired=True,
        n_resamples=50_000,
        confidence_level=level,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert (result.mean, result.n, result.n_equal) == (pytest.approx((a - b).mean()), 60, 0)
    assert (result.low, result.high) == pytest.approx(reference, abs=3e-4)  # of a width of 0.045
    assert result.p == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_seeds_are_averaged_first_and_may_differ_in_number() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((3, 20)), rng.random((5, 20))
    result = paired_difference(scored(a), scored(b))
    assert result == paired_difference(scored(a.mean(0)), scored(b.mean(0)))
    assert result.n == 20
    assert result == paired_difference(scored(np.tile(a, (4, 1))), scored(b))  # copies of seeds are no evidence


def test_the_other_way_round_changes_only_the_sign() -> None:
    a, b = (scored(values) for values in dice_pair(np.random.default_rng(3), 40))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (back.mean, back.low, back.high, back.p) == pytest.approx((-there.mean, -there.high, -there.low, there.p))


def test_the_seed_decides() -> None:
    a, b = (scored(values) for values in dice_pair(np.random.default_rng(4), 40))
    assert paired_difference(a, b) == paired_difference(a, b, seed=0) != paired_difference(a, b, seed=1)
    first, again, other = (rank_stability([a, b], higher_is_better=True, resamples=100, seed=s) for s in (5, 5, 6))
    assert first.tau == again.tau != other.tau and (first.frequency == again.frequency).all()


def test_a_variant_against_itself() -> None:
    a = scored(np.random.default_rng(5).random(30))
    result = paired_difference(a, a)
    assert (result.mean, result.low, result.high, result.p, result.n_equal) == (0, 0, 0, 1, 30)


def test_wilcoxon_with_equal_images_by_enumeration() -> None:
    differences = np.array([0, 0, 0.1, 0.1, -0.2, 0.3, 0.4, 0.5])  # ranks by size, equals first: 3.5 3.5 5 6 7 8
    ranks = np.array([3.5, 3.5, 5, 6, 7, 8])
    signs = np.array(np.meshgrid(*[[0, 1]] * 6)).reshape(6, -1)
    sums = ranks @ signs
    expected = 2 * (sums >= ranks.sum() - 5).mean()
    base = np.full(8, 0.3)  # 0.3 + 0.1 - 0.3 is not 0.1 in binary: ties must survive
    result = paired_difference(scored(base + differences), scored(base))
    assert result.p == pytest.approx(expected) and result.n_equal == 2


@pytest.mark.parametrize(
    ("pair", "n"),
    [
        pytest.param(dice_pair, 17, marks=pytest.mark.slow),
        (dice_pair, 60),
        pytest.param(dice_pair, 200, marks=pytest.mark.slow),
        pytest.param(skewed_pair, 60, marks=pytest.mark.slow),
    ],
)
def test_the_interval_covers_the_true_difference(pair: Callable, n: int) -> None:
    rng, repetitions, inside = np.random.default_rng(n), 2000, 0
    for repetition in range(repetitions):
        a, b = pair(rng, n)
        result = paired_difference(scored(a), scored(b), resamples=999, seed=repetition)
        inside += result.low <= 0.04 <= result.high
    assert inside / repetitions == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("n", "decimals"), [(17, 9), pytest.param(60, 1, marks=pytest.mark.slow)], ids=["exact", "ties-and-equals"]
)
def test_false_alarms_in_a_table_are_rare(n: int, decimals: int) -> None:
    rng, tables, raw, corrected = np.random.default_rng(6), 1000, 0, 0
    for _ in range(tables):
        quality = rng.beta(8, 2, n)
        baseline, *others = (scored(np.round(beta(rng, quality), decimals)) for _ in range(6))
        p = [paired_difference(other, baseline, resamples=1).p for other in others]
        raw += min(p) <= 0.05
        corrected += holm(p).min() <= 0.05
    assert corrected / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5
    assert raw / tables > 0.1  # five tests, uncorrected: the simulation can tell


def test_equal_methods_whose_seeds_differ_are_told_apart_by_images_and_not_by_seeds() -> None:
    rng, tables, over_images, over_the_seeds = np.random.default_rng(7), 1000, 0, 0
    for _ in range(tables):
        images = rng.normal(0.6, 0.2, 100)
        noise = rng.normal(0, 0.05, (2, 3, 100)) + rng.normal(0, 0.01, (2, 3, 1))
        a, b = (scored(images + of) for of in noise)
        over_images += paired_difference(a, b, resamples=1).p <= 0.05
        over_the_seeds += seeds_p(a, b) <= 0.05
    assert over_images / tables > 0.25  # which is why the other test stands beside it
    assert over_the_seeds / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5


def test_seeds_p_by_hand() -> None:
    a, b = np.array([[0.8, 0.6], [0.82, 0.62], [0.84, 0.64]]), np.array([[0.7, 0.7], [0.72, 0.72]])
    variances = 0.0004 / 3 + 0.0002 / 2  # of the mean over seeds: 0.70 0.72 0.74, and 0.70 0.72
    freedom = variances**2 / ((0.0004 / 3) ** 2 / 2 + (0.0002 / 2) ** 2 / 1)
    expected = 2 * stats.t.sf(0.01 / variances**0.5, freedom)
    assert seeds_p(scored(a), scored(b)) == pytest.approx(expected) == pytest.approx(seeds_p(scored(b), scored(a)))


def test_one_seed_or_seeds_that_do_not_differ_tell_nothing() -> None:
    several, single = scored(np.array([[0.8, 0.6], [0.9, 0.6]])), scored(np.array([0.8, 0.6]))
    assert np.isnan(seeds_p(several, single)) and np.isnan(seeds_p(single, several))
    same = scored(np.array([[0.8, 0.6], [0.6, 0.8]]))
    assert np.isnan(seeds_p(same, same)) and seeds_p(several, several) == pytest.approx(1)


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and none below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


def test_holm_is_the_closure_of_bonferroni() -> None:
    """Adjusted p of i = largest Bonferroni p of all sets of hypotheses with i in it (Marcus, Peritz, Gabriel 1976)."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        p = np.round(rng.random(6) ** 3, 2)  # small ones, some tied
        sets = [list(s) for size in range(1, 7) for s in combinations(range(6), size)]
        closure = [max(min(1, len(s) * p[s].min()) for s in sets if i in s) for i in range(6)]
        assert holm(p) == pytest.approx(closure)


def test_holm_keeps_shape_order_and_tests_not_done() -> None:
    table = np.array([[np.nan, 0.01, 0.04], [0.03, np.nan, 0.005]])
    before = table.copy()
    adjusted = holm(table)
    np.testing.assert_allclose(adjusted, [[np.nan, 0.03, 0.06], [0.06, np.nan, 0.02]])
    np.testing.assert_array_equal(table, before)
    np.testing.assert_array_equal(holm(table.T), adjusted.T)
    assert np.isnan(holm([np.nan])).all()


@pytest.mark.parametrize("p", [[-0.1, 0.5], [0.5, 1.1]])
def test_holm_refuses_what_is_no_p_value(p: list[float]) -> None:
    with pytest.raises(ValueError, match=r"got p-values from .* need 0 to 1"):
        holm(p)


def test_a_variant_best_everywhere_is_always_first() -> None:
    base = np.random.default_rng(8).random(20)
    variants = [scored(base), scored(base + 0.2), scored(base + 0.1)]
    up, down = (rank_stability(variants, higher_is_better=higher, resamples=50) for higher in (True, False))
    assert up.frequency.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]] and up.tau == 1
    assert down.frequency.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]] and down.tau == 1


def test_ranks_against_scipy_resample_by_resample() -> None:
    rng, n = np.random.default_rng(9), 25
    values = rng.random((4, n)) + np.array([[0.0], [0.1], [0.05], [0.1]])
    result = rank_stability([scored(row) for row in values], higher_is_better=True, resamples=300, seed=1)
    frequency, taus = np.zeros((4, 4)), []
    for drawn in np.random.default_rng(1).integers(n, size=(300, n)):
        means = values[:, drawn].mean(1)
        frequency[range(4), stats.rankdata(-means).astype(int) - 1] += 1 / 300
        taus.append(stats.kendalltau(means, values.mean(1)).statistic)
    np.testing.assert_allclose(result.frequency, frequency)
    assert result.tau == pytest.approx(np.mean(taus))
    assert 0 < result.tau < 1  # neither trivial


def test_the_chance_of_rank_one_is_the_share_of_images_that_decide() -> None:
    """One image of 20 on which a is far worse: a is first where it is not drawn, with probability (19/20)^20."""
    a, b = np.full(20, 0.6), np.full(20, 0.5)
    a[3] = -10
    result = rank_stability([scored(a), scored(b)], higher_is_better=True)
    assert result.frequency[0, 0] == pytest.approx(0.95**20, abs=0.02)


def test_the_order_of_variants_does_not_matter() -> None:
    variants = [scored(row) for row in np.random.default_rng(10).random((4, 30))]
    order = [2, 0, 3, 1]
    one = rank_stability(variants, higher_is_better=True, resamples=200)
    two = rank_stability([variants[i] for i in order], higher_is_better=True, resamples=200)
    np.testing.assert_array_equal(two.frequency, one.frequency[order])
    assert two.tau == pytest.approx(one.tau)


def test_tied_variants_share_the_better_rank() -> None:
    a = scored(np.random.default_rng(11).random(20))
    lower = Scores(a.ids, a.values - 0.1)
    result = rank_stability([lower, a, a], higher_is_better=True, resamples=20)
    assert result.frequency.tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert result.tau == pytest.approx(2 / 3)  # one pair of three has no order to keep


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        pytest.param("abc", (3,), r"got scores \(3,\) and 3 ids, need \(seeds, images\)", id="no-seeds-axis"),
        pytest.param("abc", (1, 4), r"got scores \(1, 4\) and 3 ids", id="ids-missing"),
        pytest.param("abc", (0, 3), r"one seed", id="no-seed"),
        pytest.param("a", (2, 1), r"two images", id="one-image"),
        pytest.param("abab", (1, 4), r"images more than once: a, b\.", id="repeated"),
    ],
)
def test_scores_say_what_is_wrong_with_them(names: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scores(list(names), np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undefined_scores_are_named_not_dropped(bad: float) -> None:
    values = np.zeros((2, 9))
    values[1, 1:8] = bad
    with pytest.raises(ValueError, match=r"not finite on image001, .*image005 and 2 more.*charges the image diagonal"):
        scored(values)


@pytest.mark.parametrize("compare", ["difference", "ranks"])
def test_images_must_be_the_same_in_the_same_order(compare: str) -> None:
    def run(first: str, second: str) -> None:
        a, b = (Scores(list(names), np.zeros((1, len(names)))) for names in (first, second))
        if compare == "difference":
            paired_difference(a, b)
        else:
            rank_stability([a, a, b], higher_is_better=True)

    with pytest.raises(ValueError, match=r"different images: a only in the first, d, e only in the second"):
        run("abc", "bcde")
    with pytest.raises(ValueError, match=r"different images: none only in the first, c only in the second"):
        run("ab", "abc")
    with pytest.raises(ValueError, match=r"different orders: at 1, 'b' in the first and 'c' in the second.*Sort"):
        run("abc", "acb")


def test_one_variant_has_no_rank() -> None:
    with pytest.raises(ValueError, match=r"got 1 variant"):
        rank_stability([scored(np.zeros(3))], higher_is_better=True)
