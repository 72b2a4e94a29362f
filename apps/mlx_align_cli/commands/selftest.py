"""`mlx-align doctor --selftest`: the comparison of devices, as a table to paste into an issue."""

from __future__ import annotations

import json as jsonlib
import platform
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mlx_align.config import BackendConfig
from mlx_align.errors import ConfigError, UsageError
from mlx_align.wording import plain

if TYPE_CHECKING:
    from mlx_align.engine.selftest import Report

OPTIONS = {"name": "--backend", "device": "--device", "dtype": "--dtype"}
"""The keys of a backend that can be chosen, and the options that choose them."""


def selftest(backend: str | None, device: str | None, dtype: str | None, as_json: bool) -> int:
    """Run the selftest and print its table.

    Returns:
        the exit code: 1 if anything disagrees.

    Raises:
        UsageError: there is no such backend, device or precision, or what it is compared with is not there.
    """
    from mlx_align.engine.selftest import TOLERANCES, run

    if dtype not in (None, "auto", *TOLERANCES):
        raise UsageError(f"the selftest has no tolerances for '{dtype}'", hint="Use float32 or bfloat16.")
    report = run(_config(name=backend, device=device, dtype=dtype), lambda what: print(what, file=sys.stderr))
    if as_json:
        print(jsonlib.dumps(as_tree(report), indent=2))
    else:
        print(as_markdown(report))
    return 0 if report.passed else 1


def _config(**chosen: str | None) -> BackendConfig:
    """The backend of OPTIONS that were given.

    Raises:
        ConfigError: one of them is no choice.
    """
    try:
        return BackendConfig.model_validate({key: text for key, text in chosen.items() if text is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(plain([first]), where=OPTIONS[str(first["loc"][0])]) from None


def machine() -> str:
    """System and processor, without what would name one person's computer."""
    return f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}"


def as_tree(report: Report) -> dict[str, Any]:
    """The report as JSON values; the README's table of what is verified is made from such files."""
    checks = [{**asdict(check), "passed": check.passed} for check in report.checks]
    facts = {"machine": machine(), "python": platform.python_version()}
    return {**asdict(report), **facts, "checks": checks, "passed": report.passed}


def as_markdown(report: Report) -> str:
    """The report as a Markdown table that is readable as it is."""
    width = max(len(check.name) for check in report.checks)
    versions = ", ".join(f"{name} {number}" for name, number in sorted(report.versions.items()))
    variables = [f"{name}={value}" for name, value in report.environment.items()]
    lines = [
        f"mlx-align selftest: {report.tested} ({report.dtype}) against {report.reference} (float32)",
        ", ".join([f"{machine()}, python {platform.python_version()}, {versions}", *variables]),
        "",
        f"| {'compared':{width}} | difference | tolerance |      |",
        f"|-{'-' * width}-|-----------:|----------:|------|",
    ]
    for check in report.checks:
        verdict = "ok  " if check.passed else "FAIL"
        lines.append(
            f"| {check.name:{width}} | {check.difference:10.1e} | {check.tolerance:9.0e} | {verdict} |"
        )
    failed = sum(not check.passed for check in report.checks)
    verdict = "all agree" if report.passed else f"{failed} of {len(report.checks)} disagree"
    return "\n".join([*lines, "", f"{verdict}."])
