"""`rubric-rl rubrics`: bring rubrics in, hand them on, look at them, look for faults.

    rubric-rl rubrics import rar.parquet --to rar.jsonl --against eval.jsonl
    rubric-rl rubrics export rar.jsonl --to rar_verl.parquet
    rubric-rl rubrics lint rar.jsonl
    rubric-rl rubrics show rar.jsonl [PROMPT_ID]

All of them read every format that `data.format` knows. `rubrics build`, `log` and `diff`
are in `commands.rubrics_build` and `commands.rubrics_history`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import get_args

from rubric_rl.data.export import Layout, check_output, export_prompts
from rubric_rl.data.formats.account import account_json, counts_of, sidecar_path
from rubric_rl.data.formats.catalog import FORMATS, PromptFile, read_prompt_file
from rubric_rl.data.formats.imported import OPTION_HELP
from rubric_rl.data.prompt_set import describe, describe_doubts, find_overlap, local_path
from rubric_rl.data.reading import list_problems
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import DataError
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.observability.printable import printable
from rubric_rl.rubrics.lint import KINDS, Finding, lint_rubrics
from rubric_rl.types import Criterion

_EXIT_FINDINGS = 2
# As a shell reports a command that SIGPIPE ended.
_EXIT_BROKEN_PIPE = 141
_WIDTH = 100

_IMPORT_EPILOG = """\
Nothing is written while there are doubts, such as a criterion whose wording speaks
against its polarity: look at them (--dry-run --limit 1000), then set an option or
--allow-doubts, which keeps each as the format says. They all are in OUT.import.json,
and can be settled by hand in OUT.jsonl, where polarity is a field.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        code = command(args)
        # Here, as at the interpreter's end it could only be complained about.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output (`head`, say) has seen enough; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl rubrics",
        description="Import, export, lint and show prompts with their rubrics.",
        epilog="build, log, diff and analyze have a --help of their own.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "import", _import, "read any format, write our own")
    command.epilog = _IMPORT_EPILOG
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("--to", type=Path, required=True, metavar="OUT.jsonl")
    command.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="refuse if a prompt is in this file too; may be repeated",
    )
    command.add_argument("--allow-doubts", action="store_true", help="write in spite of doubts")
    command.add_argument("--limit", type=_count, default=10, help="doubts and drops to list (10)")
    _add_writing(command)

    command = _command(commands, "export", _export, "read any format, write ours or a trainer's")
    command.add_argument("--to", type=Path, required=True, metavar="OUT")
    command.add_argument(
        "--layout",
        choices=get_args(Layout),
        help="default: verl for .parquet, canonical for .jsonl",
    )
    command.add_argument(
        "--split",
        choices=("train", "eval"),
        help="only rows of one split, those without a mark among train (default: all)",
    )
    _add_writing(command)

    command = _command(commands, "lint", _lint, "list what is doubtful in valid rubrics")
    command.add_argument("--json", action="store_true", help="all findings as a JSON list")
    command.add_argument("--strict", action="store_true", help="exit with 2 if there are any")
    command.add_argument("--limit", type=_count, default=3, help="examples of each kind (3)")

    command = _command(commands, "show", _show, "a table of the set, or one prompt's rubric")
    command.add_argument("prompt_id", nargs="?", metavar="PROMPT_ID")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what.capitalize() + ".")
    command.set_defaults(run=run)
    command.add_argument("input", metavar="IN", help="JSONL or Parquet file, or builtin:NAME")
    command.add_argument(
        "--format", choices=["auto", *FORMATS], default="auto", help="format of IN (default: auto)"
    )
    options = "; ".join(f"{name}: {what}" for name, what in OPTION_HELP.items())
    command.add_argument(
        "--option",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"how the format is read. {options}",
    )
    return command


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number")
    return int(text)


def _add_writing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help="replace what is there already")
    command.add_argument("--dry-run", action="store_true", help="read and check, write nothing")


# ----------------------------------------------------------------------------
# Reading and writing


def _read(args: argparse.Namespace, path: Path) -> PromptFile:
    """Raises DataError if no prompt can be used."""
    file = read_prompt_file(path, args.format, what=f"IN={args.input!r}", pairs=args.option)
    if not file.imported.loaded:
        raise DataError(f"{args.input} has no usable prompt; {describe(file.imported.dropped)}")
    return file


def _read_aloud(args: argparse.Namespace) -> PromptFile:
    """Read; what is dropped or doubtful goes to the error stream, apart from the output."""
    with local_path(args.input, "IN") as path:
        file = _read(args, path)
    if file.imported.dropped:
        sys.stderr.write(printable(f"{describe(file.imported.dropped)}\n"))
    if file.imported.doubts:
        sys.stderr.write(printable(f"{describe_doubts(file.imported.doubts)}\n"))
    return file


def _check_free(args: argparse.Namespace, *outputs: Path) -> None:
    """Raises DataError if writing would replace something that it shouldn't."""
    for out in outputs:
        if out.exists() and Path(args.input).expanduser().resolve() == out.resolve():
            raise DataError(f"--to {out} is the input itself: give another file")
        if out.exists() and not args.force:
            raise DataError(f"{out} exists: give another --to, or --force to replace it")


def _say(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")


# ----------------------------------------------------------------------------
# Import and export


def _import(args: argparse.Namespace) -> int:
    out: Path = args.to
    check_output(out, "canonical")
    _check_free(args, out, sidecar_path(out))
    with local_path(args.input, "IN") as path:
        file = _read(args, path)
        _say(_account(file, args.input, args.limit))
        _check_against(args, file)
        if args.dry_run:
            _say(f"dry run: {out} is not written")
            return 0
        _check_doubts(args, file)
        export_prompts(file.imported.loaded, out, "canonical")
        account = account_json(file, path, out, options=args.option, against=args.against)
        write_text_atomic(sidecar_path(out), account)
    _say(f"wrote {out} and {sidecar_path(out).name}")
    return 0


def _account(file: PromptFile, name: str, limit: int) -> str:
    counts = counts_of(file)
    lines = [
        f"read {counts['read']} rows of {name} (format {file.format})",
        f"kept {counts['kept']} prompts with {counts['criteria']} criteria",
        describe(file.imported.dropped, limit),
        describe_doubts(file.imported.doubts, limit),
    ]
    return "\n".join(lines)


def _check_against(args: argparse.Namespace, file: PromptFile) -> None:
    """Raises DataError if a prompt is in one of the files of --against too."""
    records = [prompt.record for prompt in file.imported.loaded]
    for name in args.against:
        with local_path(name, "--against") as path:
            other = read_prompt_file(path, "auto", what=f"--against {name}").imported
        problems = find_overlap([prompt.record for prompt in other.loaded], records)
        if problems:
            raise DataError(
                f"{len(problems)} prompts of {args.input} are in {name} too, so what is trained on "
                f"would be tested on; remove them from one side:{list_problems(problems)}"
            )


def _check_doubts(args: argparse.Namespace, file: PromptFile) -> None:
    count = len(file.imported.doubts)
    if count and not args.allow_doubts:
        raise DataError(
            f"{args.to} is not written because of {count} doubts: see all with --dry-run --limit "
            f"{count}, then give --allow-doubts to keep each as the format says"
            + (", or an --option" if FORMATS[file.format].options else "")
        )


def _export(args: argparse.Namespace) -> int:
    out: Path = args.to
    layout: Layout = args.layout or ("verl" if out.suffix.lower() == ".parquet" else "canonical")
    check_output(out, layout)
    _check_free(args, out)
    file = _read_aloud(args)
    if file.imported.doubts:
        raise DataError(
            f"{args.input} has {len(file.imported.doubts)} doubts: settle them with `rubric-rl "
            "rubrics import`, and export the file that it writes"
        )
    prompts = [p for p in file.imported.loaded if args.split in (None, p.split or "train")]
    if not prompts:
        raise DataError(f"{args.input} has no prompt of the split {args.split!r}")
    if args.dry_run:
        _say(f"dry run: {out} is not written")
        return 0
    export_prompts(prompts, out, layout)
    _say(f"wrote {len(prompts)} prompts to {out} (layout {layout})")
    return 0


# ----------------------------------------------------------------------------
# Lint


def _lint(args: argparse.Namespace) -> int:
    loaded = _read_aloud(args).imported.loaded
    records = {prompt.record.prompt_id: prompt.record for prompt in loaded}
    findings = lint_rubrics([prompt.rubric for prompt in loaded], records)
    if args.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        _say("\n".join(_findings_in_words(findings, len(loaded), args.limit)))
    return _EXIT_FINDINGS if findings and args.strict else 0


def _findings_in_words(findings: Sequence[Finding], num_prompts: int, limit: int) -> Iterator[str]:
    concerned = len({finding.prompt_id for finding in findings})
    yield f"{len(findings)} findings in {concerned} of {num_prompts} prompts"
    for kind, meaning in KINDS.items():
        of_kind = [finding for finding in findings if finding.kind == kind]
        if not of_kind:
            continue
        yield f"{len(of_kind):5} {kind}: {meaning}"
        for finding in of_kind[:limit]:
            place = " ".join(filter(None, (finding.prompt_id, finding.cid)))
            yield f"        {place}: {finding.detail}"
        if len(of_kind) > limit:
            yield f"        ... and {len(of_kind) - limit} more"


# ----------------------------------------------------------------------------
# Show


def _show(args: argparse.Namespace) -> int:
    loaded = _read_aloud(args).imported.loaded
    if args.prompt_id is None:
        _say("\n".join(_table(loaded)))
        return 0
    found = [prompt for prompt in loaded if prompt.record.prompt_id == args.prompt_id]
    if not found:
        some = ", ".join(repr(prompt.record.prompt_id) for prompt in loaded[:5])
        raise DataError(
            f"{args.input} has no usable prompt {args.prompt_id!r}; it has {len(loaded)}, such as "
            f"{some}"
        )
    _say("\n".join(_prompt_in_words(found[0])))
    return 0


def _table(loaded: Sequence[LoadedPrompt]) -> Iterator[str]:
    criteria = [criterion for prompt in loaded for criterion in prompt.rubric.criteria]
    sizes = [len(prompt.rubric.criteria) for prompt in loaded]
    with_reference = sum(prompt.record.reference is not None for prompt in loaded)
    good = sum(criterion.polarity == 1 for criterion in criteria) / len(criteria)
    rows = {
        "prompts": f"{len(loaded)}, {with_reference} with a reference answer",
        "domains": _counted(prompt.record.domain for prompt in loaded),
        "splits": _counted(prompt.split or "not marked" for prompt in loaded),
        "messages": _spread([len(prompt.record.messages) for prompt in loaded]),
        "criteria": f"{len(criteria)}, for each prompt {_spread(sizes)}",
        "weights": _spread([criterion.weight for criterion in criteria]),
        "polarity": f"1: {good:.1%}, -1: {1 - good:.1%}",
        "kinds": _counted(criterion.kind for criterion in criteria),
        "axes": _counted(criterion.axis or "none" for criterion in criteria),
        "judged by": _counted("llm" if c.rule is None else c.rule.rule for c in criteria),
    }
    for name, value in rows.items():
        yield f"{name:10} {value}"


def _spread(numbers: Sequence[float]) -> str:
    return f"min {min(numbers):g}, median {median(numbers):g}, max {max(numbers):g}"


def _counted(names: Iterator[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def _prompt_in_words(prompt: LoadedPrompt) -> Iterator[str]:
    record, rubric = prompt.record, prompt.rubric
    yield f"{record.prompt_id}   domain {record.domain}, split {prompt.split or 'not marked'}"
    yield f"from {record.source}, row hash {record.row_hash[:12]}"
    for message in record.messages:
        yield f"\n{message.role}:"
        yield from _wrapped(message.content, "  ")
    length = "none" if record.reference is None else f"{len(record.reference)} characters"
    yield f"\nreference answer: {length}"
    best = sum(criterion.weight for criterion in rubric.criteria if criterion.polarity == 1)
    yield f"\nrubric version {rubric.version}: {len(rubric.criteria)} criteria, {best:g} to earn"
    for criterion in rubric.criteria:
        yield from _criterion_in_words(criterion)


def _criterion_in_words(criterion: Criterion) -> Iterator[str]:
    meaning = "good to meet" if criterion.polarity == 1 else "bad to meet"
    parts = [f"weight {criterion.weight:g}", f"polarity {criterion.polarity} ({meaning})"]
    parts += [criterion.kind] if criterion.is_gate else []
    parts += [f"axis {criterion.axis}"] if criterion.axis else []
    yield f"\n  {criterion.cid}  {', '.join(parts)}"
    yield from _wrapped(criterion.text, "      ")
    if criterion.rule is not None:
        yield f"      rule: {json.dumps(criterion.rule.as_dict())}"
    if criterion.lineage is not None:
        sources = ", ".join(criterion.lineage.sources)
        yield f"      lineage: {criterion.lineage.op} {sources}".rstrip()
    if criterion.tags:
        yield from _wrapped(f"tags: {', '.join(criterion.tags)}", "      ")


def _wrapped(text: str, indent: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(line, _WIDTH, initial_indent=indent, subsequent_indent=indent) or [
            ""
        ]
