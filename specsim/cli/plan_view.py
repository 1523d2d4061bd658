"""What ``specsim plan`` answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specsim.cli.serve_view import known, seconds, short_name

if TYPE_CHECKING:
    from specsim.plan import Capacity, Trial


def answer_of(found: list[Capacity | tuple[str, str]]) -> dict[str, Any]:
    """The cheapest that is enough first, then what is not enough, and why."""
    rows = [_infeasible(*one) if isinstance(one, tuple) else _row(one) for one in found]
    rows.sort(key=lambda row: (row["gpus"] is None, row["gpus"] or 0, row["usd_per_hour"] or 0))
    return {"answers": rows}


def _infeasible(name: str, reason: str) -> dict[str, Any]:
    nothing = ("replicas", "gpus", "gpus_per_replica", "usd_per_hour", "watts_at_most", "best", "one_fewer")
    return {"name": name, "reason": reason, **dict.fromkeys(nothing), "trials": []}


def _row(one: Capacity) -> dict[str, Any]:
    setup, best = one.setup, one.best
    usd, watts = setup.usd_per_s_per_replica, setup.watts_per_replica
    return {
        "name": setup.name,
        "reason": one.reason,
        "replicas": best and best.replicas,
        "gpus": one.gpus,
        "gpus_per_replica": setup.gpus_per_replica,
        "usd_per_hour": None if usd is None or best is None else usd * 3600 * best.replicas,
        "watts_at_most": None if watts is None or best is None else watts * best.replicas,
        "best": best and _trial(best),
        "one_fewer": one.next_smaller and _trial(one.next_smaller),
        "trials": [_trial(each) for each in one.trials],
    }


def _trial(one: Trial) -> dict[str, Any]:
    return {
        "replicas": one.replicas,
        "enough": one.enough,
        "verdict": one.verdict,
        "why": one.why,
        "summary": known(one.summary),
    }


def show_plan(name: str, answer: dict[str, Any]) -> None:
    """A table for people, and what decided."""
    from specsim.report import show, table

    settings, rows = answer["settings"], answer["answers"]
    promised = (("ttft_slo_s", "first token within"), ("tpot_slo_s", "each further one within"))
    slos = [f"{label} {settings[key]:g} s" for key, label in promised if settings[key]]
    load = f", {settings['rate_per_s']:g} per second" if settings["rate_per_s"] else ""
    title = f"{name}\n{settings['workload']}{load}; {settings['attain_frac']:.4g} of requests: {', '.join(slos)}"
    has_price = any(row["usd_per_hour"] for row in rows)
    words = ["", "replicas", "devices", "met the targets", "first token, p99", "per token, p99", "kW, at most"]
    words += ["USD per hour", "USD per million tokens"] if has_price else []
    runs = f"{settings['replications']} runs of {settings['requests']:,} requests each"
    show(table(title, words, [_cells(row, has_price) for row in rows], f"± 90% intervals from {runs}."))
    for row in rows:
        if row["reason"]:
            show(f"{row['name']}: none is enough: {row['reason']}")
        elif row["one_fewer"]:
            fewer = row["one_fewer"]
            said = fewer["why"] if fewer["verdict"] == "stable" else f"{fewer['verdict']}: {fewer['why']}"
            number = "1 replica is" if fewer["replicas"] == 1 else f"{fewer['replicas']} replicas are"
            show(f"{row['name']}: {number} not enough: {said.rstrip('.')}.")
    show(_saved(rows))


def _cells(row: dict[str, Any], has_price: bool) -> list[str]:
    best = row["best"]
    if best is None:
        return [short_name(row["name"]), *["-"] * (6 + 2 * has_price)]
    said = best["summary"]
    attained = said["attained"]
    error = "" if attained["low"] is None else f" ± {attained['high'] - attained['value']:.1%}"
    cells = [
        short_name(row["name"]),
        str(row["replicas"]),
        str(row["gpus"]),
        f"{attained['value']:.1%}{error}",
        seconds(said["percentiles"]["ttft_s"]["99"]),
        seconds(said["percentiles"]["tpot_s"]["99"]),
        "-" if row["watts_at_most"] is None else f"{row['watts_at_most'] / 1e3:.2f}",
    ]
    if has_price:
        known_price = row["usd_per_hour"] is not None
        cells += [f"{row['usd_per_hour']:.2f}", f"{said['usd_per_million_tokens']:.3f}"] if known_price else ["-", "-"]
    return cells


def _saved(rows: list[dict[str, Any]]) -> str:
    """The best with speculation against the best without."""
    enough = [row for row in rows if row["gpus"] is not None]
    plain = [row["gpus"] for row in enough if row["name"].startswith("no speculation")]
    drafted = [row["gpus"] for row in enough if not row["name"].startswith("no speculation")]
    if plain and drafted:
        few, many = min(drafted), min(plain)
        if few == many:
            return f"With and without speculation it takes {few} devices."
        word = "fewer" if few < many else "more"
        return f"With speculation it takes {few} devices instead of {many}: {abs(1 - few / many):.0%} {word}."
    if drafted:
        return f"With speculation {min(drafted)} devices are enough; without it no number that was tried is."
    if plain:
        return f"Without speculation {min(plain)} devices are enough."
    return "No number of devices that was tried is enough."
