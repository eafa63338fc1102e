"""How the model of a run is loaded, and where: in this process, or on the hosts of a backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from pareto_align.backends import Backend
from pareto_align.distributions import is_asked_of_hub
from pareto_align.errors import ConfigError
from pareto_align.messages import template_variables

if TYPE_CHECKING:
    from pareto_align.discovery.plan import Plan
    from pareto_align.policies.base import Base
    from pareto_align.runs.settings import Settings

__all__ = ["Loading"]

DTYPES = ("auto", "float32", "bfloat16", "float16")

Callbacks = Iterable[Callable[[Mapping[str, Any]], None]]


@dataclass
class Loading:
    """What `policies.load_base` is told, and whether that goes together with a backend and a sampler.

    Attributes:
        model, tokenizer, ...: See `pareto_align.aligner.ParetoAligner`.

    Raises:
        ConfigError: One is of the wrong kind.
    """

    model: Any
    tokenizer: Any = None
    device: str = "auto"
    dtype: str = "auto"
    gguf_file: str | None = None
    quantization: Any = None
    use_chat_template: bool | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.model, str):
            self.model = os.path.expanduser(self.model)  # a run's record has it as it is loaded
        self.chat_template_kwargs = template_variables(self.chat_template_kwargs)
        if not isinstance(self.trust_remote_code, bool):
            raise ConfigError(f"`trust_remote_code` must be True or False. Found {self.trust_remote_code!r}.")
        if not isinstance(self.use_chat_template, bool | None):
            raise ConfigError(f"`use_chat_template` must be True, False or None. Found {self.use_chat_template!r}.")
        if isinstance(self.dtype, str) and self.dtype.removeprefix("torch.") not in DTYPES:
            raise ConfigError(f"`dtype` must be one of {', '.join(DTYPES)}. Found {self.dtype!r}.")
        named = self.tokenizer is None or isinstance(self.tokenizer, str | os.PathLike)
        if not (named or hasattr(self.tokenizer, "pad_token_id")):
            raise ConfigError(
                f"`tokenizer` must be a hub id, a folder or a tokenizer of transformers. Found {self.tokenizer!r}."
            )

    @property
    def told(self) -> dict[str, Any]:
        """What `load_base` is told, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def is_named(self) -> bool:
        """Whether another process can load the same model, by its name."""
        return isinstance(self.model, str | os.PathLike)

    def load(self, callbacks: Callbacks = (), *, quiet: bool = False, **otherwise: Any) -> Base:
        """The model, loaded.

        Args:
            callbacks: Are told of it, since it takes a while.
            quiet: Show no bar meanwhile.
            otherwise: For `load_base`, in the place of what is said here.

        Raises:
            ModelError: It cannot be loaded.
        """
        from transformers.utils import logging

        from pareto_align.policies.base import load_base
        from pareto_align.runs.journal import announce

        named = f" {self.model}, which the Hugging Face Hub is asked for" if is_asked_of_hub(self.model) else ""
        announce(callbacks, f"loading the model{named}")
        silenced = quiet and logging.is_progress_bar_enabled()
        if silenced:
            logging.disable_progress_bar()
        try:
            return load_base(**{**self.told, **otherwise})
        finally:
            if silenced:
                logging.enable_progress_bar()

    @contextmanager
    def placed(
        self, backend: Backend, shards: int, callbacks: Callbacks, *, quiet: bool = False
    ) -> Iterator[tuple[Base, dict[str, Any]]]:
        """The model (or, where hosts elsewhere have it, what it looks like), and what the hosts are; for one run.

        Args:
            backend: Which is begun, and in the end closed, whatever happens.
            shards: Of the run.
            callbacks: Are told what takes a while.
            quiet: See `load`.

        Raises:
            ConfigError: The hosts cannot be made, or cannot work together.
            ModelError: The model cannot be loaded.
        """
        from pareto_align.discovery.hosting import Host, load_host
        from pareto_align.discovery.identity import check_alike
        from pareto_align.runs.journal import announce
        from pareto_align.versions import versions

        try:
            if not backend.remote:
                base = self.load(callbacks, quiet=quiet)
                yield base, Host(base).facts()
                return
            announce(callbacks, f"starting the {_hosts(backend)}, which load the model")
            told = self.told | {name: _from_anywhere(self.told[name]) for name in ("model", "tokenizer")}
            backend.open(partial(load_host, told, backend.sharding), shards)
            hosts = backend.everywhere("facts", alike=partial(check_alike, here=versions()))
            base = self.load(quiet=quiet, weights=False, device="cpu", dtype=hosts[0]["base"]["dtype"])
            yield base, hosts[0]
        finally:
            backend.close()

    def check(self, plan: Plan, backend: Backend) -> None:
        """See, before anything is loaded, whether backend and sampler can have this model.

        Raises:
            ConfigError: They cannot.
        """
        self._check_backend(plan, backend)
        if plan.settings.engine is not None:
            self._check_sampler(plan.settings.engine["name"], backend)

    def _check_sampler(self, sampler: str, backend: Backend) -> None:
        """Whether an engine beside the population can load the same model."""
        told = f"The sampler {sampler!r} loads the model once more, by its name"
        if not self.is_named or str(self.model).startswith("pypi:"):
            raise ConfigError(
                f"{told}. Save the one in memory, `model.save_pretrained(folder)` with its tokenizer, and give the "
                "folder."
            )
        if self.gguf_file is not None or str(self.model).endswith(".gguf"):
            raise ConfigError(f"{told}, and not from a GGUF file, which would be read otherwise there. Convert it.")
        if self.quantization is not None:
            raise ConfigError(
                f"{told}, and quantised there it would be another model than here. Leave `quantization` out, or "
                "choose another sampler."
            )
        if backend.sharding is not None:
            raise ConfigError(
                f"{told}, on the GPU that trains, and has no part in ranks that share one. Leave `ranks` out, or "
                "choose another sampler."
            )
        if backend.remote:
            raise ConfigError(
                f"A worker of the backend {backend.name!r} that is lost goes through its steps again, and the "
                f"sampler {sampler!r} does not draw the same again. Use backend='local'."
            )
        if not (self.device == "auto" or str(self.device).startswith("cuda")):
            raise ConfigError(f"The sampler {sampler!r} draws on a GPU with CUDA. Found device={self.device!r}.")

    def _check_backend(self, plan: Plan, backend: Backend) -> None:
        """Whether the backend can have the policies."""
        settings = plan.settings
        backend.check(len(settings.shards))
        if not backend.remote:
            if settings.deterministic and settings.overlap in ("exact", "bounded"):
                raise ConfigError(
                    "deterministic=True switches torch for the whole process, and rewards may do what it refuses then, "
                    "so they cannot judge while policies train here. Use backend='ray', whose workers are processes of "
                    "their own, or leave `overlap` out."
                )
            return
        told = f"The backend {backend.name!r} has the model on its {_hosts(backend)}"
        if not self.is_named:
            raise ConfigError(
                f"{told}, which load it by name. Save the one in memory where all of them find it, "
                "`model.save_pretrained(folder)` with its tokenizer, and give the folder."
            )
        if plan.measures_labels:
            raise ConfigError(
                f"{told}, and objectives that are measured on comparisons are measured where the run is. Give every "
                "objective a reward, or use backend='local'"
                + ("." if backend.sharding is None else " without `ranks`.")
            )
        backend.check_rewards(plan.objectives, plan.judged_apart, len(settings.shards))
        if backend.sharding is not None:
            self._check_ranks(settings)

    def _check_ranks(self, settings: Settings) -> None:
        """Whether ranks can share the model in the way that it is to be loaded and run."""
        if self.quantization is not None:
            raise ConfigError(
                f"A quantised model cannot be shared by ranks. Found quantization={self.quantization!r}. Leave it out, "
                "or `ranks`: in 4 bits a model takes about a quarter of its memory."
            )
        if settings.decoding == "graphs":
            raise ConfigError(
                "What ranks send each other while they decode is in no CUDA graph. Leave `sampler` out, or `ranks`. "
                "Found sampler='graphs'."
            )
        if str(self.device) not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                "Ranks compute on GPUs with CUDA, one each, or on the CPU: use device='auto', 'cuda' or 'cpu', and "
                f"CUDA_VISIBLE_DEVICES to say which GPUs. Found device={str(self.device)!r}."
            )


def _from_anywhere(given: Any) -> Any:
    """A folder of this process's own folder by its whole name: a worker of Ray is in the one where Ray was started."""
    here = isinstance(given, str | os.PathLike) and os.path.exists(given)
    return os.path.abspath(given) if here else given


def _hosts(backend: Backend) -> str:
    """What the hosts of a backend are called, where they are processes of their own."""
    return "workers" if backend.sharding is None else "ranks"
