"""Each equation against a case worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from higfa_cli.method import equations, schedule
from higfa_cli.method.protocols import Branch, Level, Prediction
from tests.support.strengths import strengths

LEVEL = Level(7, 0.75, 200.0, alpha=0.8, sigma=0.6)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_tweedie_and_v_by_hand() -> None:
    x_t, eps = t(1.0), t(0.5)
    p = equations.from_eps(x_t, eps, LEVEL)
    assert p.x0.item() == pytest.approx((1.0 - 0.6 * 0.5) / 0.8)  # 0.875
    v = equations.to_v(p, LEVEL)
    assert v.item() == pytest.approx(0.8 * 0.5 - 0.6 * 0.875)  # -0.125
    back = equations.from_v(x_t, v, LEVEL)
    assert back.x0.item() == pytest.approx(0.875)
    assert back.eps.item() == pytest.approx(0.5)


def test_v_is_defined_at_pure_noise() -> None:
    pure = Level(0, 0.0, 999.0, alpha=0.0, sigma=1.0)
    p = equations.from_v(t(0.3), t(-2.0), pure)
    assert p.x0.item() == 2.0
    assert p.eps.item() == pytest.approx(0.3)


BRANCHES = {
    Branch.UNCOND: Prediction(t(1.0)[:, None], t(10.0)[:, None]),
    Branch.TEXT: Prediction(t(2.0)[:, None], t(20.0)[:, None]),
    Branch.CONTOUR: Prediction(t(3.0)[:, None], t(50.0)[:, None]),
    Branch.TEXT_CONTOUR: Prediction(t(4.0)[:, None], t(80.0)[:, None]),
}


@pytest.mark.parametrize(
    ("composition", "s_text", "s_contour", "eps"),
    [
        ("three_term", 3.0, 1.5, 10 + 3 * (20 - 10) + 1.5 * (80 - 20)),
        ("three_term", 3.0, 0.0, 10 + 3 * (20 - 10)),  # plain text CFG
        ("three_term", 1.0, 2.0, 20 + 2 * (80 - 20)),  # no unconditional branch
        ("three_term", 2.0, 2.0, 10 + 2 * (80 - 10)),  # no text-only branch
        ("three_term", 1.0, 1.0, 80.0),  # one branch
        ("joint", 3.0, 9.0, 50 + 3 * (80 - 50)),
        ("joint", 1.0, 1.0, 80.0),
    ],
)
def test_composition(composition: str, s_text: float, s_contour: float, eps: float) -> None:
    guidance = strengths(composition=composition, text=s_text, contour=s_contour)  # type: ignore[arg-type]
    needed = schedule.branches(guidance, guided=False)
    weights = equations.branch_weights(composition, t(s_text), t(s_contour))  # type: ignore[arg-type]
    assert sum(w.item() for w in weights.values()) == pytest.approx(1.0)
    got = equations.compose({b: BRANCHES[b] for b in needed}, weights)
    assert got.eps.item() == pytest.approx(eps)


def test_x0_is_composed_like_eps_by_hand() -> None:
    """0.5 (1, 10) + 2 (3, 40) - 1.5 (2, 20), with the first as base."""
    predictions = {
        Branch.UNCOND: Prediction(t(1.0)[None], t(10.0)[None]),
        Branch.TEXT: Prediction(t(2.0)[None], t(20.0)[None]),
        Branch.TEXT_CONTOUR: Prediction(t(3.0)[None], t(40.0)[None]),
    }
    weights = {Branch.UNCOND: t(0.5), Branch.TEXT: t(-1.5), Branch.TEXT_CONTOUR: t(2.0)}
    got = equations.compose(predictions, weights)
    assert (got.x0.item(), got.eps.item()) == pytest.approx((3.5, 55.0))


@pytest.mark.parametrize(
    ("s_text", "s_contour", "branches"),
    [
        (3.0, 1.5, {Branch.UNCOND, Branch.TEXT, Branch.TEXT_CONTOUR}),
        (3.0, 0.0, {Branch.UNCOND, Branch.TEXT}),
        (1.0, 1.5, {Branch.TEXT, Branch.TEXT_CONTOUR}),
        (2.0, 2.0, {Branch.UNCOND, Branch.TEXT_CONTOUR}),
        (1.0, 1.0, {Branch.TEXT_CONTOUR}),
    ],
)
def test_branches_without_weight_are_not_evaluated(
    s_text: float, s_contour: float, branches: set[Branch]
) -> None:
    assert set(schedule.branches(strengths(text=s_text, contour=s_contour), False)) == branches


def test_final_stage_branches_cover_every_confidence() -> None:
    """At p = 0 the default falls to the plain conditional, at p = 1 it is the full composition."""
    guidance = strengths(text=4.0, contour=1.5)
    assert set(schedule.branches(guidance, True)) == {
        Branch.UNCOND,
        Branch.TEXT,
        Branch.TEXT_CONTOUR,
    }
    plain = strengths(text=1.0, contour=1.0)
    assert schedule.branches(plain, True) == (Branch.TEXT_CONTOUR,)
    # An affine weight that vanishes at p = 1 only is still needed elsewhere.
    equal_top = strengths(text=2.0, contour=2.0, text_floor=1.0, contour_floor=0.0)
    assert Branch.TEXT in schedule.branches(equal_top, True)
    assert Branch.TEXT not in schedule.branches(equal_top, False)


def test_strengths_by_hand() -> None:
    guidance = strengths(
        text=5.0, text_floor=1.0, contour=2.0, contour_floor=1.0, classifier=3.0, gamma=2.0
    )
    p = t(0.0, 0.25, 1.0)
    s = schedule.modulated(guidance, p)
    assert s.text.tolist() == [1.0, 2.0, 5.0]
    assert s.contour.tolist() == [1.0, 1.25, 2.0]
    assert s.classifier.tolist() == pytest.approx([3.0, 3.0 * 0.75**2, 0.0])
    falling = strengths(text=5.0, contour=2.0, modulation="falling", power=2.0)
    assert schedule.modulated(falling, p).text.tolist() == pytest.approx(
        [5.0, 1 + 4 * 0.75**2, 1.0]
    )


def test_exact_limits_of_the_modulation() -> None:
    p = t(0.0, 0.3, 1.0)
    constant = strengths(gamma=0.0, modulation="constant", classifier=2.0)
    fixed = schedule.modulated(constant, p)
    assert fixed.classifier.tolist() == [2.0] * 3
    assert fixed.text.tolist() == [4.0] * 3
    sure = schedule.modulated(strengths(gamma=1.0), t(1.0))
    early = schedule.fixed(strengths(), t(0.0))
    assert [s.item() for s in sure] == [s.item() for s in early]


def test_confidence_and_margin_by_hand() -> None:
    logits = t(math.log(0.5), math.log(0.3), math.log(0.2))[None].repeat(2, 1)
    y = torch.tensor([0, 1])
    assert equations.probability(logits, y).tolist() == pytest.approx([0.5, 0.3])
    assert equations.margin(logits, y).tolist() == pytest.approx([0.2, 0.0])
    single = equations.margin(t(3.0)[None], torch.tensor([0]))
    assert single.tolist() == [1.0]
    by_name = schedule.CONFIDENCES["margin"](logits, y)
    assert by_name.tolist() == pytest.approx([0.2, 0.0])
    assert schedule.CONFIDENCES["probability"](logits, y).tolist() == pytest.approx([0.5, 0.3])


def test_classifier_term_by_hand() -> None:
    p = Prediction(x0=t(1.0, 1.0)[:, None], eps=t(2.0, 2.0)[:, None])
    got = equations.apply_classifier(p, t(0.5, 0.0), t(3.0, 3.0)[:, None], LEVEL)
    assert got.eps.flatten().tolist() == pytest.approx([2.0 - 0.5 * 0.6 * 3.0, 2.0])
    assert got.x0.flatten().tolist() == pytest.approx([1.0 + 0.5 * 0.36 / 0.8 * 3.0, 1.0])
    x_t = LEVEL.alpha * p.x0 + LEVEL.sigma * p.eps
    assert torch.allclose(LEVEL.alpha * got.x0 + LEVEL.sigma * got.eps, x_t)


def test_rms_normalisation() -> None:
    g = t(3.0, 4.0, 0.0, 0.0).reshape(2, 2)
    eps = t(2.0, 2.0, 2.0, 2.0).reshape(2, 2)
    got = equations.normalise_rms(g, eps)
    assert equations.rms(got).tolist() == pytest.approx([2.0, 0.0])
    assert got[0].tolist() == pytest.approx([6 / math.sqrt(12.5), 8 / math.sqrt(12.5)])
    assert got[1].tolist() == [0.0, 0.0]
