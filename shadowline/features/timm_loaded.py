"""Importing this module imports timm, which `backbones` leaves until a network is built: for the server of forks."""

from __future__ import annotations

from shadowline.features import backbones

backbones.timm()
