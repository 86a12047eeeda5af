"""The files of a new project: written from templates, committed to a git repository of its own.

    write_project(Path("line7"), dataset, surveys, Path("/srv/images"))

dvc.yaml is the pipeline of this package. params.yaml has the package's numbers, and the classes that were found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from shadowline.core.atomic_files import replace_file
from shadowline.core.git import committer, run_git
from shadowline.core.params import Severity, load_params
from shadowline.core.params.strict_yaml import load_strictly
from shadowline.core.project import is_project
from shadowline.data.images import ImageLimits
from shadowline.data.sources.recognition import FoundClass
from shadowline.project.image_survey import ImageSurvey

_TEMPLATES = {  # path in the project → template; params.yaml is the last, since it makes the folder a project
    ".gitignore": "gitignore.j2",
    ".dvcignore": "dvcignore",
    ".dvc/config": "dvc_config",
    ".dvc/.gitignore": "dvc_gitignore",
    "README.md": "README.md.j2",
    "prompts/default.yaml": "prompts.yaml",
    "dvc.yaml": "pipeline.yaml",
    "params.yaml": "params.yaml.j2",
}


def check_place(folder: Path, images: Path) -> None:
    """Raises ValueError where no project can be written to `folder`."""
    if shutil.which("git") is None:
        raise ValueError("git is not installed; install it first")
    if is_project(folder):
        raise ValueError(f"{folder}: a project already; `shadowline check` looks at it")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file; name a new folder")
    if folder.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{folder}: lies in the folder of the images; name one outside of {images}")
    if present := [name for name in _TEMPLATES if (folder / name).exists()]:
        raise ValueError(f"{folder}: {', '.join(present)} would be overwritten; name a new folder")


def write_project(
    folder: Path, classes: Sequence[FoundClass], surveys: Mapping[str, ImageSurvey], images: Path
) -> None:
    """Write and commit the files of a project for `classes`, whose images lie in or below `images`.

    Raises ValueError where `check_place` does, and where git fails.
    """
    check_place(folder, images)
    texts = _texts(folder, classes, surveys, images)
    for name, text in texts.items():
        with replace_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    load_params(folder / "params.yaml")
    _commit(folder, tuple(texts))


def pipeline_text() -> str:
    """dvc.yaml as every project has it."""
    return _environment().get_template("pipeline.yaml").render()


def template_limits() -> ImageLimits:
    """The limits of an image in a new project."""
    template = _environment().get_template(_TEMPLATES["params.yaml"])
    values = dict.fromkeys(("entries", "names", "consistent_size", "consistent_mode"), "")
    data = yaml.safe_load(template.render(values))["data"]
    return ImageLimits(max_pixels=data["max_pixels"], max_file_bytes=data["max_file_bytes"])


def _texts(
    folder: Path, classes: Sequence[FoundClass], surveys: Mapping[str, ImageSurvey], images: Path
) -> dict[str, str]:
    """Path in the project → content."""
    inside = _location(folder, images)
    values = {
        "title": folder.resolve().name,
        "images": inside,
        "ignored": [] if Path(inside).is_absolute() else [f"/{inside}/"],
        "classes": [_entry(cls) for cls in classes],
        "entries": "\n".join(_yaml_entry(folder, cls) for cls in classes),
        "names": ", ".join(_key(cls.name) for cls in classes),
        "consistent_size": _severity_of_mixture(len(survey.sizes) for survey in surveys.values()),
        "consistent_mode": _severity_of_mixture(len(survey.modes) for survey in surveys.values()),
    }
    environment = _environment()
    return {name: environment.get_template(template).render(values) for name, template in _TEMPLATES.items()}


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("shadowline.project"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # none of it is HTML
    )


def _entry(cls: FoundClass) -> dict[str, object]:
    return {
        "name": cls.name,
        "num_normal": cls.num_normal,
        "num_test_normal": cls.num_test_normal,
        "num_defects": sum(cls.defects.values()),
    }


def _yaml_entry(folder: Path, cls: FoundClass) -> str:
    """The class as it stands below `classes:` in params.yaml."""
    fields = {
        "source": cls.source,
        "location": _location(folder, Path(cls.location)),
        "select": cls.select or "",
        "links_to": _location(folder, Path(cls.links_to)) if cls.links_to else "",
    }
    lines = [f"    {key}: {_text(value)}" for key, value in fields.items() if value]
    return "\n".join([f"  {_key(cls.name)}:", *lines])


def _location(folder: Path, path: Path) -> str:
    """Relative to the project where it lies in there, else absolute."""
    absolute, root = path.resolve(), folder.resolve()
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else absolute.as_posix()


def _key(name: str) -> str:
    """A class's name as a key: quoted where a reader of YAML could take it for a number or for true."""
    try:
        return name if load_strictly(f"{name}: 1") == {name: 1} else json.dumps(name)
    except (ValueError, yaml.YAMLError):
        return json.dumps(name)


def _text(value: str) -> str:
    """A text as a value of YAML; quoted where it must be."""
    is_plain = all(character.isalnum() or character in "/._-" for character in value) and not value[:1].isdigit()
    return value if is_plain and yaml.safe_load(value) == value else json.dumps(value, ensure_ascii=False)


def _severity_of_mixture(counts: Iterable[int]) -> str:
    """Advisory where a class has images of several sizes, or modes; empty for the package's own severity."""
    return Severity.ADVISORY.value if any(count > 1 for count in counts) else ""


def _commit(folder: Path, names: Sequence[str]) -> None:
    if not (folder / ".git").exists():
        run_git(folder, "-c", "init.defaultBranch=main", "init", "--quiet")
    run_git(folder, "add", "--", *names)
    run_git(folder, *committer(folder), "commit", "--quiet", "--only", "-m", "A project of Shadowline", "--", *names)
