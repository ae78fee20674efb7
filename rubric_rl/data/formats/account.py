"""The account of an import: for people, and as JSON beside the file that it wrote.

OUT.import.json
{"format": "rubric_rl.import/1",
 "source": {"file": "rar.parquet", "sha256": "...", "format": "rar", "options": ["..."]},
 "output": {"file": "rar.jsonl", "sha256": "..."},
 "against": ["eval.jsonl"],
 "counts": {"read": 100, "kept": 98, "dropped": 2, "criteria": 803, "doubts": 41},
 "dropped_by_reason": {"the weight is 0": 2},
 "dropped": [{"source": "rar.parquet, row 7", "prompt_id": "...", "reason": "...",
              "detail": "c3"}],
 "doubts": [{"source": "...", "prompt_id": "...", "cid": "c2", "what": "..."}]}
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rubric_rl.data.formats.catalog import PromptFile

FORMAT = "rubric_rl.import/1"


def sidecar_path(out: Path) -> Path:
    """Where the account of what is in `out` stands."""
    return out.with_suffix(".import.json")


def counts_of(file: PromptFile) -> dict[str, int]:
    """How many rows were read, prompts kept, and so on."""
    imported = file.imported
    return {
        "read": file.num_rows,
        "kept": len(imported.loaded),
        "dropped": len(imported.dropped),
        "criteria": sum(len(prompt.rubric.criteria) for prompt in imported.loaded),
        "doubts": len(imported.doubts),
    }


def account_json(
    file: PromptFile, path: Path, out: Path, *, options: Sequence[str], against: Sequence[str]
) -> str:
    """The account of an import from `path` that was written to `out`, with every doubt.

    Files are named without their folders: the account travels with the data.
    """
    imported = file.imported
    reasons = Counter(dropped.reason for dropped in imported.dropped)
    account = {
        "format": FORMAT,
        "source": {
            "file": path.name,
            "sha256": file_hash(path),
            "format": file.format,
            "options": list(options),
        },
        "output": {"file": out.name, "sha256": file_hash(out)},
        "against": [Path(name).name for name in against],
        "counts": counts_of(file),
        "dropped_by_reason": dict(reasons.most_common()),
        "dropped": [asdict(dropped) for dropped in imported.dropped],
        "doubts": [asdict(doubt) for doubt in imported.doubts],
    }
    return json.dumps(account, indent=2, ensure_ascii=False) + "\n"


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
