"""The frozen job a runner is given, and what it says back: the wire between worker and runner.

This package is all that `reactorcide` may import of `runnerlib`. `rules` is pure and uses the
standard library only, so that the API and the runner refuse the same input by the same words.
"""

from runnerlib.spec.frozen import (
    PROTOCOL,
    HostPolicy,
    JobSource,
    Resources,
    RunSpec,
    decode_spec,
    encode_spec,
)
from runnerlib.spec.measures import MEASURES, Measure, parse_measures, unmet
from runnerlib.spec.messages import (
    ControlMessage,
    EffectiveLimits,
    LogGrew,
    PhaseEntered,
    Renewed,
    RunnerEvent,
    RunResult,
    SourceResolved,
    Stop,
    decode_control,
    decode_event,
    decode_result,
    encode_line,
)

__all__ = [
    "MEASURES",
    "PROTOCOL",
    "ControlMessage",
    "EffectiveLimits",
    "HostPolicy",
    "JobSource",
    "LogGrew",
    "Measure",
    "PhaseEntered",
    "Renewed",
    "Resources",
    "RunResult",
    "RunSpec",
    "RunnerEvent",
    "SourceResolved",
    "Stop",
    "decode_control",
    "decode_event",
    "decode_result",
    "decode_spec",
    "encode_line",
    "encode_spec",
    "parse_measures",
    "unmet",
]
