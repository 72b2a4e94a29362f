"""An export from beginning to end: look, write, verify, and only then give it its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mlx_align.engine.exporting import manifest, publishing, unsent
from mlx_align.engine.exporting.evidence import gather_evidence
from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.origin import Origin, find_origin
from mlx_align.engine.exporting.placing import placed, size_of
from mlx_align.engine.exporting.readers import Surroundings, Unread, obstacle
from mlx_align.engine.exporting.targets import Target, find_target, needed_bytes, settle
from mlx_align.engine.exporting.verification import Verification, unasked, verify
from mlx_align.engine.exporting.writers import Job, Written
from mlx_align.errors import AlignError
from mlx_align.export import preflight
from mlx_align.export.evidence import Evidence
from mlx_align.hub import resolve_gguf
from mlx_align.runs import RunDirectory

Progress = Callable[[str, str], None]
"""Called with what begins ("writing", "verifying", ...) and what it is about."""


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        target: where it went.
        path: the folder or file.
        size: its bytes.
        verification: whether it is what was trained.
        notes: what a person should know about it.
        next_command: what to type to use it.
        url: where it is on the hub.
    """

    target: str
    path: Path
    size: int
    verification: Verification
    notes: tuple[str, ...]
    next_command: str
    url: str | None = None


class Exporter:
    """Exports of one adapter; what the policy says is asked once for all of them.

    Args:
        run: the run.
        checkpoint: a checkpoint's name, or "best"; None: as in `runs.chosen.adapter_of`.
        progress: told what begins.

    Raises:
        UsageError: there is no such adapter, or it does not fit its base.
        AlignError: something cannot be read.
    """

    def __init__(
        self,
        run: RunDirectory,
        checkpoint: str | None = None,
        progress: Progress = lambda stage, detail: None,
    ) -> None:
        self._progress = progress
        self.origin: Origin = find_origin(run, checkpoint)
        preflight.check_fits(self.origin.adapter, self.origin.base)

    @cached_property
    def evidence(self) -> Evidence:
        """What the policy and the base say, by the backend of the run."""
        self._progress("asking", f"the trained model, on {self.origin.config.backend.name}")
        return gather_evidence(self.origin)

    def export(self, target: str, out: Path | None = None, options: Options | None = None) -> Exported:
        """Write and verify one export, or take what an earlier upload that failed has left of the same one.

        Args:
            target: a name in `TARGETS`.
            out: the folder or file to make; None: inside the run.
            options: how.

        Raises:
            UsageError: target, option or place cannot be used, or the format cannot express the adapter.
            AlignError: it is not what was trained: then nothing is left of it. Or the hub refuses: if that
                is known before anything is written, nothing is; else the export stays.
        """
        kind, options = find_target(target), settle(target, options or Options())
        path = publishing.place(target, kind.single, self.origin, out, options)
        publishing.check(target, options)
        waits = unsent.lies_at(path, self.origin, options)  # this very export, of which the upload is left
        found = self._unsent(path, options) if waits and not options.force else None
        anew = replace(options, force=options.force or waits)
        written, verification = found or self._made(target, kind, path, anew)
        if options.name is not None or target == "hub":
            self._progress("publishing", target)
        url = publishing.publish(target, path, self.origin, options)
        return Exported(
            target,
            path,
            size_of(path),
            verification,
            written.notes,
            kind.then(path, self.origin, options),
            url,
        )

    def _unsent(self, path: Path, options: Options) -> tuple[Written, Verification] | None:
        """What was made before and waits for its upload; None if it was not verified, and can be now."""
        found = manifest.read(path)
        if options.verify and not found.verification.verified:
            around = self.surroundings(options.base_gguf)
            if not isinstance(obstacle(found.written.loaders, found.written.worn, around), Unread):
                return None
        self._progress("taking", f"what was made before: {path}")
        note = "It was made before, and only uploaded now."
        return replace(found.written, notes=(*found.written.notes, note)), found.verification

    def _made(self, target: str, kind: Target, path: Path, options: Options) -> tuple[Written, Verification]:
        """Write and verify an export, and give it its name."""
        preflight.check_space(path, needed_bytes(target, self.origin, options))
        with placed(path, single=kind.single, force=options.force) as folder:
            name = publishing.file_name(target, self.origin, options)
            job = Job(self.origin, options, folder, path.name if kind.single else name)
            return self._fill(target, kind, job)

    def _fill(self, target: str, kind: Target, job: Job) -> tuple[Written, Verification]:
        """Write into the job's folder and verify there."""
        self._progress("writing", kind.says)
        written = kind.write(job)
        evidence = self.evidence if job.options.verify else None
        if evidence is not None:
            verification = self._verify(written, evidence, job)
        else:
            verification = unasked(job.folder, written, self.surroundings(job.options.base_gguf))
        facts = manifest.Manifest(target, written, self.origin.provenance, evidence, verification)
        if target == "hub":
            publishing.describe(job.folder, self.origin, job.options, verification, written)
            unsent.note(job.folder, self.origin, job.options)
        where = job.folder / job.name if kind.single else job.folder
        manifest.write(manifest.path_of(where), facts)
        return written, verification

    def _verify(self, written: Written, evidence: Evidence, job: Job) -> Verification:
        self._progress("verifying", f"with {written.loaders[0]}")
        try:
            return verify(job.folder, written, evidence, self.surroundings(job.options.base_gguf))
        except AlignError as error:
            raise AlignError(
                f"the export failed its verification, and nothing is left of it: {error.message}",
                where=error.where if error.where and str(job.folder) not in error.where else None,
                hint=error.hint or "--no-verify leaves it there to be looked at.",
            ) from error

    def surroundings(self, base_gguf: str | None = None) -> Surroundings:
        """What the exports of this adapter are loaded with."""
        return Surroundings(
            self.origin.provenance,
            base=self.origin.folder,
            base_gguf=None if base_gguf is None else resolve_gguf(base_gguf),
            device="cpu" if self.origin.config.backend.device == "cpu" else "auto",
        )
