"""Runs written down as YAML: read, override, check every key, and build the aligner and prompts they describe.

A config has the keywords of `ParetoAligner` as its keys, plus `prompts`. Nothing is loaded that a wrong key could make
useless: keys come first, then settings, reward functions and prompts; the model is loaded by `fit`.
"""

from __future__ import annotations

from pareto_align.config.building import RunConfig, load_config, load_origin
from pareto_align.config.keys import OBJECTIVE_KEYS, PROMPT_KEYS, SECTIONS, TUNING_KEYS, settings_rows
from pareto_align.config.prompt_files import read_prompt_file
from pareto_align.config.reading import read_config
from pareto_align.config.schema import as_yaml, config_schema, resolved_config

__all__ = [
    "OBJECTIVE_KEYS",
    "PROMPT_KEYS",
    "SECTIONS",
    "TUNING_KEYS",
    "RunConfig",
    "as_yaml",
    "config_schema",
    "load_config",
    "load_origin",
    "read_config",
    "read_prompt_file",
    "resolved_config",
    "settings_rows",
]
