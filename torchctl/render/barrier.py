"""Render the state of a barrier as text or JSON."""

from __future__ import annotations

from typing import Any

from torchctl.storeutil.operator.barrier import BarrierState
from torchctl.text import printable


def barrier_line(state: BarrierState) -> str:
    """Return one line: how many ranks have arrived, whether the barrier is complete, which ranks are missing."""
    arrived, world_size = state.ranks.arrived, state.ranks.world_size
    head = f"barrier `{printable(state.key_prefix)}`: {arrived} of {world_size} arrived"
    if state.released:
        return f"{head}, complete" if arrived >= world_size else f"{head}, released without the others"
    if arrived > world_size:
        return f"barrier `{printable(state.key_prefix)}`: {arrived} arrived, more than --world-size {world_size}"
    return f"{head}, not complete; {state.missing_sentence()}"


def barrier_json(state: BarrierState, action: str) -> dict[str, Any]:
    """Return the content of `--json`; `missing` is null if the missing ranks are not known."""
    return {
        "action": action,
        "key_prefix": state.key_prefix,
        "world_size": state.ranks.world_size,
        "arrived": state.ranks.arrived,
        "complete": state.released,
        "missing": state.missing if state.traced or state.ranks.arrived == 0 else None,
    }
