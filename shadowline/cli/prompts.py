"""`shadowline prompts …`: the text prompts by which WinCLIP judges a class."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image

from shadowline.cli.output import Table, print_tables, say
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.progress import default_progress
from shadowline.models.winclip.prompts import Prompts, choose, read_book, record_choice

if TYPE_CHECKING:
    from shadowline.features.cache import FeatureKey
    from shadowline.models.winclip.search import Read, Tried

app = typer.Typer(help="The words that WinCLIP judges a class by.", no_args_is_help=True)

ClassArgument = Annotated[str, typer.Argument(metavar="CLASS", help="The product class, of params.yaml or new.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("show")
def show(
    class_name: ClassArgument,
    set_name: Annotated[str, typer.Option("--set", help="A prompt set; the class's own choice by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print every prompt of a class, as the text tower will read it. Needs no weights.

    Example: `shadowline prompts show solar_mono --set vocabulary`
    """
    params = load_params(Layout().params).zero_shot
    folder = Layout().root / params.prompts
    prompt_set = (
        read_book(folder, class_name).fill(set_name) if set_name else choose(folder, class_name, params.prompt_set)
    )
    if as_json:
        typer.echo(
            json.dumps(
                {"prompt_set": prompt_set.set_name, "normal": prompt_set.normal, "anomalous": prompt_set.anomalous}
            )
        )
        return
    for side, prompts in (("normal", prompt_set.normal), ("anomalous", prompt_set.anomalous)):
        say(f"{side} ({prompt_set.set_name}, {len(prompts)} prompts)")
        for prompt in prompts:
            say(f"  {prompt}")


@app.command("search")
def search(class_name: ClassArgument, as_json: JsonOption = False) -> None:
    """Try every prompt set on validation images, and record the winner in prompts/chosen/CLASS.json.

    Normals come from the selecting half of val; defects are the known ones of the tune split, or injected ones where
    there are none. Test images are never looked at.

    Example: `shadowline prompts search solar_mono`
    """
    from shadowline.core.device import pick_device
    from shadowline.models.winclip.search import search as try_sets
    from shadowline.models.winclip.weights import load_clip

    layout = Layout()
    params = load_params(layout.params)
    folder = layout.root / params.zero_shot.prompts
    sets = read_book(folder, class_name).fillable()
    normals, defects = _validation_images(class_name, params, layout)
    clip = load_clip(params.zero_shot, layout.root, device=pick_device())
    tried = try_sets(
        sets,
        clip,
        normals,
        defects,
        temperature=params.zero_shot.temperature,
        tie=params.calibration.auroc_tie,
        progress=default_progress(),
    )
    evidence = {
        "architecture": params.zero_shot.architecture,
        "clip_sha256": clip.weights_sha256,
        "num_normals": len(normals),
        "num_defects": {kind: len(images) for kind, images in defects.items()},
        "tried": [_as_dict(trial) for trial in tried],
    }
    path = record_choice(folder, class_name, tried[0].prompts, evidence)
    _report(tried, path, as_json)


def _validation_images(class_name: str, params: Params, layout: Layout) -> tuple[list[Read], dict[str, list[Read]]]:
    """Readers of the normals, and of the defects per kind."""
    from shadowline.data.bit_depth import FULL_DEPTH
    from shadowline.data.labels import Split
    from shadowline.data.manifest import class_bit_depth, read_manifest
    from shadowline.data.splits import halve
    from shadowline.features.cache import FeatureKey
    from shadowline.features.keys import defect_keys, ids_of

    manifest = read_manifest([layout.manifest(class_name)])
    paths = dict(zip(manifest["image_id"], manifest["path"], strict=True))
    bit_depth = class_bit_depth(manifest) or FULL_DEPTH
    selecting, _ = halve(ids_of(manifest, Split.VAL), params.seed)

    def reader(key: FeatureKey) -> Read:
        return functools.partial(_open_view, key, layout.root / paths[key.image_id], bit_depth, params)

    defects = {kind: [reader(key) for key in keys] for kind, keys in defect_keys(manifest, params).items()}
    return [reader(FeatureKey(image_id)) for image_id in selecting], defects


def _open_view(key: FeatureKey, path: Path, bit_depth: int, params: Params) -> Image.Image:
    from shadowline.data.images import open_within
    from shadowline.data.perturbations import apply_view, view_seed

    rgb = open_within(path, params.data, bit_depth)
    return apply_view(rgb, key.view, view_seed(params.seed, key.image_id, key.view)).image


def _report(tried: tuple[Tried, ...], path: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"record": str(path), "tried": [_as_dict(trial) for trial in tried]}))
        return
    table = Table("prompt set", "prompts", "AUROC", "separation", "chosen")
    for trial in tried:
        numbers = (str(_count(trial.prompts)), f"{trial.auroc:.3f}", f"{trial.separation:.2f}")
        table.add_row(trial.prompts.set_name, *numbers, "yes" if trial.chosen else "")
    print_tables(table)
    say(f"recorded in {path}")


def _as_dict(trial: Tried) -> dict[str, Any]:
    return {
        "prompt_set": trial.prompts.set_name,
        "prompts_sha256": trial.prompts.sha256,
        "num_prompts": _count(trial.prompts),
        "auroc": trial.auroc,
        "separation": trial.separation,
        "chosen": trial.chosen,
    }


def _count(prompts: Prompts) -> int:
    return len(prompts.normal) + len(prompts.anomalous)
