"""Replay logged episodes of training with rewards: queries, results, how likely decisions were, rewards by part.

    nanochat refrag replay --tag default --step 20 --show wrong
"""

from dataclasses import dataclass
from typing import Literal

from nanochat.common import check_output, print0, run_main, write_text
from nanochat.config import load_config


@dataclass(frozen=True, kw_only=True)
class RefragReplayConfig:
    """Settings of scripts.refrag_replay."""

    tag: str = "default"              # run of scripts.refrag_finetune
    step: int = 0                     # its step; 0: all steps
    number: int = -1                  # episode of the step, from 0; -1: all
    show: Literal["", "right", "wrong", "abstained", "invalid"] = ""  # only episodes that ended so
    limit: int = 20                   # most episodes shown, the latest ones
    output: str = ""                  # write a page (.html) instead of printing


CONFIG = RefragReplayConfig


def main(argv: list[str]) -> int:
    config = load_config(RefragReplayConfig, argv, prog="scripts.refrag_replay", description=__doc__ or "")
    if config.output:
        check_output(config.output, flag="--output")
    # imported here so that --help does not wait for it
    from nanochat.refrag.episode_log import log_path, read_episodes
    from nanochat.refrag.replay import choose, lines
    from nanochat.refrag.replay_page import render_page

    found = choose(read_episodes(log_path(config.tag)), step=config.step, number=config.number, show=config.show)
    shown = found[-config.limit:] if config.limit > 0 else found
    if config.output:
        write_text(config.output, render_page(shown, title=f"Episodes of refrag/{config.tag}"))
        print0(f"wrote {config.output}: {len(shown):,} of {len(found):,} episodes")
        return 0
    for record in shown:
        print0("\n".join([*lines(record), ""]))
    print0(f"{len(shown):,} of {len(found):,} episodes")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
