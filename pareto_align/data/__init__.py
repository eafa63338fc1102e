"""What is learnt from: prompts, their columns and their splits."""

from __future__ import annotations
