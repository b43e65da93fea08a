"""The false-alarm rate asked for against the one observed on scenes never seen, and the drift monitor, on the kit.

    python benchmarks/calibration_check.py --checkpoint model.safetensors     # without: fits the Gaussian, a minute

Writes benchmarks/results/calibration_check_<method>.json and .png. Scores are kept in --cache, so that a second run
takes seconds. Two questions, not to be mixed up:
  exchangeable: the scenes of val and test together, halved at random 20 times. Each half could have been the other;
    only neighbours on one drive are more alike than scenes of two days would be.
  shift: calibrated on half of val (one drive, of which training saw other parts) drawn at random 20 times, observed on
    test (two drives, one of them at dusk and never seen). Nothing is exchangeable there: a promise made for new scenes
    of the same world is held against another world.

What n scenes promise for a threshold: a guaranteed rate itself; for a lower rate (n rate + 1) / (n + 1), the least that
the theorem gives for that threshold. `verdict`: whether nine splits of ten or more are within the promise at both
RATES, and whether they are within the rates themselves, which no promise of few scenes covers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from camvid_scores import SCENES, SEVERITY, Scenes, fit_gaussian, scores_of
from record import write_result

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.drift import DriftMonitor, DriftReference, sample
from flowclas_ros.detection.images import write_bytes
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.plots import png
from flowclas_ros.training.corruptions import CORRUPTIONS

RATES = (1e-2, 1e-3)
SPLITS, SEED = 20, 0
AIMED_AT = 0.9  # share of the splits that shall be within what is promised


def main() -> None:
    """Score what is not cached, check, write the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="without: the Gaussian of kit_road.yaml is fitted")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "flowclas_calibration_check")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or fit_gaussian(arguments.cache)
    scorer = Scorer(checkpoint, precision=arguments.precision)
    cache = arguments.cache / f"{scorer.header['sha256'][:16]}_{arguments.precision}"
    val, test = (scores_of(scorer, cache, split) for split in ("val", "test"))
    corrupted = {name: scores_of(scorer, cache, "val", name) for name in CORRUPTIONS}
    checks = {"exchangeable": _exchangeable(val | test), "shift": _shift(val, test)}
    summaries = {name: _summary(rows) for name, rows in checks.items()}
    result: dict[str, Any] = {
        "checkpoint": {"sha256": scorer.header["sha256"], "method": scorer.header["provenance"]["config"]["method"]},
        "scenes": {"val": len(val), "test": len(test), "frames_a_scene": SCENES.scene_block},
        "scenes_needed": {f"{rate:g}": round(2 / rate) - 1 for rate in RATES},
        **summaries,
        "verdict": {name: _verdict(summary) for name, summary in summaries.items()},
        "bounds_of_probability_0.9": _bounds(val | test),
        "drift": _drift(val, test, corrupted),
    }
    path = write_result(f"calibration_check_{result['checkpoint']['method']}", result, seed=SEED)
    write_bytes(path.with_suffix(".png"), _plot(checks))
    print(json.dumps(result, indent=1))
    print(f"-> {path}")


# ------------------------------------------------------------------------------------------------ rates


def _exchangeable(scenes: Scenes) -> list[dict[str, Any]]:
    names, rng = sorted(scenes), np.random.default_rng(SEED)
    rows = []
    for _ in range(SPLITS):
        order = rng.permutation(names)
        half = len(names) // 2
        rows += _observe([scenes[name] for name in order[:half]], [scenes[name] for name in order[half:]])
    return rows


def _shift(val: Scenes, test: Scenes) -> list[dict[str, Any]]:
    names, rng = sorted(val), np.random.default_rng(SEED)
    rows = []
    for _ in range(SPLITS):
        chosen = rng.permutation(names)[: (len(names) + 1) // 2]
        rows += _observe([val[name] for name in chosen], list(test.values()))
    return rows + [{**row, "whole": True} for row in _observe(list(val.values()), list(test.values()))]


def _observe(known: list[list[np.ndarray]], new: list[list[np.ndarray]]) -> list[dict[str, Any]]:
    """For each rate: what was asked, promised and observed."""
    table = Calibration.fit(np.stack(frames) for frames in known)
    rows = []
    for rate in (table.lowest_guaranteed, *RATES):
        observed = _share_above(table.threshold(rate), new)
        promised = rate if table.guaranteed(rate) else (len(known) * rate + 1) / (len(known) + 1)
        rows.append({"asked": rate, "promised": promised, "observed": observed, "scenes": len(known)})
    return rows


def _share_above(threshold: float, scenes: list[list[np.ndarray]]) -> float:
    """Mean over the scenes of the share of their pixels above the threshold."""
    return float(np.mean([(np.stack(frames) > np.float32(threshold)).mean() for frames in scenes]))


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By rate asked for, the splits together."""
    summary = {}
    for rate in _asked(rows):
        mine = [row for row in rows if row["asked"] == rate and "whole" not in row]
        observed = np.array([row["observed"] for row in mine])
        summary[f"{rate:.3g}"] = {
            "splits": len(mine),
            "scenes_calibrated_on": mine[0]["scenes"],
            "promised": round(mine[0]["promised"], 6),
            "observed_mean": round(float(observed.mean()), 6),
            "observed_max": round(float(observed.max()), 6),
            "share_of_splits_within_the_promise": float(np.mean([row["observed"] <= row["promised"] for row in mine])),
            "share_of_splits_within_the_rate_asked": float((observed <= rate).mean()),
            "observed_calibrated_on_all": next(
                (row["observed"] for row in rows if row["asked"] == rate and "whole" in row), None
            ),
        }
    return summary


def _asked(rows: list[dict[str, Any]]) -> list[float]:
    return sorted({row["asked"] for row in rows if "whole" not in row}, reverse=True)


def _verdict(summary: dict[str, Any]) -> dict[str, Any]:
    """Whether enough of the splits are within the promise, and within the rate itself, which nothing promises."""
    mine = [summary[f"{rate:.3g}"] for rate in RATES]
    return {
        "aimed_at": AIMED_AT,
        "promise_met": all(row["share_of_splits_within_the_promise"] >= AIMED_AT for row in mine),
        "rate_asked_met": all(row["share_of_splits_within_the_rate_asked"] >= AIMED_AT for row in mine),
    }


def _bounds(scenes: Scenes) -> dict[str, Any]:
    """Whether a bound that holds with a probability of 0.9, not on average, would do better: on the random halves.

    hoeffding_bentkus: Bates et al., arXiv 2101.02703, assumes no more than exchangeable scenes. student: the one-sided
    t interval of the mean over the scenes, which takes their shares for normal. The package has neither: see the JSON.
    """
    from scipy import stats

    names = sorted(scenes)
    flat = {name: np.sort(np.concatenate([frame.ravel() for frame in scenes[name]])) for name in names}
    grid = np.quantile(np.concatenate(list(flat.values())), 1 - np.geomspace(0.1, 1e-6, 800))
    above = {name: 1 - np.searchsorted(flat[name], grid, side="right") / flat[name].size for name in names}
    n = len(names) // 2

    def hoeffding_bentkus(shares: np.ndarray, rate: float) -> np.ndarray:
        return np.e * stats.binom.cdf(np.ceil(n * shares.mean(axis=0)), n, rate) <= 0.1

    def student(shares: np.ndarray, rate: float) -> np.ndarray:
        spread = stats.t.ppf(0.9, n - 1) * shares.std(axis=0, ddof=1) / np.sqrt(n)
        return shares.mean(axis=0) + spread <= rate

    result: dict[str, Any] = {}
    for bound, rate in itertools.product((hoeffding_bentkus, student), RATES):
        rng, kept, blind = np.random.default_rng(SEED), [], 0
        for _ in range(SPLITS):
            order = rng.permutation(names)
            fine = bound(np.array([above[name] for name in order[:n]]), rate)
            blind += not fine.any()  # no threshold below the highest score of all will do
            kept.append(not fine.any() or np.mean([above[name][fine.argmax()] for name in order[n:]]) <= rate)
        row = {"share_of_splits_within_the_rate_asked": float(np.mean(kept)), "splits_without_a_threshold": blind}
        result.setdefault(bound.__name__, {})[f"{rate:g}"] = row
    return result


# ------------------------------------------------------------------------------------------------ drift


def _drift(val: Scenes, test: Scenes, corrupted: dict[str, Scenes]) -> dict[str, Any]:
    """The share of scenes, a window each, in which the monitor raises its alarm."""
    reference = _reference(val)

    def alarmed(scenes: Scenes, of: Callable[[str], DriftReference]) -> float:
        return float(np.mean([_statistic(frames, of(name)) > of(name).limit for name, frames in scenes.items()]))

    unseen = {name: _reference({other: val[other] for other in val if other != name}) for name in val}
    drives = {
        drive: {n: f for n, f in test.items() if n.startswith(drive)}
        for drive in sorted({n.split("#")[0] for n in test})
    }
    return {
        "limit": round(reference.limit, 4),
        "promised_alarm_rate": round(reference.alarm_rate, 4),
        "alarmed_val_scene_against_the_others": alarmed(val, lambda name: unseen[name]),
        **{f"alarmed_test_{drive}": alarmed(scenes, lambda _: reference) for drive, scenes in drives.items()},
        "severity": SEVERITY,
        "alarmed_by_corruption": {name: alarmed(scenes, lambda _: reference) for name, scenes in corrupted.items()},
        "observed_rate_by_corruption": _rates_under({"none": val, **corrupted}, val),
        "median_statistic": {
            name: round(float(np.median([_statistic(frames, reference) for frames in scenes.values()])), 4)
            for name, scenes in {"val": val, **{f"test_{k}": v for k, v in drives.items()}, **corrupted}.items()
        },
    }


def _rates_under(conditions: dict[str, Scenes], val: Scenes) -> dict[str, dict[str, float]]:
    """What a missed drift costs: each scene's false-alarm rates at the thresholds of the other scenes, clear ones."""
    tables = {name: Calibration.fit(np.stack(frames) for other, frames in val.items() if other != name) for name in val}
    return {
        condition: {
            f"{rate:g}": round(
                float(np.mean([_share_above(tables[name].threshold(rate), [scenes[name]]) for name in val])), 6
            )
            for rate in RATES
        }
        for condition, scenes in conditions.items()
    }


def _reference(scenes: Scenes) -> DriftReference:
    found = DriftReference.fit([[sample(score) for score in frames] for frames in scenes.values()])
    assert found is not None
    return found


def _statistic(frames: list[np.ndarray], reference: DriftReference) -> float:
    """Of a window over all these frames."""
    monitor = DriftMonitor(3600.0)
    return [monitor.update(score, 1 + number, reference).statistic for number, score in enumerate(frames)][-1]


def _plot(checks: dict[str, list[dict[str, Any]]]) -> bytes:
    """Observed rates of the splits over the asked ones, with what is promised."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    titles = {
        "exchangeable": "scenes of val and test, halved at random",
        "shift": "half of val -> test (another place)",
    }
    for axis, (name, every) in zip(figure.subplots(1, 2, sharey=True), checks.items(), strict=True):
        rows = [row for row in every if "whole" not in row]
        jitter = np.exp(np.random.default_rng(0).uniform(-0.15, 0.15, len(rows)))
        asked = np.array([row["asked"] for row in rows])
        axis.plot(
            asked * jitter,
            [max(row["observed"], 1e-6) for row in rows],
            "o",
            color="#1d4ed8",
            alpha=0.6,
            label="a split",
        )
        rates = _asked(rows)
        for rate in rates:
            promised = next(row["promised"] for row in rows if row["asked"] == rate)
            axis.plot(
                [rate / 1.5, rate * 1.5],
                [promised] * 2,
                color="#c2410c",
                label="promised" if rate == rates[0] else None,
            )
        axis.plot([3e-4, 0.5], [3e-4, 0.5], "--", color="#111827", linewidth=1, label="observed = asked")
        axis.set(xscale="log", yscale="log", xlabel="false-alarm rate asked for", title=titles[name])
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("observed on scenes never seen")
    figure.axes[0].legend(frameon=False)
    return png(figure)


if __name__ == "__main__":
    main()
