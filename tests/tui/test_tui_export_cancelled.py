"""What is said of an export that was cancelled: nothing is left of it, or what was made by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_align.errors import InterruptedRunError
from mlx_align_tui.live import exporting

UPLOADING = """
import sys, threading
from pathlib import Path
folder = Path(sys.argv[1])
(folder / ".hub-1").mkdir()
if sys.argv[2] == "made":
    (folder / ".hub-1").rename(folder / "hub")
print('{"type": "progress", "stage": "publishing", "detail": "hub"}', flush=True)
try:
    threading.Event().wait()
finally:
    if sys.argv[2] != "made":
        (folder / ".hub-1").rmdir()
"""


@pytest.mark.parametrize(("state", "said"), [("writing", "nothing is left of it"), ("made", "hub stays")])
def test_a_cancelled_export_says_what_is_left(
    state: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, program = tmp_path / "exports", tmp_path / "program.py"
    (folder / "older").mkdir(parents=True)
    program.write_text(UPLOADING)
    monkeypatch.setattr(exporting, "PROGRAM", [str(program)])
    export = exporting.Exporting([str(folder), state], folder)
    with pytest.raises(InterruptedRunError, match=said) as caught:
        export.run(lambda message: export.cancel())
    assert "older" not in caught.value.message
    assert (folder / "hub").is_dir() == (state == "made")
