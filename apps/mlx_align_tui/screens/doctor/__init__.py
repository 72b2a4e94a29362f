"""Doctor and settings: `screen`, the keys in `keys` and `rebinding`, folders in `places`."""

from mlx_align_tui.screens.doctor.screen import DoctorScreen

__all__ = ["DoctorScreen"]
