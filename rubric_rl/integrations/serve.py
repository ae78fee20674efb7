"""`rubric-rl serve`: rewards over HTTP, for any trainer.

    rubric-rl serve --rubrics prompts.jsonl judge=openai judge.llm.model=gpt-4.1-mini

What is wrong with the inputs, the judge or the port is said before anything listens. SIGTERM or
Ctrl-C stops listening and answers what was taken in; a second Ctrl-C ends at once.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

import uvicorn
from fastapi import FastAPI

from rubric_rl.commands.judge_inputs import judge_config, positive, prompts_with_rubrics
from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.schema import RubricsConfig
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError
from rubric_rl.integrations.openrlhf_format import END_OF_TURN
from rubric_rl.integrations.scorer import judge_for, open_scorer
from rubric_rl.integrations.server import ServerLimits, create_app

_DEFAULTS = ServerLimits()
_MIB = 1 << 20
_EPILOG = """\
Overrides are those of rubric-rl judge, of the sections judge and rubrics. The budget counts
while the server runs. Verdicts are kept until it ends, or in judge.cache.dir.

An answer is matched to its rubric by prompt_id, or by a conversation that is exactly the
prompt's. OpenRLHF names the prompt by the label.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    config = judge_config(args.overrides, what="serving")
    prompts = prompts_with_rubrics(args.rubrics, args.format)
    judge = judge_for(config, prompts)
    key = _api_key(args.api_key_env)
    by = "rules alone" if judge.llm is None else judge.llm.model
    sys.stderr.write(f"{len(prompts)} prompts with rubrics, judged by {by}\n")
    if key is None and args.host not in ("127.0.0.1", "::1", "localhost"):
        sys.stderr.write(
            f"warning: whoever reaches {args.host} may ask this judge: set --api-key-env, or "
            "close the port to others\n"
        )
    if args.dry_run:
        return 0
    listening = _listen(args.host, args.port)
    # Uvicorn stops at these signals, then raises them once more for whoever comes next.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with listening:
        asyncio.run(_serve(judge, config.rubrics, prompts, _limits(args), key, listening))
    sys.stderr.write("stopped\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl serve",
        description="Serve rubric rewards over HTTP.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="OVERRIDE", help="GROUP=OPTION or SECTION.KEY=VALUE")
    add("--rubrics", required=True, help="file with the prompts and their rubrics")
    add("--format", default="auto", help="layout of --rubrics (default: auto)")
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=_port, default=8900, help="0 takes a free one (default: %(default)s)")
    add("--api-key-env", metavar="NAME", help="environment variable with the key that clients send")
    for name, default, what in (
        ("pending", _DEFAULTS.max_pending, "answers that wait or are judged; more get 429"),
        ("answers", _DEFAULTS.max_answers, "answers in a request; more get 413"),
        ("body-mib", _DEFAULTS.max_body_bytes // _MIB, "size of a request; a larger one gets 413"),
    ):
        help_text = f"most {what} (default: {default})"
        add(f"--max-{name}", type=positive, default=default, metavar="N", help=help_text)
    timeout_s = int(_DEFAULTS.timeout_s)
    help_text = f"longest time for a request; then an answer is unscored (default: {timeout_s})"
    add("--timeout-s", type=positive, default=timeout_s, metavar="N", help=help_text)
    add(
        "--unscored",
        choices=("error", "nan"),
        default=_DEFAULTS.unscored,
        help="what OpenRLHF gets for an answer without a reward: 503, which it asks again, or "
        "NaN, which its dynamic filtering drops the group for (default: %(default)s)",
    )
    add(
        "--end-of-turn",
        action="append",
        metavar="TOKEN",
        help="taken off the end of OpenRLHF's answers, may be repeated (default: well-known ones)",
    )
    add("--dry-run", action="store_true", help="check the inputs; ask and serve nothing")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a port from 0 to 65535")
    return int(text)


def _limits(args: argparse.Namespace) -> ServerLimits:
    return ServerLimits(
        max_pending=args.max_pending,
        max_answers=args.max_answers,
        max_body_bytes=args.max_body_mib * _MIB,
        timeout_s=float(args.timeout_s),
        unscored=args.unscored,
        end_of_turn=tuple(args.end_of_turn or END_OF_TURN),
    )


def _api_key(name: str | None) -> str | None:
    """Raises ConfigError, which repeats nothing: it may be the key itself."""
    if name is None:
        return None
    if not (key := os.environ.get(name)):
        raise ConfigError(
            "--api-key-env must be the name of an environment variable that holds the key, and "
            "there is none of this name or it is empty: export it first"
        )
    return key


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as err:
        raise ConfigError(
            f"can't listen at {host} port {port} ({err}): choose another --port or --host"
        ) from err


async def _serve(
    judge: JudgeConfig,
    rubrics: RubricsConfig,
    prompts: Mapping[str, LoadedPrompt],
    limits: ServerLimits,
    api_key: str | None,
    listening: socket.socket,
) -> None:
    async with open_scorer(judge, rubrics, prompts) as scorer:
        app = create_app(scorer, limits, api_key=api_key)
        host, port = listening.getsockname()[:2]
        sys.stderr.write(f"serving at http://{f'[{host}]' if ':' in host else host}:{port}\n")
        await uvicorn.Server(server_config(app, limits)).serve(sockets=[listening])


def server_config(app: FastAPI, limits: ServerLimits) -> uvicorn.Config:
    """For an application on the running loop; a stop waits as long as a request may take."""
    return uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=math.ceil(limits.timeout_s),
    )
