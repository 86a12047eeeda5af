"""The feature cache: every image is encoded only once.

`data/features/<class>.safetensors` holds `fused` (N, G, T, D) float16 for N keys, a key being (image_id, view). The
encoder's fingerprint stands in the metadata; a file with another fingerprint or precision is rebuilt, never mixed.

    FeatureCache(encoder, scratch).update(path, wanted, read, progress)  # computes only what is missing
    FeatureFile(path).fetch(keys)                                        # (B, G, T, D) float32

Work in progress is kept in shards under `.shadowline/features/`, so that a kill loses at most one shard. Features
do not depend on which images were encoded together (`Encoder.encode`), hence a resumed file equals an undisturbed one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from shadowline.core.atomic_files import replace_file
from shadowline.core.progress import Progress
from shadowline.features.encoder import Encoder

_SHARD_KEYS = 32


@dataclass(frozen=True, order=True)
class FeatureKey:
    """One thing to encode: an image, as it is or in a named view (shadowline/data/perturbations.py)."""

    image_id: str
    view: str = "original"

    def __str__(self) -> str:
        return f"{self.image_id}|{self.view}"

    @classmethod
    def parse(cls, text: str) -> FeatureKey:
        image_id, view = text.split("|")
        return cls(image_id, view)


class FeatureFile:
    """Reads a feature file row by row, memory-mapped: a large class never has to fit into memory."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no features; run `dvc repro features@{path.stem}`")
        self.path = path
        self._file = safe_open(path, framework="pt")
        facts = json.loads(self._file.metadata()["features"])
        self.fingerprint: str = facts["fingerprint"]
        self.num_prefix: int = facts["num_prefix"]
        self.decoding: str = facts.get("decoding", "")
        self.keys: tuple[FeatureKey, ...] = tuple(FeatureKey.parse(key) for key in facts["keys"])
        self._row = {key: row for row, key in enumerate(self.keys)}
        self._fused = self._file.get_slice("fused")

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._fused[:0].dtype
        return dtype

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, G, T, D)"""
        N, G, T, D = self._fused.get_shape()
        return N, G, T, D

    def __contains__(self, key: FeatureKey) -> bool:
        return key in self._row

    def fetch(self, keys: Sequence[FeatureKey]) -> Tensor:
        """Fused features of `keys`, in their order: (B, G, T, D) float32. Raises KeyError for an unknown key."""
        _, G, T, D = self.shape
        out = torch.empty(len(keys), G, T, D)
        for i, key in enumerate(keys):
            row = self._row[key]
            out[i] = self._fused[row : row + 1][0]
        return out


@dataclass(frozen=True)
class CacheUpdate:
    num_computed: int
    num_reused: int


class FeatureCache:
    """Brings a class's feature file to exactly the wanted keys."""

    def __init__(self, encoder: Encoder, scratch: Path, dtype: torch.dtype = torch.float16) -> None:
        self.encoder, self.dtype = encoder, dtype
        self._scratch = scratch / "features" / encoder.config.fingerprint[:16]

    def update(
        self,
        path: Path,
        wanted: Iterable[FeatureKey],
        read: Callable[[FeatureKey], Image.Image],
        progress: Progress,
        decoding: str = "",
    ) -> CacheUpdate:
        """Write `path` with the features of `wanted`, sorted; `read` gives the RGB image of a key.

        `decoding`: how `read` decodes; features of images that were decoded otherwise are computed again.
        """
        keys = sorted(set(wanted))
        shards = self._scratch / path.stem
        encoded = self._known(path, shards, decoding)
        missing = [key for key in keys if key not in encoded]
        with progress.task(f"features {path.stem}", total=len(missing)) as task:
            for start in range(0, len(missing), _SHARD_KEYS):
                chunk = missing[start : start + _SHARD_KEYS]
                shard = shards / f"{len(encoded):06d}-{chunk[0].image_id[:12]}.safetensors"
                self._write(shard, chunk, self._encode(chunk, read), decoding)
                encoded.update(dict.fromkeys(chunk, shard))
                task.advance(len(chunk))
        if missing or not self._is_current(path, keys, decoding):
            self._assemble(path, keys, encoded, decoding)
        shutil.rmtree(shards, ignore_errors=True)
        return CacheUpdate(num_computed=len(missing), num_reused=len(keys) - len(missing))

    def _known(self, path: Path, shards: Path, decoding: str) -> dict[FeatureKey, Path]:
        """Key → file, of the keys that this encoder has encoded already in this precision and decoding."""
        encoded: dict[FeatureKey, Path] = {}
        for candidate in [*sorted(shards.glob("*.safetensors")), path]:
            if candidate.is_file():
                file = FeatureFile(candidate)
                if self._is_mine(file, decoding):
                    encoded.update(dict.fromkeys(file.keys, candidate))
        return encoded

    def _is_current(self, path: Path, keys: list[FeatureKey], decoding: str) -> bool:
        if not path.is_file():
            return False
        file = FeatureFile(path)
        return self._is_mine(file, decoding) and list(file.keys) == keys

    def _is_mine(self, file: FeatureFile, decoding: str) -> bool:
        is_of_encoder = file.fingerprint == self.encoder.config.fingerprint and file.dtype == self.dtype
        return is_of_encoder and file.decoding == decoding

    def _encode(self, keys: Sequence[FeatureKey], read: Callable[[FeatureKey], Image.Image]) -> Tensor:
        fused = self.encoder.encode(read(key) for key in keys).to(self.dtype)
        finite_B = torch.isfinite(fused).flatten(1).all(dim=1)
        if not finite_B.all():
            bad = keys[int(np.flatnonzero(~finite_B.numpy())[0])]
            raise ValueError(
                f"features: image {bad.image_id} ({bad.view}) gives values not finite in {self.dtype}; check it"
            )
        return fused

    def _write(self, path: Path, keys: Sequence[FeatureKey], fused: Tensor, decoding: str) -> None:
        facts = {
            "fingerprint": self.encoder.config.fingerprint,
            "num_prefix": self.encoder.num_prefix,
            "keys": [str(key) for key in keys],
            **({"decoding": decoding} if decoding else {}),
        }
        with replace_file(path) as temporary:
            save_file({"fused": fused.contiguous()}, temporary, metadata={"features": json.dumps(facts)})

    def _assemble(self, path: Path, keys: list[FeatureKey], encoded: dict[FeatureKey, Path], decoding: str) -> None:
        files = {source: FeatureFile(source) for source in set(encoded.values())}
        fused = torch.empty(
            len(keys), self.encoder.config.groups, self.encoder.num_tokens, self.encoder.width, dtype=self.dtype
        )
        for row, key in enumerate(keys):
            fused[row] = files[encoded[key]].fetch([key])[0].to(self.dtype)
        self._write(path, keys, fused, decoding)
