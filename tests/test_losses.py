"""Every objective's value and direction at chosen logits, and its optimum, from closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.losses import (
    ADVERSARIAL,
    BoundaryEquilibrium,
    EnergyBased,
    LeastSquares,
    Minimax,
    NonSaturating,
    Objective,
    Relativistic,
    RelativisticAverage,
    feature_matching,
    l1,
    layer_matching,
    most_realistic,
    patch_nce,
    pull_away,
)

LOG_2 = math.log(2.0)
# name, then D's and G's value at real = fake = 0, and at real = 2, fake = -1
CLOSED_FORMS = {
    "minimax": ((2 * LOG_2, -LOG_2), (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)), -math.log1p(math.exp(-1)))),
    "nonsaturating": ((2 * LOG_2, LOG_2), (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)), math.log1p(math.e))),
    "hinge": ((2.0, 0.0), (0.0, 1.0)),
    "lsgan": ((0.5, 0.5), (0.5 * 1 + 0.5 * 1, 0.5 * 4)),
    "wgan": ((0.0, 0.0), (-3.0, 1.0)),
    "relativistic": ((LOG_2, LOG_2), (math.log1p(math.exp(-3)), math.log1p(math.exp(3)))),
    # with equal samples each is its mean, and both halves are the relativistic loss
    "relativistic_average": ((2 * LOG_2, 2 * LOG_2), (2 * math.log1p(math.exp(-3)), 2 * math.log1p(math.exp(3)))),
    "ebgan": ((1.0, 0.0), (2.0 + 2.0, -1.0)),
    "began": ((0.0, 0.0), (2.0 + 0.4, -1.0)),
}
CONTROL = torch.tensor([0.4], dtype=torch.float64)
BY_LOGIT = [name for name, kind in ADVERSARIAL.items() if kind.judges_by == "logit"]
BY_ENERGY = [name for name, kind in ADVERSARIAL.items() if kind.judges_by == "energy"]


def test_every_objective_has_a_closed_form_here() -> None:
    assert set(CLOSED_FORMS) == set(ADVERSARIAL)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize(("case", "real", "fake"), [(0, 0.0, 0.0), (1, 2.0, -1.0)])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 2, 5)])
def test_values(name: str, case: int, real: float, fake: float, shape: tuple[int, ...]) -> None:
    objective = ADVERSARIAL[name]()
    discriminator, generator = CLOSED_FORMS[name][case]
    reals, fakes = torch.full(shape, real).double(), torch.full(shape, fake).double()
    losses = objective.discriminator(reals, fakes, CONTROL)
    torch.testing.assert_close(losses, torch.full((3,), discriminator).double())
    torch.testing.assert_close(objective.generator(fakes, reals), torch.full((3,), generator).double())


@pytest.mark.parametrize("name", BY_LOGIT)
def test_directions(name: str) -> None:
    """D pushes real logits up and fake logits down from an even start; G pushes fake logits up."""
    objective = ADVERSARIAL[name]()
    real, fake = (torch.full((4,), 0.5).double().requires_grad_() for _ in range(2))
    up, down = torch.autograd.grad(objective.discriminator(real, fake).sum(), (real, fake))
    (push,) = torch.autograd.grad(objective.generator(fake, real.detach()).sum(), fake)
    assert (up < 0).all()
    assert (down > 0).all()
    assert (push < 0).all()


@pytest.mark.parametrize("name", BY_ENERGY)
def test_directions_of_energies(name: str) -> None:
    """The other way round: real images are to be rebuilt well, fakes badly, and G's fakes well."""
    objective = ADVERSARIAL[name]()
    real, fake = (torch.full((4,), 0.5).double().requires_grad_() for _ in range(2))
    down, up = torch.autograd.grad(objective.discriminator(real, fake, CONTROL).sum(), (real, fake))
    (pull,) = torch.autograd.grad(objective.generator(fake).sum(), fake)
    assert (down > 0).all()
    assert (up < 0).all()
    assert (pull > 0).all()


@pytest.mark.parametrize(
    "objective",
    [
        *(kind() for kind in ADVERSARIAL.values()),
        *(kind(form=form) for kind in (Relativistic, RelativisticAverage) for form in ("ls", "hinge")),
        NonSaturating(real_label=0.9, fake_label=0.2),
    ],
    ids=str,
)
def test_gradients_match_finite_differences(objective: Objective) -> None:
    # away from the hinge's kinks at ±1
    real, fake = torch.tensor([-1.7, 0.3, 2.2]).double(), torch.tensor([-2.1, 0.4, 1.3]).double()
    real.requires_grad_()
    fake.requires_grad_()
    assert torch.autograd.gradcheck(lambda real, fake: objective.discriminator(real, fake, CONTROL), (real, fake))
    assert torch.autograd.gradcheck(lambda fake: objective.generator(fake, real.detach()), (fake,))


def test_minimax_saturates_where_nonsaturating_does_not() -> None:
    def slope(objective: Objective) -> Tensor:
        fake = torch.tensor([-12.0], dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(objective.generator(fake).sum(), fake)[0].abs()

    assert slope(ADVERSARIAL["minimax"]()) == pytest.approx(math.exp(-12), rel=1e-4)
    assert slope(ADVERSARIAL["nonsaturating"]()) == pytest.approx(1.0, rel=1e-4)


def test_the_optimal_discriminator_of_the_log_loss_is_the_density_ratio() -> None:
    """Minimising p·softplus(−d) + q·softplus(d) over d gives d = log(p/q), and log 4 where p = q."""
    p, q = 0.7, 0.3
    logit = torch.tensor(math.log(p / q), dtype=torch.float64, requires_grad=True)
    objective = ADVERSARIAL["nonsaturating"]()
    zero = torch.zeros(1, dtype=torch.float64)
    only_real = objective.discriminator(logit[None], zero) - LOG_2
    only_fake = objective.discriminator(zero, logit[None]) - LOG_2
    (slope,) = torch.autograd.grad((p * only_real + q * only_fake).sum(), logit)
    assert abs(slope) < 1e-12
    assert objective.discriminator(zero, zero).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    "objective",
    [
        *(kind() for kind in ADVERSARIAL.values() if kind.judges_by == "logit"),
        NonSaturating(real_label=0.9),
        Minimax(real_label=0.9, fake_label=0.3),
        LeastSquares(a=-1.0, b=1.0, c=0.0),
    ],
    ids=str,
)
def test_the_boundary_is_what_d_says_where_data_and_fakes_are_equal(objective: Objective) -> None:
    """There it minimises D(t, t), in the middle of all that do; without one, adding a constant changes nothing."""
    logits = torch.arange(-300, 301, dtype=torch.float64) / 100
    losses = objective.discriminator(logits, logits)
    if objective.boundary is None:
        torch.testing.assert_close(objective.discriminator(logits + 1, logits + 1), losses, rtol=0, atol=1e-12)
    else:
        least = logits[losses <= losses.min() + 1e-12]
        assert objective.boundary == pytest.approx((least.min() + least.max()).item() / 2, abs=0.005)


def test_labels_that_are_equal_leave_no_boundary() -> None:
    assert NonSaturating(real_label=1.0, fake_label=1.0).boundary is None


def test_pearson_constants_minimise_the_chi_squared_divergence() -> None:
    """With b − c = 1, b − a = 2, G's loss against the optimal D is ½·χ²(p + q ‖ 2q) plus a constant (Mao, section 3.2)."""
    objective = LeastSquares(a=-1, b=1, c=0)
    p, q = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    optimal = (objective.b * p + objective.a * q) / (p + q)
    value = ((p + q) * 0.5 * (optimal - objective.c).square()).sum()
    pearson = ((2 * q - (p + q)).square() / (p + q)).sum()
    assert value.item() == pytest.approx(0.5 * pearson.item())


@pytest.mark.parametrize(("form", "at_3"), [("logistic", math.log1p(math.exp(-3))), ("ls", 4.0), ("hinge", 0.0)])
def test_relativistic_forms(form: str, at_3: float) -> None:
    """Real logits 3 above fake ones; G, for whom they are 3 below, has softplus(3), (−4)² and 4."""
    real, fake = torch.full((2,), 1.0).double(), torch.full((2,), -2.0).double()
    at_minus_3 = {"logistic": math.log1p(math.exp(3)), "ls": 16.0, "hinge": 4.0}[form]
    for kind, halves in ((Relativistic, 1), (RelativisticAverage, 2)):
        objective = kind(form=form)
        assert objective.discriminator(real, fake).tolist() == pytest.approx([halves * at_3] * 2)
        assert objective.generator(fake, real).tolist() == pytest.approx([halves * at_minus_3] * 2)


def test_the_average_is_over_the_batch_and_its_gradient_flows() -> None:
    """D's loss is the mean of softplus(f̄ − rᵢ) and softplus(fᵢ − r̄), computed here number by number."""
    real, fake = [0.5, -1.0, 2.0], [0.1, 0.4, -0.7]
    mean_real, mean_fake = sum(real) / 3, sum(fake) / 3
    by_hand = [math.log1p(math.exp(mean_fake - r)) + math.log1p(math.exp(f - mean_real)) for r, f in zip(real, fake)]
    reals = torch.tensor(real, dtype=torch.float64, requires_grad=True)
    fakes = torch.tensor(fake, dtype=torch.float64)
    losses = RelativisticAverage().discriminator(reals, fakes)
    assert losses.tolist() == pytest.approx(by_hand)
    # only the second half of the first sample's loss depends on the other reals, through their mean
    (gradient,) = torch.autograd.grad(losses[0], reals)
    assert gradient[1].item() == pytest.approx(-torch.sigmoid(fakes[0] - reals.mean()).item() / 3)


def test_one_sided_smoothing_moves_the_optimum_to_the_label() -> None:
    """Where only real images are, D's optimal logit is log(a / (1 − a)); with a = 1 there is none."""
    optimum = torch.tensor([math.log(9.0)], dtype=torch.float64, requires_grad=True)
    loss = NonSaturating(real_label=0.9).discriminator(optimum, torch.zeros(1).double())
    (slope,) = torch.autograd.grad(loss.sum(), optimum)
    assert abs(slope.item()) < 1e-12


def test_flipped_labels_are_smoothed_ones_in_expectation() -> None:
    flip, real, fake = 0.1, torch.tensor([1.3]).double(), torch.tensor([-0.4]).double()
    straight, crossed = NonSaturating(), NonSaturating(real_label=0.0, fake_label=1.0)
    expected = (1 - flip) * straight.discriminator(real, fake) + flip * crossed.discriminator(real, fake)
    smoothed = NonSaturating(real_label=1 - flip, fake_label=flip).discriminator(real, fake)
    torch.testing.assert_close(smoothed, expected)


def test_the_generator_s_target_stays_one_under_smoothing() -> None:
    fake = torch.tensor([0.3, -2.0])
    for kind in (NonSaturating, Minimax):
        assert torch.equal(kind(real_label=0.9, fake_label=0.1).generator(fake), kind().generator(fake))


def test_the_margin_of_an_energy_is_where_fakes_stop_counting() -> None:
    real, fake = torch.zeros(3), torch.tensor([0.5, 1.9, 2.5])
    torch.testing.assert_close(EnergyBased(margin=2.0).discriminator(real, fake), torch.tensor([1.5, 0.1, 0.0]))


def test_pull_away_is_the_mean_squared_cosine_of_pairs() -> None:
    codes = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]).double()  # cos² of the pairs: 0, ½, ½
    assert pull_away(codes).item() == pytest.approx(1 / 3)
    assert pull_away(codes[:1]).item() == 0
    fake = torch.tensor([0.2, 0.3, 0.4]).double()
    with_term = EnergyBased(pull_away=0.6).generator(fake, None, codes)
    torch.testing.assert_close(with_term, fake + 0.2)


def test_began_s_control_follows_the_balance_and_stays_in_bounds() -> None:
    objective = BoundaryEquilibrium(gamma=0.5, rate=0.1)
    k = torch.tensor([0.2])
    # k + 0.1·(0.5·4 − 1) = 0.3
    assert objective.next_control(k, torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0])).item() == pytest.approx(0.3)
    assert objective.next_control(k, torch.zeros(2), torch.full((2,), 9.0)).item() == 0
    assert objective.next_control(k, torch.full((2,), 99.0), torch.zeros(2)).item() == 1
    measure = objective.watch(torch.tensor([4.0]), torch.tensor([1.5]))["convergence"]
    assert measure.item() == pytest.approx(4 + abs(0.5 * 4 - 1.5))


def test_top_k_keeps_the_losses_of_the_best_samples() -> None:
    losses, scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([0.1, 0.9, -1.0, 0.5, 0.3])
    assert sorted(most_realistic(losses, scores, 0.5).tolist()) == [2.0, 4.0, 5.0]
    assert sorted(most_realistic(losses, scores, 1.0).tolist()) == losses.tolist()


def test_feature_matching_is_the_squared_distance_of_means() -> None:
    real, fake = torch.tensor([[0.0, 2.0], [2.0, 4.0]]), torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    assert feature_matching(real, fake).tolist() == [(1 - 3) ** 2 + 3**2]


def test_layer_matching_is_the_sum_of_each_layers_mean_for_each_image() -> None:
    real = [torch.tensor([[0.0, 2.0], [2.0, 4.0]]), torch.ones(2, 1, 2, 2)]
    fake = [torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)]
    assert layer_matching(real, fake).tolist() == [(1 + 2) / 2 + 0, (3 + 4) / 2 + 2]
    assert layer_matching(real, real).tolist() == [0, 0]


def test_l1_is_the_mean_of_each_sample() -> None:
    output, target = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.5, -0.5]])
    assert l1(output, target).tolist() == [2.0, 0.5]


def unit_vectors(*shape: int, seed: int = 0) -> Tensor:
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(vectors, dim=-1)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_patch_nce_in_closed_form(temperature: float) -> None:
    alike = unit_vectors(1, 1, 4).expand(2, 5, 4)
    torch.testing.assert_close(patch_nce(alike, alike, temperature), torch.full((2,), math.log(5)).double())
    # orthonormal keys, each met by its own query: similarity 1 against P − 1 zeros
    apart = torch.eye(5).double().expand(2, 5, 5)
    own = math.log1p(4 * math.exp(-1 / temperature))
    torch.testing.assert_close(patch_nce(apart, apart, temperature), torch.full((2,), own).double())
    # each met by another's: 0 against one similarity of 1 and P − 2 zeros
    others = math.log(4 + math.exp(1 / temperature))
    torch.testing.assert_close(patch_nce(apart.roll(1, 1), apart, temperature), torch.full((2,), others).double())


def test_patch_nce_is_cross_entropy_over_the_places_of_each_picture() -> None:
    queries, keys = unit_vectors(3, 6, 4), unit_vectors(3, 6, 4, seed=1)
    for row, loss in enumerate(patch_nce(queries, keys)):
        torch.testing.assert_close(loss, F.cross_entropy(queries[row] @ keys[row].T / 0.07, torch.arange(6)))
        torch.testing.assert_close(loss, patch_nce(queries[[row]], keys[[row]])[0])


def test_patch_nce_moves_a_query_to_its_key_and_away_from_the_others() -> None:
    queries, keys = unit_vectors(2, 6, 4).requires_grad_(), unit_vectors(2, 6, 4, seed=1)
    (gradient,) = torch.autograd.grad(patch_nce(queries, keys).sum(), queries)
    moved = (queries - 1e-4 * gradient).detach()
    before, after = (F.softmax(vectors @ keys.transpose(1, 2) / 0.07, dim=2) for vectors in (queries.detach(), moved))
    assert (after.diagonal(dim1=1, dim2=2) > before.diagonal(dim1=1, dim2=2)).all()
    assert torch.autograd.gradcheck(patch_nce, (queries, keys.requires_grad_()), fast_mode=True)
