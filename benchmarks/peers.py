"""The same checkpoint on every engine for a CPU: tokens a second, plain and speculative, size and divergence.

    python benchmarks/peers.py --pair artifacts/pair-600m --only-prepare             # environments and models, once
    python benchmarks/peers.py --pair artifacts/pair-600m --forerun int4=artifacts/600m-int4 --write

The pair is a folder of inflate.py, or recipes/demo. Each peer has its own environment with pinned versions and its own
converter (`peers_environments.py`, `peers_models.py`), and runs as a process that loads once (`peer_processes/`). All
decode the same prompts greedily, `--prompts` of them spread evenly over the held-out ones, the same at every call, in
turns, with everything that is not its turn stopped. An interrupted measurement goes on where it was; a peer that fails
is in the table with its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from inflate import DEMO
from peers_environments import PeerError, prepare_environment
from peers_measure import Settings, measure
from peers_models import Checkpoints, Converter
from peers_plan import DRAFT_TOKENS, PEERS, Host, Plan, Wish, left_in
from peers_prompts import choose_prompts, quality_texts
from peers_report import without_folders, write_report
from peers_state import State
from result_files import command_line

from forerun_compiler.resources import this_machine

WORK = Path("artifacts/peers")
_MEMORY_SHARE = 0.6
"""Of what is available, for peers that are loaded at once, unless --memory says more exactly."""


def prepare(wishes: list[Wish], environments: Path, threads: int, state: State) -> list[Host]:
    """The hosts that can run; the others are noted with their reasons."""
    hosts, broken = [], {}
    for number, wish in enumerate(wishes, start=1):
        print(f"prepare {number} of {len(wishes)}: {wish.name}", file=sys.stderr, flush=True)
        try:
            if wish.peer in broken:
                raise PeerError(broken[wish.peer])
            try:
                prepare_environment(wish.peer, environments)
            except PeerError as error:
                broken[wish.peer] = f"not installed: {error}"
                raise PeerError(broken[wish.peer]) from None
            hosts.append(Host(wish.peer, wish.weights, wish.ways, wish.make() | {"threads": threads}))
            state.forgive(hosts[-1].rows)
        except PeerError as error:
            state.fail([f"{wish.peer}/{wish.weights}/{way}" for way in wish.ways], str(error))
            print(f"  failed: {error}", file=sys.stderr, flush=True)
    return hosts


def parse_bundle(text: str) -> tuple[str, Path]:
    """NAME=FOLDER."""
    name, sign, folder = text.partition("=")
    if not sign or not name or not (Path(folder) / "manifest.json").is_file():
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER with a bundle in it, got {text!r}")
    return name, Path(folder).absolute()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path, required=True, metavar="FOLDER", help="with target/ and drafter/")
    parser.add_argument("--forerun", type=parse_bundle, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--peers", nargs="+", default=["all"], choices=["all", *PEERS[1:]], metavar="PEER")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="TEXT", help="what has this in its name, as llama.cpp/q8_0/plain"
    )
    parser.add_argument("--only-prepare", action="store_true", help="make environments and models, measure nothing")
    parser.add_argument("--environments", type=Path, default=WORK / "environments")
    parser.add_argument("--models", type=Path, default=WORK / "models")
    parser.add_argument(
        "--results", type=Path, default=WORK / "results", help="where an unfinished measurement is kept"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument(
        "--draft-tokens",
        type=int,
        nargs="+",
        default=[DRAFT_TOKENS],
        metavar="N",
        help="of small draft models, a round",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--quality-tokens", type=int, default=2000, help="a minute a peer at 600 M parameters; 0 leaves divergence out"
    )
    parser.add_argument("--memory", type=float, metavar="GIB", help="what loaded peers may take together")
    parser.add_argument("--write", action="store_true", help="write table, JSON and chart to benchmarks/results")
    return parser.parse_args()


def main() -> None:
    asked = parse_arguments()
    checkpoints = Checkpoints(asked.pair.absolute() / "target", asked.pair.absolute() / "drafter", DEMO / "target")
    config = json.loads((checkpoints.target / "config.json").read_text(encoding="utf-8"))
    settings = Settings(
        pair=asked.pair.name, threads=asked.threads, prompts=asked.prompts, new_tokens=asked.new_tokens,
        repeats=asked.repeats, quality_tokens=asked.quality_tokens,
        memory_gib=asked.memory or _MEMORY_SHARE * this_machine(asked.pair).ram / 2**30,
    )  # fmt: skip
    peers = PEERS[1:] if "all" in asked.peers else asked.peers
    plan = Plan(
        asked.pair.name, checkpoints, Converter(asked.environments, asked.models, asked.threads), asked.environments,
        int(config["eos_token_id"]), asked.draft_tokens,
    )  # fmt: skip
    state = State(asked.results / f"{asked.pair.name}.json", settings.identity(asked.forerun), asked.fresh)
    try:
        wishes = left_in(plan.wishes(peers, asked.forerun), asked.leave_out)
    except ValueError as error:
        sys.exit(f"error: {error}")
    hosts = prepare(wishes, asked.environments, asked.threads, state)
    if asked.only_prepare:
        return
    if not asked.forerun:
        sys.exit("error: expected at least one --forerun NAME=FOLDER to compare with")
    prompts = choose_prompts(checkpoints.small, asked.prompts, asked.new_tokens)
    texts = quality_texts(checkpoints.small, asked.quality_tokens)
    try:
        measure(hosts, prompts, texts, settings, asked.environments, state)
    except PeerError as error:
        sys.exit(f"error: {error}")
    print(write_report(state, settings, without_folders(command_line()), asked.write))


if __name__ == "__main__":
    main()
