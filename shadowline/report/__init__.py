"""The evaluation as one page for people: `build_report` writes it, `heatmap_overlay` draws a map on its image."""

from shadowline.inference.overlay import heatmap_overlay
from shadowline.report.build import build_report

__all__ = ["build_report", "heatmap_overlay"]
