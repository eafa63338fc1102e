"""What was predicted before anything ran on a GPU: for one H200 in bfloat16, LoRA of rank 8 on q, k, v, o.

From a roofline with 4.0 TB/s and 380 to 620 TFLOP/s by width, and 10 microseconds of the host's time a kernel. A name
is `stage.figure`. They stay as they are, however wrong they turn out to be.
"""

from __future__ import annotations

__all__ = ["GOALS", "PREDICTED"]

PREDICTED: dict[str, float | bool | str] = {
    "machine.copy_bandwidth": 4.3,
    "machine.product_8192": 770.0,
    "correctness.alone_and_together_float32": 1e-4,
    "correctness.leak_between_policies": 0.0,
    "correctness.packed_and_dense_gradients": 1e-4,
    "correctness.gramians_and_single_passes": 1e-4,
    "correctness.same_bits_deterministic": True,
    "correctness.deterministic_cost": 1.15,
    "decode.smollm2_8_rows": 20.0,
    "decode.smollm2_64_rows": 20.0,
    "decode.smollm2_512_rows": 20.0,
    "decode.qwen-0.5b_8_rows": 16.0,
    "decode.qwen-0.5b_64_rows": 16.0,
    "decode.qwen-0.5b_512_rows": 16.0,
    "decode.qwen-1.5b_8_rows": 19.0,
    "decode.qwen-1.5b_64_rows": 19.0,
    "decode.qwen-1.5b_512_rows": 19.0,
    "decode.kernels_a_step": 1601.0,
    "decode.busy_share": 0.15,
    "decode.waits_of_32_steps": 7.0,
    "graphs.smollm2_64_rows": 3.9,
    "graphs.qwen-0.5b_64_rows": 3.7,
    "graphs.qwen-0.5b_512_rows": 2.8,
    "graphs.probe": 3.5,
    "graphs.same_tokens": True,
    "train.qwen-1.5b_roofline_share": 0.77,
    "train.qwen-0.5b_4096_tokens": 60_000.0,
    "train.qwen-0.5b_16384_tokens": 160_000.0,
    "train.qwen-0.5b_32768_tokens": 165_000.0,
    "train.decode_32_over_1": 1.3,
    "train.masks_saved_gib": 5.0,
    "seven.decode_step": 19.0,
    "seven.peak_gib": 122.0,
    "peers.trl_generate": 15.0,
    "peers.trl_continuous_batching": 10.0,
    "peers.peft_mixed": 10.0,
    "peers.peft_sequential": 8.0,
    "front.minutes": 1.5,
    "kill.same_bytes": True,
    "evaluation.chunks_over_one": 3.5,
}

GOALS: dict[str, tuple[float, str]] = {
    "graphs.qwen-0.5b_64_rows": (2.2, "at least"),
    "train.qwen-1.5b_roofline_share": (0.55, "at least"),
    "train.decode_32_over_1": (1.3, "at most"),
    "peers.trl_generate": (6.0, "at least"),
    "peers.trl_continuous_batching": (4.0, "at least"),
    "peers.peft_mixed": (4.0, "at least"),
    "front.minutes": (2.0, "at most"),
    "correctness.deterministic_cost": (1.15, "at most"),
}
"""What was asked for: a number, and on which side of it a figure has to be."""
