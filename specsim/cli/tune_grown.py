"""What ``specsim tune --dynamic`` says of policies that grow by confidence: in the same ranking as static trees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specsim.estimate import Estimate
    from specsim.scenario import Deployment
    from specsim.search.dynamic.beside import Beside, Grown
    from specsim.search.tune import Tuning


def dynamic_beside(deployment: Deployment, file: Path) -> Beside:
    """Policies whose rounds are in the file, on the scale of the deployment's static trees."""
    from specsim.cli.dynamic import check_drafts, checked_table
    from specsim.search.dynamic.beside import beside_static
    from specsim.search.dynamic.tuning import tune_dynamic

    check_drafts(deployment)
    return beside_static(deployment, tune_dynamic(deployment, checked_table(deployment, file, "--dynamic")))


def ranking(tuning: Tuning, grown: Beside | None) -> list[Estimate | Grown]:
    """All of them by rate; of equals the static one first."""
    everyone: list[Estimate | Grown] = [*tuning.ranked, *(grown.policies if grown else ())]
    return sorted(everyone, key=lambda one: -one.tokens_per_s)


def grown_row(one: Grown, usd_per_s: float | None) -> tuple[object, ...]:
    """As a row of the table of static trees."""
    from specsim.cli.tune import three_digits
    from specsim.units import format_time

    times = [format_time(part) if part else "-" for part in (one.draft_s, one.verify_s, one.host_s)]
    interval = f"{one.speedup_low:.2f} - {one.speedup_high:.2f}"
    usd = None if usd_per_s is None else f"{1e6 * usd_per_s / one.tokens_per_s:.3f}"
    label = one.label if one.may_be_best else f"{one.label} (shown to be slower)"
    rate = three_digits(one.tokens_per_s)
    return label, f"{one.tokens_per_round:.2f}", *times, f"{one.speedup:.2f}", interval, rate, "grows", usd


def grown_words(tuning: Tuning, grown: Beside) -> str:
    """What growing is worth, against what, and how surely."""
    low, middle, high = grown.gain
    said = "nothing grows within memory"
    if grown.policies:
        best = grown.policies[0]
        ratio = best.tokens_per_s / tuning.best.tokens_per_s - 1
        said = (
            f"the best, {best.label}, is {abs(ratio):.1%} {'faster' if ratio >= 0 else 'slower'} than the best static"
        )
    sure = grown.certificate
    return (
        f"Trees that grow: {said}; judged on texts that it was not chosen by, growing brings {middle - 1:+.1%} "
        f"({low - 1:+.1%} to {high - 1:+.1%}) over the best static tree of the process. {len(grown.policies)} policies "
        f"on {sure['num_requests']} texts, compared with {sure['compared_with']}; CAST only by `specsim dynamic`."
    )


def grown_as_json(tuning: Tuning, grown: Beside) -> dict[str, Any]:
    """The policies, and the ranking of everything by label."""
    from specsim.search.dynamic.beside import Grown

    ranked = [
        {
            "configuration": one.label if isinstance(one, Grown) else one.tree.label,
            "kind": one.kind if isinstance(one, Grown) else "static",
            "tokens_per_s": one.tokens_per_s,
        }
        for one in ranking(tuning, grown)
    ]
    dynamic = {
        "policies": grown.policies,
        "compared_with": grown.like.tree.label,
        "gain": grown.gain[1],
        "gain_interval": (grown.gain[0], grown.gain[2]),
        "certificate": grown.certificate,
        "refused": [{"configuration": label, "reason": reason} for label, reason in grown.refused],
    }
    return {"ranking": ranked, "dynamic": dynamic}
