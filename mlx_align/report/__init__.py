"""A run as one HTML page that stands alone: it needs no network, no script and no other file."""

from mlx_align.report.page import page, write

__all__ = ["page", "write"]
