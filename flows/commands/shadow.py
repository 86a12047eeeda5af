"""`shadowline shadow …` and `shadowline feedback`: both models on the same images, and the labels of inspectors."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shadowline.cli.output import Table, coloured, print_tables, say
from shadowline.cli.records import open_records
from shadowline.cli.who import By
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import default_progress
from shadowline.data.labels import Label

if TYPE_CHECKING:
    from shadowline.evaluation.review_rates import ReviewRates
    from shadowline.models.detector import Detector
    from shadowline.records.model_locations import ModelLocation
    from shadowline.records.stores import Records
    from shadowline.rollout.state import ClassState
    from shadowline.rollout.verdict import ShadowVerdict

app = typer.Typer(help="Compare the candidate with the legacy models on the same images.", no_args_is_help=True)

Image = Annotated[
    str, typer.Argument(help="The image's id (sha256) or its first 8 digits or more, or a path to its file.")
]
InspectorLabel = Annotated[Literal["normal", "anomalous"], typer.Argument(help="What the part is.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("run")
def run(
    class_name: Annotated[str, typer.Argument(help="Product class, as in the rollout.")],
    location: Annotated[str, typer.Argument(help="Folder with images, or an s3:// prefix.")],
    as_json: JsonOption = False,
) -> None:
    """Judge every image with both models and record the pairs; what is on record already is skipped.

    Exit code 2 when an image was refused; the others are recorded all the same.

    Example: `shadowline shadow run solar_mono /srv/images/today`
    """
    from shadowline.inference.shadow_batch import both_models, shadow_images
    from tasks.rollout.shadow_batch import fetch_images

    params, records = load_params(Layout().params), open_records()
    models = both_models(class_name, records)
    paths = fetch_images.fn(location, Layout())
    done = shadow_images(class_name, paths, *models, records.pairs, params, default_progress())
    for line in done.refused:
        say(f"refused {line}", colour="red", err=True)
    if as_json:
        typer.echo(json.dumps(done.__dict__))
    else:
        say(f"{class_name}: {done.num_new} new pairs, {done.num_known} known, {len(done.refused)} refused")
    raise typer.Exit(2 if done.refused else 0)


@app.command("status")
def status(as_json: JsonOption = False) -> None:
    """Agreement and verdict of every class whose candidate is at work; exit code 1 when one of them has failed.

    Below the table: how often both models err on all parts, estimated from those that an inspector has looked at.

    Example: `shadowline shadow status`
    """
    from shadowline.evaluation.review_rates import estimate_rates
    from shadowline.records.evidence import read_evidence
    from shadowline.rollout.phases import CANDIDATE_JUDGES
    from shadowline.rollout.verdict import VerdictOutcome
    from shadowline.rollout.weighing import weigh

    params, records = load_params(Layout().params), open_records()
    now = datetime.now(UTC)
    classes = [cls for cls in records.rollout.state().classes if cls.standing in CANDIDATE_JUDGES]
    all_evidence = [read_evidence(records.pairs.engine, cls, now, params.rollout) for cls in classes]
    rows = [
        (cls, weigh(cls, evidence, (), params.shadow, params.rollout).verdict, _correlation(records, cls))
        for cls, evidence in zip(classes, all_evidence, strict=True)
    ]
    rates = [estimate_rates(evidence.table, params.shadow.confidence) for evidence in all_evidence]
    if as_json:
        typer.echo(json.dumps([_as_dict(*row, rate) for row, rate in zip(rows, rates, strict=True)]))
    else:
        _print(rows)
        for (cls, _, _), rate in zip(rows, rates, strict=True):
            for model, errors in (("candidate", rate.candidate), ("legacy model", rate.legacy)):
                say(f"{cls.class_name}, {model}: missed defects {errors.missed_defects}")
                say(f"    false alarms on good parts {errors.false_alarms}")
    raise typer.Exit(1 if any(verdict.outcome is VerdictOutcome.FAIL for _, verdict, _ in rows) else 0)


@app.command("gallery")
def gallery(
    class_name: Annotated[str, typer.Argument(help="Product class, as in the rollout.")],
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("data/report"),
    limit: Annotated[int, typer.Option(help="At most so many disagreements.")] = 40,
) -> None:
    """Write a page of the disagreements, both heat maps side by side, the worst first.

    A legacy model that is deleted draws its maps out of its archive.

    Example: `shadowline shadow gallery solar_mono`
    """
    from shadowline.report.disagreements import build_gallery
    from tasks.rollout.legacy_models import load_or_restore

    records, params = open_records(), load_params(Layout().params)
    cls = records.rollout.state().of(class_name)
    with TemporaryDirectory() as scratch:

        def load(place: ModelLocation) -> Detector:
            return load_or_restore(place, Path(scratch) / place.fingerprint)

        page = build_gallery(cls, records, params, out, limit, default_progress(), load)
    say(page)


def feedback(
    class_name: Annotated[str, typer.Argument(help="Product class.")],
    image: Image,
    label: InspectorLabel,
    by: By,
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Put an inspector's word on one image on record; it settles disagreements.

    Example: `shadowline feedback solar_mono today/cell0042.png anomalous --by Ada`
    """
    from shadowline.records.image_ids import image_id_of

    records = open_records()
    image_id = image_id_of(image, class_name, records.pairs.engine)
    records.pairs.label(class_name, image_id, Label(label), by, datetime.now(UTC), note)
    records.chain.seal_if_possible()
    say(f"{class_name} {image_id[:12]}: {label}, says {by}")


def _correlation(records: Records, cls: ClassState) -> float | None:
    from shadowline.evaluation.agreement import score_correlation

    scores = records.pairs.scores(cls.class_name, cls.candidate, cls.legacy)
    return score_correlation(scores["candidate_score"], scores["legacy_score"])


def _as_dict(
    cls: ClassState, verdict: ShadowVerdict, correlation: float | None, rates: ReviewRates
) -> dict[str, object]:
    return {
        "class_name": cls.class_name,
        "phase": cls.phase,
        "outcome": verdict.outcome,
        "reasons": verdict.reasons,
        "score_correlation": correlation,
        "estimated_errors": _without_nan(asdict(rates)),
        **verdict.agreement.to_dict(),
    }


def _without_nan(value: Any) -> Any:
    """JSON values, with null for what was not measured."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _print(rows: list[tuple[ClassState, ShadowVerdict, float | None]]) -> None:
    colours = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    table = Table("class", "phase", "verdict", "agreement", "settled", "κ", "ρ", "McNemar p", "why")
    for cls, verdict, correlation in rows:
        agreement = verdict.agreement
        numbers = (_number(agreement.kappa), _number(correlation), _number(agreement.mcnemar_p))
        outcome = coloured(verdict.outcome, colours[verdict.outcome])
        cells = (str(agreement.agreement), str(agreement.settled), *numbers, "; ".join(verdict.reasons))
        table.add_row(cls.class_name, cls.phase, outcome, *cells)
    print_tables(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
